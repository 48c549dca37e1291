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

    /// The settings that are remembered.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.before.keys().map(String::as_str)
    }

    /// What to write, in order, so that everything is as it was. Only what still is as the agent set
    /// it (`now`) is taken back, and forwarding stays on where somebody else `needs_forwarding` by
    /// now.
    #[must_use]
    pub fn restore(
        &self,
        boot: &str,
        now: &BTreeMap<String, String>,
        needs_forwarding: bool,
    ) -> Vec<(String, String)> {
        if self.boot != boot {
            return Vec::new();
        }
        let is = |name: &str, value: &str| now.get(name).is_some_and(|now| now == value);
        let forwarding = self.forwards_for_us() && !needs_forwarding;
        let turned = forwarding && is(IP_FORWARD, "1");
        let wanted = |(name, before): &(&String, &String)| match name.as_str() {
            SRC_VALID_MARK => is(SRC_VALID_MARK, "1"),
            IP_FORWARD => turned,
            // The switch of the host turns these as well, so it comes first. An interface may be gone.
            _ => forwarding && now.contains_key(*name) && (turned || !is(name, before)),
        };
        let (first, rest): (Vec<_>, Vec<_>) = self
            .before
            .iter()
            .filter(wanted)
            .map(|(name, before)| (name.clone(), before.clone()))
            .partition(|(name, _)| name == IP_FORWARD);
        [first, rest].concat()
    }
}

/// Settings of a bridge, with what they have to be.
///
/// `route_localnet` lets the host reach ports published on 127.0.0.1: such a packet leaves for the
/// bridge with a loopback source until masquerading gives it the bridge's, and the kernel otherwise
/// calls it a martian. What else this would let in, the table's guard drops. IPv6 is switched off on
/// the bridge as the networks are IPv4 only: its link-local address would be a way to the host past
/// every rule.
#[must_use]
pub fn of_bridge(ifname: &str) -> [(String, &'static str); 2] {
    [
        (format!("ipv4/conf/{ifname}/route_localnet"), "1"),
        (format!("ipv6/conf/{ifname}/disable_ipv6"), "1"),
    ]
}

/// Settings of the mesh's device, with what they have to be.
///
/// With `rp_filter` only such packets come in that would be answered by the device: those which the tables have
/// marked, so that it is closed while they are away. `route_localnet` lets the host reach ports by 127.0.0.1, as
/// on bridges.
#[must_use]
pub fn of_mesh(ifname: &str) -> [(String, &'static str); 3] {
    [
        (format!("ipv4/conf/{ifname}/rp_filter"), "1"),
        (format!("ipv4/conf/{ifname}/route_localnet"), "1"),
        (format!("ipv6/conf/{ifname}/disable_ipv6"), "1"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
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
        let turned = settings(&[
            (IP_FORWARD, "1"),
            (ACCEPT_REDIRECTS, "0"),
            (SRC_VALID_MARK, "1"),
            (ETH, "1"),
        ]);
        let all = [(IP_FORWARD, "0"), (ACCEPT_REDIRECTS, "1"), (SRC_VALID_MARK, "0"), (ETH, "1")];
        assert_eq!(remembered.restore("b", &turned, false), owned(&all));
        // Somebody else needs forwarding by now.
        assert_eq!(remembered.restore("b", &turned, true), owned(&[(SRC_VALID_MARK, "0")]));
        // Cut off after the first: the rest is still to be done, and what is done is not done again.
        let half = settings(&[(IP_FORWARD, "0"), (ACCEPT_REDIRECTS, "0"), (ETH, "0")]);
        let rest = [(ACCEPT_REDIRECTS, "1"), (ETH, "1")];
        assert_eq!(remembered.restore("b", &half, false), owned(&rest));
        // The interface is gone, and somebody has set the mark's switch back.
        let gone = settings(&[(IP_FORWARD, "0"), (ACCEPT_REDIRECTS, "1"), (SRC_VALID_MARK, "0")]);
        assert_eq!(remembered.restore("b", &gone, false), []);
        // Asked again when everything is on: the first memory stays.
        let on = settings(&[(IP_FORWARD, "1"), (SRC_VALID_MARK, "1")]);
        assert_eq!(Remembered::from(&on, "b", Some(&remembered)), remembered);
        // After a reboot what is found is the host's own.
        let later = Remembered::from(&on, "c", Some(&remembered));
        assert!(!later.forwards_for_us());
        assert_eq!(remembered.restore("c", &turned, false), []);
        assert_eq!(later.restore("c", &on, false), owned(&[]));
    }

    #[test]
    fn forwarding_of_others_stays_theirs_until_they_give_it_up() {
        let on = settings(&[(IP_FORWARD, "1"), (SRC_VALID_MARK, "0")]);
        let remembered = Remembered::from(&on, "b", None);
        assert!(!remembered.forwards_for_us());
        let now = settings(&[(IP_FORWARD, "1"), (SRC_VALID_MARK, "1")]);
        assert_eq!(remembered.restore("b", &now, false), owned(&[(SRC_VALID_MARK, "0")]));
        let off = settings(&[(IP_FORWARD, "0"), (ACCEPT_REDIRECTS, "1"), (SRC_VALID_MARK, "1")]);
        let remembered = Remembered::from(&off, "b", Some(&remembered));
        assert!(remembered.forwards_for_us());
        let now = settings(&[(IP_FORWARD, "1"), (ACCEPT_REDIRECTS, "0"), (SRC_VALID_MARK, "1")]);
        assert_eq!(
            remembered.restore("b", &now, false),
            owned(&[(IP_FORWARD, "0"), (ACCEPT_REDIRECTS, "1"), (SRC_VALID_MARK, "0")])
        );
    }
}
