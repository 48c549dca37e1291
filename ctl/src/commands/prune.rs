//! Removing what nobody uses: asking first, and saying what came of it.

use std::io;

use serde_json::json;
use shoal_client::Partial;
use shoal_types::question::{PrunedNode, Silent};

use super::{Result, Shell};
use crate::error::CommandError;
use crate::render::{json, line, note};

/// Says which nodes did not answer.
pub(crate) fn warn_of(silent: &[Silent]) {
    for node in silent {
        note(&format!("warning: node {} is missing here: {}", node.hostname, node.reason));
    }
}

/// Asks whether something is to be removed, unless that was said already.
///
/// # Errors
/// When the answer is not yes.
pub(crate) fn confirm(force: bool, warning: &str) -> Result {
    if force {
        return Ok(());
    }
    note(&format!("WARNING! {warning}\nAre you sure you want to continue? [y/N]"));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CommandError::failed("nothing was removed: it was not confirmed")
            .hint("--force removes without asking")),
    }
}

/// Says what was removed, on which node, and how much that freed.
///
/// # Errors
/// When something could not be removed, or a node that had to does not answer.
pub(crate) fn told(shell: &Shell, done: &Partial<PrunedNode>) -> Result {
    let reclaimed: u64 = done.items.iter().map(|node| node.pruned.reclaimed_bytes).sum();
    if shell.is_json() {
        let record = json!({
            "Nodes": done.items, "Silent": done.silent, "ReclaimedBytes": reclaimed,
        });
        json::record(&record)?;
    } else {
        for node in &done.items {
            for (what, names) in removed(node) {
                line(&format!("{what} deleted on {}:", node.hostname))?;
                names.iter().try_for_each(|name| line(name))?;
                line("")?;
            }
        }
        line(&format!("Total reclaimed space: {}", bytes(reclaimed)))?;
    }
    warn_of(&done.silent);
    failures(done)
}

fn removed(node: &PrunedNode) -> impl Iterator<Item = (&'static str, &Vec<String>)> {
    let pruned = &node.pruned;
    let all = [
        ("Containers", &pruned.containers),
        ("Volumes", &pruned.volumes),
        ("Images", &pruned.images),
    ];
    all.into_iter().filter(|(_, names)| !names.is_empty())
}

/// # Errors
/// When something could not be removed.
pub(crate) fn failures(done: &Partial<PrunedNode>) -> Result {
    let failed: Vec<String> = done
        .items
        .iter()
        .flat_map(|node| node.pruned.errors.iter().map(|e| format!("{}: {e}", node.hostname)))
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(CommandError::failed(failed.join("\n"))) }
}

/// Bytes as Docker writes them.
pub(crate) fn bytes(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().si().to_string()
}
