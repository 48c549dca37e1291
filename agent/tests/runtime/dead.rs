//! A file system whose server takes every question and answers none but those about its root: whoever
//! asks cannot even be killed before it is gone.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Codes of the kernel's fuse.h.
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const ACCESS: u32 = 34;
const HEADER: usize = 40;
/// More than any question without data.
const QUESTION_MAX: usize = 64 << 10;

pub(crate) struct Dead {
    place: tempfile::TempDir,
    gone: Arc<AtomicBool>,
    unanswered: Arc<AtomicU32>,
    server: Option<JoinHandle<()>>,
}

impl Dead {
    pub(crate) fn mount() -> Self {
        let place = tempfile::tempdir().unwrap();
        let server = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let fd = server.as_raw_fd();
        let data = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other");
        let data = std::ffi::CString::new(data).unwrap();
        mount("shoal-test-dead", place.path(), "fuse", MountFlags::empty(), Some(data.as_c_str()))
            .unwrap();
        let (gone, unanswered) = (Arc::default(), Arc::default());
        let (ends, count) = (Arc::clone(&gone), Arc::clone(&unanswered));
        let server = std::thread::spawn(move || serve(server, &ends, &count));
        Self { place, gone, unanswered, server: Some(server) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    /// How many wait for an answer.
    pub(crate) fn unanswered(&self) -> u32 {
        self.unanswered.load(Ordering::SeqCst)
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
        // Closes the server's end, which lets everybody go.
        let _ = self.server.take().map(JoinHandle::join);
        let _ = unmount(self.place.path(), UnmountFlags::DETACH);
    }
}

fn serve(mut server: File, gone: &AtomicBool, unanswered: &AtomicU32) {
    let mut question = vec![0; QUESTION_MAX];
    while !gone.load(Ordering::SeqCst) {
        let soon = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let mut fds = [PollFd::new(&server, PollFlags::IN)];
        if poll(&mut fds, Some(&soon)).is_ok_and(|ready| ready > 0) {
            let Ok(length @ HEADER..) = server.read(&mut question) else { continue };
            match answer(&question[..length]) {
                Some(answer) => server.write_all(&answer).unwrap(),
                None => drop(unanswered.fetch_add(1, Ordering::SeqCst)),
            }
        }
    }
}

fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let opcode = u32::from_ne_bytes(question[4..8].try_into().unwrap());
    let (body, error): (Vec<u8>, i32) = match opcode {
        INIT => {
            // Version 7.31, nothing that is optional, writes of a page.
            let words: [u32; 16] = [7, 31, 0, 0, 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            (words.iter().flat_map(|word| word.to_ne_bytes()).collect(), 0)
        }
        GETATTR => {
            let mut words = [0u32; 26];
            // Valid for a day; inode 1, a directory with two names.
            (words[0], words[4], words[19], words[20]) = (86_400, 1, 0o040_755, 2);
            (words.iter().flat_map(|word| word.to_ne_bytes()).collect(), 0)
        }
        ACCESS => (Vec::new(), -rustix::io::Errno::NOSYS.raw_os_error()),
        _ => return None,
    };
    let length = u32::try_from(16 + body.len()).unwrap();
    let head = [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &question[8..16]];
    Some([head.concat(), body].concat())
}
