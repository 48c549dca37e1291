//! What is measured.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::lab::{Lab, joined};
use crate::stream::{Receiver, connect, send};
use crate::ways::Way;

const PORT: u16 = 7000;
/// Before what is sent counts: the stream has to find its pace.
const WARM_UP: Duration = Duration::from_millis(500);
/// Bytes sent there and back.
const TRIPS: usize = 400;
/// Between them where somebody asks now and then: long enough for code and memory to leave the caches.
const PAUSE: Duration = Duration::from_millis(1);

/// One turn of one way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    bits: f64,
    seconds: f64,
    cpu_seconds: f64,
    /// At the median, where one follows another.
    trip: Duration,
    /// At the median, with a pause before each.
    now_and_then: Duration,
}

impl Sample {
    /// Mbit/s.
    pub(crate) fn rate(&self) -> f64 {
        self.bits / self.seconds / 1e6
    }

    /// Seconds of processor time per Gbit.
    pub(crate) fn cpu(&self) -> f64 {
        self.cpu_seconds / (self.bits / 1e9)
    }

    /// µs, where one byte follows another.
    pub(crate) fn trip(&self) -> f64 {
        self.trip.as_secs_f64() * 1e6
    }

    /// µs, with a pause before each byte.
    pub(crate) fn now_and_then(&self) -> f64 {
        self.now_and_then.as_secs_f64() * 1e6
    }
}

pub(crate) fn sample(lab: &Lab, way: Way, length: Duration) -> anyhow::Result<Sample> {
    let (trip, now_and_then) = (trip(lab, way, Duration::ZERO)?, trip(lab, way, PAUSE)?);
    let idle = Sample { bits: 0.0, seconds: 0.0, cpu_seconds: 0.0, trip, now_and_then };
    if !way.carries() {
        return Ok(idle);
    }
    let [one, two] = &lab.hosts;
    let to = SocketAddr::from((two.at(way.net()), PORT));
    let listener = joined(two.enter(move || Ok(TcpListener::bind(to)?)))?;
    let sender = one.enter(move || send(to));
    let mut stream = Receiver::accept(&listener)?;
    stream.read_until(Instant::now() + WARM_UP)?;
    let (begin, before) = (Instant::now(), lab.cpu(way.name())?);
    let bytes = stream.read_until(begin + length)?;
    let (seconds, after) = (begin.elapsed().as_secs_f64(), lab.cpu(way.name())?);
    drop(stream);
    joined(sender)?;
    Ok(Sample { bits: bytes as f64 * 8.0, seconds, cpu_seconds: after - before, ..idle })
}

/// How long a byte takes there and back.
fn trip(lab: &Lab, way: Way, pause: Duration) -> anyhow::Result<Duration> {
    let [one, two] = &lab.hosts;
    let to = SocketAddr::from((two.at(way.net()), PORT));
    let listener = joined(two.enter(move || Ok(TcpListener::bind(to)?)))?;
    let answerer = thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        anyhow::Ok(())
    });
    let asker = one.enter(move || {
        let mut stream = connect(to)?;
        stream.set_nodelay(true)?;
        let mut times = Vec::with_capacity(TRIPS);
        for _ in 0..TRIPS {
            let (begin, mut byte) = (Instant::now(), [1]);
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)?;
            times.push(begin.elapsed());
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
        times.sort();
        times.get(TRIPS / 2).copied().context("no trips")
    });
    let trip = joined(asker)?;
    joined(answerer)?;
    Ok(trip)
}
