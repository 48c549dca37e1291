//! Whether networks are as they should be on every node, and which nodes reach which.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use shoal_client::Partial;
use shoal_types::question::{Finding, PeerReach, PlacedNetworks};
use tokio::time::{Instant, sleep};

use crate::commands::prune::warn_of;
use crate::commands::{Result, Shell};
use crate::error::{CommandError, Kind};
use crate::render::table::{Column, bends, draw, whole};
use crate::render::{block, json, line, note, terminal_width, time};

/// To how many others each node sends packets unless told otherwise.
const PEERS: u64 = 32;
/// When it is said for the first time that it takes a while, and how often after that.
const FIRST: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Ids or names: only the nodes that have tasks on them, and the ways between these
    #[arg(value_name = "NETWORK")]
    networks: Vec<String>,
    /// Have each node try to reach so many others at the most; 0 for none
    #[arg(long, value_name = "NUMBER", default_value_t = PEERS)]
    peers: u64,
    /// List every way between two nodes that was tried, not only those that are narrow or broken
    #[arg(long, short)]
    all: bool,
}

/// The columns of what is not as it should be.
pub(crate) const FINDINGS: [Column; 5] = [
    whole("NODE"),
    bends("WHAT").rank(0),
    bends("EXPECTED"),
    bends("FOUND").rank(0),
    whole("KNOWN FOR").rank(2),
];

/// The columns of ways between nodes.
pub(crate) const WAYS: [Column; 6] = [
    whole("FROM"),
    whole("TO"),
    whole("PASSES"),
    whole("LAST HANDSHAKE").rank(2),
    bends("ENDPOINT").rank(3),
    bends("TROUBLE"),
];

pub(super) async fn run(shell: &Shell, args: Verify) -> Result {
    let client = shell.manager().await?;
    let found = patiently(client.verify_networks(&args.networks, args.peers)).await?;
    if shell.is_json() {
        json::document(&json!({ "Nodes": found.items, "Silent": found.silent }))?;
    } else {
        tell(&found, args.all)?;
    }
    warn_of(&found.silent);
    verdict(&found)
}

/// Waits, and says so.
pub(super) async fn patiently<T>(work: impl Future<Output = T>) -> T {
    let (began, mut work) = (Instant::now(), std::pin::pin!(work));
    let mut pause = FIRST;
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = sleep(pause) => {
                let waited = began.elapsed().as_secs();
                note(&format!("nodes look at their networks and try to reach each other ({waited} s)"));
                pause = AGAIN;
            }
        }
    }
}

fn tell(found: &Partial<PlacedNetworks>, all: bool) -> Result {
    let (now, width) = (time::now(), terminal_width());
    let findings: Vec<Vec<String>> = found
        .items
        .iter()
        .flat_map(|node| node.networks.findings.iter().map(move |finding| (node, finding)))
        .map(|(node, Finding { subject, expected, found, known_since })| {
            let known = time::human(now.since(*known_since));
            vec![node.hostname.clone(), subject.clone(), expected.clone(), found.clone(), known]
        })
        .collect();
    let ways = |wanted: fn(&PeerReach) -> bool| {
        let of = found
            .items
            .iter()
            .flat_map(|node| node.networks.reached.iter().map(move |r| (node, r)));
        of.filter(move |(_, reach)| wanted(reach))
    };
    let shown: Vec<Vec<String>> =
        ways(if all { |_| true } else { |reach| !reach.is_whole() }).map(way).collect();
    if !findings.is_empty() {
        block(&draw(&FINDINGS, findings, width))?;
        line("")?;
    }
    if !shown.is_empty() {
        block(&draw(&WAYS, shown, width))?;
        line("")?;
    }
    let (tried, narrow) = (ways(|_| true).count(), ways(|reach| !reach.is_whole()).count());
    let count: usize = found.items.iter().map(|node| node.networks.findings.len()).sum();
    line(&format!(
        "{} looked at: {}; {} of {} between nodes {} packets of full size",
        words(found.items.len(), "node", "nodes"),
        words(count, "difference", "differences"),
        tried - narrow,
        words(tried, "way", "ways"),
        if tried == 1 { "carries" } else { "carry" },
    ))?;
    for node in &found.items {
        for text in &node.networks.notes {
            note(&format!("note: node {}: {text}", node.hostname));
        }
    }
    let left_out: u64 = found
        .items
        .iter()
        .map(|node| node.networks.peers.saturating_sub(node.networks.reached.len() as u64))
        .sum();
    if left_out > 0 {
        note(&format!(
            "note: {} not tried, as each node tries a few others only: --peers NUMBER has it try more",
            words(usize::try_from(left_out).unwrap_or(usize::MAX), "way was", "ways were")
        ));
    }
    Ok(())
}

