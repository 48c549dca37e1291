//! Running programs with a bound on their time.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// What a program said, and how it ended.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code; 128 and the signal's number if it died of one.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Both streams, for messages.
    #[must_use]
    pub fn both(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// Runs a program to its end; kills it when the time is up.
///
/// # Errors
/// When it cannot be started or does not end in time.
pub fn run(command: &mut Command, limit: Duration) -> Result<Said> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    let out = drain(child.stdout.take());
    let err = drain(child.stderr.take());
    let ended = wait(&mut child, limit)?;
    if ended.is_none() {
        child.kill()?;
        child.wait()?;
    }
    // Something that it left behind may hold the pipes; nothing here waits for that.
    let (out, err) = (collect(out), collect(err));
    match ended {
        Some(status) => Ok(Said { code: code(status), out, err }),
        None => bail!("{shown} did not end within {limit:?}; so far: {out}{err}"),
    }
}

/// Runs a program that has to succeed; gives its standard output.
///
/// # Errors
/// As [`run`], and when it fails, with what it said.
pub fn succeed(command: &mut Command, limit: Duration) -> Result<String> {
    let said = run(command, limit)?;
    if said.code != 0 {
        bail!("{command:?} ended with {}: {}", said.code, said.both().trim());
    }
    Ok(said.out)
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        sleep(Duration::from_millis(5));
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before a failure is kept.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn collect(reader: JoinHandle<Vec<u8>>) -> String {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !reader.is_finished() && Instant::now() < deadline {
        sleep(Duration::from_millis(2));
    }
    if !reader.is_finished() {
        return "(its output is still held open)".to_owned();
    }
    let bytes = reader.join().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
