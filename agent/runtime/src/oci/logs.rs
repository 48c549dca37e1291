//! Reading a container's log, over rotations, without losing or repeating a line.
//!
//! A reader does something only while somebody wants the next line. It reads a bounded piece at a time
//! on a thread for blocking work, and holds none while it waits: for whoever reads, or for the log to
//! grow.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, stream};
use rustix::fs::inotify;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{LogQuery, LogStream, RuntimeError};
use crate::io::Readable;
use crate::{LINE_MAX, LogLine, Stream};
use shoal_agent_container::supervise::log::{file_name, file_number, parse_rfc3339};
use shoal_agent_container::supervise::setup::{EXIT_FILE, LOG_DIR};

/// Entries that are read in one go.
const PIECE: usize = 256;
/// Pieces that are read at the same time, whoever reads: the agent has few threads for blocking work,
/// and a slow disk must not take all of them.
const PARALLEL: usize = 4;
/// Longest entry that is read: the longest one written is shorter, however much of it is escaped.
const ENTRY_MAX: u64 = 256 * 1024;

static READING: Semaphore = Semaphore::const_new(PARALLEL);

/// Reads the log of a container, given its state directory.
pub(super) fn read(state_dir: PathBuf, query: LogQuery) -> LogStream {
    let reader = Reader { state_dir, query, place: Place::Unopened };
    stream::unfold(Some(reader), |reader| async move {
        let reader = reader?;
        let path = reader.state_dir.join(LOG_DIR);
        match reader.next().await {
            Ok((lines, reader)) => Some((lines.into_iter().map(Ok).collect(), reader)),
            Err(source) => {
                let failed = RuntimeError::Io { action: "reading", path, source };
                Some((VecDeque::from([Err(failed)]), None))
            }
        }
    })
    .flat_map(stream::iter)
    .boxed()
}

/// The lines that are there now, at once; for tests of other crates.
///
/// # Errors
/// The kernel's answer.
#[cfg(feature = "testing")]
pub fn lines(state_dir: &Path, query: LogQuery) -> io::Result<Vec<LogLine>> {
    let query = LogQuery { follow: false, ..query };
    let mut reader = Reader { state_dir: state_dir.to_owned(), query, place: Place::Unopened };
    let mut all = Vec::new();
    loop {
        let (lines, end) = reader.piece()?;
        all.extend(lines);
        if end == End::Over {
            return Ok(all);
        }
    }
}

/// Who reads a log, and how far that is.
struct Reader {
    state_dir: PathBuf,
    query: LogQuery,
    place: Place,
}

enum Place {
    Unopened,
    Open(Box<Open>),
}

struct Open {
    cursor: Cursor,
    begun: Begun,
    /// The last lines, while those that are there are read and only so many are wanted.
    held: Option<VecDeque<LogLine>>,
    watch: Option<Readable>,
}

impl Open {
    /// Puts a line where it belongs, if it is wanted.
    fn take(&mut self, line: LogLine, query: &LogQuery, lines: &mut VecDeque<LogLine>) {
        if !wanted(&line, query) {
            return;
        }
        match (&mut self.held, query.tail) {
            (Some(held), Some(tail)) => {
                held.push_back(line);
                if held.len() > tail {
                    held.pop_front();
                }
            }
            _ => lines.push_back(line),
        }
    }
}

/// Where a piece ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Where there is more.
    Piece,
    /// Where there is nothing yet.
    Log,
    /// Where nothing will come, or is wanted.
    Over,
}

