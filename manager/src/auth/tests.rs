//! The table against the `.proto` files, and each verdict.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use shoal_types::id::{ClusterId, NodeId, UserId};
use shoal_types::object::{Meta, User};
use shoal_types::spec::UserSpec;
use tonic::Code;

use super::*;

/// `/package.Service/Method` for every method that the `.proto` files define.
fn methods() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(shoal_proto::FILE_DESCRIPTOR_SET);
    let mut methods = BTreeSet::new();
    for file in set.expect("descriptors").file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                methods.insert(path);
            }
        }
    }
    methods
}

#[test]
fn every_method_has_one_row_and_every_row_a_method() {
    let rows: BTreeSet<String> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(rows.len(), TABLE.len(), "a method has two rows");
    let methods = methods();
    assert!(methods.contains("/shoal.v1.Ca/RenewCertificate"), "{methods:?}");
    // What only local sockets serve is not on the manager's port, so it must have no row.
    let missing: Vec<_> = methods.difference(&rows).filter(|path| !is_local(path)).collect();
    assert!(missing.is_empty(), "methods without a row in the table: {missing:?}");
    let known = |path: &&String| methods.contains(*path) && !is_local(path);
    let left_over: Vec<_> = rows.iter().filter(|path| !known(path)).collect();
    assert!(left_over.is_empty(), "rows without a method: {left_over:?}");
}

/// Services of local sockets, whose callers the kernel vouches for.
fn is_local(path: &str) -> bool {
    ["/shoal.v1.LocalAgent/", "/shoal.v1.Bootstrap/"].iter().any(|local| path.starts_with(local))
}

struct Members(BTreeMap<PeerId, Role>);

