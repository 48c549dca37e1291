//! Settings of the whole host that bridge networks need, and the way back.
//!
//! Settings are named by their path below `/proc/sys/net` (ip-sysctl.rst of the kernel).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whether the host forwards packets at all.
pub const IP_FORWARD: &str = "ipv4/ip_forward";
/// The kernel turns this around together with [`IP_FORWARD`], whatever it was.
pub const ACCEPT_REDIRECTS: &str = "ipv4/conf/all/accept_redirects";
/// Whether the check of a packet's source looks at its mark, as its route does: a host that checks
/// (`rp_filter`) would else find that packets of containers could not be answered.
pub const SRC_VALID_MARK: &str = "ipv4/conf/all/src_valid_mark";

/// The name of an interface's own switch; `all` and `default` are none.
#[must_use]
pub fn forwarding_of(ifname: &str) -> String {
    format!("ipv4/conf/{ifname}/forwarding")
}

/// What settings were before the agent changed them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The boot during which they were changed: with the next one they are the host's own again.
    boot: String,
    before: BTreeMap<String, String>,
}

impl Remembered {
    /// What has to be remembered before the settings are changed: what is known from earlier in the
    /// same boot, and what is to be changed for the first time. `now` are the settings as they
    /// are; those of interfaces are needed only where the host does not forward.
    #[must_use]
    pub fn from(now: &BTreeMap<String, String>, boot: &str, earlier: Option<&Self>) -> Self {
        let known = earlier.filter(|earlier| earlier.boot == boot).cloned();
        let mut remembered =
            known.unwrap_or_else(|| Self { boot: boot.to_owned(), ..Self::default() });
        let is = |name: &str, value: &str| now.get(name).is_some_and(|now| now == value);
        if is(IP_FORWARD, "0") && !remembered.forwards_for_us() {
            let changed = now.iter().filter(|(name, value)| {
                [IP_FORWARD, ACCEPT_REDIRECTS].contains(&name.as_str())
                    || (name.ends_with("/forwarding") && *value == "1")
            });
            remembered.before.extend(changed.map(|(name, value)| (name.clone(), value.clone())));
        }
        if is(SRC_VALID_MARK, "0") {
            remembered.before.insert(SRC_VALID_MARK.to_owned(), "0".to_owned());
        }
        remembered
    }

    /// Whether the host forwards only because the agent switched that on.
    #[must_use]
    pub fn forwards_for_us(&self) -> bool {
        self.before.get(IP_FORWARD).is_some_and(|before| before == "0")
    }

    /// What to write, in order, so that everything is as it was.
    #[must_use]
    pub fn restore(&self, boot: &str) -> Vec<(&str, &str)> {
        if self.boot != boot {
            return Vec::new();
        }
        // The switch of the host turns those of all interfaces, so it comes first.
        let (first, rest): (Vec<_>, Vec<_>) = self
            .before
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .partition(|(name, _)| *name == IP_FORWARD);
        [first, rest].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const ETH: &str = "ipv4/conf/eth0/forwarding";

    #[test]
    fn what_was_off_goes_off_again_and_single_interfaces_stay_on() {
        let now = settings(&[
            (IP_FORWARD, "0"),
            (ACCEPT_REDIRECTS, "1"),
            (SRC_VALID_MARK, "0"),
            (ETH, "1"),
            ("ipv4/conf/eth1/forwarding", "0"),
        ]);
        let remembered = Remembered::from(&now, "b", None);
        assert!(remembered.forwards_for_us());
        assert_eq!(
            remembered.restore("b"),
            [(IP_FORWARD, "0"), (ACCEPT_REDIRECTS, "1"), (SRC_VALID_MARK, "0"), (ETH, "1")]
                .map(|(name, value)| (name, value))
        );
        // Asked again when everything is on: the first memory stays.
        let on = settings(&[(IP_FORWARD, "1"), (SRC_VALID_MARK, "1")]);
        assert_eq!(Remembered::from(&on, "b", Some(&remembered)), remembered);
        // After a reboot what is found is the host's own.
        let later = Remembered::from(&on, "c", Some(&remembered));
        assert!(!later.forwards_for_us());
        assert_eq!(remembered.restore("c"), []);
        assert_eq!(later.restore("c"), []);
    }

    #[test]
    fn forwarding_of_others_stays_theirs_until_they_give_it_up() {
        let on = settings(&[(IP_FORWARD, "1"), (SRC_VALID_MARK, "0")]);
        let remembered = Remembered::from(&on, "b", None);
        assert!(!remembered.forwards_for_us());
        assert_eq!(remembered.restore("b"), [(SRC_VALID_MARK, "0")]);
        let off = settings(&[(IP_FORWARD, "0"), (ACCEPT_REDIRECTS, "1"), (SRC_VALID_MARK, "1")]);
        let remembered = Remembered::from(&off, "b", Some(&remembered));
        assert!(remembered.forwards_for_us());
        assert_eq!(
            remembered.restore("b"),
            [(IP_FORWARD, "0"), (ACCEPT_REDIRECTS, "1"), (SRC_VALID_MARK, "0")]
        );
    }
}
