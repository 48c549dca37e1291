//! The shop's page: who serves it, in which version, and how many times it was asked for.
//!
//! `web` serves on port 8080; `web healthcheck` asks the web beside it.
//! VERSION is shown on the page. COUNTER is where the counter is (name:port). The page says who asked.

use std::env;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

const LISTEN: &str = "0.0.0.0:8080";
const PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some("healthcheck") {
        return match get("127.0.0.1:8080", "/healthz") {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                println!("the page does not answer: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("web: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> std::io::Result<()> {
    let listener = TcpListener::bind(LISTEN)?;
    println!("web {} on {} listens on {LISTEN}", version(), hostname());
    for stream in listener.incoming() {
        let answered = stream.and_then(answer);
        if let Err(error) = answered {
            eprintln!("a visitor was lost: {error}");
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let path = request_path(&mut stream)?;
    let client = stream.peer_addr()?.ip();
    let (status, body) = match path.as_str() {
        "/healthz" => ("200 OK", "ok\n".to_owned()),
        "/" => ("200 OK", page(client)),
        _ => ("404 Not Found", "there is only one page: /\n".to_owned()),
    };
    if path == "/" {
        println!("GET / from {client}");
    }
    write!(
        stream,
        "HTTP/1.0 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn page(client: IpAddr) -> String {
    let count = match env::var("COUNTER") {
        Err(_) => "not counted: COUNTER is not set".to_owned(),
        Ok(counter) => match get(&counter, "/add") {
            Ok(count) => format!("visit number {}", count.trim()),
            Err(error) => format!("not counted: {counter}: {error}"),
        },
    };
    format!("shop version {} served by {} to {client}, {count}\n", version(), hostname())
}

fn version() -> String {
    env::var("VERSION").unwrap_or_else(|_| "unknown".to_owned())
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// The path of a request, after its whole head was read.
fn request_path(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < 8192 {
        match stream.read(&mut piece)? {
            0 => break,
            n => head.extend_from_slice(&piece[..n]),
        }
    }
    let head = String::from_utf8_lossy(&head);
    Ok(head.split(' ').nth(1).unwrap_or_default().to_owned())
}

fn get(address: &str, path: &str) -> Result<String, String> {
    let shown = |error: std::io::Error| error.to_string();
    let mut addresses = address.to_socket_addrs().map_err(shown)?;
    let to = addresses.next().ok_or("no address")?;
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(shown)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(shown)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").map_err(shown)?;
    let mut text = String::new();
    stream.take(1 << 16).read_to_string(&mut text).map_err(shown)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("not an answer of http")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(head.lines().next().unwrap_or_default().to_owned()),
    }
}