fn words(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn way((node, reach): (&PlacedNetworks, &PeerReach)) -> Vec<String> {
    let handshake = match reach.handshake_age_seconds {
        Some(age) => format!("{} ago", time::human(Duration::from_secs(age))),
        None => "never".to_owned(),
    };
    let passes = match (&reach.trouble, reach.passes_bytes) {
        (Some(_), 0) => "unknown".to_owned(),
        (None, 0) => "nothing".to_owned(),
        (_, passes) => format!("{passes} of {}", reach.full_bytes),
    };
    vec![
        node.hostname.clone(),
        reach.hostname.clone(),
        passes,
        handshake,
        reach.endpoint.clone().unwrap_or_default(),
        reach.trouble.clone().unwrap_or_default(),
    ]
}

/// A code of its own says that something was found.
fn verdict(found: &Partial<PlacedNetworks>) -> Result {
    let wrong: Vec<&str> =
        found.items.iter().filter(|n| !n.is_well()).map(|n| n.hostname.as_str()).collect();
    let silent = found.silent.len();
    if wrong.is_empty() && silent == 0 {
        return Ok(());
    }
    let mut what = Vec::new();
    if !wrong.is_empty() {
        what.push(format!("networks are not as they should be, seen from {}", wrong.join(", ")));
    }
    if silent > 0 {
        what.push(format!("{} did not answer", words(silent, "node", "nodes")));
    }
    Err(CommandError::new(Kind::Found, what.join("; ")))
}

#[cfg(test)]
mod tests {
    use shoal_types::question::{NodeNetworks, Silent};

    use super::*;

    fn reach(passes_bytes: u64, trouble: Option<&str>) -> PeerReach {
        PeerReach {
            node_id: 2.into(),
            hostname: "h2".to_owned(),
            endpoint: Some("192.0.2.2:51820".to_owned()),
            handshake_age_seconds: Some(240),
            received_bytes: 1,
            sent_bytes: 2,
            full_bytes: 1420,
            passes_bytes,
            trouble: trouble.map(str::to_owned),
        }
    }

    fn node(findings: Vec<Finding>, reached: Vec<PeerReach>) -> PlacedNetworks {
        let networks = NodeNetworks { findings, reached, ..NodeNetworks::default() };
        PlacedNetworks { node_id: 1.into(), hostname: "h1".to_owned(), networks }
    }

    #[test]
    fn a_way_says_what_passes_and_since_when_nobody_was_heard() {
        let of = |reach: PeerReach| way((&node(vec![], vec![]), &reach));
        let table = [
            (reach(1420, None), "1420 of 1420"),
            (reach(1280, None), "1280 of 1420"),
            (reach(0, None), "nothing"),
            (reach(0, Some("cannot send")), "unknown"),
            (reach(1280, Some("not found out")), "1280 of 1420"),
        ];
        for (reach, passes) in table {
            let row = of(reach);
            assert_eq!(row[..4], ["h1", "h2", passes, "4 minutes ago"]);
            assert_eq!(row.len(), WAYS.len());
        }
        assert_eq!(of(PeerReach { handshake_age_seconds: None, ..reach(0, None) })[3], "never");
    }

    #[test]
    fn whatever_is_wrong_has_a_code_of_its_own() {
        let silent =
            || Silent { node_id: 3.into(), hostname: "h3".to_owned(), reason: "x".to_owned() };
        let ended = |items: Vec<PlacedNetworks>, silent: Vec<Silent>| {
            verdict(&Partial { items, silent }).map_err(|error| error.kind().exit_code())
        };
        assert_eq!(ended(vec![node(vec![], vec![reach(1420, None)])], vec![]), Ok(()));
        assert_eq!(ended(vec![node(vec![], vec![reach(1300, None)])], vec![]), Err(9));
        assert_eq!(ended(vec![node(vec![], vec![reach(1420, Some("x"))])], vec![]), Err(9));
        assert_eq!(ended(vec![node(vec![Finding::default()], vec![])], vec![]), Err(9));
        assert_eq!(ended(vec![node(vec![], vec![])], vec![silent()]), Err(9));
    }
}
