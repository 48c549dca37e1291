//! Telling one boot of the host from another.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use shoal_agent_planning::task::Boot;
use shoal_durable::write_file;

/// The kernel's own name of a boot (random(4)).
const KERNEL: &str = "/proc/sys/kernel/random/boot_id";
/// In the run directory, which a reboot empties.
const FILE: &str = "boot";

/// Why this boot cannot be told from others.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct BootError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BootError {
    let path = path.to_owned();
    move |source| BootError { action, path, source }
}

/// The boot that this is. A host that is a container itself is started again without the kernel: so the
/// run directory counts as well, in which whatever lives has what it is reached by.
///
/// # Errors
/// A file cannot be read or written.
pub fn this(run_dir: &Path) -> Result<Boot, BootError> {
    let kernel = Path::new(KERNEL);
    let kernel = fs::read_to_string(kernel).map_err(failed("read", kernel))?;
    of(run_dir, kernel.trim())
}

fn of(run_dir: &Path, kernel: &str) -> Result<Boot, BootError> {
    let path = run_dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(known) if known.split_once(' ').is_some_and(|(of, _)| of == kernel) => {
            return Ok(Boot::new(known));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("read", &path)(error));
        }
        // Of an earlier boot, or nothing that was written here.
        Ok(_) | Err(_) => {}
    }
    let new = format!("{kernel} {}", hex::encode(rand::random::<[u8; 16]>()));
    write_file(&path, new.as_bytes(), 0o600).map_err(failed("write", &path))?;
    Ok(Boot::new(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_one_until_the_kernel_or_the_run_directory_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let first = of(dir.path(), "a").unwrap();
        assert_eq!(of(dir.path(), "a").unwrap(), first, "the agent was restarted");
        let second = of(dir.path(), "b").unwrap();
        assert!(second.is_other_than(&first), "the kernel was");
        fs::remove_file(dir.path().join(FILE)).unwrap();
        let third = of(dir.path(), "b").unwrap();
        assert!(third.is_other_than(&second), "everything in memory is gone");
        fs::write(dir.path().join(FILE), "b").unwrap();
        assert!(of(dir.path(), "b").unwrap().is_other_than(&third), "half a name is none");
        assert!(this(dir.path()).is_ok(), "this host has a name");
    }
}
