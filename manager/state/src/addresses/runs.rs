//! Numbers that are taken, as runs: ranges that neither overlap nor touch. There is one way to write down
//! a set of numbers so, whatever the order in which they came; and what is free next to a number is found
//! without a look at each that is taken.

use std::ops::Bound;

use imbl::OrdMap;

/// A set of numbers, the first of each run with the last.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Runs(OrdMap<u128, u128>);

impl Runs {
    /// The last run that begins at or before a number.
    fn upto(&self, number: u128) -> Option<(u128, u128)> {
        self.0.get_prev(&number).map(|(first, last)| (*first, *last))
    }

    /// The run that a number is in.
    fn around(&self, number: u128) -> Option<(u128, u128)> {
        self.upto(number).filter(|(_, last)| *last >= number)
    }

    /// Takes the numbers from `first` to `last`. False if one of them was taken; nothing changes then.
    pub(crate) fn take(&mut self, first: u128, last: u128) -> bool {
        if self.taken_within(first, last).is_some() {
            return false;
        }
        let before = first.checked_sub(1).and_then(|number| self.around(number));
        let after = last.checked_add(1).and_then(|number| self.around(number));
        if let Some((start, _)) = after {
            self.0.remove(&start);
        }
        let start = before.map_or(first, |(start, _)| start);
        self.0.insert(start, after.map_or(last, |(_, end)| end));
        true
    }

    /// Gives back the numbers from `first` to `last`, which were taken.
    pub(crate) fn give_back(&mut self, first: u128, last: u128) {
        let Some((start, end)) = self.around(first).filter(|(_, end)| *end >= last) else { return };
        self.0.remove(&start);
        if start < first {
            self.0.insert(start, first - 1);
        }
        if last < end {
            self.0.insert(last + 1, end);
        }
    }

    /// The first number at or after this one that is free.
    pub(crate) fn free_from(&self, number: u128) -> u128 {
        self.around(number).map_or(number, |(_, end)| end.saturating_add(1))
    }

    /// How many of these are taken. A look at each run of them.
    pub(crate) fn count_within(&self, first: u128, last: u128) -> u128 {
        if first > last {
            return 0;
        }
        let early = self.around(first).map(|(_, end)| (first, end));
        let (after, upto) = (Bound::Excluded(first), Bound::Included(last));
        let later = self.0.range((after, upto)).map(|(start, end)| (*start, *end));
        let all = early.into_iter().chain(later);
        all.map(|(start, end)| (end.min(last) - start).saturating_add(1))
            .fold(0, u128::saturating_add)
    }

    /// If some of these are taken, the last number of the last run of such.
    pub(crate) fn taken_within(&self, first: u128, last: u128) -> Option<u128> {
        self.upto(last).map(|(_, end)| end).filter(|end| *end >= first)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_a_set_of_numbers(
            steps in proptest::collection::vec((any::<bool>(), 0..40u128, 0..6u128), 0..60)
        ) {
            let (mut runs, mut plain) = (Runs::default(), BTreeSet::new());
            for (take, first, more) in steps {
                let last = first + more;
                let before: Vec<bool> = (first..=last).map(|n| plain.contains(&n)).collect();
                if take {
                    let free = before.iter().all(|taken| !taken);
                    prop_assert_eq!(runs.take(first, last), free);
                    plain.extend((first..=last).filter(|_| free));
                } else if before.iter().all(|taken| *taken) {
                    runs.give_back(first, last);
                    plain.retain(|n| !(first..=last).contains(n));
                }
                let mut fresh = Runs::default();
                prop_assert!(plain.iter().rev().all(|n| fresh.take(*n, *n)));
                prop_assert_eq!(&runs, &fresh);
                for n in 0..50 {
                    let free = (n..).find(|n| !plain.contains(n));
                    prop_assert_eq!(Some(runs.free_from(n)), free);
                    let taken = (n..=n + 3).rfind(|n| plain.contains(n));
                    let end = taken.map(|n| runs.free_from(n) - 1);
                    prop_assert_eq!(runs.taken_within(n, n + 3), end);
                    let count = (n..=n + 3).filter(|n| plain.contains(n)).count();
                    prop_assert_eq!(runs.count_within(n, n + 3), count as u128);
                }
            }
        }
    }

    #[test]
    fn the_largest_number_is_one_like_others() {
        let mut runs = Runs::default();
        assert!(runs.take(u128::MAX, u128::MAX) && !runs.take(u128::MAX - 1, u128::MAX));
        assert!(runs.take(0, 0) && runs.take(u128::MAX - 1, u128::MAX - 1));
        runs.give_back(u128::MAX, u128::MAX);
        assert_eq!(runs.free_from(u128::MAX - 1), u128::MAX);
    }
}
