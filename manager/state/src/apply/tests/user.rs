use shoal_types::id::{IdSource as _, UserId};
use shoal_types::spec::{UserRole, UserSpec};
use shoal_types::time::Timestamp;

use super::*;

fn spec(name: &str, role: UserRole) -> UserSpec {
    UserSpec { name: name.to_owned(), role, ..UserSpec::default() }
}

fn add(cluster: &mut TestCluster, name: &str, role: UserRole) -> UserId {
    let id = cluster.ids.next_id();
    cluster.apply(Command::CreateUser { id, spec: spec(name, role) });
    id
}

#[test]
fn users_are_made_found_changed_and_removed() {
    let mut cluster = TestCluster::new();
    let admin = add(&mut cluster, "admin", UserRole::Admin);
    let ci = add(&mut cluster, "ci", UserRole::Viewer);
    assert_eq!(cluster.state.user_by_name("ci").map(|u| u.id), Some(ci));
    assert_eq!(cluster.state.resolve_user("admin").map(|u| u.id), Ok(admin));
    let taken = Command::CreateUser { id: 77.into(), spec: spec("ci", UserRole::Admin) };
    assert!(matches!(cluster.try_apply(taken), Err(Rejected::NameTaken { .. })));

    let update = |expected, name: &str| Command::UpdateUser {
        id: ci,
        expected,
        spec: spec(name, UserRole::Operator),
    };
    assert!(matches!(
        cluster.try_apply(update(2, "robot")),
        Err(Rejected::OutOfSequence { current: 1, .. })
    ));
    assert!(matches!(cluster.try_apply(update(1, "admin")), Err(Rejected::NameTaken { .. })));
    cluster.apply(update(1, "robot"));
    assert_eq!(cluster.state.user_by_name("ci"), None);
    let robot = cluster.state.user_by_name("robot").expect("renamed");
    assert_eq!((robot.id, robot.spec.role, robot.meta.spec_version), (ci, UserRole::Operator, 2));

    cluster.apply(Command::RemoveUser { id: ci });
    assert_eq!(cluster.state.user(ci), None);
    let again = cluster.try_apply(Command::RemoveUser { id: ci });
    assert!(matches!(again, Err(Rejected::NotFound { .. })));
    cluster.check();
}

#[test]
fn there_is_always_an_admin_once_there_are_users() {
    let mut cluster = TestCluster::new();
    let first = Command::CreateUser { id: 1.into(), spec: spec("ci", UserRole::Operator) };
    assert!(matches!(cluster.try_apply(first), Err(Rejected::FirstUser { .. })));
    let admin = add(&mut cluster, "admin", UserRole::Admin);
    add(&mut cluster, "ci", UserRole::Operator);
    let remove = Command::RemoveUser { id: admin };
    let demote = |expected| Command::UpdateUser {
        id: admin,
        expected,
        spec: spec("admin", UserRole::Viewer),
    };
    for command in [remove.clone(), demote(1)] {
        assert!(matches!(cluster.try_apply(command), Err(Rejected::LastAdmin { .. })));
    }
    add(&mut cluster, "second", UserRole::Admin);
    cluster.apply(demote(1));
    cluster.apply(remove);
    cluster.check();
}

/// An admin whose time ends is none when it has ended: it neither counts as another one nor may it be
/// the first, and the last lasting one is not given an end.
#[test]
fn the_last_admin_is_one_for_good() {
    let ending = |name| UserSpec {
        expires_at: Some(Timestamp::from_secs(9)),
        ..spec(name, UserRole::Admin)
    };
    let mut cluster = TestCluster::new();
    let first = Command::CreateUser { id: 1.into(), spec: ending("ci") };
    assert!(matches!(cluster.try_apply(first), Err(Rejected::FirstUser { .. })));
    let admin = add(&mut cluster, "admin", UserRole::Admin);
    cluster.apply(Command::CreateUser { id: 1.into(), spec: ending("ci") });
    for command in [
        Command::RemoveUser { id: admin },
        Command::UpdateUser { id: admin, expected: 1, spec: spec("admin", UserRole::Viewer) },
        Command::UpdateUser { id: admin, expected: 1, spec: ending("admin") },
    ] {
        assert!(matches!(cluster.try_apply(command), Err(Rejected::LastAdmin { .. })));
    }
    // The other one is nobody's last hope.
    cluster.apply(Command::RemoveUser { id: 1.into() });
    add(&mut cluster, "second", UserRole::Admin);
    cluster.apply(Command::UpdateUser { id: admin, expected: 1, spec: ending("admin") });
    cluster.check();
}

#[test]
fn members_are_shared_until_one_of_them_changes() {
    let mut cluster = TestCluster::new();
    add(&mut cluster, "admin", UserRole::Admin);
    let before = cluster.state.clone();
    cluster.add_network("back");
    assert!(before.shares_members_with(&cluster.state));
    add(&mut cluster, "ci", UserRole::Viewer);
    assert!(!before.shares_members_with(&cluster.state));
    let before = cluster.state.clone();
    cluster.add_node("host");
    assert!(!before.shares_members_with(&cluster.state));
}
