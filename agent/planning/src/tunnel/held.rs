//! Which keys the tunnel's two interfaces have, and what managers are told of them.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_types::object::{TunnelEnd, TunnelEpochs, TunnelKind};

/// How long an interface stays that nobody uses any more, so that what is still on its way arrives.
const LINGER: Duration = Duration::from_secs(5);

/// An interface with the key of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which epoch.
    pub epoch: u64,
    /// This agent has had packets go by it, so others may be sending by it, too.
    pub used: bool,
}

impl Held {
    /// Whether the interface may have the key of this epoch instead.
    #[must_use]
    pub fn may_turn(self, epoch: u64) -> bool {
        self.epoch == epoch || !self.used
    }

    /// Whether its epoch is over, as far as managers say.
    #[must_use]
    pub fn is_over(self, epochs: TunnelEpochs) -> bool {
        epochs.all().all(|epoch| epoch != self.epoch)
    }

    /// Whether it may go, with its key, so long after its epoch was over.
    #[must_use]
    pub fn may_go(self, after: Duration) -> bool {
        !self.used || after >= LINGER
    }
}

/// Of which epochs there are links, as far as that follows from the keys that a host has: two at the most.
#[must_use]
pub fn epochs(keys: impl IntoIterator<Item = u64>) -> TunnelEpochs {
    let mut keys: BTreeSet<u64> = keys.into_iter().collect();
    let present = keys.pop_last().unwrap_or_default();
    TunnelEpochs { present, former: keys.pop_last() }
}

/// What managers who have said these epochs are told of the interfaces that work: which end first, and which one beside
/// it. The first is that of the present epoch; before they have named any it is the elder one, so that nobody takes the
/// node for through with it.
#[must_use]
pub fn described(
    told: Option<TunnelEpochs>,
    ends: impl IntoIterator<Item = (TunnelKind, TunnelEnd)>,
) -> Option<(TunnelKind, TunnelEnd, Option<TunnelEnd>)> {
    let of_epoch = |epoch: u64| told.is_none_or(|told| told.all().any(|one| one == epoch));
    let mut ends: Vec<_> = ends.into_iter().filter(|(_, end)| of_epoch(end.epoch)).collect();
    ends.sort_by_key(|(_, end)| (told.is_some_and(|told| told.present != end.epoch), end.epoch));
    let mut ends = ends.into_iter();
    let (kind, first) = ends.next()?;
    Some((kind, first, ends.next().map(|(_, end)| end)))
}

#[cfg(test)]
mod tests {
    use shoal_types::object::TunnelKey;

    use super::*;

    #[test]
    fn what_others_may_be_sending_by_stays_for_a_moment() {
        let [used, unused] = [true, false].map(|used| Held { epoch: 2, used });
        assert!(used.may_turn(2) && unused.may_turn(2) && unused.may_turn(4));
        assert!(!used.may_turn(4));
        let at = |present, former| TunnelEpochs { present, former };
        assert!(!used.is_over(at(2, Some(1))) && !used.is_over(at(3, Some(2))));
        assert!(used.is_over(at(3, None)) && unused.is_over(at(4, Some(3))));
        assert!(unused.may_go(Duration::ZERO));
        assert!(!used.may_go(LINGER.saturating_sub(Duration::from_millis(1))));
        assert!(used.may_go(LINGER));
    }

    #[test]
    fn epochs_follow_from_keys() {
        let at = |present, former| TunnelEpochs { present, former };
        assert_eq!(epochs([]), at(0, None));
        assert_eq!(epochs([7]), at(7, None));
        assert_eq!(epochs([8, 7]), at(8, Some(7)));
    }

    #[test]
    fn the_present_end_is_told_first_and_before_that_is_known_the_elder_one() {
        let end = |epoch| TunnelEnd { epoch, public_key: TunnelKey([1; 32]), port: 51820 };
        let said = |told, epochs: &[u64]| {
            let ends = epochs.iter().map(|epoch| (TunnelKind::Kernel, end(*epoch)));
            let (_, first, other) = described(told, ends)?;
            Some((first.epoch, other.map(|end| end.epoch)))
        };
        let both = Some(TunnelEpochs { present: 8, former: Some(7) });
        let one = Some(TunnelEpochs { present: 8, former: None });
        for (told, ends, expected) in [
            (None, &[][..], None),
            (None, &[8, 7], Some((7, Some(8)))),
            (both, &[8, 7], Some((8, Some(7)))),
            (both, &[7], Some((7, None))),
            (one, &[8, 7], Some((8, None))),
            (one, &[7], None),
        ] {
            assert_eq!(said(told, ends), expected, "{told:?} {ends:?}");
        }
    }
}
