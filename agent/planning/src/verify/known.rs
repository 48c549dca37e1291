//! Since when a node knows of what is not as it should be.

use std::collections::BTreeMap;

use shoal_types::question::Finding;
use shoal_types::time::Timestamp;

use super::Difference;

/// Subjects that are remembered at most; what is seen beyond them counts as seen just now.
const SUBJECTS_MAX: usize = 4096;

/// Remembers when each subject was first seen not to be as it should.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known(BTreeMap<String, Timestamp>);

impl Known {
    /// Something could not be put right.
    pub fn failed(&mut self, difference: &Difference, now: Timestamp) {
        if self.0.len() < SUBJECTS_MAX {
            self.0.entry(difference.subject.clone()).or_insert(now);
        }
    }

    /// Something is right again.
    pub fn put_right(&mut self, difference: &Difference) {
        self.0.remove(&difference.subject);
    }

    /// Everything was looked at, and this is all that is not right.
    pub fn findings(&mut self, all: Vec<Difference>, now: Timestamp) -> Vec<Finding> {
        let before = std::mem::take(&mut self.0);
        let finding = |Difference { subject, expected, found }: Difference| {
            let known_since = before.get(&subject).copied().unwrap_or(now);
            if self.0.len() < SUBJECTS_MAX {
                self.0.insert(subject.clone(), known_since);
            }
            Finding { subject, expected, found, known_since }
        };
        all.into_iter().map(finding).collect()
    }
}
