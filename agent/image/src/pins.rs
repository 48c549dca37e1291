//! What pulls and tasks need, and garbage collection must leave alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use shoal_types::image_ref::Digest;

/// Digests (of configurations, manifests and chains) and how many need each.
#[derive(Debug, Default, Clone)]
pub struct Pins(Arc<Mutex<BTreeMap<Digest, usize>>>);

/// Releases its digests when dropped.
#[derive(Debug)]
pub struct Pin {
    pins: Pins,
    digests: Vec<Digest>,
}

impl Pins {
    /// Holds digests until what is returned is dropped.
    #[must_use]
    pub fn pin(&self, digests: impl IntoIterator<Item = Digest>) -> Pin {
        let digests: Vec<_> = digests.into_iter().collect();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in &digests {
            *counts.entry(*digest).or_default() += 1;
        }
        Pin { pins: self.clone(), digests }
    }

    /// Everything that somebody holds.
    #[must_use]
    pub fn all(&self) -> BTreeSet<Digest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut counts = self.pins.0.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in &self.digests {
            if let Some(count) = counts.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_pinned_until_the_last_holder_lets_go() {
        let pins = Pins::default();
        let digest = Digest::from_bytes([1; 32]);
        let first = pins.pin([digest]);
        let second = pins.pin([digest]);
        drop(first);
        assert!(pins.all().contains(&digest));
        drop(second);
        assert!(pins.all().is_empty());
    }
}
