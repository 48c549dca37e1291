//! Why somebody cannot have a subnet or an address.

use std::fmt;

use ipnet::IpNet;
use shoal_types::object::HostSubnet;

/// Who has addresses of a subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubnetHolder {
    /// Another network.
    Network {
        /// Its name.
        name: String,
        /// Its subnet that has addresses in common.
        subnet: IpNet,
    },
    /// Nodes, inside of their tunnels.
    Nodes {
        /// Their subnet that has addresses in common.
        subnet: IpNet,
    },
    /// A host, for something else.
    Host {
        /// Its name.
        node: String,
        /// What it uses.
        used: Box<HostSubnet>,
        /// How many others use it.
        others: usize,
    },
    /// Tasks of a network that is gone, which have not ended yet.
    Tasks,
}

impl fmt::Display for SubnetHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { name, subnet } => {
                write!(f, "network {name:?} has {subnet}, and no address is on two networks")
            }
            Self::Nodes { subnet } => write!(f, "nodes have {subnet} inside of their tunnels"),
            Self::Host { node, used, others } => {
                write!(f, "node {node} has {used}")?;
                match others {
                    0 => Ok(()),
                    1 => f.write_str(", and so has another one"),
                    others => write!(f, ", and so have {others} others"),
                }?;
                f.write_str(": expected addresses that no node uses for something else")
            }
            Self::Tasks => f.write_str(
                "tasks of a network that is gone still have addresses of it: wait for their end",
            ),
        }
    }
}

/// Why a task cannot have an address that its service or somebody who connects it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressProblem {
    /// Each node chooses the addresses of the network.
    Local,
    /// It is in no subnet of the network.
    Outside {
        /// Those that the network has.
        subnets: Vec<IpNet>,
    },
    /// It is kept for something else: the gateway, or what the network's spec says.
    Nobodys,
    /// It is not the only one of its family.
    Several,
    /// Somebody else has it.
    Taken {
        /// Who, and how.
        holder: String,
    },
}

impl fmt::Display for AddressProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str(
                "each node chooses the addresses of that network; expected one with driver overlay, macvlan or ipvlan",
            ),
            Self::Outside { subnets } => {
                f.write_str("expected one of ")?;
                for (n, subnet) in subnets.iter().enumerate() {
                    write!(f, "{}{subnet}", if n == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Nobodys => f.write_str(
                "it is the gateway's, the first or the last one of its subnet, or reserved; expected another one",
            ),
            Self::Several => {
                f.write_str("it is the second of its family; expected one of each at the most")
            }
            Self::Taken { holder } => f.write_str(holder),
        }
    }
}
