//! Subnets of a network and what belongs to each: flags of `network create`.

use std::net::IpAddr;

use clap::Args;
use ipnet::IpNet;
use shoal_types::spec::IpamConfig;

use crate::commands::service::pairs::KeyValue;

/// What is said of a network's addresses, as Docker's flags have it.
#[derive(Debug, Default, Args)]
pub(super) struct Addresses {
    /// Its addresses: ADDRESS/LENGTH; without any they are chosen
    #[arg(long)]
    subnet: Vec<String>,
    /// The gateway's address, of the subnet that it is in
    #[arg(long, requires = "subnet")]
    gateway: Vec<String>,
    /// The part of a subnet that containers get addresses of: ADDRESS/LENGTH
    #[arg(long, requires = "subnet", value_name = "RANGE")]
    ip_range: Vec<String>,
    /// An address that no container gets, and a name for it
    #[arg(long, requires = "subnet", value_name = "NAME=ADDRESS")]
    aux_address: Vec<KeyValue>,
}

impl Addresses {
    /// The subnets, each with what is in it, as Docker puts them together. What is wrong with a subnet itself, the
    /// managers say.
    pub(super) fn config(self) -> Result<Vec<IpamConfig>, String> {
        let Self { subnet, gateway, ip_range, aux_address } = self;
        let config = |subnet| IpamConfig { subnet, ..IpamConfig::default() };
        let mut all: Vec<IpamConfig> = subnet.into_iter().map(config).collect();
        for text in gateway {
            let within = find(&mut all, "--gateway", &text, address(&text))?;
            once("--gateway", &mut within.gateway, text, &within.subnet)?;
        }
        for text in ip_range {
            let within = find(&mut all, "--ip-range", &text, text.parse().ok())?;
            once("--ip-range", &mut within.ip_range, text, &within.subnet)?;
        }
        for KeyValue { key, value } in aux_address {
            if key.is_empty() || value.is_empty() {
                return Err(format!("--aux-address {key:?}: expected NAME=ADDRESS"));
            }
            let within = find(&mut all, "--aux-address", &value, address(&value))?;
            if let Some(other) = within.aux_addresses.insert(key.clone(), value.clone()) {
                let both = format!("{other:?} and {value:?}");
                return Err(format!("--aux-address {key:?} names {both}: expected one address"));
            }
        }
        Ok(all)
    }
}

fn address(text: &str) -> Option<IpNet> {
    text.parse().ok().map(|address: IpAddr| address.into())
}

/// The subnet that something is in. If there is one alone, it is meant.
fn find<'a>(
    all: &'a mut [IpamConfig],
    flag: &str,
    text: &str,
    what: Option<IpNet>,
) -> Result<&'a mut IpamConfig, String> {
    let subnets: Vec<&str> = all.iter().map(|config| config.subnet.as_str()).collect();
    let within = |subnet: &&str| {
        let subnet: Option<IpNet> = subnet.parse().ok();
        subnet.zip(what).is_some_and(|(subnet, what)| subnet.contains(&what))
    };
    let known = subnets.join(", ");
    let at = if subnets.len() == 1 { Some(0) } else { subnets.iter().position(within) };
    at.and_then(|at| all.get_mut(at))
        .ok_or_else(|| format!("{flag} {text:?} is in no subnet: expected one of {known}"))
}

fn once(flag: &str, field: &mut String, text: String, subnet: &str) -> Result<(), String> {
    if !field.is_empty() {
        return Err(format!("{flag} {text:?}: subnet {subnet} has {field} already"));
    }
    *field = text;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(subnet: &[&str], gateway: &[&str], ip_range: &[&str], aux: &[&str]) -> Addresses {
        let texts = |all: &[&str]| all.iter().map(|&text| text.to_owned()).collect();
        Addresses {
            subnet: texts(subnet),
            gateway: texts(gateway),
            ip_range: texts(ip_range),
            aux_address: aux.iter().filter_map(|text| text.parse().ok()).collect(),
        }
    }

    #[test]
    fn each_address_belongs_to_the_subnet_that_it_is_in() {
        let all = flags(
            &["10.1.0.0/24", "fd00::/64"],
            &["fd00::9", "10.1.0.9"],
            &["fd00::/100"],
            &["router=10.1.0.7", "printer=10.1.0.8"],
        );
        let config = all.config().unwrap();
        assert_eq!(config[0].gateway, "10.1.0.9");
        assert_eq!(
            (config[1].gateway.as_str(), config[1].ip_range.as_str()),
            ("fd00::9", "fd00::/100")
        );
        let aux = [("printer", "10.1.0.8"), ("router", "10.1.0.7")];
        let aux = aux.map(|(name, address)| (name.to_owned(), address.to_owned()));
        assert_eq!(config[0].aux_addresses, aux.into());
        assert_eq!(config[0].ip_range, "");
        // What a single subnet cannot have, the managers say.
        let config = flags(&["10.1.0.0/24"], &["10.9.0.1"], &[], &["a=x"]).config().unwrap();
        assert_eq!(config[0].gateway, "10.9.0.1");
    }

    #[test]
    fn what_belongs_nowhere_or_twice_is_refused() {
        let two = &["10.1.0.0/24", "10.2.0.0/24"];
        let cases = [
            (
                flags(two, &["10.3.0.1"], &[], &[]),
                "--gateway \"10.3.0.1\" is in no subnet: expected one of 10.1.0.0/24, 10.2.0.0/24",
            ),
            (flags(two, &["x"], &[], &[]), "--gateway \"x\" is in no subnet"),
            (
                flags(two, &["10.1.0.1", "10.1.0.2"], &[], &[]),
                "--gateway \"10.1.0.2\": subnet 10.1.0.0/24 has 10.1.0.1 already",
            ),
            (flags(two, &[], &["10.0.0.0/8"], &[]), "--ip-range \"10.0.0.0/8\" is in no subnet"),
            (flags(two, &[], &[], &["a=10.9.0.1"]), "--aux-address \"10.9.0.1\" is in no subnet"),
            (flags(two, &[], &[], &["a"]), "--aux-address \"a\": expected NAME=ADDRESS"),
            (
                flags(two, &[], &[], &["a=10.1.0.5", "a=10.1.0.6"]),
                "names \"10.1.0.5\" and \"10.1.0.6\": expected one",
            ),
        ];
        for (flags, expected) in cases {
            let error = flags.config().unwrap_err();
            assert!(error.contains(expected), "{error}, not {expected}");
        }
    }
}
