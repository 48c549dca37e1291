//! Reading a container's log, over rotations, without losing or repeating a line.
//!
//! A reader is a blocking thread: it lives as long as somebody reads, and sleeps in the kernel.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{LogQuery, LogStream, RuntimeError};
use crate::runtime::{LogLine, Stream};
use crate::supervise::log::{file_name, file_number, parse_rfc3339};
use crate::supervise::setup::{EXIT_FILE, LOG_DIR};

/// Lines on their way to a reader.
const QUEUE: usize = 256;
/// Longest entry that is read: the longest one written is shorter, however much of it is escaped.
const ENTRY_MAX: u64 = 256 * 1024;

type Sender = mpsc::Sender<Result<LogLine, RuntimeError>>;

/// Reads the log of a container, given its state directory.
pub(super) fn read(state_dir: PathBuf, query: LogQuery) -> LogStream {
    let (tx, rx) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        if let Err(source) = pump(&state_dir, query, &tx) {
            let path = state_dir.join(LOG_DIR);
            let _ = tx.blocking_send(Err(RuntimeError::Io { action: "reading", path, source }));
        }
    });
    ReceiverStream::new(rx).boxed()
}

fn pump(state_dir: &Path, query: LogQuery, tx: &Sender) -> io::Result<()> {
    let dir = state_dir.join(LOG_DIR);
    let watch = query.follow.then(|| Watch::new(state_dir, &dir)).transpose()?;
    let Some(mut cursor) = Cursor::open(&dir)? else { return Ok(()) };
    let mut held = query.tail.map(|_| VecDeque::new());
    loop {
        // Asked before reading: what is written before the record is then read.
        let over = !query.follow || ended(state_dir);
        while let Some(entry) = cursor.next()? {
            let Some(line) = parse(&entry) else { continue };
            if query.until_nanos.is_some_and(|until| line.at_nanos >= until) {
                release(held, tx);
                return Ok(());
            }
            if !wanted(&line, &query) {
                continue;
            }
            match (&mut held, query.tail) {
                (Some(lines), Some(tail)) => {
                    lines.push_back(line);
                    if lines.len() > tail {
                        lines.pop_front();
                    }
                }
                _ if send(tx, line).is_break() => return Ok(()),
                _ => {}
            }
        }
        release(held.take(), tx);
        match &watch {
            Some(watch) if !over && !tx.is_closed() => watch.wait()?,
            _ => return Ok(()),
        }
    }
}

fn send(tx: &Sender, line: LogLine) -> ControlFlow<()> {
    match tx.blocking_send(Ok(line)) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

fn release(held: Option<VecDeque<LogLine>>, tx: &Sender) {
    let _ = held.into_iter().flatten().try_for_each(|line| send(tx, line));
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

/// An entry as Docker writes it, too.
#[derive(Deserialize)]
struct Entry {
    log: String,
    stream: Stream,
    time: String,
}

fn parse(entry: &[u8]) -> Option<LogLine> {
    let entry: Entry = serde_json::from_slice(entry).ok()?;
    let at_nanos = parse_rfc3339(&entry.time)?;
    Some(LogLine { at_nanos, stream: entry.stream, text: entry.log })
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
    options.read(true).custom_flags(libc::O_NOFOLLOW);
    match options.open(dir.join(file_name(number))) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Wakes when the log grows or the container ends.
struct Watch {
    fd: std::os::fd::OwnedFd,
}

impl Watch {
    fn new(state_dir: &Path, log_dir: &Path) -> io::Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let fd = inotify::init(flags)?;
        let events = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::DELETE_SELF;
        for dir in [state_dir, log_dir] {
            inotify::add_watch(&fd, dir, events)?;
        }
        Ok(Self { fd })
    }

    /// Returns on an event, and now and then without one, so that a reader who left is noticed.
    fn wait(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }))?;
        let mut events = [0u8; 4096];
        while rustix::io::read(&self.fd, &mut events[..]).is_ok_and(|n| n > 0) {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::LogLimits;
    use crate::supervise::log::LogWriter;

    async fn all(dir: &Path, query: LogQuery) -> Vec<String> {
        read(dir.to_owned(), query).map(|l| l.unwrap().text).collect().await
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
}
