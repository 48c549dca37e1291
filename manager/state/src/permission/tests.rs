use std::collections::BTreeMap;

use shoal_types::id::TaskId;
use shoal_types::object::Meta;
use shoal_types::spec::{Driver, Mount, MountKind, Privileges, Ulimit, VolumeMountOptions};
use shoal_types::time::Timestamp;

use super::*;
use crate::Command;
use crate::testing::{TestCluster, network_spec, service_spec, with_networks, with_task};

fn user(role: UserRole, stacks: &[&str]) -> User {
    let spec = UserSpec {
        name: "ci".to_owned(),
        role,
        stacks: stacks.iter().map(|s| (*s).to_owned()).collect(),
        ..UserSpec::default()
    };
    User { id: 5.into(), meta: Meta::created(1, Timestamp::ZERO), spec }
}

fn stack(name: &str) -> StackSpec {
    let (web, back) = (format!("{name}_web"), format!("{name}_back"));
    let mut web = service_spec(&web, 1);
    web.labels.insert(NAMESPACE_LABEL.to_owned(), name.to_owned());
    StackSpec {
        name: name.to_owned(),
        services: BTreeMap::from([("web".to_owned(), web)]),
        networks: BTreeMap::from([("back".to_owned(), network_spec(&back))]),
        ..StackSpec::default()
    }
}

/// Stacks `shop` and `blog` and a service `alone` without one, each with a task that runs.
fn cluster() -> (TestCluster, BTreeMap<&'static str, TaskId>) {
    let mut cluster = TestCluster::new();
    cluster.add_stack(stack("shop"));
    cluster.add_stack(stack("blog"));
    cluster.add_service(service_spec("alone", 1));
    let (mut tasks, node) = (BTreeMap::new(), cluster.add_node("node-0"));
    for name in ["shop_web", "blog_web", "alone"] {
        let service = cluster.state.service_by_name(name).expect("there").id;
        tasks.insert(name, cluster.add_running(service, 1, node));
    }
    (cluster, tasks)
}

#[test]
fn a_deployer_touches_its_own_stacks_alone() {
    let (cluster, tasks) = cluster();
    let (view, ci) = (&cluster.state, user(UserRole::Deployer, &["shop", "new"]));
    let deployment =
        |name: &str| view.service_by_name(name).expect("there").deployment_id.to_string();
    let (own, other) = (deployment("shop_web"), deployment("blog_web"));
    let (own_task, other_task) = (tasks["shop_web"].to_string(), tasks["blog_web"].to_string());
    let other_id = view.stack_by_name("blog").expect("there").id.to_string();
    let (spec, new, foreign) = (stack("shop"), stack("new"), stack("blog"));
    let next = service_spec("shop_web", 3);
    let allowed = [
        Asked::Common,
        Asked::Stack("shop"),
        Asked::Stack("nowhere"),
        Asked::Apply(&spec),
        Asked::Apply(&new),
        Asked::Service("shop_web"),
        Asked::Service("nowhere"),
        Asked::Update("shop_web", Some(&next)),
        Asked::Update("shop_web", None),
        Asked::Task("shop_web.1"),
        Asked::Task(&own_task),
        Asked::ServiceOrTask("shop_web"),
        Asked::ServiceOrTask("shop_web.1"),
        Asked::Deployment(&own),
        Asked::User(""),
    ];
    for asked in allowed {
        assert_eq!(permit(view, &ci, asked), Ok(()), "{asked:?}");
    }
    let refused = [
        Asked::Stack("blog"),
        Asked::Stack(&other_id),
        Asked::Apply(&foreign),
        Asked::Service("blog_web"),
        Asked::Service("alone"),
        Asked::Update("blog_web", Some(&next)),
        Asked::Update("alone", None),
        Asked::Task("blog_web.1"),
        Asked::Task("alone.1"),
        Asked::Task(&other_task),
        Asked::ServiceOrTask("blog_web"),
        Asked::ServiceOrTask("blog_web.1"),
        Asked::ServiceOrTask(&other_task),
        Asked::Deployment(&other),
        Asked::ManagerToken,
        Asked::User("admin"),
        Asked::NodesAsWhole,
    ];
    for asked in refused {
        assert!(permit(view, &ci, asked).is_err(), "{asked:?}");
        let admin = user(UserRole::Admin, &[]);
        assert_eq!(permit(view, &admin, asked), Ok(()), "{asked:?}");
    }
    let said = permit(view, &ci, Asked::Service("blog_web")).expect_err("refused").to_string();
    assert_eq!(said, "user ci deploys stacks shop, new, and service blog_web is not part of that");
}

