//! Interface names: short, and the same for the same ids on every run.

use super::ingress;
use crate::tunnel;

/// Longest name of an interface, without the closing NUL (`IFNAMSIZ` - 1, netdevice(7)).
pub const IFNAME_MAX: usize = 15;

/// Longest prefix an agent may use: it leaves room for a kind letter and ten digits.
pub const PREFIX_MAX: usize = IFNAME_MAX - 1 - DIGITS;

/// Base 36 digits of a hash in a name: about 51 bits.
const DIGITS: usize = 10;

/// Name of the bridge of a network.
#[must_use]
pub fn bridge(prefix: &str, network: &str) -> String {
    format!("{prefix}b{}", digits(&[network]))
}

/// Name of the host's end of the veth pair of one attachment.
#[must_use]
pub fn port(prefix: &str, container: &str, network: &str) -> String {
    format!("{prefix}v{}", digits(&[container, network]))
}

/// Name of a VLAN that the agent makes.
#[must_use]
pub fn vlan(prefix: &str, base: &str, number: u16) -> String {
    format!("{prefix}l{}", digits(&[base, &number.to_string()]))
}

/// Whether an interface name belongs to the agent with this prefix.
#[must_use]
pub fn is_ours(prefix: &str, ifname: &str) -> bool {
    ifname.strip_prefix(prefix).is_some_and(|rest| {
        rest.len() == DIGITS + 1
            && rest.starts_with(['b', 'v', 'l'])
            && rest.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
    })
}

/// Whether an interface is the agent's: as above, or of the mesh or the tunnel.
#[must_use]
pub fn is_of_agent(prefix: &str, ifname: &str) -> bool {
    is_ours(prefix, ifname) || ifname == ingress::ifname(prefix) || tunnel::is_ours(prefix, ifname)
}

/// Whether a prefix can be used: 1 to [`PREFIX_MAX`] lower case letters or digits.
#[must_use]
pub fn is_valid_prefix(prefix: &str) -> bool {
    (1..=PREFIX_MAX).contains(&prefix.len())
        && prefix.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

/// The low digits of the FNV-1a hash (64 bits) of the parts, each closed by a NUL.
///
/// A hash of our own because the standard library's may change between releases, and names must
/// be found again by a newer agent.
fn digits(parts: &[&str]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    (0..DIGITS)
        .map(|_| {
            let digit = (hash % 36) as u8;
            hash /= 36;
            char::from(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_stable() {
        let long = "0a1b2c3d4e5f6g7h8i9j0k1l2";
        for name in [bridge("sho", long), port("sho", long, long)] {
            assert!(name.len() <= IFNAME_MAX, "{name}");
            assert!(is_ours("sho", &name));
        }
        // Golden: a change here orphans every interface of running nodes.
        assert_eq!(bridge("sh", "net-1"), "shbyfrsqkvf57");
        assert_eq!(port("sh", "c1", "net-1"), "shvklfw0h3zrl");
        assert!(is_ours("sh", &vlan("sh", "eth0", 50)));
        for (ifname, expected) in [
            ("shwg0", true),
            ("shwg1", true),
            ("shwg2", false),
            ("shbyfrsqkvf57", true),
            ("eth0", false),
        ] {
            assert_eq!(is_of_agent("sh", ifname), expected, "{ifname}");
        }
        assert!(is_of_agent("sh", &ingress::ifname("sh")));
        assert_ne!(vlan("sh", "eth0", 50), vlan("sh", "eth0.5", 0));
    }

    #[test]
    fn the_border_between_ids_counts() {
        assert_ne!(port("sh", "ab", "c"), port("sh", "a", "bc"));
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in
            ["eth0", "docker0", "sh", "shb", "shbABCDEFGHIJ", "shx0123456789", "shb012345678"]
        {
            assert!(!is_ours("sh", name), "{name}");
        }
    }

    #[test]
    fn prefixes() {
        for (prefix, valid) in
            [("sh", true), ("s1", true), ("", false), ("shoal", false), ("S", false)]
        {
            assert_eq!(is_valid_prefix(prefix), valid, "{prefix}");
        }
    }
}
