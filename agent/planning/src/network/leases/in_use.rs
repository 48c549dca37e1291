//! What a host uses beside the agent's networks.

use ipnet::IpNet;
use shoal_types::object::HostSubnet;

/// A range of addresses that the host uses for something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// The range.
    pub subnet: IpNet,
    /// What uses it, for messages: an interface or a route.
    pub by: String,
}

impl From<HostSubnet> for InUse {
    fn from(HostSubnet { subnet, interface }: HostSubnet) -> Self {
        let by = match interface.as_str() {
            "" => "a route of this host".to_owned(),
            interface => format!("a route by interface `{interface}`"),
        };
        Self { subnet, by }
    }
}
