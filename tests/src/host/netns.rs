//! Named network namespaces and the links between them. Nothing is made in the machine's own.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::command::{run, succeed};

/// `ip` works in memory; this is for machines that are very busy.
const LIMIT: Duration = Duration::from_secs(20);

/// The file of a named namespace.
#[must_use]
pub(super) fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Runs `ip` with these words.
///
/// # Errors
/// With what `ip` says.
pub(super) fn ip(words: &str) -> Result<String> {
    succeed(Command::new("ip").args(words.split_whitespace()), LIMIT)
}

/// A new namespace, with its loopback up.
///
/// # Errors
/// With what `ip` says.
pub(super) fn add(name: &str) -> Result<()> {
    ip(&format!("netns add {name}"))?;
    ip(&format!("-n {name} link set lo up"))?;
    Ok(())
}

/// Removes a namespace with all links in it. One that does not exist is no error.
///
/// # Errors
/// With what `ip` says.
pub(super) fn remove(name: &str) -> Result<()> {
    if path(name).exists() {
        let deleted = ip(&format!("netns delete {name}"));
        // Another test may tidy up after the same dead one.
        if path(name).exists() {
            deleted?;
        }
    }
    Ok(())
}

/// The names of the links in a namespace.
///
/// # Errors
/// With what `ip` says.
pub(super) fn links(name: &str) -> Result<Vec<String>> {
    let text = ip(&format!("-n {name} -o link show"))?;
    let link = |line: &str| {
        let name = line.split(": ").nth(1)?;
        Some(name.split('@').next().unwrap_or(name).to_owned())
    };
    Ok(text.lines().filter_map(link).collect())
}

/// The tables of packet filtering in a namespace, as `family name`.
///
/// # Errors
/// When `nft` cannot be run.
pub(super) fn tables(name: &str) -> Result<Vec<String>> {
    let netns = format!("--net={}", path(name).display());
    let said = run(Command::new("nsenter").args([&netns, "nft", "list", "tables"]), LIMIT)?;
    Ok(said.out.lines().map(|line| line.trim().to_owned()).filter(|l| !l.is_empty()).collect())
}

/// Runs a closure inside a namespace, in a thread of its own.
///
/// # Errors
/// When the namespace cannot be entered, or as the closure.
pub fn inside<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = File::open(path(name)).with_context(|| format!("open the namespace {name}"))?;
    let enter = || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter the namespace {name}"))?;
        work()
    };
    std::thread::scope(|scope| {
        scope.spawn(enter).join().unwrap_or_else(|_| Err(anyhow!("panicked inside {name}")))
    })
}