impl Reader {
    /// The next lines, and who reads those after them if there may be any. No lines at all are as good
    /// as some.
    async fn next(mut self) -> io::Result<(VecDeque<LogLine>, Option<Self>)> {
        // Never closed.
        let permit = READING.acquire().await;
        let piece = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let piece = self.piece()?;
            Ok::<_, io::Error>((self, piece))
        });
        let (reader, (lines, end)) = piece.await.map_err(io::Error::other)??;
        if end == End::Over {
            return Ok((lines, None));
        }
        if end == End::Log && lines.is_empty() {
            reader.grown().await?;
        }
        Ok((lines, Some(reader)))
    }

    /// Blocks for as long as the disk takes.
    fn piece(&mut self) -> io::Result<(VecDeque<LogLine>, End)> {
        let mut lines = VecDeque::new();
        let over = (lines.clone(), End::Over);
        if matches!(self.place, Place::Unopened) {
            let Some(open) = self.open()? else { return Ok(over) };
            self.place = Place::Open(Box::new(open));
        }
        let Place::Open(open) = &mut self.place else { return Ok(over) };
        // Asked before reading: what is written before the record is then read.
        let over = !self.query.follow || ended(&self.state_dir);
        for _ in 0..PIECE {
            let entry = open.cursor.next()?;
            let more = entry.is_some();
            let entry = entry.and_then(|entry| parse(&entry));
            let is_late =
                |line: &LogLine| self.query.until_nanos.is_some_and(|u| line.at_nanos >= u);
            // What was written too late may end a line that was begun in time.
            let new = entry.as_ref().is_some_and(|e| is_late(e) && !open.begun.has(e));
            let late = new && open.begun.is_empty();
            if !more && over {
                for line in open.begun.finish() {
                    open.take(line, &self.query, &mut lines);
                }
            }
            if late || !more {
                lines.extend(open.held.take().into_iter().flatten());
                let end = if late || over { End::Over } else { End::Log };
                return Ok((lines, end));
            }
            let entry = entry.filter(|_| !new);
            if let Some(line) = entry.and_then(|entry| open.begun.add(entry)) {
                open.take(line, &self.query, &mut lines);
            }
        }
        Ok((lines, End::Piece))
    }

    /// Watches before it looks, so that nothing comes in between. `None` where there is no log.
    fn open(&self) -> io::Result<Option<Open>> {
        let dir = self.state_dir.join(LOG_DIR);
        let watch = self.query.follow.then(|| watch(&self.state_dir, &dir)).transpose()?;
        let held = self.query.tail.map(|_| VecDeque::new());
        Ok(Cursor::open(&dir)?.map(|cursor| Open { cursor, begun: Begun::default(), held, watch }))
    }

    /// Waits until the log has grown or the container has ended, or may have.
    async fn grown(&self) -> io::Result<()> {
        let Place::Open(open) = &self.place else { return Ok(()) };
        let Some(watch) = &open.watch else { return Ok(()) };
        // What happened is read and not looked at: whatever it was, it is worth a look at the log.
        let mut events = [0u8; 4096];
        watch.read(&mut events).await.map(drop)
    }
}

fn ended(state_dir: &Path) -> bool {
    state_dir.join(EXIT_FILE).exists() || !state_dir.exists()
}

fn wanted(line: &LogLine, query: &LogQuery) -> bool {
    let stream = match line.stream {
        Stream::Stdout => query.stdout,
        Stream::Stderr => query.stderr,
    };
    stream && query.since_nanos.is_none_or(|since| line.at_nanos >= since)
}

/// An entry as Docker writes it, too, which knows no `bytes`.
#[derive(Deserialize)]
struct Entry {
    log: String,
    stream: String,
    time: String,
    bytes: Option<String>,
}

fn parse(entry: &[u8]) -> Option<LogLine> {
    let entry: Entry = serde_json::from_slice(entry).ok()?;
    let at_nanos = parse_rfc3339(&entry.time)?;
    let exact = entry.bytes.and_then(|text| STANDARD.decode(text).ok());
    let text = exact.unwrap_or_else(|| entry.log.into_bytes());
    // A stream of a newer writer that is not known here is shown all the same.
    let stream = if entry.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
    Some(LogLine { at_nanos, stream, text })
}

/// Lines that have begun, one of each stream.
#[derive(Debug, Default)]
struct Begun([Option<LogLine>; 2]);

impl Begun {
    /// Takes an entry; gives the line that it ends. A line has the time of its first entry.
    fn add(&mut self, entry: LogLine) -> Option<LogLine> {
        let begun = &mut self.0[usize::from(entry.stream == Stream::Stderr)];
        let line = match begun.take() {
            None => entry,
            Some(mut line) => {
                line.text.extend_from_slice(&entry.text);
                line
            }
        };
        if line.text.last() == Some(&b'\n') || line.text.len() >= LINE_MAX {
            return Some(line);
        }
        *begun = Some(line);
        None
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Whether an entry goes on with a line that has begun.
    fn has(&self, entry: &LogLine) -> bool {
        self.0[usize::from(entry.stream == Stream::Stderr)].is_some()
    }

    /// Gives what will not be ended, the earlier first.
    fn finish(&mut self) -> impl Iterator<Item = LogLine> + use<> {
        let mut all: Vec<LogLine> = std::mem::take(&mut self.0).into_iter().flatten().collect();
        all.sort_by_key(|line| line.at_nanos);
        all.into_iter()
    }
}

/// A place in the log.
struct Cursor {
    dir: PathBuf,
    number: u64,
    file: BufReader<File>,
    partial: Vec<u8>,
}

impl Cursor {
    /// At the oldest entry there is.
    fn open(dir: &Path) -> io::Result<Option<Self>> {
        loop {
            let Some(number) = first_from(dir, 0)? else { return Ok(None) };
            if let Some(file) = open_file(dir, number)? {
                return Ok(Some(Self { dir: dir.to_owned(), number, file, partial: Vec::new() }));
            }
        }
    }

