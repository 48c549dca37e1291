//! What one input costs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

/// Processor time of the thread that made it, and memory of the process.
pub(crate) struct Meter {
    time: File,
    memory: File,
}

/// Memory of the process in bytes: what it has, and the most it ever had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) now: u64,
    pub(crate) most: u64,
}

impl Meter {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            time: File::open("/proc/thread-self/schedstat")?,
            memory: File::open("/proc/self/status")?,
        })
    }

    /// What this thread has had of processors (kernel, scheduler statistics): counted when it lets go.
    pub(crate) fn time(&self) -> Duration {
        std::thread::yield_now();
        let text = read(&self.time);
        let nanoseconds = text.split_whitespace().next().and_then(|n| n.parse().ok());
        Duration::from_nanos(nanoseconds.expect("a number"))
    }

    pub(crate) fn memory(&self) -> Memory {
        let text = read(&self.memory);
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
            let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
            kib << 10
        };
        Memory { now: field("VmRSS:"), most: field("VmHWM:") }
    }
}

fn read(file: &File) -> String {
    let mut buffer = [0; 4096];
    let length = file.read_at(&mut buffer, 0).expect("the kernel's own file");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}
