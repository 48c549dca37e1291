//! Which images a node keeps.

use std::time::Duration;

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
}