    /// The next whole entry; `None` when there is none yet.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(entry) = self.entry()? {
                return Ok(Some(entry));
            }
            let Some(number) = first_from(&self.dir, self.number + 1)? else { return Ok(None) };
            // A later file is there, so this one is complete now; it may not have been just before.
            if let Some(entry) = self.entry()? {
                return Ok(Some(entry));
            }
            if let Some(file) = open_file(&self.dir, number)? {
                (self.number, self.file) = (number, file);
                self.partial.clear();
            }
        }
    }

    fn entry(&mut self) -> io::Result<Option<Vec<u8>>> {
        let limit = ENTRY_MAX.saturating_sub(self.partial.len() as u64).max(1);
        io::Read::take(&mut self.file, limit).read_until(b'\n', &mut self.partial)?;
        let whole = self.partial.last() == Some(&b'\n') || self.partial.len() as u64 >= ENTRY_MAX;
        Ok(whole.then(|| std::mem::take(&mut self.partial)))
    }
}

/// The lowest file number not below `from`.
fn first_from(dir: &Path, from: u64) -> io::Result<Option<u64>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let numbers = entries.flatten().filter_map(|e| file_number(e.file_name().to_str()?));
    Ok(numbers.filter(|n| *n >= from).min())
}

/// `None` when it has been rotated away meanwhile.
fn open_file(dir: &Path, number: u64) -> io::Result<Option<BufReader<File>>> {
    let mut options = File::options();
    options.read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    match options.open(dir.join(file_name(number))) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Can be read when the log has grown or the container has ended.
fn watch(state_dir: &Path, log_dir: &Path) -> io::Result<Readable> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let fd = inotify::init(flags)?;
    let events = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::DELETE_SELF;
    for dir in [state_dir, log_dir] {
        inotify::add_watch(&fd, dir, events)?;
    }
    Readable::new(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogLimits;
    use shoal_agent_container::supervise::log::LogWriter;

    async fn all(dir: &Path, query: LogQuery) -> Vec<String> {
        let text = |l: Result<LogLine, _>| String::from_utf8(l.unwrap().text).unwrap();
        read(dir.to_owned(), query).map(text).collect().await
    }

    #[tokio::test]
    async fn a_line_ends_where_the_program_ended_it() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { max_bytes: 100_000, max_files: 1000 };
        let mut log = LogWriter::create(&dir.path().join(LOG_DIR), limits).unwrap();
        let long = "é".repeat(150_000);
        // In pieces as they are read from a pipe, with the other stream in between.
        for chunk in format!("a\n{long}\nb\n").as_bytes().chunks(30_001) {
            log.output(Stream::Stdout, chunk);
            log.output(Stream::Stderr, b"e\n");
        }
        log.output(Stream::Stdout, "x".repeat(40_000).as_bytes());
        log.finish();
        let out = LogQuery { stderr: false, ..LogQuery::default() };
        let expected =
            ["a\n".to_owned(), format!("{long}\n"), "b\n".to_owned(), "x".repeat(40_000)];
        assert!(all(dir.path(), out).await == expected);
        let tail = all(dir.path(), LogQuery { tail: Some(3), ..out }).await;
        assert!(tail == expected[1..], "{} lines", tail.len());
        let lines: Vec<LogLine> =
            read(dir.path().to_owned(), out).map(Result::unwrap).collect().await;
        let until = Some(lines[1].at_nanos + 1);
        let begun = all(dir.path(), LogQuery { until_nanos: until, ..out }).await;
        assert!(begun == expected[..2], "a line that was begun in time is whole");
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_cut_at_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { max_bytes: 1 << 20, max_files: 1000 };
        let mut log = LogWriter::create(&dir.path().join(LOG_DIR), limits).unwrap();
        for _ in 0..40 {
            log.output(Stream::Stdout, &[b'z'; 64 * 1024]);
        }
        log.finish();
        let lines = all(dir.path(), LogQuery::default()).await;
        assert!(lines.iter().all(|l| l.len() < LINE_MAX + 16 * 1024), "bounded");
        assert_eq!((lines.len(), lines.concat().len()), (3, 40 * 64 * 1024));
    }

    #[tokio::test]
    async fn bytes_that_are_not_text_survive() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::create(&dir.path().join(LOG_DIR), LogLimits::default()).unwrap();
        let bytes: Vec<u8> = (0..=255).filter(|b| *b != b'\n').chain([b'\n']).collect();
        // Longer than one entry, and never finished.
        let latin1 = [0xe9; 40_000];
        log.output(Stream::Stdout, &bytes);
        log.output(Stream::Stderr, &latin1);
        log.finish();
        let lines: Vec<Vec<u8>> = read(dir.path().to_owned(), LogQuery::default())
            .map(|l| l.unwrap().text)
            .collect()
            .await;
        assert_eq!(lines, [bytes, latin1.to_vec()]);
    }

    #[tokio::test]
    async fn who_follows_gets_a_long_line_when_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::create(&dir.path().join(LOG_DIR), LogLimits::default()).unwrap();
        let follow = LogQuery { follow: true, tail: Some(1), ..LogQuery::default() };
        log.output(Stream::Stdout, b"first\n");
        log.output(Stream::Stdout, &[b'y'; 50_000]);
        let mut lines = read(dir.path().to_owned(), follow);
        assert_eq!(lines.next().await.unwrap().unwrap().text, b"first\n");
        log.output(Stream::Stdout, b"\n");
        let line = lines.next().await.unwrap().unwrap().text;
        assert_eq!(line.len(), 50_001);
        log.finish();
        fs::write(dir.path().join(EXIT_FILE), "{}").unwrap();
        assert!(lines.next().await.is_none());
    }

    #[tokio::test]
    async fn tail_streams_and_times() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::create(&dir.path().join(LOG_DIR), LogLimits::default()).unwrap();
        log.output(Stream::Stdout, b"a\nb\n");
        log.output(Stream::Stderr, b"c\n");
        log.output(Stream::Stdout, b"d");
        log.finish();
        let q = LogQuery::default();
        assert_eq!(all(dir.path(), q).await, ["a\n", "b\n", "c\n", "d"]);
        assert_eq!(all(dir.path(), LogQuery { tail: Some(2), ..q }).await, ["c\n", "d"]);
        assert_eq!(all(dir.path(), LogQuery { tail: Some(0), ..q }).await, [""; 0]);
        assert_eq!(all(dir.path(), LogQuery { stdout: false, ..q }).await, ["c\n"]);
        let far = Some(u64::MAX);
        assert_eq!(all(dir.path(), LogQuery { since_nanos: far, ..q }).await, [""; 0]);
        assert_eq!(all(dir.path(), LogQuery { until_nanos: Some(1), ..q }).await, [""; 0]);
    }

    #[tokio::test]
    async fn following_loses_nothing_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { max_bytes: 2000, max_files: 1000 };
        let mut log = LogWriter::create(&dir.path().join(LOG_DIR), limits).unwrap();
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let reader = tokio::spawn({
            let dir = dir.path().to_owned();
            async move { all(&dir, query).await }
        });
        for i in 0..2000 {
            log.output(Stream::Stdout, format!("{i}\n").as_bytes());
            if i % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        log.finish();
        fs::write(dir.path().join(EXIT_FILE), "{}").unwrap();
        let got = reader.await.unwrap();
        let expected: Vec<String> = (0..2000).map(|i| format!("{i}\n")).collect();
        assert_eq!(got, expected);
    }

    /// As many followers, and readers who do not read, as there are threads, and then some.
    #[test]
    fn who_waits_for_a_log_holds_no_thread() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::create(&dir.path().join(LOG_DIR), LogLimits::default()).unwrap();
        for i in 0..2000 {
            log.output(Stream::Stdout, format!("{i}\n").as_bytes());
        }
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).max_blocking_threads(2).enable_all();
        runtime.build().unwrap().block_on(async {
            let read = |query| read(dir.path().to_owned(), query);
            let follow = LogQuery { follow: true, tail: Some(1), ..LogQuery::default() };
            let mut followers: Vec<_> = (0..8).map(|_| read(follow)).collect();
            let mut idle: Vec<_> = (0..8).map(|_| read(LogQuery::default())).collect();
            for reader in followers.iter_mut().chain(&mut idle) {
                reader.next().await.unwrap().unwrap();
            }
            let last: Vec<_> = followers
                .into_iter()
                .map(|follower| tokio::spawn(follower.map(|l| l.unwrap().text).collect::<Vec<_>>()))
                .collect();
            let bound = std::time::Duration::from_secs(20);
            let other = tokio::task::spawn_blocking(|| ());
            tokio::time::timeout(bound, other).await.expect("a thread is free").unwrap();
            log.output(Stream::Stdout, b"more\n");
            fs::write(dir.path().join(EXIT_FILE), "{}").unwrap();
            for follower in last {
                let lines = tokio::time::timeout(bound, follower).await.unwrap().unwrap();
                assert_eq!(lines, [b"more\n"]);
            }
        });
    }
}
