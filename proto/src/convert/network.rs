//! Networks.

use shoal_types::object::Network;
use shoal_types::spec::{Driver, Ipam, IpamConfig, NetworkScope, NetworkSpec};

use super::field;
use super::{choice, message};

message!(Driver { name: Same, options: Same });

message!(NetworkSpec {
    name: Same,
    labels: Same,
    driver: DefaultMessage,
    scope: OptionalChoice,
    enable_ipv4: Same,
    enable_ipv6: Same,
    internal: Same,
    attachable: Same,
    ingress: Same,
    ipam: OptionalMessage,
    config_from: Same,
    config_only: Same,
});

choice!(NetworkScope { Local, Swarm, Global });

message!(Ipam { driver: DefaultMessage, config: List });

message!(IpamConfig { subnet: Same, ip_range: Same, gateway: Same, aux_addresses: Same });

message!(Network {
    id: Text,
    meta: Message,
    spec: Message,
    stack_id: OptionalText,
    predefined: Same,
    subnets: TextList,
});
