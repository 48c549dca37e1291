//! Taking this host out of its cluster.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use shoal_client::local::{Drained, Draining, LocalAgent};

use super::draining::{Remaining, Wait};
use super::service::pairs::duration;
use super::{Result, Shell};
use crate::render::record::{self, Record};
use crate::render::{line, note};

#[derive(Debug, Args)]
pub(crate) struct Leave {
    /// Go at once, without waiting until other nodes run what this one ran; and also when the cluster
    /// loses something by it: its last manager, or its quorum
    #[arg(long, short)]
    force: bool,
    /// Wait no longer than this until other nodes run what this one ran; 0 waits for ever
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = duration,
        default_value = "10m",
        conflicts_with = "force"
    )]
    timeout: Duration,
}

/// The node is drained first, so that others take over while its containers still run or as soon as
/// they have stopped; each step can be repeated.
pub(crate) async fn run(shell: &Shell, args: &Leave) -> Result {
    let agent = shell.agent()?;
    if !args.force {
        drain(shell, &agent, args.timeout).await?;
    }
    let (node_id, not_told) = agent.leave(args.force).await?;
    if !not_told.is_empty() {
        note(&format!(
            "warning: no manager could be told ({not_told}): node {node_id} stays in the list until \
             somebody removes it with shoalctl node rm {node_id}"
        ));
    }
    shell.ended("left", Vec::new());
    if shell.is_json() {
        let removed = not_told.is_empty();
        let what = json!({ "Left": true, "NodeID": node_id, "Removed": removed });
        return record::write(&Record::Applied { what });
    }
    line("this host left the cluster")
}

/// Waits until the node is empty and others run what it ran, if there is a manager that sees to it.
async fn drain(shell: &Shell, agent: &LocalAgent, timeout: Duration) -> Result {
    let first = agent.drain().await?;
    let Some(begun) = first.drained else {
        if !first.not_told.is_empty() {
            note(&format!(
                "warning: this node is not drained, as no manager could be told ({}): what it runs \
                 stops now, and begins elsewhere when they notice",
                first.not_told
            ));
        }
        return Ok(());
    };
    let node = begun.hostname.clone();
    let wait = Wait {
        shell,
        node: &node,
        node_id: &first.node_id,
        timeout,
        hint: format!(
            "this host is still a member, and drained: shoalctl leave goes on, with --force at once; \
             shoalctl node update --availability active {} takes it back",
            first.node_id
        ),
    };
    if !begun.begun {
        wait.news("this node was drained already, by an earlier leave or by somebody")?;
    }
    let mut next = Some(begun);
    let mut last = Drained::default();
    let look = async || {
        let now = match next.take() {
            Some(now) => Draining { drained: Some(now), ..Draining::default() },
            None => agent.drain().await?,
        };
        let names = if now.not_told.is_empty() {
            // Nothing is left if it was removed meanwhile.
            last = now.drained.unwrap_or_default();
            last.left_names.iter().chain(&last.awaited_names).cloned().collect()
        } else {
            // A manager that is away for a while is waited for as the tasks are.
            vec![format!("a manager that says how far it is ({})", now.not_told)]
        };
        Ok(Remaining { left: last.left, awaited: last.awaited, names })
    };
    wait.until_empty(look).await?;
    if last.unplaced > 0 {
        let names = Remaining { left: last.unplaced, awaited: 0, names: last.unplaced_names };
        note(&format!(
            "warning: what no other node takes runs again when there is one: {}",
            names.named()
        ));
    }
    Ok(())
}
