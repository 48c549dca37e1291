//! Who asks.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

/// Questions that are sent and not answered yet, at the most.
const WINDOW: usize = 256;
/// Those that are sent together.
const TOGETHER: usize = 32;
/// How long an answer is waited for before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(200);
/// Bytes of an answer.
const ANSWER_BYTES: usize = 512;

/// What was seen in one round.
pub(crate) struct Sample {
    pub(crate) a_second: f64,
    pub(crate) micros_each: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    pub(crate) rss_mib: f64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { a_second, micros_each, p50_micros, p99_micros, rss_mib } = self;
        write!(
            f,
            "{a_second:>9.0}/s {micros_each:>6.2} us each, p50 {p50_micros:>6.0} us, \
             p99 {p99_micros:>6.0} us, {rss_mib:>5.1} MiB"
        )
    }
}

/// What came of asking without a pause.
#[derive(Default)]
pub(crate) struct Flooded {
    pub(crate) answers: u64,
    pub(crate) wrong: u64,
    pub(crate) took: Duration,
}

fn socket(to: SocketAddrV4) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether these bytes say that there is an address: a response without error and with one record.
fn is_answer(bytes: &[u8]) -> bool {
    matches!(bytes, [_, _, flags, code, _, _, 0, 1, ..] if flags & 0x80 != 0 && code & 0x0f == 0)
}

/// Asks as fast as it is answered.
pub(crate) fn flood(
    to: SocketAddrV4,
    questions: &[Vec<u8>],
    length: Duration,
) -> anyhow::Result<Flooded> {
    let socket = socket(to)?;
    let mut flooded = Flooded::default();
    let mut sent: MultiHeaders<SockaddrIn> = MultiHeaders::preallocate(TOGETHER, None);
    let mut received: MultiHeaders<SockaddrIn> = MultiHeaders::preallocate(TOGETHER, None);
    let mut buffers = vec![[0_u8; ANSWER_BYTES]; TOGETHER];
    let (mut next, mut open) = (0, 0_usize);
    let (begin, mut heard) = (Instant::now(), Instant::now());
    while begin.elapsed() < length {
        while open + TOGETHER <= WINDOW {
            let slices: Vec<[IoSlice<'_>; 1]> = (0..TOGETHER)
                .filter_map(|at| questions.get((next + at) % questions.len()))
                .map(|question| [IoSlice::new(question)])
                .collect();
            let none = [None; TOGETHER];
            match sendmmsg(socket.as_raw_fd(), &mut sent, &slices, none, [], MsgFlags::empty()) {
                Ok(results) => {
                    let count = results.count();
                    next += count;
                    open += count;
                }
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        match recvmmsg(socket.as_raw_fd(), &mut received, slices.iter_mut(), flags, None) {
            Ok(results) => {
                for message in results {
                    let right = message.iovs().next().is_some_and(is_answer);
                    flooded.wrong += u64::from(!right);
                    flooded.answers += 1;
                    open = open.saturating_sub(1);
                }
                heard = Instant::now();
            }
            Err(Errno::EAGAIN) if heard.elapsed() > PATIENCE => {
                // Lost: the queue of a socket was full.
                (open, heard) = (0, Instant::now());
            }
            Err(Errno::EAGAIN) => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    }
    flooded.took = begin.elapsed();
    Ok(flooded)
}

/// Asks so many a second, evenly. Returns how long each took, in microseconds; the time for which an answer is
/// waited if there was none.
pub(crate) fn pace(
    to: SocketAddrV4,
    questions: &[Vec<u8>],
    length: Duration,
    a_second: u32,
) -> anyhow::Result<Vec<f64>> {
    let socket = socket(to)?;
    let each = Duration::from_secs(1) / a_second;
    let count = (length.as_secs_f64() * f64::from(a_second)) as usize;
    // Numbers of questions are of 16 bits, so that of one that is lost comes again.
    let mut asked: Vec<Option<Instant>> = vec![None; 1 << 16];
    let mut times = Vec::with_capacity(count);
    let mut buffer = [0; ANSWER_BYTES];
    let (begin, mut sent) = (Instant::now(), 0_usize);
    let end = begin + each * u32::try_from(count)? + PATIENCE;
    while times.len() < count && Instant::now() < end {
        // Due now. One that could not be sent in time has waited all the same.
        while sent < count && begin + each * u32::try_from(sent)? <= Instant::now() {
            let mut question = questions.get(sent % questions.len()).cloned().unwrap_or_default();
            let id = (sent % asked.len()) as u16;
            question.splice(..2, id.to_be_bytes());
            socket.send(&question)?;
            if let Some(slot) = asked.get_mut(usize::from(id)) {
                *slot = Some(begin + each * u32::try_from(sent)?);
            }
            sent += 1;
        }
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let id = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
                let since = asked.get_mut(id).and_then(Option::take);
                times.extend(since.map(|since| since.elapsed().as_secs_f64() * 1e6));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::yield_now();
            }
            Err(error) => return Err(error.into()),
        }
    }
    times.resize(count, PATIENCE.as_secs_f64() * 1e6);
    Ok(times)
}
