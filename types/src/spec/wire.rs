//! Networks on a wire: what the options of drivers `macvlan` and `ipvlan` say. The one place that reads them out of a
//! spec.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Driver, NetworkKind};

/// Docker's name of the option that sets the packet size.
pub const MTU_OPTION: &str = "com.docker.network.driver.mtu";
const PARENT: &str = "parent";
const MACVLAN_MODE: &str = "macvlan_mode";
const IPVLAN_MODE: &str = "ipvlan_mode";
const IPVLAN_FLAG: &str = "ipvlan_flag";

/// Longest name of an interface, without the closing NUL (`IFNAMSIZ` - 1, netdevice(7)).
const IFNAME_MAX: usize = 15;
/// The highest number of a VLAN (IEEE 802.1Q, 9.6).
const VLAN_MAX: u16 = 4094;
/// Smallest packet size a link must carry (RFC 791), in bytes.
pub const MTU_MIN: u32 = 68;
/// Largest packet size IPv4 can express (RFC 791), in bytes.
pub const MTU_MAX: u32 = 65_535;
/// Smallest packet size of a link that has IPv6 (RFC 8200, 5), in bytes.
pub const MTU_MIN_V6: u32 = 1280;

/// What a network on a wire is on, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// The interface of each node that its tasks share.
    pub parent: Parent,
    /// How they share it.
    pub mode: WireMode,
    /// Bytes per packet; the interface's own if absent.
    pub mtu: Option<u32>,
}

/// How the tasks of a network share an interface of their node. By the names of Docker's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WireMode {
    /// Each has a hardware address of its own.
    Macvlan(MacvlanMode),
    /// All have that of the interface, and are told apart by their addresses.
    Ipvlan(IpvlanMode, IpvlanFlag),
}

/// Whom a task reaches by the same interface of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// Each other.
    Bridge,
    /// Each other as far as the switch behind the interface sends frames back.
    Vepa,
    /// Nobody.
    Private,
    /// One task has the interface for itself.
    Passthru,
}

/// On which layer an interface is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// Frames: tasks ask for neighbours as hosts do.
    L2,
    /// Packets: the node routes for them, and nobody asks.
    L3,
    /// The same, and what comes in passes the node's packet filter.
    L3s,
}

/// Whom a task with driver `ipvlan` reaches by the same interface of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanFlag {
    /// Each other.
    Bridge,
    /// Nobody.
    Private,
    /// Each other as far as the switch behind the interface sends frames back.
    Vepa,
}

