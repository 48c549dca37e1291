//! The way from one ruleset to another with the same chains.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::element::{Element, Elements, RawElement};
use super::{Family, SetName};

/// Elements to take away, and elements to add.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    gone: Elements,
    new: Elements,
}

/// Elements of one set, as the kernel has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawElements {
    /// The family of its table.
    pub family: &'static str,
    /// Its name.
    pub set: String,
    /// The elements.
    pub elements: Vec<RawElement>,
}

impl Change {
    pub(super) fn between(before: &Elements, now: &Elements) -> Self {
        let mut change = Self::default();
        change.add(before, now);
        change
    }

    pub(super) fn add(&mut self, before: &Elements, now: &Elements) {
        let lacking = |all: &Elements, left: &Elements, to: &mut Elements| {
            let none = BTreeSet::new();
            for (set, elements) in all {
                let left = left.get(set).unwrap_or(&none);
                let mut lacking = elements.difference(left).cloned().peekable();
                if lacking.peek().is_some() {
                    to.entry(*set).or_default().extend(lacking);
                }
            }
        };
        lacking(before, now, &mut self.gone);
        lacking(now, before, &mut self.new);
    }

    /// Without elements of sets that there are not.
    pub(super) fn retain(&mut self, is_there: impl Fn(SetName) -> bool) {
        self.gone.retain(|(set, _), _| is_there(*set));
        self.new.retain(|(set, _), _| is_there(*set));
    }

    /// Nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.new.is_empty()
    }

    /// Text for `nft -f` that does it in one transaction.
    #[must_use]
    pub fn text(&self, table: &str) -> String {
        let mut text = String::new();
        for (of, elements) in &self.gone {
            write_elements(&mut text, "delete", table, *of, elements.iter().map(Element::key_text));
        }
        for (of, elements) in &self.new {
            write_elements(&mut text, "add", table, *of, elements.iter().map(Element::text));
        }
        text
    }

    /// The same as the kernel has it: what is to be taken away first, and then what is to be added. `None` where
    /// ranges are among it, which the kernel has in several shapes.
    #[must_use]
    pub fn raw(&self) -> Option<[Vec<RawElements>; 2]> {
        let raw = |all: &Elements, keys: bool| {
            let of_set = |((set, family), elements): (&(SetName, Family), &BTreeSet<Element>)| {
                let raw = elements.iter().map(|element| {
                    let raw = element.raw()?;
                    Some(if keys { RawElement { value: None, ..raw } } else { raw })
                });
                let elements: Option<Vec<RawElement>> = raw.collect();
                Some(RawElements {
                    family: set.family(),
                    set: set.name(*family),
                    elements: elements?,
                })
            };
            all.iter().map(of_set).collect::<Option<Vec<RawElements>>>()
        };
        Some([raw(&self.gone, true)?, raw(&self.new, false)?])
    }
}

pub(super) fn write_elements(
    text: &mut String,
    verb: &str,
    table: &str,
    (set, family): (SetName, Family),
    elements: impl Iterator<Item = String>,
) {
    let elements: Vec<String> = elements.collect();
    if !elements.is_empty() {
        let (family, set, elements) = (set.family(), set.name(family), elements.join(", "));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{verb} element {family} {table} {set} {{ {elements} }}");
    }
}
