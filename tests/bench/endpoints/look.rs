//! What is seen from within a container.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use shoal_agent_dns::ADDRESS;

use crate::DAY;

/// Where the service is asked.
const PORT: u16 = 9000;
/// Between looks.
const PAUSE: Duration = Duration::from_millis(10);
/// Packets of one look.
const PACKETS: usize = 4;
/// An answer that takes longer is none.
const IMPATIENCE: Duration = Duration::from_millis(200);

/// What one container has seen, with times in seconds of the day.
#[derive(Default)]
pub(crate) struct Seen(Mutex<Looks>);

#[derive(Default)]
struct Looks {
    /// When an address was first and last told.
    named: BTreeMap<Ipv4Addr, [f64; 2]>,
    /// When a task has first answered, and when the last packet that it answered was sent.
    served: BTreeMap<String, [f64; 2]>,
    /// The last look at names that was answered, and at packets.
    last: [f64; 2],
}

impl Seen {
    fn looks<T>(&self, read: impl FnOnce(&mut Looks) -> T) -> T {
        read(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Since when the address is told.
    pub(crate) fn named(&self, address: Ipv4Addr) -> Option<f64> {
        self.looks(|looks| Some(looks.named.get(&address)?[0]))
    }

    /// Since when the task answers.
    pub(crate) fn served(&self, task: &str) -> Option<f64> {
        self.looks(|looks| Some(looks.served.get(task)?[0]))
    }

    /// Until when the address was told, once it is not any more.
    pub(crate) fn unnamed(&self, address: Ipv4Addr) -> Option<f64> {
        self.looks(|looks| {
            let told = looks.named.get(&address)?[1];
            (looks.last[0] > told).then_some(told)
        })
    }

    /// When the last packet was sent that the task has answered, if others have answered for so long since.
    pub(crate) fn last_served(&self, task: &str, after: Duration) -> Option<f64> {
        self.looks(|looks| {
            let served = looks.served.get(task)?[1];
            (looks.last[1] > served + after.as_secs_f64()).then_some(served)
        })
    }
}

pub(crate) fn now_of_day() -> f64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_secs_f64().rem_euclid(DAY)
}

fn enter(pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/ns/net");
    let file = File::open(&path).context(path)?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Answers in a container's place what is asked on [`PORT`], with its name, as long as the process lives.
pub(crate) fn serve(pid: i32, name: String) -> Result<()> {
    let bound = std::thread::spawn(move || {
        enter(pid)?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok::<_, anyhow::Error>(socket)
    });
    let socket = bound.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while std::path::Path::new(&format!("/proc/{pid}")).exists() {
            if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), from);
            }
        }
    });
    Ok(())
}

/// Looks from within a container until it is enough.
pub(crate) fn watch(pid: i32, vip: Ipv4Addr, seen: &Seen, enough: &AtomicBool) -> Result<()> {
    enter(pid)?;
    let name = Name::from_ascii("tasks.web.")?;
    while !enough.load(Ordering::Relaxed) {
        if let Some(told) = told(&name) {
            let now = now_of_day();
            seen.looks(|looks| {
                for address in told {
                    let [first, last] = looks.named.entry(address).or_insert([now; 2]);
                    // Not told by the answer before, but by one before that: of a task that had it earlier.
                    if *last < looks.last[0] {
                        *first = now;
                    }
                    *last = now;
                }
                looks.last[0] = now;
            });
        }
        for _ in 0..PACKETS {
            let sent = now_of_day();
            if let Ok(task) = asked(vip) {
                let now = now_of_day();
                seen.looks(|looks| {
                    looks.served.entry(task).or_insert([now; 2])[1] = sent;
                    looks.last[1] = now;
                });
            }
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn told(name: &Name) -> Option<BTreeSet<Ipv4Addr>> {
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(name.clone(), RecordType::A));
    let answer = exchange(ADDRESS.into(), &question.to_vec().ok()?).ok()?;
    let answer = Message::from_vec(&answer).ok()?;
    let address = |data: &RData| match data {
        RData::A(address) => Some(address.0),
        _ => None,
    };
    Some(answer.answers.iter().filter_map(|record| address(&record.data)).collect())
}

/// Which task has answered a new client.
fn asked(vip: Ipv4Addr) -> Result<String> {
    let answer = exchange((vip, PORT).into(), b"?")?;
    Ok(String::from_utf8(answer)?)
}

fn exchange(to: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(IMPATIENCE))?;
    socket.connect(to)?;
    socket.send(bytes)?;
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}
