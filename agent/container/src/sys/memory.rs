//! Giving memory back.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// Of an entry of `/proc/<pid>/pagemap`: the page is here.
const PRESENT: u64 = 1 << 63;
/// And it is one of a file (or shared), not a copy of this process's own.
const OF_FILE: u64 = 1 << 61;
/// Bytes of an entry.
const ENTRY: usize = size_of::<u64>();

/// Lets go of what a process does not need while it sleeps: free heap pages, and the pages of its
/// program and libraries that are as they are on disk. Those stay in the page cache, shared by all,
/// and what is needed again is mapped again when it is. A supervisor does this once, before it waits
/// for as long as its container lives.
///
/// # Errors
/// What this process has mapped cannot be told; it keeps all of it then.
pub fn trim() -> io::Result<()> {
    let spare = spare()?;
    // After the last large allocation.
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers; glibc locks its own arenas.
    unsafe {
        libc::malloc_trim(0);
    }
    for run in spare {
        // SAFETY: pages of a file in a mapping that is not written any more (what the dynamic linker
        // has written became copies, which are not among them); so what is dropped here comes back
        // as it was from the file at the next access, this very code included.
        unsafe {
            libc::madvise(run.start as *mut libc::c_void, run.len(), libc::MADV_DONTNEED);
        }
    }
    Ok(())
}

/// Addresses of pages that are as they are in a file.
fn spare() -> io::Result<Vec<Range<usize>>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let pagemap = File::open("/proc/self/pagemap")?;
    let size = rustix::param::page_size();
    let mut spare = Vec::new();
    for bounds in maps.lines().filter_map(read_only_file) {
        let mut entries = vec![0; bounds.len() / size * ENTRY];
        pagemap.read_exact_at(&mut entries, (bounds.start / size * ENTRY) as u64)?;
        let at = |page: usize| bounds.start + page * size;
        spare.extend(unchanged(&entries).into_iter().map(|run| at(run.start)..at(run.end)));
    }
    Ok(spare)
}

/// The bounds of a line of `/proc/<pid>/maps`, if it is a part of a file that is not written.
fn read_only_file(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let read_only = matches!(fields.next()?, "r-xp" | "r--p");
    let of_file = fields.nth(3)?.starts_with('/');
    let parse = |hex| usize::from_str_radix(hex, 16).ok();
    (read_only && of_file).then_some(parse(start)?..parse(end)?)
}

/// Runs of pages that are here and those of the file.
fn unchanged(entries: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let (entries, _) = entries.as_chunks::<ENTRY>();
    for (page, entry) in entries.iter().enumerate() {
        if u64::from_ne_bytes(*entry) & (PRESENT | OF_FILE) != PRESENT | OF_FILE {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == page => run.end = page + 1,
            _ => runs.push(page..page + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_are_not_written_are_let_go() {
        let at = |permissions: &str, path: &str| {
            let line = format!("00400000-00452000 {permissions} 00000000 08:02 173521      {path}");
            read_only_file(&line)
        };
        let whole = Some(0x40_0000..0x45_2000);
        assert_eq!(at("r-xp", "/usr/bin/x"), whole);
        assert_eq!(at("r--p", "/usr/bin/x"), whole);
        assert_eq!(at("r--p", "/"), whole, "a file that is in no directory");
        for (permissions, path) in [
            ("rw-p", "/usr/bin/x"),
            ("rwxp", "/usr/bin/x"),
            ("r--s", "/dev/shm/x"),
            ("r-xp", "[vdso]"),
            ("r-xp", ""),
        ] {
            assert_eq!(at(permissions, path), None, "{permissions} {path}");
        }
    }

    #[test]
    fn pages_that_were_copied_stay() {
        let pages =
            [OF_FILE, PRESENT | OF_FILE, PRESENT | OF_FILE | 7, PRESENT, 0, PRESENT | OF_FILE];
        let entries: Vec<u8> = pages.iter().flat_map(|page| page.to_ne_bytes()).collect();
        assert_eq!(unchanged(&entries), [1..3, 5..6]);
        assert!(unchanged(&[]).is_empty());
        trim().unwrap();
    }
}
