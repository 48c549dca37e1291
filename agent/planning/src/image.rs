//! Which image a task gets, and which images a node keeps.

use std::time::Duration;

use shoal_types::image_ref::{DEFAULT_TAG, ImageReference};

/// What is known of an image under one of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageUse {
    /// Whether a task of this node holds it, or a pull is about to list it.
    pub in_use: bool,
    /// Whether somebody has loaded it by hand: no registry may have it.
    pub loaded: bool,
    /// When a task asked for it or held it last, in seconds since 1970.
    pub last_used_secs: u64,
}

/// Whether an image stays. What is in use stays, and what was loaded by hand stays until it is removed
/// by hand; everything else, which is what was pulled for a task, until it has not been used for
/// `unused_for`.
#[must_use]
pub fn keeps(image: ImageUse, now_secs: u64, unused_for: Duration) -> bool {
    // A clock that was set back makes an image newer than now: no age at all.
    let age = Duration::from_secs(now_secs.saturating_sub(image.last_used_secs));
    image.in_use || image.loaded || age < unused_for
}

/// When a registry is asked for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Each time: a tag may have moved. Layers that are here are not fetched again.
    Always,
    /// Only when the image is not here.
    #[default]
    Missing,
}

impl PullPolicy {
    /// That for the image of a task: `latest` moves by custom and is asked for each time, every other tag
    /// and each digest only when it is not here.
    #[must_use]
    pub fn of(reference: &ImageReference) -> Self {
        match reference.digest().is_none() && reference.tag() == Some(DEFAULT_TAG) {
            true => Self::Always,
            false => Self::Missing,
        }
    }

    /// What is done about an image that `is_here` or not.
    #[must_use]
    pub const fn lookup(self, is_here: bool, by_digest: bool) -> Lookup {
        match (self, is_here) {
            (_, false) => Lookup::Fetch,
            // A digest cannot move.
            (Self::Always, true) if !by_digest => Lookup::Compare,
            (Self::Always | Self::Missing, true) => Lookup::Use,
        }
    }
}

/// Where an image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// From here, without asking anybody.
    Use,
    /// From here, if the registry says that it is still the one of this name.
    Compare,
    /// From the registry.
    Fetch,
}

/// Whether somebody is asked for the credential to pull with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialNeed {
    /// No registry is asked.
    None,
    /// It helps; but what is here is not held up by managers that are gone.
    IfAtHand,
    /// The image is not here: whoever knows the credential is waited for.
    Awaited,
}

impl CredentialNeed {
    /// That of an image that `is_here` or not.
    #[must_use]
    pub const fn of(policy: PullPolicy, is_here: bool) -> Self {
        match policy.lookup(is_here, false) {
            Lookup::Use => Self::None,
            Lookup::Compare => Self::IfAtHand,
            Lookup::Fetch => Self::Awaited,
        }
    }
}

/// Why an image could not be brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullFailure {
    /// The registry wants other credentials.
    Denied,
    /// It cannot be asked, or does not know the image.
    NotHad,
    /// Something else is wrong: with this node, or with the image itself.
    Other,
}

/// What becomes of a task whose image could not be brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// It gets the image that is here, and its status says so.
    UseHere,
    /// It is rejected, because nobody could be asked for a credential.
    Unasked,
    /// It is rejected for what went wrong.
    Fail,
}

impl PullFailure {
    /// What follows. A registry that cannot be asked, or does not know an image that was loaded by hand, is
    /// no reason to fail. `knew_credential` is false if nobody could be asked for one.
    #[must_use]
    pub const fn then(self, is_here: bool, knew_credential: bool) -> AfterFailure {
        match self {
            Self::Denied | Self::NotHad if is_here => AfterFailure::UseHere,
            Self::Denied if !knew_credential => AfterFailure::Unasked,
            Self::Denied | Self::NotHad | Self::Other => AfterFailure::Fail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_goes_when_nobody_has_used_it_for_a_while() {
        let day = Duration::from_secs(86_400);
        let image = |in_use, loaded, last_used_secs| ImageUse { in_use, loaded, last_used_secs };
        let table = [
            (image(false, false, 1_000_000), day, true),
            (image(false, false, 913_601), day, true),
            (image(false, false, 913_600), day, false),
            (image(false, false, 0), day, false),
            (image(true, false, 0), day, true),
            (image(false, true, 0), day, true),
            (image(false, false, 2_000_000), day, true),
            (image(false, false, 1_000_000), Duration::ZERO, false),
        ];
        for (image, unused_for, expected) in table {
            assert_eq!(keeps(image, 1_000_000, unused_for), expected, "{image:?} {unused_for:?}");
        }
    }

    #[test]
    fn a_tag_that_moves_is_asked_for_each_time() {
        let digest = format!("@sha256:{}", "a".repeat(64));
        let table = [
            ("app".to_owned(), PullPolicy::Always),
            ("app:latest".to_owned(), PullPolicy::Always),
            ("app:1".to_owned(), PullPolicy::Missing),
            (format!("app{digest}"), PullPolicy::Missing),
            (format!("app:latest{digest}"), PullPolicy::Missing),
        ];
        for (text, policy) in table {
            let reference: ImageReference = text.parse().unwrap();
            assert_eq!(PullPolicy::of(&reference), policy, "{text}");
        }
    }

    #[test]
    fn where_an_image_comes_from_and_who_is_asked() {
        use CredentialNeed as Need;
        let table = [
            (PullPolicy::Missing, true, false, Lookup::Use, Need::None),
            (PullPolicy::Missing, false, false, Lookup::Fetch, Need::Awaited),
            (PullPolicy::Missing, true, true, Lookup::Use, Need::None),
            (PullPolicy::Always, true, false, Lookup::Compare, Need::IfAtHand),
            (PullPolicy::Always, true, true, Lookup::Use, Need::IfAtHand),
            (PullPolicy::Always, false, true, Lookup::Fetch, Need::Awaited),
        ];
        for (policy, here, by_digest, lookup, need) in table {
            assert_eq!(policy.lookup(here, by_digest), lookup, "{policy:?} {here} {by_digest}");
            assert_eq!(CredentialNeed::of(policy, here), need, "{policy:?} {here}");
        }
    }

    #[test]
    fn what_follows_when_an_image_cannot_be_brought() {
        let table = [
            (PullFailure::Denied, true, true, AfterFailure::UseHere),
            (PullFailure::Denied, true, false, AfterFailure::UseHere),
            (PullFailure::Denied, false, false, AfterFailure::Unasked),
            (PullFailure::Denied, false, true, AfterFailure::Fail),
            (PullFailure::NotHad, true, false, AfterFailure::UseHere),
            (PullFailure::NotHad, false, false, AfterFailure::Fail),
            (PullFailure::Other, true, true, AfterFailure::Fail),
            (PullFailure::Other, false, false, AfterFailure::Fail),
        ];
        for (failure, here, asked, follows) in table {
            assert_eq!(failure.then(here, asked), follows, "{failure:?} {here} {asked}");
        }
    }
}
