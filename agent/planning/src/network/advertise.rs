//! Which of its addresses a host tells others, when nobody has said.

use std::fmt;
use std::net::IpAddr;

/// An address of the host, with its interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddress {
    /// Name of the interface.
    pub ifname: String,
    /// The address: neither of the loopback interface nor of one link only.
    pub ip: IpAddr,
}

/// Why no address can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAddress {
    /// What there is to choose from.
    pub candidates: Vec<HostAddress>,
}

impl std::error::Error for NoAddress {}

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.candidates.is_empty() {
            return f.write_str("this host has no address that others could reach it by");
        }
        f.write_str("this host has no default route to tell its address from: it has ")?;
        for (i, HostAddress { ifname, ip }) in self.candidates.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{ip} on {ifname}")?;
        }
        Ok(())
    }
}

/// Chooses the address that packets to far away come from; without one the only address that there is,
/// the only one of IPv4 before that of IPv6.
///
/// # Errors
/// There is none, or there are several.
pub fn advertised(
    usual: Option<IpAddr>,
    candidates: Vec<HostAddress>,
) -> Result<IpAddr, NoAddress> {
    if let Some(usual) = usual {
        return Ok(usual);
    }
    let is_v4 = |candidate: &&HostAddress| candidate.ip.is_ipv4();
    let v4: Vec<&HostAddress> = candidates.iter().filter(is_v4).collect();
    match (v4.as_slice(), candidates.as_slice()) {
        ([only], _) => Ok(only.ip),
        ([], [only]) => Ok(only.ip),
        _ => Err(NoAddress { candidates }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ifname: &str, ip: &str) -> HostAddress {
        HostAddress { ifname: ifname.to_owned(), ip: ip.parse().unwrap() }
    }

    #[test]
    fn one_is_chosen_and_several_are_listed() {
        let a = at("eth0", "10.0.0.1");
        let b = at("eth1", "192.168.1.1");
        let c = at("eth0", "fd00::1");
        let usual = Some("10.9.9.9".parse().unwrap());
        assert_eq!(advertised(usual, vec![a.clone(), b.clone()]), Ok("10.9.9.9".parse().unwrap()));
        assert_eq!(advertised(None, vec![a.clone()]), Ok(a.ip));
        assert_eq!(advertised(None, vec![c.clone(), a.clone()]), Ok(a.ip), "IPv4 goes before");
        assert_eq!(advertised(None, vec![c.clone()]), Ok(c.ip));
        let none = advertised(None, Vec::new()).unwrap_err().to_string();
        assert_eq!(none, "this host has no address that others could reach it by");
        let several = advertised(None, vec![a, b]).unwrap_err().to_string();
        assert!(several.ends_with("it has 10.0.0.1 on eth0, 192.168.1.1 on eth1"), "{several}");
    }
}