impl MacvlanMode {
    const ALL: [(&'static str, Self); 4] = [
        ("bridge", Self::Bridge),
        ("private", Self::Private),
        ("vepa", Self::Vepa),
        ("passthru", Self::Passthru),
    ];
}

impl IpvlanMode {
    const ALL: [(&'static str, Self); 3] = [("l2", Self::L2), ("l3", Self::L3), ("l3s", Self::L3s)];
}

impl IpvlanFlag {
    const ALL: [(&'static str, Self); 3] =
        [("bridge", Self::Bridge), ("private", Self::Private), ("vepa", Self::Vepa)];
}

impl WireMode {
    /// Whether packets leave by the interface without a gateway: the node routes for its tasks.
    #[must_use]
    pub const fn is_routed(self) -> bool {
        matches!(self, Self::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s, _))
    }

    /// Whether one task has the interface of a node for itself.
    #[must_use]
    pub const fn is_for_one(self) -> bool {
        matches!(self, Self::Macvlan(MacvlanMode::Passthru))
    }

    /// Whether each task has a hardware address that belongs to its own address.
    #[must_use]
    pub const fn has_own_mac(self) -> bool {
        matches!(self, Self::Macvlan(_)) && !self.is_for_one()
    }

    /// The driver.
    #[must_use]
    pub const fn kind(self) -> NetworkKind {
        match self {
            Self::Macvlan(_) => NetworkKind::Macvlan,
            Self::Ipvlan(..) => NetworkKind::Ipvlan,
        }
    }
}

/// The name of an interface of each node, or of a VLAN of it: `eth0`, `eth0.50`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parent(String);

impl Parent {
    /// `None` if no interface that leads to a wire can have this name.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let valid = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
        let fits = (1..=IFNAME_MAX).contains(&name.len()) && name.bytes().all(valid);
        (fits && !matches!(name, "lo" | "." | "..")).then(|| Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The interface and the number of the VLAN, if the name is one of such.
    #[must_use]
    pub fn vlan(&self) -> Option<(&str, u16)> {
        let (base, number) = self.0.rsplit_once('.')?;
        let plain = !number.starts_with(['0', '+']);
        let number = number.parse().ok().filter(|n| (1..=VLAN_MAX).contains(n) && plain)?;
        (!base.is_empty()).then_some((base, number))
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with an option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("driver option `{option}`: {value:?} {problem}")]
pub struct WireProblem {
    /// Which one.
    pub option: String,
    /// What it says.
    pub value: String,
    /// What is wrong with that, and what would be accepted.
    pub problem: String,
}

impl Wire {
    /// What a driver asks for; `None` if it is not for networks on a wire.
    ///
    /// # Errors
    /// All that is wrong with its options.
    pub fn of(driver: &Driver) -> Option<Result<Self, Vec<WireProblem>>> {
        let kind = NetworkKind::of(driver).filter(|kind| kind.is_on_wire())?;
        let is_macvlan = kind == NetworkKind::Macvlan;
        let mut read = Reading { driver, problems: Vec::new() };
        let parent = read.parent();
        let mode = if is_macvlan {
            WireMode::Macvlan(read.word(MACVLAN_MODE, &MacvlanMode::ALL, MacvlanMode::Bridge))
        } else {
            let mode = read.word(IPVLAN_MODE, &IpvlanMode::ALL, IpvlanMode::L2);
            WireMode::Ipvlan(mode, read.word(IPVLAN_FLAG, &IpvlanFlag::ALL, IpvlanFlag::Bridge))
        };
        let mtu = read.mtu();
        let known: &[&str] = if is_macvlan {
            &[PARENT, MACVLAN_MODE, MTU_OPTION]
        } else {
            &[PARENT, IPVLAN_MODE, IPVLAN_FLAG, MTU_OPTION]
        };
        for (option, value) in &driver.options {
            if !known.contains(&option.as_str()) {
                let expected =
                    format!("is of no option of {}: expected {}", kind.as_str(), known.join(", "));
                read.wrong(option, value, expected);
            }
        }
        let Reading { problems, .. } = read;
        Some(match parent.filter(|_| problems.is_empty()) {
            Some(parent) => Ok(Self { parent, mode, mtu }),
            None => Err(problems),
        })
    }
}

/// Options, and what was found wrong with them.
struct Reading<'a> {
    driver: &'a Driver,
    problems: Vec<WireProblem>,
}

impl Reading<'_> {
    fn wrong(&mut self, option: &str, value: &str, problem: impl Into<String>) {
        let (option, value, problem) = (option.to_owned(), value.to_owned(), problem.into());
        self.problems.push(WireProblem { option, value, problem });
    }

    fn parent(&mut self) -> Option<Parent> {
        let value = self.driver.options.get(PARENT).map_or("", String::as_str);
        let parent = Parent::new(value);
        if parent.is_none() {
            let problem = "is no interface: expected the one of each node that the network is on, such as eth0, or a \
                 VLAN of it, such as eth0.50";
            self.wrong(PARENT, value, problem);
        }
        parent
    }

    fn word<T: Copy>(&mut self, option: &str, all: &[(&str, T)], usual: T) -> T {
        let Some(value) = self.driver.options.get(option).filter(|value| !value.is_empty()) else {
            return usual;
        };
        if let Some((_, word)) = all.iter().find(|(word, _)| word == value) {
            return *word;
        }
        let words: Vec<&str> = all.iter().map(|(word, _)| *word).collect();
        self.wrong(option, value, format!("is unknown: expected {}", words.join(", ")));
        usual
    }

    fn mtu(&mut self) -> Option<u32> {
        let value = self.driver.options.get(MTU_OPTION)?;
        let mtu = value.parse().ok().filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu));
        if mtu.is_none() {
            let expected = format!("is no size of packets: expected {MTU_MIN} to {MTU_MAX} bytes");
            self.wrong(MTU_OPTION, value, expected);
        }
        mtu
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(name: &str, options: &[(&str, &str)]) -> Driver {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Driver { name: name.to_owned(), options: options.collect() }
    }

    #[test]
    fn options_are_those_of_docker() {
        let wire = |name: &str, options: &[(&str, &str)]| {
            Wire::of(&driver(name, options)).unwrap().unwrap()
        };
        let eth0 = ("parent", "eth0");
        let mode = |name: &str, options: &[(&str, &str)]| wire(name, options).mode;
        for (word, expected) in MacvlanMode::ALL {
            let got = mode("macvlan", &[eth0, ("macvlan_mode", word)]);
            assert_eq!(got, WireMode::Macvlan(expected));
        }
        assert_eq!(mode("macvlan", &[eth0]), WireMode::Macvlan(MacvlanMode::Bridge));
        for (word, expected) in IpvlanMode::ALL {
            for (flag, also) in IpvlanFlag::ALL {
                let options = [eth0, ("ipvlan_mode", word), ("ipvlan_flag", flag)];
                assert_eq!(mode("ipvlan", &options), WireMode::Ipvlan(expected, also));
            }
        }
        assert_eq!(mode("ipvlan", &[eth0]), WireMode::Ipvlan(IpvlanMode::L2, IpvlanFlag::Bridge));
        assert_eq!(wire("ipvlan", &[eth0, (MTU_OPTION, "1400")]).mtu, Some(1400));
        assert_eq!(Wire::of(&driver("bridge", &[eth0])), None);
    }

    #[test]
    fn all_that_is_wrong_is_said_with_what_would_be_accepted() {
        let problems = |name: &str, options: &[(&str, &str)]| -> Vec<String> {
            let problems = Wire::of(&driver(name, options)).unwrap().unwrap_err();
            problems.iter().map(ToString::to_string).collect()
        };
        let parent = "is no interface: expected the one of each node that the network is on, such as eth0, or a VLAN \
             of it, such as eth0.50";
        for name in ["", "lo", "a/b", "0123456789abcdef", "eth0 ", "..", "eth0:1"] {
            let got = problems("macvlan", &[("parent", name)]);
            assert_eq!(got, [format!("driver option `parent`: {name:?} {parent}")]);
        }
        let options = [("macvlan_mode", "l2"), (MTU_OPTION, "10"), ("ipvlan_mode", "l2")];
        assert_eq!(
            problems("macvlan", &options),
            [
                format!("driver option `parent`: \"\" {parent}"),
                "driver option `macvlan_mode`: \"l2\" is unknown: expected bridge, private, vepa, passthru"
                    .to_owned(),
                format!(
                    "driver option `{MTU_OPTION}`: \"10\" is no size of packets: expected 68 to 65535 bytes"
                ),
                format!(
                    "driver option `ipvlan_mode`: \"l2\" is of no option of macvlan: expected parent, \
                     macvlan_mode, {MTU_OPTION}"
                ),
            ]
        );
    }

    #[test]
    fn a_vlan_is_told_by_its_name() {
        for (name, expected) in [
            ("eth0", None),
            ("eth0.50", Some(("eth0", 50))),
            ("bond0.10.20", Some(("bond0.10", 20))),
            ("eth0.4094", Some(("eth0", 4094))),
            ("eth0.4095", None),
            ("eth0.0", None),
            ("eth0.050", None),
            ("eth0.x", None),
            (".5", None),
        ] {
            assert_eq!(Parent::new(name).unwrap().vlan(), expected, "{name}");
        }
    }
}