#[test]
fn a_deployer_sees_its_own_stacks_alone_also_while_they_go() {
    let (mut cluster, tasks) = cluster();
    let (ci, viewer) = (user(UserRole::Deployer, &["shop"]), user(UserRole::Viewer, &[]));
    let seen = |state: &ClusterState, user: &User| -> Vec<String> {
        let shown = state.tasks().filter(|t| sees_task(state, &user.spec, t));
        shown.map(|t| t.service_name.to_string()).collect()
    };
    assert_eq!(seen(&cluster.state, &ci), ["shop_web"]);
    assert_eq!(seen(&cluster.state, &viewer).len(), 3);
    for name in ["shop", "blog"] {
        let id = cluster.state.stack_by_name(name).expect("there").id;
        cluster.apply(Command::RemoveStack { id });
    }
    let is_left = |name| cluster.state.task(tasks[name]).is_some();
    assert!(is_left("shop_web") && is_left("blog_web"), "they run until their node says otherwise");
    assert_eq!(seen(&cluster.state, &ci), ["shop_web"]);
}

/// Two services whose ids begin alike, and one that nobody has: what may be done with the one that is
/// meant is decided in the state in which it is found.
#[test]
fn what_is_ambiguous_is_refused_and_what_is_nowhere_is_let_through() {
    let (mut cluster, _) = cluster();
    for id in [1_u128, 2] {
        let spec = service_spec(&format!("more-{id}"), 1).into();
        cluster.apply(Command::CreateService { id: id.into(), deployment_id: id.into(), spec });
    }
    let (view, ci) = (&cluster.state, user(UserRole::Deployer, &["shop"]));
    let id = view.service_by_name("more-1").expect("made").id.to_string();
    let prefix = &id[..id.len() - 1];
    assert!(matches!(view.resolve_service(prefix), Err(Unresolved::Ambiguous { .. })));
    let next = service_spec("shop_web", 3);
    for spec in [None, Some(&next)] {
        assert!(permit(view, &ci, Asked::Update(prefix, spec)).is_err());
        assert_eq!(permit(view, &ci, Asked::Update("nowhere", spec)), Ok(()));
    }
}

/// Networks that are made with the stack are its own; those that are not there may be anybody's.
#[test]
fn a_network_that_does_not_exist_is_the_stacks_if_it_makes_it() {
    let (view, ci) = (cluster().0.state, user(UserRole::Deployer, &["new"]));
    let joins = |network: &str| {
        let web = with_networks(service_spec("new_web", 1), &[network]);
        StackSpec { services: [("web".to_owned(), web)].into(), ..stack("new") }
    };
    assert_eq!(permit(&view, &ci, Asked::Apply(&joins("new_back"))), Ok(()));
    let said = permit(&view, &ci, Asked::Apply(&joins("later"))).expect_err("anybody's");
    assert!(said.to_string().contains("web.networks[0]: \"later\" does not exist"), "{said}");
}

#[test]
fn what_a_removed_stack_leaves_is_not_of_one_whose_name_begins_its_own() {
    let (mut cluster, _) = cluster();
    cluster.add_stack(stack("shop_b"));
    let service = cluster.state.service_by_name("shop_b_web").expect("there").id;
    let node = cluster.add_node("node-1");
    let task = cluster.add_running(service, 1, node);
    let id = cluster.state.stack_by_name("shop_b").expect("there").id;
    cluster.apply(Command::RemoveStack { id });
    let task = cluster.state.task(task).expect("it still stops").clone();
    assert!(cluster.state.service(service).is_none());
    let sees = |stack| sees_task(&cluster.state, &user(UserRole::Deployer, &[stack]).spec, &task);
    assert!(sees("shop_b"));
    assert!(!sees("shop"));
}

/// A service of stack `shop` with a changed container.
fn container(change: &dyn Fn(&mut ContainerSpecOf)) -> ServiceSpec {
    with_task(service_spec("shop_web", 1), |task| {
        if let shoal_types::spec::TaskRuntime::Container(c) = &mut task.runtime {
            change(c);
        }
    })
}

