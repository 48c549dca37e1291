//! Nodes.

use shoal_types::object::{
    AssignmentProgress, DescribedKeys, EngineDescription, HostSubnet, ManagerHealth, ManagerStatus,
    Node, NodeDescription, NodeState, NodeStatus, NodeSummary, PluginDescription, Reachability,
    TroubledLink, TroubledLinks, TunnelDescription, TunnelEnd, TunnelKind,
};
use shoal_types::spec::{Availability, NodeRole, NodeSpec};

use super::field;
use super::{choice, message};

message!(NodeSpec { name: Same, labels: Same, role: DefaultChoice, availability: DefaultChoice });

choice!(NodeRole { Agent, Manager });
choice!(Availability { Active, Pause, Drain });

message!(Node {
    id: Text,
    meta: Message,
    spec: Message,
    description: DefaultMessage,
    status: Message,
    manager_status: OptionalMessage,
    tunnel_address: OptionalText,
});

message!(NodeDescription {
    hostname: Same,
    platform: DefaultMessage,
    resources: DefaultMessage,
    engine: DefaultMessage,
    level: Levels,
    tunnel: OptionalMessage,
    troubled_links: OptionalMessage,
    host_subnets: List,
});

message!(HostSubnet { subnet: Text, interface: Same });

message!(TroubledLinks { count: Same, links: List });

message!(TroubledLink { node_id: Text, endpoint: Text, passes_bytes: Same, full_bytes: Same });

message!(TunnelDescription {
    public_key: Text,
    port: Port,
    addr: OptionalText,
    kind: Choice,
    keys: OptionalMessage,
});

message!(DescribedKeys { epoch: Same, other: OptionalMessage, lagging: Same, lacking: Same });

message!(TunnelEnd { epoch: Same, public_key: Text, port: Port });

choice!(TunnelKind { Kernel, Userspace });

message!(EngineDescription { version: Same, labels: Same, plugins: List });

message!(PluginDescription { kind: Same, name: Same });

message!(NodeStatus { state: Choice, message: Same, addr: OptionalText, since: Time });

choice!(NodeState { Unknown, Down, Ready, Disconnected });

message!(ManagerStatus { raft_id: Same, addr: Same, level: Levels });

message!(ManagerHealth { leader: Same, reachability: Choice });

message!(NodeSummary { node: Message, manager: OptionalMessage, assignment: OptionalMessage });

message!(AssignmentProgress { sent: Same, applied: Same });

choice!(Reachability { Unknown, Unreachable, Reachable });
