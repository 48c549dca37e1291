//! The table of who may call what. A test compares it with the services in the `.proto` files.

use std::fmt;

use shoal_transport::Role;
use shoal_types::spec::UserRole;

/// A set of kinds of callers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Who(u8);

impl Who {
    /// Managers.
    pub const MANAGER: Self = Self(1);
    /// Agents.
    pub const AGENT: Self = Self(2);
    /// Hosts on their way in.
    pub const JOINER: Self = Self(4);
    /// Users with role viewer.
    pub const VIEWER: Self = Self(8);
    /// Users with role deployer: within their stacks, see `shoal_manager_state::permission`.
    pub const DEPLOYER: Self = Self(16);
    /// Users with role operator.
    pub const OPERATOR: Self = Self(32);
    /// Users with role admin.
    pub const ADMIN: Self = Self(64);
    /// Every node: a manager's host has one certificate for both of its programs.
    pub const NODE: Self = Self::MANAGER.or(Self::AGENT);
    /// Every user.
    pub const USER: Self = Self::VIEWER.or(Self::DEPLOYER).or(Self::OPERATOR).or(Self::ADMIN);
    /// Every member.
    pub const MEMBER: Self = Self::NODE.or(Self::USER);
    /// Those who may look at what is no secret. No managers: they pass calls on as of those who have made
    /// them.
    pub const READ: Self = Self::USER;
    /// Those who may look at what of all stacks together is on the nodes.
    pub const OVERSEE: Self = Self::VIEWER.or(Self::OPERATE);
    /// Those who may change stacks, and run programs in them.
    pub const DEPLOY: Self = Self::DEPLOYER.or(Self::OPERATE);
    /// Those who may change what belongs to no stack.
    pub const OPERATE: Self = Self::OPERATOR.or(Self::ADMINISTER);
    /// Those who decide who else may do anything.
    pub const ADMINISTER: Self = Self::ADMIN;

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

    /// Whether anybody is in both.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The set of one kind of certificate.
    #[must_use]
    pub const fn of(role: Role) -> Self {
        match role {
            Role::Manager => Self::MANAGER,
            Role::Agent => Self::AGENT,
            Role::User => Self::USER,
        }
    }

    /// The set of one role of users.
    #[must_use]
    pub const fn of_user(role: UserRole) -> Self {
        match role {
            UserRole::Viewer => Self::VIEWER,
            UserRole::Deployer => Self::DEPLOYER,
            UserRole::Operator => Self::OPERATOR,
            UserRole::Admin => Self::ADMIN,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (Self::MANAGER, "managers"),
            (Self::AGENT, "agents"),
            (Self::JOINER, "joining hosts"),
            (Self::VIEWER, "viewers"),
            (Self::DEPLOYER, "deployers"),
            (Self::OPERATOR, "operators"),
            (Self::ADMIN, "admins"),
        ];
        let names: Vec<&str> =
            all.iter().filter(|(who, _)| self.contains(*who)).map(|(_, name)| *name).collect();
        f.write_str(&names.join(" and "))
    }
}

