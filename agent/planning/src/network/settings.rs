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

/// Whether the host forwards packets of IPv6.
pub const FORWARD_V6: &str = "ipv6/conf/all/forwarding";
/// Whether the host has no IPv6 at all.
pub const DISABLE_V6: &str = "ipv6/conf/all/disable_ipv6";

/// Whether an interface takes routes and addresses from routers' advertisements. A host that forwards does not,
/// unless it is told to do so all the same (`2`): its own way out would be gone.
#[must_use]
pub fn accept_ra_of(ifname: &str) -> String {
    format!("ipv6/conf/{ifname}/accept_ra")
}

/// Whether a setting makes an interface listen to its routers also while the host forwards.
pub(crate) fn listens(name: &str, value: &str) -> bool {
    is_of_v6(name) && name.ends_with("/accept_ra") && value == "2"
}

/// The name of an interface's own switch of IPv6; `default` is one, too.
#[must_use]
pub fn forwarding_v6_of(ifname: &str) -> String {
    format!("ipv6/conf/{ifname}/forwarding")
}

fn is_of_v6(name: &str) -> bool {
    name.starts_with("ipv6/")
}

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
        let now: BTreeMap<&String, &String> =
            now.iter().filter(|(name, _)| !is_of_v6(name)).collect();
        let is =
            |name: &str, value: &str| now.get(&name.to_owned()).is_some_and(|now| *now == value);
        if is(IP_FORWARD, "0") && !remembered.forwards_for_us() {
            let changed = now.iter().filter(|(name, value)| {
                [IP_FORWARD, ACCEPT_REDIRECTS].contains(&name.as_str())
                    || (name.ends_with("/forwarding") && value.as_str() == "1")
            });
            let changed = changed.map(|(name, value)| ((*name).clone(), (*value).clone()));
            remembered.before.extend(changed);
        }
        if is(SRC_VALID_MARK, "0") {
            remembered.before.insert(SRC_VALID_MARK.to_owned(), "0".to_owned());
        }
        remembered
    }

    /// The same with what is changed where a network has IPv6: [`steps_v6`](Self::steps_v6) say what that is.
    #[must_use]
    pub fn with_v6(mut self, now: &BTreeMap<String, String>) -> Self {
        let is_off = now.get(FORWARD_V6).is_some_and(|now| now == "0");
        if is_off && !self.forwards_v6_for_us() {
            let changed = now.iter().filter(|(name, value)| {
                is_of_v6(name)
                    && (*name == FORWARD_V6
                        || ((name.ends_with("/accept_ra") || name.ends_with("/forwarding"))
                            && *value == "1"))
            });
            self.before.extend(changed.map(|(name, value)| (name.clone(), value.clone())));
        }
        self
    }

    /// What to write, in order, so that the host forwards packets of IPv6 and still listens to its routers as
    /// it did.
    #[must_use]
    pub fn steps_v6(&self, now: &BTreeMap<String, String>) -> Vec<(String, String)> {
        let is = |name: &str, value: &str| now.get(name).is_some_and(|now| now == value);
        let listening = self.before.iter().filter(|(name, before)| {
            name.ends_with("/accept_ra") && *before == "1" && is(name, "1")
        });
        let mut steps: Vec<_> = listening.map(|(name, _)| (name.clone(), "2".to_owned())).collect();
        steps.extend(is(FORWARD_V6, "0").then(|| (FORWARD_V6.to_owned(), "1".to_owned())));
        steps
    }

    /// What is left to remember when no network has IPv6 any more.
    #[must_use]
    pub fn without_v6(mut self) -> Self {
        self.before.retain(|name, _| !is_of_v6(name));
        self
    }

    /// Whether the host forwards packets of IPv6 only because the agent switched that on.
    #[must_use]
    pub fn forwards_v6_for_us(&self) -> bool {
        self.before.get(FORWARD_V6).is_some_and(|before| before == "0")
    }

    /// What to write, in order, so that everything of IPv6 is as it was; as [`restore`](Self::restore).
    #[must_use]
    pub fn restore_v6(
        &self,
        boot: &str,
        now: &BTreeMap<String, String>,
        needs_forwarding: bool,
    ) -> Vec<(String, String)> {
        if self.boot != boot || !self.forwards_v6_for_us() || needs_forwarding {
            return Vec::new();
        }
        let is = |name: &str, value: &str| now.get(name).is_some_and(|now| now == value);
        let turned = is(FORWARD_V6, "1");
        let wanted = |(name, before): &(&String, &String)| match name.as_str() {
            FORWARD_V6 => turned,
            name if name.ends_with("/accept_ra") => is(name, "2"),
            // The switch of the host turns these as well, so it comes first. An interface may be gone.
            name => is_of_v6(name) && now.contains_key(name) && (turned || !is(name, before)),
        };
        let (first, rest): (Vec<_>, Vec<_>) = self
            .before
            .iter()
            .filter(|(name, _)| is_of_v6(name))
            .filter(wanted)
            .map(|(name, before)| (name.clone(), before.clone()))
            .partition(|(name, _)| name == FORWARD_V6);
        [first, rest].concat()
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
            .filter(|(name, _)| !is_of_v6(name))
            .filter(wanted)
            .map(|(name, before)| (name.clone(), before.clone()))
            .partition(|(name, _)| name == IP_FORWARD);
        [first, rest].concat()
    }
}