/// Whether a deployer of stack `shop` may give its service this spec, in the one way and the other.
fn deploys(view: &ClusterState, spec: &ServiceSpec, host_access: bool) -> Result<(), Forbidden> {
    let mut ci = user(UserRole::Deployer, &["shop"]);
    ci.spec.host_access = host_access;
    let services = BTreeMap::from([("web".to_owned(), spec.clone())]);
    let applied = StackSpec { services, ..stack("shop") };
    let update = permit(view, &ci, Asked::Update("shop_web", Some(spec)));
    let apply = permit(view, &ci, Asked::Apply(&applied));
    assert_eq!(update.is_ok(), apply.is_ok(), "{spec:?}");
    apply
}

/// What the kernel takes from others for it is the host's, too.
#[test]
fn a_deployer_does_not_come_before_the_host() {
    let (cluster, _) = cluster();
    let limits = |names: &'static [&str]| {
        let limit = |name: &&str| Ulimit { name: (*name).to_owned(), soft: 1, hard: 99 };
        container(&|c| c.ulimits = names.iter().map(limit).collect())
    };
    let adjusted = |adj| container(&move |c| c.oom_score_adj = Some(adj));
    for spec in [adjusted(0), adjusted(500), limits(&["nofile", "memlock"])] {
        assert_eq!(deploys(&cluster.state, &spec, false), Ok(()), "{spec:?}");
    }
    for (spec, part) in [
        (adjusted(-1), "web.oom_score_adj: -1 is more than the default"),
        (adjusted(-1000), "web.oom_score_adj: -1000 is more than the default"),
        (limits(&["nofile", "nice"]), "web.ulimits[1]: nice 99 is more than the default"),
        (limits(&["rtprio"]), "web.ulimits[0]: rtprio 99 is more than the default"),
    ] {
        let said = deploys(&cluster.state, &spec, false).expect_err(part).to_string();
        assert!(said.contains(part), "{said} lacks {part}");
        assert_eq!(deploys(&cluster.state, &spec, true), Ok(()), "{part}");
    }
}

/// A volume outlives its stack, and is there for whoever deploys that again.
#[test]
fn volumes_of_a_stack_that_is_gone_are_its_deployers() {
    let (mut cluster, _) = cluster();
    for (id, name, role, stacks) in [
        (1_u128, "admin", UserRole::Admin, vec![]),
        (2, "other", UserRole::Deployer, vec!["shop_b".to_owned()]),
    ] {
        let spec = UserSpec { name: name.to_owned(), role, stacks, ..UserSpec::default() };
        cluster.apply(Command::CreateUser { id: id.into(), spec });
    }
    let mounts = |source: &'static str| {
        let mount = Mount::new(MountKind::Volume, source, "/data");
        container(&move |c| c.mounts.push(mount.clone()))
    };
    let said = deploys(&cluster.state, &mounts("shop_b_data"), false).expect_err("of shop_b");
    assert!(said.to_string().contains("is not a volume of the stack"), "{said}");
    for own in ["shop_data", "shop_my_data", "shop_bdata"] {
        assert_eq!(deploys(&cluster.state, &mounts(own), false), Ok(()), "{own}");
    }
}

