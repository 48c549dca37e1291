//! Counts, and keeps the number in a file: `/data/count` unless COUNT_FILE names another.
//!
//! `counter` serves on port 8081: `/add` adds one and shows the number, `/` only shows it;
//! `counter healthcheck` asks the counter beside it.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const LISTEN: &str = "0.0.0.0:8081";
const PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let outcome = match env::args().nth(1).as_deref() {
        Some("healthcheck") => check(),
        _ => serve(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("counter: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> io::Result<()> {
    let mut stream = TcpStream::connect("127.0.0.1:8081")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(1 << 12).read_to_string(&mut answer)?;
    match answer.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(io::Error::other("no good answer")),
    }
}

fn serve() -> io::Result<()> {
    let file = env::var("COUNT_FILE").unwrap_or_else(|_| "/data/count".to_owned());
    let file = PathBuf::from(file);
    let mut count = load(&file)?;
    let listener = TcpListener::bind(LISTEN)?;
    println!("counter at {count} listens on {LISTEN}");
    for stream in listener.incoming() {
        if let Err(error) = stream.and_then(|stream| answer(stream, &file, &mut count)) {
            eprintln!("a question was lost: {error}");
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream, file: &Path, count: &mut u64) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < 8192 {
        match stream.read(&mut piece)? {
            0 => break,
            n => head.extend_from_slice(&piece[..n]),
        }
    }
    if head.starts_with(b"GET /add ") {
        save(file, *count + 1)?;
        *count += 1;
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{count}\n")
}

fn load(file: &Path) -> io::Result<u64> {
    match fs::read_to_string(file) {
        Ok(text) => text.trim().parse().map_err(|_| io::Error::other("the file holds no number")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// As a whole or not at all.
fn save(file: &Path, count: u64) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut written = File::create(&new)?;
    writeln!(written, "{count}")?;
    written.sync_all()?;
    fs::rename(new, file)
}