/// Method and who may call it. One line for each method of each service; what is not here is
/// refused. What viewers may not do is audited, see [`is_audited`].
pub const TABLE: &[(&str, Who)] = &[
    ("/shoal.v1.Ca/GetRootCertificate", Who::MEMBER.or(Who::JOINER)),
    ("/shoal.v1.Ca/IssueNodeCertificate", Who::JOINER),
    ("/shoal.v1.Ca/RenewCertificate", Who::MEMBER),
    ("/shoal.v1.Control/ApplyStack", Who::DEPLOY),
    ("/shoal.v1.Control/ConnectTask", Who::OPERATE),
    ("/shoal.v1.Control/CreateConfig", Who::OPERATE),
    ("/shoal.v1.Control/CreateNetwork", Who::OPERATE),
    ("/shoal.v1.Control/CreateSecret", Who::OPERATE),
    ("/shoal.v1.Control/CreateService", Who::OPERATE),
    ("/shoal.v1.Control/CreateUser", Who::ADMINISTER),
    ("/shoal.v1.Control/DisconnectTask", Who::OPERATE),
    ("/shoal.v1.Control/Exec", Who::DEPLOY),
    ("/shoal.v1.Control/GetCluster", Who::READ),
    ("/shoal.v1.Control/GetConfig", Who::READ),
    ("/shoal.v1.Control/GetDeployment", Who::READ),
    ("/shoal.v1.Control/GetDiskUsage", Who::OVERSEE),
    ("/shoal.v1.Control/GetJoinToken", Who::OPERATE),
    ("/shoal.v1.Control/GetNetwork", Who::READ),
    ("/shoal.v1.Control/GetNode", Who::READ),
    ("/shoal.v1.Control/GetSecret", Who::READ),
    ("/shoal.v1.Control/GetService", Who::READ),
    ("/shoal.v1.Control/GetStack", Who::READ),
    ("/shoal.v1.Control/GetTask", Who::READ),
    ("/shoal.v1.Control/GetUsage", Who::READ),
    ("/shoal.v1.Control/GetUser", Who::READ),
    ("/shoal.v1.Control/GetVersion", Who::READ),
    ("/shoal.v1.Control/ListConfigs", Who::READ),
    ("/shoal.v1.Control/ListNetworks", Who::READ),
    ("/shoal.v1.Control/ListNodes", Who::READ),
    ("/shoal.v1.Control/ListSecrets", Who::READ),
    ("/shoal.v1.Control/ListServices", Who::READ),
    ("/shoal.v1.Control/ListStacks", Who::READ),
    ("/shoal.v1.Control/ListTasks", Who::READ),
    ("/shoal.v1.Control/ListUsers", Who::ADMINISTER),
    ("/shoal.v1.Control/ListVolumes", Who::READ),
    ("/shoal.v1.Control/PruneNodes", Who::OPERATE),
    ("/shoal.v1.Control/RaiseLevel", Who::ADMINISTER),
    ("/shoal.v1.Control/RemoveConfig", Who::OPERATE),
    ("/shoal.v1.Control/RemoveNetwork", Who::OPERATE),
    ("/shoal.v1.Control/RemoveNode", Who::OPERATE),
    ("/shoal.v1.Control/RemoveSecret", Who::OPERATE),
    ("/shoal.v1.Control/RemoveService", Who::DEPLOY),
    ("/shoal.v1.Control/RemoveStack", Who::DEPLOY),
    ("/shoal.v1.Control/RemoveUser", Who::ADMINISTER),
    ("/shoal.v1.Control/RemoveVolume", Who::OPERATE),
    ("/shoal.v1.Control/RollBackStack", Who::DEPLOY),
    ("/shoal.v1.Control/RotateJoinToken", Who::OPERATE),
    ("/shoal.v1.Control/ServiceLogs", Who::READ),
    ("/shoal.v1.Control/TraceNetwork", Who::OVERSEE),
    ("/shoal.v1.Control/UpdateCluster", Who::ADMINISTER),
    ("/shoal.v1.Control/UpdateNode", Who::OPERATE),
    ("/shoal.v1.Control/UpdateService", Who::DEPLOY),
    ("/shoal.v1.Control/UpdateUser", Who::ADMINISTER),
    ("/shoal.v1.Control/VerifyNetworks", Who::OVERSEE),
    ("/shoal.v1.Control/Watch", Who::READ),
    ("/shoal.v1.Dispatcher/Acknowledge", Who::NODE),
    ("/shoal.v1.Dispatcher/AnswerQuestion", Who::NODE),
    ("/shoal.v1.Dispatcher/Assignments", Who::NODE),
    ("/shoal.v1.Dispatcher/AwaitWithdrawal", Who::NODE),
    ("/shoal.v1.Dispatcher/Drain", Who::NODE),
    ("/shoal.v1.Dispatcher/ExecStream", Who::NODE),
    ("/shoal.v1.Dispatcher/GetRegistryAuth", Who::NODE),
    ("/shoal.v1.Dispatcher/Heartbeat", Who::NODE),
    ("/shoal.v1.Dispatcher/Leave", Who::NODE),
    ("/shoal.v1.Dispatcher/PublishLogs", Who::NODE),
    ("/shoal.v1.Dispatcher/Session", Who::NODE),
    ("/shoal.v1.Dispatcher/StepDown", Who::NODE),
    ("/shoal.v1.Dispatcher/UpdateTaskStatus", Who::NODE),
    ("/shoal.v1.Managers/Announce", Who::MANAGER),
    ("/shoal.v1.Raft/AppendEntries", Who::MANAGER),
    ("/shoal.v1.Raft/RequestVote", Who::MANAGER),
    ("/shoal.v1.Raft/InstallSnapshot", Who::MANAGER),
    ("/shoal.v1.Raft/TakeOver", Who::MANAGER),
];

/// Who may call a method; `None` if it is not in the table.
#[must_use]
pub fn who_may(path: &str) -> Option<Who> {
    TABLE.iter().find(|(method, _)| *method == path).map(|(_, who)| *who)
}

/// Whether calls of a method are written down with who made them and what came of it: all that a
/// user may do and a viewer may not, and what lets hosts in.
#[must_use]
pub fn is_audited(path: &str) -> bool {
    let audited =
        |who: Who| !who.meets(Who::VIEWER) && (who.meets(Who::USER) || who.meets(Who::JOINER));
    who_may(path).is_some_and(audited)
}