#[test]
fn a_deployer_does_not_reach_hosts_or_other_stacks() {
    let (mut cluster, _) = cluster();
    cluster.add_stack(stack("shop_b"));
    cluster.add_network("common");
    cluster.add_wire("lan", "192.168.1.0/24", "");
    let view = &cluster.state;
    let plain = || service_spec("shop_web", 1);
    let mount = |kind, source: &str| {
        let mount = Mount::new(kind, source, "/data");
        container(&move |c| c.mounts.push(mount.clone()))
    };
    let with_driver = {
        let options = [("device".to_owned(), "/".to_owned())].into();
        let driver = Driver { name: "local".to_owned(), options };
        let volume_options =
            Some(VolumeMountOptions { driver_config: Some(driver), ..Default::default() });
        let mount = Mount::new(MountKind::Volume, "shop_data", "/data");
        let mount = Mount { volume_options, ..mount };
        container(&move |c| c.mounts.push(mount.clone()))
    };
    let unconfined = Privileges {
        seccomp: Some(shoal_types::spec::Seccomp::Unconfined),
        app_armor: Some(shoal_types::spec::AppArmor::Disabled),
        ..Privileges::default()
    };
    let fine = [
        plain(),
        mount(MountKind::Volume, "shop_data"),
        mount(MountKind::Volume, ""),
        mount(MountKind::Tmpfs, ""),
        with_networks(plain(), &["shop_back"]),
        with_networks(plain(), &["common"]),
        with_networks(plain(), &["bridge"]),
    ];
    let reaching = [
        (mount(MountKind::Bind, "/"), "web.mounts[0]: bind \"/\" is the host's"),
        (mount(MountKind::Volume, "blog_data"), "is not a volume of the stack"),
        (mount(MountKind::Volume, "shop_b_data"), "is not a volume of the stack"),
        (mount(MountKind::Volume, "shopdata"), "is not a volume of the stack"),
        (with_driver, "has options for its driver"),
        (with_networks(plain(), &["host"]), "web.networks[0]: \"host\" is the host's own"),
        (with_networks(plain(), &["lan"]), "web.networks[0]: \"lan\" is on a wire of the hosts"),
        (with_networks(plain(), &["blog_back"]), "\"blog_back\" is of another stack"),
        // Whose it is when the spec is applied, nobody knows.
        (with_networks(plain(), &["blog_new"]), "\"blog_new\" does not exist"),
        (container(&|c| c.capability_add = vec!["SYS_ADMIN".to_owned()]), "SYS_ADMIN is more"),
        (container(&move |c| c.privileges = Some(unconfined.clone())), "privileges.app_armor"),
    ];
    let deploys = |spec: &ServiceSpec, host_access| deploys(view, spec, host_access);
    for spec in fine {
        assert_eq!(deploys(&spec, false), Ok(()), "{spec:?}");
    }
    for (spec, part) in reaching {
        let said = deploys(&spec, false).expect_err(part).to_string();
        assert!(said.contains(part), "{said} lacks {part}");
        assert_eq!(deploys(&spec, true), Ok(()), "{part}");
    }
}

/// What an admin once let a stack reach does not come back by its deployer's hand.
#[test]
fn going_back_is_bound_by_what_is_gone_back_to() {
    let mut cluster = TestCluster::new();
    let binds = with_task(service_spec("shop_web", 1), |task| {
        if let shoal_types::spec::TaskRuntime::Container(container) = &mut task.runtime {
            container.capability_add = vec!["SYS_ADMIN".to_owned()];
        }
    });
    let services = BTreeMap::from([("web".to_owned(), binds)]);
    cluster.add_stack(StackSpec { services, ..stack("shop") });
    cluster.add_stack(stack("shop"));
    let view = &cluster.state;
    let mut ci = user(UserRole::Deployer, &["shop"]);
    for to in [None, Some(1)] {
        let asked = Asked::RollBack("shop", to);
        let said = permit(view, &ci, asked).expect_err("it reaches the host").to_string();
        assert!(said.contains("SYS_ADMIN"), "{said}");
    }
    ci.spec.host_access = true;
    assert_eq!(permit(view, &ci, Asked::RollBack("shop", None)), Ok(()));
    let other = user(UserRole::Deployer, &["blog"]);
    permit(view, &other, Asked::RollBack("shop", None)).expect_err("another's stack");
}

type ContainerSpecOf = shoal_types::spec::ContainerSpec;

#[test]
fn managers_tokens_and_other_users_are_for_admins() {
    let mut cluster = TestCluster::new();
    let names = [("admin", UserRole::Admin), ("op", UserRole::Operator)];
    for (id, (name, role)) in (1u128..).zip(names) {
        let spec = UserSpec { name: name.to_owned(), role, ..UserSpec::default() };
        cluster.apply(Command::CreateUser { id: id.into(), spec });
    }
    let view = &cluster.state;
    let op = User::clone(view.user_by_name("op").expect("there"));
    assert_eq!(permit(view, &op, Asked::User("op")), Ok(()));
    assert_eq!(permit(view, &op, Asked::Service("anything")), Ok(()));
    for (asked, what) in [
        (Asked::User("admin"), "what concerns other users"),
        (Asked::User("nobody"), "what concerns other users"),
        (Asked::ManagerToken, "the join token of managers"),
    ] {
        let said = permit(view, &op, asked).expect_err(what).to_string();
        assert_eq!(said, format!("user op has role operator, and {what} is for admins"));
    }
}
