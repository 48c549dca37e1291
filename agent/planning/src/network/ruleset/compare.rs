//! What of the kernel's tables is not as it should be, for people.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::chains::sets;
use super::{EGRESS, Element, Ruleset, listed_elements};
use crate::verify::Difference;

/// Elements of one set that are told one by one; of more, how many there are.
const ELEMENTS_MAX: usize = 20;

impl Ruleset {
    /// What of the tables, as `nft -j list table` shows them, are not these: elements of sets one by one, and chains
    /// where it is known how they are shown (`frame`, of the tables as they were made).
    #[must_use]
    pub fn differences(&self, listed: &Value, frame: Option<&[Value]>) -> Vec<Difference> {
        let families = self.families();
        let elements = self.elements();
        let mut all = Vec::new();
        let is_there = |family: &str| {
            let objects = listed["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
            objects.iter().any(|object| object["table"]["family"] == family)
        };
        let (families, gone): (Vec<&str>, Vec<&str>) = families
            .into_iter()
            .filter(|family| self.shape.mesh || *family != EGRESS)
            .partition(|family| is_there(family));
        let missing = gone.iter().map(|family| format!("nftables table of family {family}"));
        all.extend(missing.map(|table| Difference::new(table, "present", "missing")));
        for (set, family, _) in sets(self.shape.v6) {
            if !families.contains(&set.family()) {
                continue;
            }
            let own = set.name(family);
            let name = format!("nftables set {} {own}", set.family());
            match listed_elements(listed, &own) {
                None => all.push(Difference::new(name, "present", "missing")),
                Some(found) => {
                    let wanted = elements.get(&(set, family)).into_iter().flatten();
                    of_one_set(&name, wanted, &found, &mut all);
                }
            }
        }
        if let Some(frame) = frame {
            let (wanted, found) = (chains(frame), chains(&super::frame(listed)));
            let of_gone = |name: &&String| gone.iter().any(|f| name.split(' ').next() == Some(f));
            let names = wanted.keys().chain(found.keys()).filter(|name| !of_gone(name));
            for name in names.collect::<BTreeSet<_>>() {
                let count = |rules: Option<&Vec<String>>| match rules {
                    None => "missing".to_owned(),
                    // The chain itself is among them.
                    Some(rules) => format!("{} rules", rules.len().saturating_sub(1)),
                };
                let (wanted, found) = (wanted.get(name), found.get(name));
                if wanted == found {
                    continue;
                }
                let (mut expected, mut seen) = (count(wanted), count(found));
                if wanted.is_none() {
                    (expected, seen) = ("absent".to_owned(), "present".to_owned());
                } else if expected == seen {
                    seen.push_str(", other ones");
                }
                all.push(Difference::new(format!("nftables chain {name}"), expected, seen));
            }
        }
        all
    }
}

/// What is missing in one set, and what is there and should not be.
fn of_one_set<'a>(
    name: &str,
    wanted: impl Iterator<Item = &'a Element>,
    found: &BTreeSet<String>,
    all: &mut Vec<Difference>,
) {
    let wanted: BTreeMap<String, &Element> =
        wanted.map(|element| (element.json().to_string(), element)).collect();
    let missing = wanted.iter().filter(|(json, _)| !found.contains(*json));
    let missing: Vec<String> = missing.map(|(_, element)| element.text()).collect();
    let strange = found.iter().filter(|json| !wanted.contains_key(*json));
    let strange: Vec<String> = strange.map(|json| words(json)).collect();
    for (elements, expected, seen) in
        [(missing, "present", "missing"), (strange, "absent", "present")]
    {
        let more = elements.len().saturating_sub(ELEMENTS_MAX);
        for element in elements.into_iter().take(ELEMENTS_MAX) {
            all.push(Difference::new(format!("element {element} of {name}"), expected, seen));
        }
        if more > 0 {
            let subject = format!("{more} more elements of {name}");
            all.push(Difference::new(subject, expected, seen));
        }
    }
}

/// The chains of a frame with what is in each, in order.
pub(super) fn chains(frame: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for object in frame {
        let (body, name) = match (object.get("chain"), object.get("rule")) {
            (Some(body), _) => (body, body["name"].as_str()),
            (None, Some(body)) => (body, body["chain"].as_str()),
            (None, None) => continue,
        };
        let family = body["family"].as_str().unwrap_or_default();
        let name = format!("{family} {}", name.unwrap_or_default());
        all.entry(name).or_default().push(body.to_string());
    }
    all
}

/// An element as it is written in rules, as far as that can be told.
fn words(json: &str) -> String {
    serde_json::from_str(json).map_or_else(|_| json.to_owned(), |value| said(&value))
}

fn said(value: &Value) -> String {
    let join =
        |values: &[Value], between: &str| values.iter().map(said).collect::<Vec<_>>().join(between);
    match value {
        Value::String(text) => text.clone(),
        Value::Array(pair) => join(pair, " : "),
        Value::Object(object) => match object.iter().next() {
            Some((key, Value::Array(parts))) if key == "concat" => join(parts, " . "),
            Some((key, prefix)) if key == "prefix" => {
                format!("{}/{}", said(&prefix["addr"]), prefix["len"])
            }
            Some((key, target)) if key == "goto" => format!("goto {}", said(&target["target"])),
            _ => value.to_string(),
        },
        other => other.to_string(),
    }
}
