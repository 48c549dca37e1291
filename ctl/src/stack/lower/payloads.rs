//! Secrets and configs: what is in them, and which services are given which.

use std::collections::BTreeMap;

use shoal_types::spec::{
    ConfigSpec, FileTarget, OnChange, PayloadReference, PayloadTarget, SecretSpec,
};

use super::mounts::is_external;
use super::{Lower, text};
use crate::stack::node::{Entry, Node};
use crate::stack::{scalar, schema};

/// Where what is in one comes from: one of these.
const SOURCES: [&str; 3] = ["file", "environment", "content"];

impl<'a> Lower<'a> {
    /// What the stack makes.
    pub(super) fn secrets(&mut self) -> BTreeMap<String, SecretSpec> {
        let made = self.made("secrets");
        made.into_iter()
            .map(|(entry, data)| {
                let name = self.member_name(&entry.key, &entry.value);
                let labels = self.labels(entry.value.get("labels"));
                let spec = SecretSpec { name, labels, data, ..SecretSpec::default() };
                self.check("secrets", entry, spec.validate());
                (entry.key.clone(), spec)
            })
            .collect()
    }

    /// The same of configs.
    pub(super) fn configs(&mut self) -> BTreeMap<String, ConfigSpec> {
        let made = self.made("configs");
        made.into_iter()
            .map(|(entry, data)| {
                let name = self.member_name(&entry.key, &entry.value);
                let labels = self.labels(entry.value.get("labels"));
                let spec = ConfigSpec { name, labels, data, ..ConfigSpec::default() };
                self.check("configs", entry, spec.validate());
                (entry.key.clone(), spec)
            })
            .collect()
    }

    fn check(
        &mut self,
        kind: &str,
        entry: &Entry,
        checked: Result<(), shoal_types::spec::Violations>,
    ) {
        for violation in checked.err().into_iter().flat_map(|v| v.0) {
            let path = format!("{kind}.{}", entry.key);
            let text = match violation.value.as_str() {
                "" => format!("{} {}", violation.path, violation.problem),
                value => format!("{}: {value:?} {}", violation.path, violation.problem),
            };
            self.wrong(entry.key_at, &path, text);
        }
    }

    /// Those that the stack makes, with what is in them.
    fn made(&mut self, kind: &str) -> Vec<(&'a Entry, Vec<u8>)> {
        let root = self.root;
        let mut made = Vec::new();
        for entry in root.get(kind).map_or(&[][..], Node::entries) {
            let path = format!("{kind}.{}", entry.key);
            if is_external(&entry.value) {
                self.only_name(entry, &path);
                continue;
            }
            made.extend(self.data(entry, &path).map(|data| (entry, data)));
        }
        made
    }

    fn data(&mut self, entry: &Entry, path: &str) -> Option<Vec<u8>> {
        let said: Vec<&Entry> =
            entry.value.entries().iter().filter(|e| SOURCES.contains(&e.key.as_str())).collect();
        let [one] = said.as_slice() else {
            let at = said.get(1).map_or(entry.key_at, |second| second.key_at);
            let text = match said.is_empty() {
                true => {
                    "has nothing in it: expected file, environment or content, or external: true"
                }
                false => "has more than one of file, environment and content",
            };
            self.wrong(at, path, text);
            return None;
        };
        let value = one.value.as_text().unwrap_or_default();
        let path = format!("{path}.{}", one.key);
        let problem = match one.key.as_str() {
            "content" => return Some(value.as_bytes().to_vec()),
            "environment" => match self.input.variables.get(value) {
                Some(text) => return Some(text.as_bytes().to_vec()),
                None => format!("the environment has no variable {value:?}"),
            },
            _ => match self.input.files.bytes(value) {
                Ok(Some(data)) => return Some(data),
                Ok(None) => format!("{value} does not exist"),
                Err(problem) => format!("{value} cannot be read: {problem}"),
            },
        };
        self.wrong(one.value.at, &path, problem);
        None
    }

    /// What a service is given of one kind.
    pub(super) fn given(
        &mut self,
        service: &Node,
        kind: &str,
        path: &str,
    ) -> Vec<PayloadReference> {
        let items = service.get(kind).map_or(&[][..], Node::items);
        let one =
            |(i, node): (usize, &Node)| self.reference(node, kind, &format!("{path}.{kind}[{i}]"));
        items.iter().enumerate().filter_map(one).collect()
    }

    fn reference(&mut self, node: &Node, kind: &str, path: &str) -> Option<PayloadReference> {
        let source = node.get("source")?;
        let key = source.as_text().unwrap_or_default();
        let declared = self.root.get(kind).map_or(&[][..], Node::entries);
        let Some(found) = declared.iter().find(|one| one.key == key) else {
            if self.findings.is_full() {
                return None;
            }
            let near = schema::nearest_of(declared.iter().map(|one| one.key.as_str()), key);
            let near = match near {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("declare it under {kind}: at the top"),
            };
            self.wrong(source.at, path, format!("{key:?} is not declared: {near}"));
            return None;
        };
        let name = self.member_name(&found.key, &found.value);
        let said = |key: &str| node.get(key).and_then(Node::as_text);
        let words = [("restart", OnChange::Restart), ("nothing", OnChange::Nothing)];
        let on_change = match node.get("on_change") {
            None => OnChange::default(),
            Some(word) => self.word(word, &format!("{path}.on_change"), &words)?,
        };
        let file = FileTarget {
            name: said("target").unwrap_or(key).to_owned(),
            uid: said("uid").unwrap_or("0").to_owned(),
            gid: said("gid").unwrap_or("0").to_owned(),
            mode: said("mode").map_or(FileTarget::MODE, |m| scalar::file_mode(m).unwrap_or(0)),
        };
        let target = match node.entry("env") {
            None => PayloadTarget::File(file),
            Some(entry) if node.get("target").is_some() => {
                self.wrong(entry.key_at, path, "has env and target: expected one of them");
                return None;
            }
            Some(_) => PayloadTarget::Env(text(node, "env")),
        };
        let version = super::whole(node, "version");
        Some(PayloadReference { target, name, version, on_change })
    }
}