impl Membership for Members {
    fn standing_of(&self, id: PeerId) -> Option<Standing> {
        match self.0.get(&id)? {
            Role::User => Some(Standing::Unlisted),
            role => Some(Standing::Node(*role)),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn identity(id: PeerId, role: Role) -> Identity {
    Identity {
        id,
        role,
        cluster: ClusterId::from(1),
        not_before: Timestamp::ZERO,
        not_after: Timestamp::from_secs(1_800_000_001),
    }
}

fn node(id: u128) -> PeerId {
    PeerId::Node(NodeId::from(id))
}

const VOTE: &str = "/shoal.v1.Raft/RequestVote";
const JOIN: &str = "/shoal.v1.Ca/IssueNodeCertificate";
const RENEW: &str = "/shoal.v1.Ca/RenewCertificate";

#[test]
fn each_caller_gets_what_the_table_says() {
    let user = PeerId::User(UserId::from(4));
    let members = Members(BTreeMap::from([
        (node(1), Role::Manager),
        (node(2), Role::Agent),
        (node(3), Role::Agent),
        (user, Role::User),
    ]));
    let trusted = |id, role| Peer::Trusted(identity(id, role));
    let joiner = || Peer::Joiner(Joiner { public_key: vec![1] });
    let late = Peer::Trusted(Identity { not_after: NOW, ..identity(node(1), Role::Manager) });
    let why = Refusal::WrongPurpose { who: "node x".into() };
    let none = "";
    let table = [
        (trusted(node(1), Role::Manager), VOTE, Code::Ok, none),
        (trusted(node(2), Role::Agent), RENEW, Code::Ok, none),
        (trusted(user, Role::User), RENEW, Code::Ok, none),
        (joiner(), JOIN, Code::Ok, none),
        (joiner(), RENEW, Code::Unauthenticated, "a join certificate may only be used to join"),
        (joiner(), "/no.Such/Thing", Code::Unauthenticated, "only be used to join"),
        (
            trusted(node(2), Role::Agent),
            VOTE,
            Code::PermissionDenied,
            "has role agent and may not call /shoal.v1.Raft/RequestVote, which is for managers",
        ),
        (trusted(user, Role::User), VOTE, Code::PermissionDenied, "has role user"),
        (trusted(node(1), Role::Manager), JOIN, Code::PermissionDenied, "for joining hosts"),
        // Demoted: the certificate still says manager.
        (trusted(node(2), Role::Manager), VOTE, Code::PermissionDenied, "has role agent"),
        // Promoted: the certificate does not say so yet.
        (trusted(node(1), Role::Agent), VOTE, Code::PermissionDenied, "has role agent"),
        (trusted(node(9), Role::Manager), VOTE, Code::Unauthenticated, "is not a member"),
        (trusted(node(1), Role::Manager), "/no.Such/Thing", Code::Unimplemented, "no method"),
        (late, VOTE, Code::Unauthenticated, "expired on 2027-01-15 08:00 UTC"),
        (Peer::Refused(why), RENEW, Code::Unauthenticated, "of node x is not one for clients"),
    ];
    for (peer, path, code, expected) in table {
        match authorise(&peer, path, &members, NOW) {
            Ok(_) => assert_eq!(Code::Ok, code, "{peer:?} {path}"),
            Err(status) => {
                assert_eq!(status.code(), code, "{peer:?} {path}: {status}");
                assert!(status.message().contains(expected), "{status} lacks {expected:?}");
            }
        }
    }
}

#[test]
fn a_demoted_manager_is_seen_as_an_agent() {
    let members = Members(BTreeMap::from([(node(2), Role::Agent)]));
    let peer = Peer::Trusted(identity(node(2), Role::Manager));
    let caller = authorise(&peer, RENEW, &members, NOW).expect("let through");
    let expected = Caller::Member(identity(node(2), Role::Agent), Standing::Node(Role::Agent));
    assert_eq!(caller, expected);
}

#[test]
fn only_a_manager_speaks_for_others_and_nobody_is_vouched_for_beyond_its_certificate() {
    let members = Members(BTreeMap::from([(node(1), Role::Manager), (node(2), Role::Agent)]));
    let admin = PeerId::User(UserId::from(4));
    let trusted = |id, role| Peer::Trusted(identity(id, role));
    let joiner = Peer::Joiner(Joiner { public_key: vec![1] });
    let late = Peer::Trusted(Identity { not_after: NOW, ..identity(node(1), Role::Manager) });
    let refused = Peer::Refused(Refusal::WrongPurpose { who: "x".into() });
    const READ: &str = "/shoal.v1.Control/GetNode";
    for (peer, speaks, [joins, reads, renews]) in [
        (trusted(node(1), Role::Manager), true, [false, false, true]),
        // Promoted or demoted since, removed, or never one.
        (trusted(node(1), Role::Agent), false, [false, false, true]),
        (trusted(node(2), Role::Manager), false, [false, false, true]),
        (trusted(node(9), Role::Manager), false, [false, false, true]),
        (trusted(admin, Role::User), false, [false, true, true]),
        (late, false, [false; 3]),
        (joiner, false, [true, false, false]),
        (refused, false, [false; 3]),
    ] {
        assert_eq!(may_pass_on(&peer, &members, NOW).is_ok(), speaks, "{peer:?}");
        let vouched = [JOIN, READ, RENEW].map(|path| vouches(&peer, path, NOW));
        assert_eq!(vouched, [joins, reads, renews], "{peer:?}");
        assert!(!vouches(&peer, "/no.Such/Thing", NOW), "{peer:?}");
    }
}

fn user(role: UserRole) -> Standing {
    let spec = UserSpec {
        name: "ann".to_owned(),
        role,
        stacks: vec!["shop".to_owned()],
        ..UserSpec::default()
    };
    Standing::User(Arc::new(User { id: 4.into(), meta: Meta::default(), spec }))
}

/// What everybody may call.
const VIEWERS: [&str; 25] = [
    "GetCluster",
    "GetConfig",
    "GetDeployment",
    "GetDiskUsage",
    "GetNetwork",
    "GetNode",
    "GetSecret",
    "GetService",
    "GetStack",
    "GetTask",
    "GetUsage",
    "GetUser",
    "GetVersion",
    "ListConfigs",
    "ListNetworks",
    "ListNodes",
    "ListSecrets",
    "ListServices",
    "ListStacks",
    "ListTasks",
    "ListVolumes",
    "ServiceLogs",
    "TraceNetwork",
    "VerifyNetworks",
    "Watch",
];

/// What each role may call, in full: a new row has to be put here by somebody who thinks about it.
#[test]
fn each_role_may_call_these_methods() {
    let deployer =
        ["ApplyStack", "Exec", "RemoveService", "RemoveStack", "RollBackStack", "UpdateService"];
    let operator = [
        "ConnectTask",
        "CreateConfig",
        "CreateNetwork",
        "CreateSecret",
        "CreateService",
        "DisconnectTask",
        "GetJoinToken",
        "PruneNodes",
        "RemoveConfig",
        "RemoveNetwork",
        "RemoveNode",
        "RemoveSecret",
        "RemoveVolume",
        "RotateJoinToken",
        "UpdateNode",
    ];
    // What these tell is not told apart by stacks.
    let not_for_deployers = ["GetDiskUsage", "TraceNetwork", "VerifyNetworks"];
    let admin =
        ["CreateUser", "ListUsers", "RaiseLevel", "RemoveUser", "UpdateCluster", "UpdateUser"];
    let mut expected = BTreeSet::new();
    let sets: [(UserRole, &[&str]); 4] = [
        (UserRole::Viewer, &VIEWERS),
        (UserRole::Deployer, &deployer),
        (UserRole::Operator, &operator),
        (UserRole::Admin, &admin),
    ];
    let identity = identity(PeerId::User(UserId::from(4)), Role::User);
    let view = ClusterState::new();
    for (role, more) in sets {
        expected.extend(more.iter().map(|m| (*m).to_owned()));
        let may = |path: &String| {
            permit(&identity, &user(role), path, Asked::Common, &view).is_ok()
                && path.starts_with("/shoal.v1.Control/")
        };
        let allowed: BTreeSet<String> =
            methods().iter().filter(|p| may(p)).map(|p| method(p).to_owned()).collect();
        let mut own = expected.clone();
        if role == UserRole::Deployer {
            own.retain(|m| !not_for_deployers.contains(&m.as_str()));
        }
        assert_eq!(allowed, own, "{role}");
    }
    // What is not a read is audited, and a join.
    let audited: BTreeSet<String> =
        methods().iter().filter(|p| is_audited(p)).map(|p| method(p).to_owned()).collect();
    let mut writes: BTreeSet<String> =
        [&deployer[..], &operator, &admin].concat().iter().map(|m| (*m).to_owned()).collect();
    writes.insert("IssueNodeCertificate".to_owned());
    assert_eq!(audited, writes);
}

#[test]
fn a_refusal_says_who_may() {
    let identity = identity(PeerId::User(UserId::from(4)), Role::User);
    let (path, view) = ("/shoal.v1.Control/RemoveNode", ClusterState::new());
    let said = permit(&identity, &user(UserRole::Viewer), path, Asked::Common, &view);
    assert_eq!(
        said.expect_err("refused").message(),
        "user ann has role viewer and may not call RemoveNode, which is for operators and admins"
    );
}

#[test]
fn a_user_whose_time_is_over_is_refused_although_its_certificate_is_valid() {
    struct Expired;
    impl Membership for Expired {
        fn standing_of(&self, _: PeerId) -> Option<Standing> {
            let Standing::User(user) = user(UserRole::Admin) else { return None };
            let mut user = User::clone(&user);
            user.spec.expires_at = Some(NOW);
            Some(Standing::User(Arc::new(user)))
        }

        fn changes(&self) -> watch::Receiver<u64> {
            watch::channel(0).1
        }
    }
    let peer = Peer::Trusted(identity(PeerId::User(UserId::from(4)), Role::User));
    let status = authorise(&peer, RENEW, &Expired, NOW).expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.message(), "the time of user ann ended on 2027-01-15 08:00 UTC");
}

/// What this manager knows may be older than the manager that calls.
#[test]
fn raft_is_heard_of_managers_that_are_not_known_yet_where_that_may_be_so() {
    struct Behind(Members, PeerId);
    impl Membership for Behind {
        fn standing_of(&self, id: PeerId) -> Option<Standing> {
            self.0.standing_of(id)
        }

        fn changes(&self) -> watch::Receiver<u64> {
            self.0.changes()
        }

        fn may_be_behind(&self, identity: &Identity) -> bool {
            identity.id == self.1
        }
    }
    // Node 2 was an agent when this manager heard last, and of node 3 it has not heard at all.
    let known = || Members(BTreeMap::from([(node(1), Role::Manager), (node(2), Role::Agent)]));
    let call = |leader: u128, caller: u128, role, path| {
        let peer = Peer::Trusted(identity(node(caller), role));
        authorise(&peer, path, &Behind(known(), node(leader)), NOW).map_err(|e| e.code())
    };
    for leader in [2, 3] {
        let expected = identity(node(leader), Role::Manager);
        let heard = Caller::Member(expected, Standing::Node(Role::Manager));
        assert_eq!(call(leader, leader, Role::Manager, VOTE), Ok(heard));
        assert!(call(leader, leader, Role::Agent, VOTE).is_err(), "its certificate says so");
        assert!(call(leader, 5 - leader, Role::Manager, VOTE).is_err(), "it is not the one");
    }
    assert_eq!(call(3, 3, Role::Manager, RENEW), Err(Code::Unauthenticated), "only Raft");
    assert_eq!(call(1, 3, Role::Manager, VOTE), Err(Code::Unauthenticated));
}
