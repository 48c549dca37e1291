//! Asks for the shop's page again and again, and writes down what it got.
//!
//! SHOPS: where pages are (name:port), separated by commas; one after the other is asked.
//! EVERY_MS: between two visits; 1000 if it is not set.

use std::env;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let shops = env::var("SHOPS").unwrap_or_default();
    let shops: Vec<&str> = shops.split(',').map(str::trim).filter(|s| !s.is_empty()).collect();
    let every = env::var("EVERY_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    if shops.is_empty() {
        eprintln!("visitor: SHOPS is not set: expected name:port,name:port");
        return ExitCode::FAILURE;
    }
    for shop in shops.iter().cycle() {
        match visit(shop) {
            Ok(page) => println!("{shop}: {}", page.trim()),
            Err(error) => println!("{shop}: closed ({error})"),
        }
        sleep(Duration::from_millis(every));
    }
    ExitCode::SUCCESS
}

fn visit(shop: &str) -> std::io::Result<String> {
    let nowhere = || std::io::Error::other("no such address");
    let to = shop.to_socket_addrs()?.next().ok_or_else(nowhere)?;
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {shop}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(1 << 16).read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(body.to_owned())
}
