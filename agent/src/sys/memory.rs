//! Giving memory back.

use std::fs;

/// Lets go of what a process does not need while it sleeps: free heap pages, and the mappings of its
/// code. The code stays in the page cache, shared by all, and what is needed again is mapped again
/// when it is. A supervisor does this once, before it waits for as long as its container lives.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers; glibc locks its own arenas.
    unsafe {
        libc::malloc_trim(0);
    }
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    for (start, end) in maps.lines().filter_map(code) {
        // SAFETY: a file mapping that can be executed and not written holds no private page, so what
        // is dropped here comes back unchanged from the file at the next access, this very code
        // included.
        unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
        }
    }
}

/// The bounds of a line of `/proc/<pid>/maps`, if it is code from a file. Read-only data is not: parts
/// of it were written once, by the dynamic linker.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_code = fields.next()? == "r-xp" && fields.nth(3)?.starts_with('/');
    let parse = |hex| usize::from_str_radix(hex, 16).ok();
    is_code.then_some((parse(start)?, parse(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_from_files_is_let_go() {
        let at = |permissions: &str, path: &str| {
            code(&format!("00400000-00452000 {permissions} 00000000 08:02 173521      {path}"))
        };
        assert_eq!(at("r-xp", "/usr/bin/x"), Some((0x40_0000, 0x45_2000)));
        for (permissions, path) in
            [("r--p", "/usr/bin/x"), ("rwxp", "/usr/bin/x"), ("r-xp", "[vdso]"), ("r-xp", "")]
        {
            assert_eq!(at(permissions, path), None, "{permissions} {path}");
        }
        trim();
    }
}
