//! What the nodes on a way say of it.

use std::collections::{BTreeMap, BTreeSet};

use shoal_manager_state::ClusterState;
use shoal_types::id::NodeId;
use shoal_types::question::{
    Finding, NetworkQuestion, NodeNetworks, PeerReach, TraceStep, Verdict,
};

use super::{About, Heard, Step, Way};
use crate::words;

impl Way {
    /// Who is to be asked, and what: each node of the way about itself, and about the next ones.
    #[must_use]
    pub fn asked(&self) -> BTreeMap<NodeId, NetworkQuestion> {
        let mut peers: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
        for step in &self.steps {
            let Some(node) = step.node else { continue };
            let asked = peers.entry(node).or_default();
            // Itself is no peer: who has no next one tries nobody.
            asked.insert(node);
            if let About::Peer(other) = step.about {
                asked.insert(other);
            }
        }
        let question = |(node, peers): (NodeId, BTreeSet<NodeId>)| {
            let peers_max = peers.len() as u64;
            (node, NetworkQuestion { peers: peers.into_iter().collect(), peers_max })
        };
        peers.into_iter().map(question).collect()
    }

    /// Each step with the verdict on it, and at the end what else is not right on these nodes.
    #[must_use]
    pub fn judged(self, view: &ClusterState, heard: &Heard) -> Vec<TraceStep> {
        let mut told: BTreeSet<(NodeId, &Finding)> = BTreeSet::new();
        let nodes: BTreeSet<NodeId> = self.steps.iter().filter_map(|step| step.node).collect();
        let mut all = Vec::new();
        for step in self.steps {
            let (verdict, why) = judge(view, heard, &step, &mut told);
            let node = step.node.map(|node| view.hostname(node));
            all.push(TraceStep { node, what: step.what, verdict, why });
        }
        for node in nodes {
            let findings = heard.answers.get(&node).map(|answer| answer.findings.as_slice());
            let rest = findings.unwrap_or_default().iter();
            let rest: Vec<String> =
                rest.filter(|finding| !told.contains(&(node, *finding))).map(said).collect();
            if !rest.is_empty() {
                all.push(TraceStep {
                    node: Some(view.hostname(node)),
                    what: "what else its kernel has".to_owned(),
                    verdict: Verdict::Doubtful,
                    why: Some(words::text(&rest.join("; "))),
                });
            }
        }
        all
    }
}

fn judge<'a>(
    view: &ClusterState,
    heard: &'a Heard,
    step: &Step,
    told: &mut BTreeSet<(NodeId, &'a Finding)>,
) -> (Verdict, Option<String>) {
    let stops = |why: String| (Verdict::Stops, Some(why));
    let doubtful = |why: String| (Verdict::Doubtful, Some(why));
    if let Some(why) = &step.stops {
        return stops(why.clone());
    }
    let Some(node) = step.node else { return (Verdict::Passes, None) };
    if view.is_lost(node) {
        return stops(format!("node {} is not there", view.hostname(node)));
    }
    if step.about == About::Nothing {
        return (Verdict::Passes, None);
    }
    let Some(answer) = heard.answers.get(&node) else {
        let silent = heard.silent.iter().find(|silent| silent.node_id == node);
        let why = silent.map_or("it was not asked", |silent| silent.reason.as_str());
        return doubtful(format!("it does not say what it has: {}", words::text(why)));
    };
    let wrong = match &step.about {
        About::Nothing => None,
        About::Words(wanted) => {
            let about =
                |finding: &&Finding| wanted.iter().any(|word| mentions(&finding.subject, word));
            let found: Vec<&Finding> = answer.findings.iter().filter(about).collect();
            told.extend(found.iter().map(|finding| (node, *finding)));
            let all: Vec<String> = found.into_iter().map(said).collect();
            (!all.is_empty()).then(|| stops(words::text(&all.join("; "))))
        }
        About::Peer(other) => through(answer, *other),
    };
    if let Some(wrong) = wrong {
        return wrong;
    }
    match heard.progress.get(&node).filter(|progress| progress.behind() > 0) {
        Some(progress) => doubtful(format!(
            "it has not applied everything yet: message {} of {}",
            progress.applied, progress.sent
        )),
        None => (Verdict::Passes, None),
    }
}

/// What a node says of its way to another one.
fn through(answer: &NodeNetworks, other: NodeId) -> Option<(Verdict, Option<String>)> {
    let Some(reach) = answer.reached.iter().find(|reach| reach.node_id == other) else {
        let why = answer.notes.first().map_or_else(
            || "its tunnel does not lead there".to_owned(),
            |note| format!("it was not tried: {note}"),
        );
        return Some((Verdict::Stops, Some(words::text(&why))));
    };
    let PeerReach { endpoint, handshake_age_seconds, full_bytes, passes_bytes, trouble, .. } =
        reach;
    let keys = match handshake_age_seconds {
        Some(age) => format!("keys were agreed on {age} s ago"),
        None => "keys were never agreed on".to_owned(),
    };
    let at = endpoint.as_deref().unwrap_or("an unknown address");
    let (verdict, why) = match (trouble, *passes_bytes) {
        (Some(trouble), 0) => (Verdict::Doubtful, trouble.clone()),
        (_, 0) => (Verdict::Stops, format!("nothing passes to {at}; {keys}")),
        (_, passes) if passes < *full_bytes => (
            Verdict::Doubtful,
            format!("of packets up to {full_bytes} bytes those above {passes} do not pass to {at}"),
        ),
        _ => return None,
    };
    Some((verdict, Some(words::text(&why))))
}

fn said(Finding { subject, expected, found, .. }: &Finding) -> String {
    format!("{subject}: {found}, expected {expected}")
}

/// Whether a text has a word in it: an address, with or without a length, an id or a port.
fn mentions(text: &str, word: &str) -> bool {
    let within = |c: char| c.is_ascii_alphanumeric() || ['.', ':', '/', '_', '-'].contains(&c);
    let mut words = text.split(|c: char| !within(c));
    words.any(|one| {
        let bare = one.trim_matches(|c| c == ':' || c == '.');
        bare == word || bare.split_once('/').is_some_and(|(address, _)| address == word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_whole() {
        let text = "allowed address 10.0.0.2/32 of peer 7k2: present, port 8080/tcp";
        for word in ["10.0.0.2", "10.0.0.2/32", "7k2", "8080/tcp", "address"] {
            assert!(mentions(text, word), "{word}");
        }
        for word in ["10.0.0.20", "10.0.0", "0.0.0.2", "7k", "80", "tcp"] {
            assert!(!mentions(text, word), "{word}");
        }
    }
}
