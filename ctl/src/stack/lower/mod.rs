//! The merged tree to specs.

mod confine;
mod container;
mod deploy;
mod locate;
mod mounts;
mod networks;
mod payloads;
mod service;

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_types::name;
use shoal_types::spec::{ConfigSpec, Labels, SecretSpec, StackSpec};

use super::node::{Entry, Node};
use super::problem::{Findings, Pos, Problem};
use super::{Input, NAMESPACE_LABEL, scalar};

/// Everything that lowering looks at.
struct Lower<'a> {
    input: &'a Input<'a>,
    root: &'a Node,
    stack: String,
    findings: &'a mut Findings,
    /// Services with ports that answer on the nodes of their tasks alone though nobody said so.
    narrow_ports: Vec<String>,
    /// Networks that name no driver.
    unsaid_drivers: Vec<String>,
    /// Whether some service joins the stack's own network.
    uses_default: bool,
    /// Bytes of the files of variables that were read.
    env_bytes: usize,
}

/// What a tree comes to.
#[derive(Default)]
pub(super) struct Lowered {
    pub(super) spec: StackSpec,
    /// What is in its secrets.
    pub(super) secrets: BTreeMap<String, SecretSpec>,
    /// What is in its configs.
    pub(super) configs: BTreeMap<String, ConfigSpec>,
    /// As [`super::Loaded::narrow_ports`].
    pub(super) narrow_ports: Vec<String>,
    /// As [`super::Loaded::unsaid_drivers`].
    pub(super) unsaid_drivers: Vec<String>,
}

/// Lowers a merged tree. What is wrong is noted; the result counts only without findings.
pub(super) fn stack(input: &Input<'_>, root: &Node, findings: &mut Findings) -> Lowered {
    let from_file = root.get("name").and_then(Node::as_text);
    let Some(name) = input.name.or(from_file).or(input.fallback_name).map(str::to_owned) else {
        findings.push(Problem {
            at: None,
            path: String::new(),
            text: "the stack has no name: give one, or write name: in the file".to_owned(),
        });
        return Lowered::default();
    };
    if !name::is_valid(&name) {
        let at = root.get("name").filter(|_| input.name.is_none()).map(|node| node.at);
        let text = format!("{name:?} is not a name: expected {}", name::NAME_RULE);
        findings.push(Problem { at, path: "name of the stack".to_owned(), text });
        return Lowered::default();
    }
    let mut lower = Lower {
        input,
        root,
        stack: name.clone(),
        findings,
        narrow_ports: Vec::new(),
        unsaid_drivers: Vec::new(),
        uses_default: false,
        env_bytes: 0,
    };
    let services = lower.services();
    let networks = lower.networks();
    let volumes = lower.volumes();
    let (secrets, configs) = (lower.secrets(), lower.configs());
    let spec = StackSpec {
        name,
        services,
        networks,
        volumes,
        secrets: secrets.iter().map(|(key, spec)| (key.clone(), spec.name.clone())).collect(),
        configs: configs.iter().map(|(key, spec)| (key.clone(), spec.name.clone())).collect(),
    };
    if spec.services.is_empty() && lower.findings.is_clean() {
        lower.wrong(root.at, "services", "the stack has no services");
    }
    let Lower { narrow_ports, unsaid_drivers, .. } = lower;
    let before = findings.len();
    for violation in spec.validate().err().into_iter().flat_map(|v| v.0) {
        let problem = locate::problem(root, &violation);
        // What was refused above is missing here, and would only be found once more.
        if !findings.first(before).iter().any(|found| locate::is_consequence(&problem, found)) {
            findings.push(problem);
        }
    }
    Lowered { spec, secrets, configs, narrow_ports, unsaid_drivers }
}

impl Lower<'_> {
    /// The full name of a member of the stack.
    fn full_name(&self, key: &str) -> String {
        format!("{}_{key}", self.stack)
    }

    /// Labels of a node's key, with the stack's own.
    fn labels(&self, labels: Option<&Node>) -> Labels {
        let mut all = text_map(labels);
        all.insert(NAMESPACE_LABEL.to_owned(), self.stack.clone());
        all
    }

    fn wrong(&mut self, at: Pos, path: &str, text: impl Into<String>) {
        self.findings.wrong(at, path, text);
    }

    /// One of some words.
    fn word<T: Copy>(&mut self, node: &Node, path: &str, words: &[(&str, T)]) -> Option<T> {
        let text = node.as_text().unwrap_or_default();
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let near = super::schema::nearest_of(known.iter().copied(), text);
            let near = near.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
            let text = format!("is {}: expected {}{near}", node.kind(), known.join(", "));
            self.wrong(node.at, path, text);
        }
        found
    }
}

// Texts were checked by `normalise`; what could not be read is not in the tree any more.

fn text(node: &Node, key: &str) -> String {
    node.get(key).and_then(Node::as_text).unwrap_or_default().to_owned()
}

fn flag(node: &Node, key: &str) -> bool {
    text(node, key) == "true"
}

fn texts(node: Option<&Node>) -> Vec<String> {
    node.map_or(&[][..], Node::items)
        .iter()
        .filter_map(|n| n.as_text().map(str::to_owned))
        .collect()
}

fn text_map(node: Option<&Node>) -> BTreeMap<String, String> {
    let pair = |e: &Entry| (e.key.clone(), e.value.as_text().unwrap_or_default().to_owned());
    node.map_or(&[][..], Node::entries).iter().map(pair).collect()
}

fn time(node: &Node, key: &str) -> Option<Duration> {
    scalar::duration(node.get(key)?.as_text()?).ok()
}

fn whole(node: &Node, key: &str) -> Option<u64> {
    scalar::whole(node.get(key)?.as_text()?).ok()
}

fn size(node: &Node, key: &str) -> Option<u64> {
    scalar::bytes(node.get(key)?.as_text()?).ok()
}

fn cpus(node: &Node, key: &str) -> Option<u64> {
    scalar::nano_cpus(node.get(key)?.as_text()?).ok()
}
