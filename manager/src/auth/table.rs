//! The table of who may call what. A test compares it with the services in the `.proto` files.

use std::fmt;

use shoal_proto::transport::Role;

/// A set of kinds of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who(u8);

impl Who {
    /// Managers.
    pub const MANAGER: Self = Self(1);
    /// Agents.
    pub const AGENT: Self = Self(2);
    /// Users.
    pub const USER: Self = Self(4);
    /// Hosts on their way in.
    pub const JOINER: Self = Self(8);
    /// Every node: a manager's host has one certificate for both of its programs.
    pub const NODE: Self = Self::MANAGER.or(Self::AGENT);
    /// Those who control the cluster; managers pass their calls on to the leader.
    pub const CONTROL: Self = Self::USER.or(Self::MANAGER);
    /// Every member.
    pub const MEMBER: Self = Self::NODE.or(Self::USER);

    /// Both sets.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The set of one role.
    #[must_use]
    pub const fn of(role: Role) -> Self {
        match role {
            Role::Manager => Self::MANAGER,
            Role::Agent => Self::AGENT,
            Role::User => Self::USER,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (Self::MANAGER, "managers"),
            (Self::AGENT, "agents"),
            (Self::USER, "users"),
            (Self::JOINER, "joining hosts"),
        ];
        let names: Vec<&str> =
            all.iter().filter(|(who, _)| self.contains(*who)).map(|(_, name)| *name).collect();
        f.write_str(&names.join(" and "))
    }
}

/// Method and who may call it. One line for each method of each service; what is not here is
/// refused.
pub const TABLE: &[(&str, Who)] = &[
    ("/shoal.v1.Ca/GetRootCertificate", Who::MEMBER.or(Who::JOINER)),
    ("/shoal.v1.Ca/IssueNodeCertificate", Who::JOINER),
    ("/shoal.v1.Ca/RenewCertificate", Who::MEMBER),
    ("/shoal.v1.Control/ApplyStack", Who::CONTROL),
    ("/shoal.v1.Control/CreateNetwork", Who::CONTROL),
    ("/shoal.v1.Control/CreateService", Who::CONTROL),
    ("/shoal.v1.Control/Exec", Who::CONTROL),
    ("/shoal.v1.Control/GetCluster", Who::CONTROL),
    ("/shoal.v1.Control/GetDeployment", Who::CONTROL),
    ("/shoal.v1.Control/GetDiskUsage", Who::CONTROL),
    ("/shoal.v1.Control/GetJoinToken", Who::CONTROL),
    ("/shoal.v1.Control/GetNetwork", Who::CONTROL),
    ("/shoal.v1.Control/GetNode", Who::CONTROL),
    ("/shoal.v1.Control/GetService", Who::CONTROL),
    ("/shoal.v1.Control/GetStack", Who::CONTROL),
    ("/shoal.v1.Control/GetTask", Who::CONTROL),
    ("/shoal.v1.Control/GetUsage", Who::CONTROL),
    ("/shoal.v1.Control/GetVersion", Who::CONTROL),
    ("/shoal.v1.Control/ListNetworks", Who::CONTROL),
    ("/shoal.v1.Control/ListNodes", Who::CONTROL),
    ("/shoal.v1.Control/ListServices", Who::CONTROL),
    ("/shoal.v1.Control/ListStacks", Who::CONTROL),
    ("/shoal.v1.Control/ListTasks", Who::CONTROL),
    ("/shoal.v1.Control/ListVolumes", Who::CONTROL),
    ("/shoal.v1.Control/PruneNodes", Who::CONTROL),
    ("/shoal.v1.Control/RemoveNetwork", Who::CONTROL),
    ("/shoal.v1.Control/RemoveNode", Who::CONTROL),
    ("/shoal.v1.Control/RemoveService", Who::CONTROL),
    ("/shoal.v1.Control/RemoveStack", Who::CONTROL),
    ("/shoal.v1.Control/RollBackStack", Who::CONTROL),
    ("/shoal.v1.Control/RemoveVolume", Who::CONTROL),
    ("/shoal.v1.Control/RotateJoinToken", Who::CONTROL),
    ("/shoal.v1.Control/ServiceLogs", Who::CONTROL),
    ("/shoal.v1.Control/UpdateNode", Who::CONTROL),
    ("/shoal.v1.Control/UpdateService", Who::CONTROL),
    ("/shoal.v1.Control/Watch", Who::CONTROL),
    ("/shoal.v1.Dispatcher/AnswerQuestion", Who::NODE),
    ("/shoal.v1.Dispatcher/Assignments", Who::NODE),
    ("/shoal.v1.Dispatcher/ExecStream", Who::NODE),
    ("/shoal.v1.Dispatcher/Heartbeat", Who::NODE),
    ("/shoal.v1.Dispatcher/PublishLogs", Who::NODE),
    ("/shoal.v1.Dispatcher/Session", Who::NODE),
    ("/shoal.v1.Dispatcher/UpdateTaskStatus", Who::NODE),
    ("/shoal.v1.Raft/AppendEntries", Who::MANAGER),
    ("/shoal.v1.Raft/RequestVote", Who::MANAGER),
    ("/shoal.v1.Raft/InstallSnapshot", Who::MANAGER),
];
