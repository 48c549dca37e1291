//! Networks.

use shoal_types::object::{
    Network, NetworkMembers, NetworkPeer, NetworkService, NetworkTask, SubnetUse,
};
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

message!(NetworkMembers {
    subnets: List,
    tasks: List,
    services: List,
    peers: List,
    left_out: Same,
});

message!(SubnetUse { subnet: Text, gateway: Text, used: Same, free: Same });

message!(NetworkTask { task_id: Text, name: Same, node_id: Text, addresses: TextList });

message!(NetworkService { service_id: Text, name: Same, vips: TextList });

message!(NetworkPeer { node_id: Text, name: Same, ip: OptionalText });
