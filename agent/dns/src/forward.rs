//! Asking others.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::answer::{Question, TCP_BYTES_MAX};

/// All that is done for a question. The C library waits for 5 seconds, and is to hear of a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);
const _: () = assert!(PATIENCE.as_secs() < 5);
/// How many resolvers are asked, as in resolv.conf(5).
pub(crate) const RESOLVERS_MAX: usize = 3;
/// One that did not answer is asked after the others for so long.
const SLOW: Duration = Duration::from_secs(10);
/// Longest answer over UDP, in bytes (RFC 6891, 6.2.5).
const UDP_BYTES: usize = 4096;

/// Who has not answered lately, and until when that counts.
#[derive(Debug, Default)]
pub(crate) struct Resolvers(Mutex<BTreeMap<SocketAddr, Instant>>);

impl Resolvers {
    fn in_order(&self, all: &[SocketAddr]) -> Vec<SocketAddr> {
        let now = Instant::now();
        let mut slow = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slow.retain(|_, until| *until > now);
        let mut all: Vec<SocketAddr> = all.iter().take(RESOLVERS_MAX).copied().collect();
        all.sort_by_key(|resolver| slow.contains_key(resolver));
        all
    }

    fn was_silent(&self, resolver: SocketAddr) {
        let mut slow = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slow.insert(resolver, Instant::now() + SLOW);
    }

    /// Asks one after the other until one answers. `None` if none does. An answer that says that the
    /// resolver cannot say is only passed on when no other has one.
    pub(crate) async fn ask(
        &self,
        all: &[SocketAddr],
        bytes: &[u8],
        question: &Question,
        tcp: bool,
    ) -> Option<Vec<u8>> {
        let resolvers = self.in_order(all);
        let until = Instant::now() + PATIENCE;
        let mut useless = None;
        for (n, resolver) in resolvers.iter().enumerate() {
            let left = u32::try_from(resolvers.len() - n).unwrap_or(1);
            let share = until.saturating_duration_since(Instant::now()) / left;
            let answered = timeout(share, ask(*resolver, bytes, question, tcp)).await;
            match answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok((answer, ResponseCode::ServFail | ResponseCode::Refused)) => {
                    useless = Some(answer);
                }
                Ok((answer, _)) => return Some(answer),
                Err(_) => self.was_silent(*resolver),
            }
        }
        useless
    }
}

/// Asks under a number of its own, from a port of its own (RFC 5452), and answers under the asker's.
async fn ask(
    resolver: SocketAddr,
    bytes: &[u8],
    question: &Question,
    tcp: bool,
) -> io::Result<(Vec<u8>, ResponseCode)> {
    let id: u16 = rand::random();
    let mut asked = bytes.to_vec();
    renumber(&mut asked, id);
    let (mut answer, code) = if tcp {
        over_tcp(resolver, &asked, question, id).await?
    } else {
        over_udp(resolver, &asked, question, id).await?
    };
    renumber(&mut answer, question.id());
    Ok((answer, code))
}

/// A message begins with its number (RFC 1035, 4.1.1).
fn renumber(bytes: &mut [u8], id: u16) {
    if let Some(place) = bytes.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

async fn over_udp(
    resolver: SocketAddr,
    asked: &[u8],
    question: &Question,
    id: u16,
) -> io::Result<(Vec<u8>, ResponseCode)> {
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // From then on nobody else is heard.
    socket.connect(resolver).await?;
    socket.send(asked).await?;
    let mut buffer = vec![0; UDP_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if let Some(code) = question.is_answered_by(answer, id) {
            return Ok((answer.to_vec(), code));
        }
    }
}

async fn over_tcp(
    resolver: SocketAddr,
    asked: &[u8],
    question: &Question,
    id: u16,
) -> io::Result<(Vec<u8>, ResponseCode)> {
    let mut stream = TcpStream::connect(resolver).await?;
    say(&mut stream, asked).await?;
    let answer = hear(&mut stream, TCP_BYTES_MAX).await?;
    let code = question.is_answered_by(&answer, id);
    let code = code.ok_or_else(|| io::Error::other("it has answered another question"))?;
    Ok((answer, code))
}

/// Writes a message with its length before it (RFC 1035, 4.2.2).
pub(crate) async fn say(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut whole = length.to_be_bytes().to_vec();
    whole.extend_from_slice(message);
    stream.write_all(&whole).await
}

/// Reads a message of so many bytes at most, with its length before it.
pub(crate) async fn hear(stream: &mut TcpStream, max: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > max {
        let text = format!("a message of {length} bytes, expected at most {max}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut message = Vec::new();
    // Only what has come takes memory.
    AsyncReadExt::take(stream, length as u64).read_to_end(&mut message).await?;
    if message.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(message)
}