/// Settings of a bridge, with what they have to be, in the order of their making.
///
/// `route_localnet` lets the host reach ports published on 127.0.0.1: such a packet leaves for the
/// bridge with a loopback source until masquerading gives it the bridge's, and the kernel otherwise
/// calls it a martian. What else this would let in, the table's guard drops. IPv6 is switched off on
/// the bridge of a network without it: its link-local address would be a way to the host past
/// every rule. On one that has it the kernel makes no address by itself (`addr_gen_mode`), nothing is learned from who
/// says that he is a router, and the host's addresses are good at once.
#[must_use]
pub fn of_bridge(ifname: &str, v6: bool) -> Vec<(String, &'static str)> {
    let of = |name: &str| format!("ipv6/conf/{ifname}/{name}");
    let mut all = vec![(format!("ipv4/conf/{ifname}/route_localnet"), "1")];
    if v6 {
        all.extend([(of("addr_gen_mode"), "1"), (of("accept_ra"), "0"), (of("accept_dad"), "0")]);
    }
    all.push((of("disable_ipv6"), if v6 { "0" } else { "1" }));
    all
}

/// Settings of a VLAN that is made for containers, with what they have to be: the host has no address there, and
/// learns none.
#[must_use]
pub fn of_vlan(ifname: &str) -> Vec<(String, &'static str)> {
    vec![(format!("ipv6/conf/{ifname}/disable_ipv6"), "1")]
}

/// Settings of the mesh's device, with what they have to be, in the order of their making.
///
/// With `rp_filter` only such packets come in that would be answered by the device: those which the tables have
/// marked, so that it is closed while they are away. `route_localnet` lets the host reach ports by 127.0.0.1, as
/// on bridges. It has IPv6 where somebody is reached by it, on the same terms as bridges.
#[must_use]
pub fn of_mesh(ifname: &str, v6: bool) -> Vec<(String, &'static str)> {
    let mut all = vec![(format!("ipv4/conf/{ifname}/rp_filter"), "1")];
    all.extend(of_bridge(ifname, v6));
    all
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
    fn a_host_that_forwards_ipv6_for_us_still_hears_its_routers() {
        const ETH_V6: &str = "ipv6/conf/eth0/forwarding";
        let ra = |ifname: &str| accept_ra_of(ifname);
        let (eth, wlan, default) = (ra("eth0"), ra("wlan0"), ra("default"));
        let now = settings(&[
            (IP_FORWARD, "1"),
            (SRC_VALID_MARK, "1"),
            (FORWARD_V6, "0"),
            (&eth, "1"),
            (&wlan, "0"),
            (&default, "1"),
            (ETH_V6, "1"),
        ]);
        // Without a network of IPv6 nothing of it is looked at.
        let plain = Remembered::from(&now, "b", None);
        assert_eq!(plain.names().count(), 0);
        let remembered = plain.clone().with_v6(&now);
        assert!(remembered.forwards_v6_for_us() && !remembered.forwards_for_us());
        let steps = [(&*default, "2"), (&*eth, "2"), (FORWARD_V6, "1")];
        assert_eq!(remembered.steps_v6(&now), owned(&steps));
        let turned = settings(&[
            (FORWARD_V6, "1"),
            (&eth, "2"),
            (&wlan, "0"),
            (&default, "1"),
            (ETH_V6, "1"),
        ]);
        // What somebody has set since is his, and what was remembered first stays.
        assert_eq!(remembered.steps_v6(&turned), owned(&[(&*default, "2")]));
        assert_eq!(remembered.clone().with_v6(&turned), remembered);
        let back = [(FORWARD_V6, "0"), (&*eth, "1"), (ETH_V6, "1")];
        assert_eq!(remembered.restore_v6("b", &turned, false), owned(&back));
        assert_eq!(remembered.restore_v6("b", &turned, true), []);
        assert_eq!(remembered.restore_v6("c", &turned, false), []);
        assert_eq!(remembered.restore("b", &turned, false), []);
        assert_eq!(remembered.without_v6(), plain);
        // A host that has none, or forwards by itself.
        let none = settings(&[(IP_FORWARD, "1")]);
        assert!(!plain.clone().with_v6(&none).forwards_v6_for_us());
        let on = settings(&[(FORWARD_V6, "1"), (&eth, "1")]);
        assert_eq!(plain.clone().with_v6(&on), plain);
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
