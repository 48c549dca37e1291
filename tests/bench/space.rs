//! Network namespaces, for every benchmark that makes hosts of them.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where a namespace of ip-netns(8) is.
pub(crate) fn path(space: &str) -> PathBuf {
    Path::new("/run/netns").join(space)
}

/// Moves the calling thread there.
pub(crate) fn move_into(space: &str) -> anyhow::Result<()> {
    let file = File::open(path(space))?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Runs a program, to its end.
pub(crate) fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        bail!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
