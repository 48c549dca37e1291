//! The container's log: Docker's json-file lines in numbered files of bounded size.
//!
//! Files are `<number>.log`, counting up for ever, so that a reader at the end of one knows which
//! comes next. A line of output longer than 16 KiB is several entries, all but the last without the
//! newline, as Docker does it; readers put it together again. Bytes that are not UTF-8 are replaced in
//! `log`, where Docker's own readers look, and whole in `bytes`, in base64.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shoal_types::time::Timestamp;

use crate::{LogLimits, Stream};

/// Bytes of output in one entry at most.
pub const ENTRY_MAX: usize = 16 * 1024;

/// Name of a log file.
#[must_use]
pub fn file_name(number: u64) -> String {
    format!("{number:010}.log")
}

/// The number in the name of a log file.
#[must_use]
pub fn file_number(name: &str) -> Option<u64> {
    name.strip_suffix(".log")?.parse().ok()
}

/// Writes the log.
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    limits: LogLimits,
    number: u64,
    file: File,
    size: u64,
    /// Unfinished lines.
    pending: [Vec<u8>; 2],
    /// Entries that the disk did not take, and its last answer.
    lost: u64,
    lost_why: Option<String>,
}

impl LogWriter {
    /// Opens a new log, or goes on in a new file behind what an earlier container of the same name
    /// wrote.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn create(dir: &Path, limits: LogLimits) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let known = fs::read_dir(dir)?.flatten();
        let last = known.filter_map(|e| file_number(e.file_name().to_str()?)).max();
        let (dir, number) = (dir.to_owned(), last.map_or(0, |last| last + 1));
        let file = open(&dir, number)?;
        let pending = [Vec::new(), Vec::new()];
        let log = Self { dir, limits, number, file, size: 0, pending, lost: 0, lost_why: None };
        log.forget_oldest();
        Ok(log)
    }

    /// Takes bytes as they were read.
    pub fn output(&mut self, stream: Stream, mut bytes: &[u8]) {
        let mut entries = Vec::new();
        let now = now();
        while !bytes.is_empty() {
            let pending = &mut self.pending[index(stream)];
            let room = ENTRY_MAX - pending.len();
            let newline = bytes.iter().take(room).position(|b| *b == b'\n').map(|i| i + 1);
            let take = newline.unwrap_or_else(|| bytes.len().min(room));
            pending.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if newline.is_some() {
                entry(&mut entries, stream, now, pending);
                pending.clear();
            } else if pending.len() >= ENTRY_MAX {
                // Not in the middle of a character, if it is one.
                let keep = cut_character(pending);
                let whole = pending.len() - keep;
                entry(&mut entries, stream, now, &pending[..whole]);
                pending.drain(..whole);
            }
            // One write for many entries, but no file much longer than it may be.
            if self.size + entries.len() as u64 >= self.limits.max_bytes {
                self.write(&entries);
                entries.clear();
            }
        }
        self.write(&entries);
    }

    /// Writes unfinished lines: nothing more will come.
    pub fn finish(&mut self) {
        let mut entries = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(&mut self.pending[index(stream)]);
            if !pending.is_empty() {
                entry(&mut entries, stream, now(), &pending);
            }
        }
        self.write(&entries);
    }

    /// What was lost, for people.
    #[must_use]
    pub fn loss(&self) -> Option<String> {
        let why = self.lost_why.as_ref()?;
        Some(format!("{} bytes of the log could not be written: {why}", self.lost))
    }

    fn write(&mut self, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        let result = self.rotate_if_full().and_then(|()| self.append(entries));
        if let Err(e) = result {
            // The container must not stop because the disk is full.
            self.lost = self.lost.saturating_add(entries.len() as u64);
            self.lost_why = Some(e.to_string());
        }
    }

    fn append(&mut self, entries: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(entries);
        if written.is_err() {
            // No half entry for a reader to stumble over.
            let _ = self.file.set_len(self.size);
        } else {
            self.size += entries.len() as u64;
        }
        written
    }

    fn rotate_if_full(&mut self) -> io::Result<()> {
        if self.size < self.limits.max_bytes.max(1) {
            return Ok(());
        }
        self.file = open(&self.dir, self.number + 1)?;
        self.number += 1;
        self.size = 0;
        self.forget_oldest();
        Ok(())
    }

    fn forget_oldest(&self) {
        if let Some(old) = self.number.checked_sub(u64::from(self.limits.max_files.max(1))) {
            let _ = fs::remove_file(self.dir.join(file_name(old)));
        }
    }
}

fn open(dir: &Path, number: u64) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Never through a link that something else has put there.
    options.append(true).create_new(true).mode(0o600);
    options.open(dir.join(file_name(number)))
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

