//! How a service is reached: flags of `service create` and `update`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use clap::ValueEnum;
use shoal_types::spec::{Affinity, EndpointMode, Locality, NetworkAttachmentConfig, TaskSpec};

use super::pairs::{fields, needed};
use crate::error::CommandError;

/// What a service's name leads to.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum EndpointArg {
    /// One address for all its tasks
    Vip,
    /// The addresses of its tasks
    Dnsrr,
}

impl From<EndpointArg> for EndpointMode {
    fn from(arg: EndpointArg) -> Self {
        match arg {
            EndpointArg::Vip => Self::Vip,
            EndpointArg::Dnsrr => Self::Dnsrr,
        }
    }
}

/// Whether clients of a service are led to the same task each time.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum AffinityArg {
    /// To whichever comes
    None,
    /// To the same one as others with its address, as long as the service's tasks are the same
    ClientIp,
}

impl From<AffinityArg> for Option<Affinity> {
    fn from(arg: AffinityArg) -> Self {
        match arg {
            AffinityArg::None => None,
            AffinityArg::ClientIp => Some(Affinity::ClientIp),
        }
    }
}

/// Which tasks clients of a service are led to before all others.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LocalityArg {
    /// None: each is as likely as another
    Any,
    /// Those on the node that is asked; others only while none of these serves
    PreferLocal,
}

impl From<LocalityArg> for Option<Locality> {
    fn from(arg: LocalityArg) -> Self {
        match arg {
            LocalityArg::Any => None,
            LocalityArg::PreferLocal => Some(Locality::PreferLocal),
        }
    }
}

/// `NETWORK`, or `name=NETWORK,alias=NAME,ip=ADDRESS,ip6=ADDRESS` with any number of aliases; or `service:NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NetworkFlag {
    /// A network to join.
    Join(NetworkAttachmentConfig),
    /// That of another service, to be shared.
    Of(String),
}

/// What begins the name of a service whose network is shared.
pub(super) const OF_SERVICE: &str = "service:";

/// Writes down which networks are to be joined, beside those that are, or whose network is to be shared.
///
/// # Errors
/// Two services are named.
pub(super) fn join(flags: Vec<NetworkFlag>, task: &mut TaskSpec) -> Result<(), CommandError> {
    for flag in flags {
        match flag {
            NetworkFlag::Join(network) => task.networks.push(network),
            NetworkFlag::Of(service) => {
                let had = task.network_of.replace(service);
                if let (Some(had), Some(service)) = (had, &task.network_of) {
                    let text = format!(
                        "the network of service {service:?} cannot be shared beside that of service {had:?}: expected one"
                    );
                    return Err(CommandError::failed(text));
                }
            }
        }
    }
    Ok(())
}

impl FromStr for NetworkFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(service) = text.strip_prefix(OF_SERVICE) {
            return match service {
                "" => Err(format!("{text:?} names no service: expected service:NAME")),
                _ => Ok(Self::Of(service.to_owned())),
            };
        }
        if text.starts_with("container:") {
            let why = "containers have no names that last across hosts";
            return Err(format!("{text:?}: {why}: expected service:NAME"));
        }
        let mut config = NetworkAttachmentConfig::default();
        if !text.contains('=') {
            text.clone_into(&mut config.target);
            return Ok(Self::Join(config));
        }
        for (key, value) in fields(text) {
            match key {
                "name" if config.target.is_empty() => {
                    needed(key, value)?.clone_into(&mut config.target);
                }
                "name" => return Err(format!("{text:?} names more than one network")),
                "alias" => config.aliases.push(needed(key, value)?.to_owned()),
                "ip" => config.addresses.push(address::<Ipv4Addr>(key, value, "IPv4")?),
                "ip6" => config.addresses.push(address::<Ipv6Addr>(key, value, "IPv6")?),
                _ => {
                    let expected = "expected name=…, alias=…, ip=… or ip6=…";
                    return Err(format!("{key:?} is unknown: {expected}"));
                }
            }
        }
        match config.target.as_str() {
            "" => Err(format!("{text:?} names no network: expected name=…")),
            _ => Ok(Self::Join(config)),
        }
    }
}

/// An address that a task has on a network.
fn address<T: FromStr + Into<IpAddr>>(
    key: &str,
    value: Option<&str>,
    family: &str,
) -> Result<IpAddr, String> {
    let text = needed(key, value)?;
    let address: Option<T> = text.parse().ok();
    address.map(Into::into).ok_or_else(|| format!("{key}={text}: expected an {family} address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_a_name_and_aliases() {
        let config = |flag| match flag {
            NetworkFlag::Join(config) => config,
            NetworkFlag::Of(service) => panic!("service {service}"),
        };
        let of = |text: &str| {
            text.parse::<NetworkFlag>().map(config).map(|config| (config.target, config.aliases))
        };
        let ok = |name: &str, aliases: &[&str]| {
            Ok((name.to_owned(), aliases.iter().map(|&a| a.to_owned()).collect()))
        };
        assert_eq!(of("back"), ok("back", &[]));
        assert_eq!(of("name=back"), ok("back", &[]));
        assert_eq!(of("alias=a,name=back,alias=b"), ok("back", &["a", "b"]));
        assert!(of("alias=a").unwrap_err().contains("names no network"));
        assert!(of("name=back,mac=1").unwrap_err().contains("\"mac\" is unknown"));
        let fixed = config("name=back,ip6=fd00::7,ip=10.1.0.7".parse().unwrap()).addresses;
        assert_eq!(fixed, ["fd00::7", "10.1.0.7"].map(|text| text.parse::<IpAddr>().unwrap()));
        for wrong in ["ip=fd00::7", "ip=x", "ip6=10.1.0.7"] {
            let error = of(&format!("name=back,{wrong}")).unwrap_err();
            assert!(error.contains(wrong) && error.contains("expected an IPv"), "{error}");
        }
        assert!(of("name=back,name=front").unwrap_err().contains("more than one network"));
        assert!(of("name=back,alias=").unwrap_err().contains("alias has no value"));
    }

    #[test]
    fn the_network_of_one_service_is_shared() {
        let of = |text: &str| text.parse::<NetworkFlag>();
        assert_eq!(of("service:db"), Ok(NetworkFlag::Of("db".to_owned())));
        assert!(of("service:").unwrap_err().contains("names no service"));
        let refusal = of("container:db").unwrap_err();
        assert!(
            refusal.contains("\"container:db\": containers") && refusal.contains("service:NAME")
        );
        let runtime = shoal_types::spec::TaskRuntime::Container(Default::default());
        let mut task = TaskSpec::of(runtime);
        join(vec![of("service:db").unwrap()], &mut task).unwrap();
        assert_eq!(task.network_of.as_deref(), Some("db"));
        let refusal = join(vec![of("service:db2").unwrap()], &mut task).unwrap_err().to_string();
        assert!(
            refusal.contains("\"db2\" cannot be shared beside that of service \"db\""),
            "{refusal}"
        );
    }
}
