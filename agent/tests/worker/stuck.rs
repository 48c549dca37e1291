//! What a test that does not end says of itself, before its runner kills it and nothing is known.

use std::fs;
use std::sync::mpsc;
use std::time::Duration;

/// Tests here end within seconds. The runner kills what takes three minutes.
const LATE: Duration = Duration::from_secs(150);

/// Says what all threads wait for if it lives for so long.
pub(crate) struct Watch {
    _end: mpsc::Sender<()>,
}

impl Watch {
    pub(crate) fn begin() -> Self {
        // What the worker logs is shown with a test that fails.
        let filter = tracing_subscriber::EnvFilter::new("info");
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let _ = logs.try_init();
        let (end, ended) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if ended.recv_timeout(LATE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("not at its end after {LATE:?}:");
                tell();
            }
        });
        Self { _end: end }
    }
}

/// Threads of this process and of those that it and its children have started, by what the kernel says.
fn tell() {
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let read = |name: &str| fs::read(process.path().join(name)).unwrap_or_default();
        let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let own = process.file_name().to_str() == Some(&std::process::id().to_string());
        if !own && !line.contains("shoal") {
            continue;
        }
        eprintln!("{} {line}", process.path().display());
        for thread in fs::read_dir(process.path().join("task")).into_iter().flatten().flatten() {
            let read = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            let [name, place, call] = ["comm", "wchan", "syscall"].map(read);
            eprintln!("  {} in {place}, call {}", name.trim(), call.trim());
        }
    }
}