/// Bytes at the end that begin a UTF-8 character without finishing it.
fn cut_character(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    for back in 1..=tail.len() {
        let first = tail[tail.len() - back];
        let needs = match first {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if needs > back { back } else { 0 };
    }
    0
}

fn entry(out: &mut Vec<u8>, stream: Stream, at: Timestamp, text: &[u8]) {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    out.extend_from_slice(b"{\"log\":");
    // A string always serialises, and a vector always takes it.
    let shown = String::from_utf8_lossy(text);
    let _ = serde_json::to_writer(&mut *out, &shown);
    if matches!(shown, Cow::Owned(_)) {
        let _ = write!(out, ",\"bytes\":\"{}\"", STANDARD.encode(text));
    }
    let _ = writeln!(out, ",\"stream\":\"{name}\",\"time\":\"{at}\"}}");
}

/// The time of day.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// What a [`Timestamp`] is shown as, back in nanoseconds, also with fewer digits; `None` for anything else.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<u64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':').map(str::parse::<u64>);
    let (h, m, s) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    let in_range = (1970..=2500).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && h < 24
        && m < 60
        && s <= 60
        && fraction.len() <= 9;
    if !in_range {
        return None;
    }
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    let seconds = days_from_civil(year, month, day)? * 86_400 + h * 3600 + m * 60 + s;
    Some(seconds * 1_000_000_000 + nanos)
}

/// Days since the Unix epoch (proleptic Gregorian, by eras of 400 years that begin on the first of March).
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    let y = year - u64::from(month <= 2);
    let (era, yoe) = (y / 400, y % 400);
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    (era * 146_097 + doe).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_709_251_199_999_999_999, "2024-02-29T23:59:59.999999999Z"),
            (1_795_225_310_120_000_000, "2026-11-21T01:41:50.120000000Z"),
        ] {
            assert_eq!(Timestamp::from_nanos(nanos).to_string(), text);
            assert_eq!(parse_rfc3339(text), Some(nanos));
        }
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00.5Z"), Some(500_000_000));
        assert_eq!(parse_rfc3339("1970-01-01T00:00:01Z"), Some(1_000_000_000));
        for bad in ["", "x", "1970-13-01T00:00:00Z", "1970-01-01", "1970-01-01T00:00:00"] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    fn texts(dir: &Path) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        let line = |l: &str| {
            let v: serde_json::Value = serde_json::from_str(l).unwrap();
            let get = |k: &str| v[k].as_str().unwrap().to_owned();
            assert!(parse_rfc3339(&get("time")).is_some());
            (get("stream"), get("log"))
        };
        let read = |p: PathBuf| fs::read_to_string(p).unwrap();
        files.into_iter().flat_map(|p| read(p).lines().map(line).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn lines_partial_lines_and_streams() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::create(dir.path(), LogLimits::default()).unwrap();
        log.output(Stream::Stdout, b"one\ntw");
        log.output(Stream::Stderr, b"err\"\\\n");
        log.output(Stream::Stdout, b"o\nthree");
        let mut long = vec![b'x'; ENTRY_MAX - 1];
        long.extend("é\n".bytes());
        log.output(Stream::Stderr, &long);
        log.finish();
        let (o, e) = (|s: &str| ("stdout".to_owned(), s.to_owned()), "stderr".to_owned());
        let expected = vec![
            o("one\n"),
            (e.clone(), "err\"\\\n".to_owned()),
            o("two\n"),
            (e.clone(), "x".repeat(ENTRY_MAX - 1)),
            (e, "é\n".to_owned()),
            o("three"),
        ];
        assert_eq!(texts(dir.path()), expected);
    }

    #[test]
    fn a_log_goes_on_behind_that_of_an_earlier_container() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { max_files: 3, ..LogLimits::default() };
        for boot in 0..5 {
            let mut log = LogWriter::create(dir.path(), limits).unwrap();
            log.output(Stream::Stdout, format!("boot {boot}\n").as_bytes());
        }
        let lines: Vec<String> = texts(dir.path()).into_iter().map(|(_, text)| text).collect();
        assert_eq!(lines, ["boot 2\n", "boot 3\n", "boot 4\n"], "and is bounded all the same");
    }

    #[test]
    fn files_are_bounded_and_numbered() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { max_bytes: 1000, max_files: 2 };
        let mut log = LogWriter::create(dir.path(), limits).unwrap();
        for i in 0..100 {
            log.output(Stream::Stdout, format!("line {i}\n").as_bytes());
        }
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 2);
        assert_eq!(file_number(&names[1]).unwrap(), file_number(&names[0]).unwrap() + 1);
        let lines = texts(dir.path());
        assert_eq!(lines.last().unwrap().1, "line 99\n");
        assert!(lines.len() > 10);
    }
}
