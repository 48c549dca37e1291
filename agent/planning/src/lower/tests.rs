use std::time::Duration;

use shoal_types::object::{Meta, TaskNetwork};
use shoal_types::resources::{Limits, ResourceRequirements};
use shoal_types::spec::{
    BindOptions, Driver, Mount, MountKind, NetworkSpec, PortConfig, Protocol, PublishMode,
    TmpfsOptions, VolumeMountOptions,
};

use super::*;
use crate::testing::task;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn image() -> ImageDefaults {
    ImageDefaults {
        entrypoint: words(&["/entry"]),
        cmd: words(&["serve", "--all"]),
        env: words(&["PATH=/image/bin", "A=1", "B=2"]),
        user: "nobody".to_owned(),
        workdir: "/srv".to_owned(),
        stop_signal: "SIGQUIT".to_owned(),
        volumes: ["/data".to_owned()].into(),
        healthcheck: None,
    }
}

fn host() -> HostFacts {
    HostFacts { hostname: "alpha".to_owned() }
}

fn lowered(container: ContainerSpec) -> Result<ContainerPlan, LowerError> {
    plan(&task(container), &BTreeMap::new(), &image(), &host())
}

#[test]
fn command_and_arguments_replace_as_dockers_do() {
    type Words<'a> = Option<&'a [&'a str]>;
    let check = |command: Words<'_>, args: Words<'_>, expected: &[&str]| {
        let (command, args) = (command.map(words), args.map(words));
        let spec = ContainerSpec { command, args, ..ContainerSpec::default() };
        assert_eq!(lowered(spec).unwrap().config.argv, words(expected));
    };
    check(None, None, &["/entry", "serve", "--all"]);
    check(None, Some(&["help"]), &["/entry", "help"]);
    check(Some(&["sh"]), None, &["sh"]);
    check(Some(&["sh"]), Some(&["-c", "x"]), &["sh", "-c", "x"]);
    // What is empty is not absent: it takes the image's away.
    check(None, Some(&[]), &["/entry"]);
    check(Some(&[]), Some(&["sh"]), &["sh"]);
    check(Some(&["sh"]), Some(&[]), &["sh"]);
    check(Some(&[]), None, &[]);
    // As an image's own, an entrypoint of an empty text is none.
    check(Some(&[""]), Some(&["sh", "-c"]), &["sh", "-c"]);
    check(Some(&["", ""]), None, &["", ""]);
    let cleared = ImageDefaults { entrypoint: words(&[""]), cmd: words(&["sh"]), ..image() };
    let none = plan(&task(ContainerSpec::default()), &BTreeMap::new(), &cleared, &host());
    assert_eq!(none.unwrap().config.argv, ["sh"]);
}

#[test]
fn environment_replaces_in_place_and_a_bare_name_removes() {
    let check = |env: &[&str], tty, expected: &[&str]| {
        let spec = ContainerSpec {
            env: words(env),
            hostname: "h".to_owned(),
            tty,
            ..ContainerSpec::default()
        };
        assert_eq!(lowered(spec).unwrap().config.env, words(expected), "{env:?}");
    };
    check(&[], false, &["PATH=/image/bin", "HOSTNAME=h", "A=1", "B=2"]);
    check(
        &["B=3", "C=4=5", "A"],
        true,
        &["PATH=/image/bin", "HOSTNAME=h", "TERM=xterm", "B=3", "C=4=5"],
    );
    check(&["PATH=/x", "GONE", "A=", "A=9"], false, &["PATH=/x", "HOSTNAME=h", "A=9", "B=2"]);
}

#[test]
fn the_image_fills_in_what_the_service_leaves_open() {
    let plan = lowered(ContainerSpec::default()).unwrap();
    assert_eq!(plan.user, "nobody");
    assert_eq!(plan.config.cwd, PathBuf::from("/srv"));
    assert_eq!(plan.stop_signal, 3);
    assert_eq!(plan.hostname, "000000000000", "the beginning of the task's id");
    let spec = ContainerSpec {
        user: "1000:1000".to_owned(),
        dir: "/w".to_owned(),
        stop_signal: "INT".to_owned(),
        hostname: "mine".to_owned(),
        ..ContainerSpec::default()
    };
    let plan = lowered(spec).unwrap();
    assert_eq!(plan.user, "1000:1000");
    assert_eq!((plan.config.cwd.as_path(), plan.stop_signal), ("/w".as_ref(), 2));
    assert_eq!(plan.hostname, "mine");
    let bare = super::plan(
        &task(ContainerSpec::default()),
        &BTreeMap::new(),
        &ImageDefaults::default(),
        &host(),
    )
    .unwrap();
    assert_eq!((bare.user.as_str(), bare.stop_signal), ("", 15));
    assert_eq!(bare.config.cwd, PathBuf::from("/"));
}

fn mount(kind: MountKind, source: &str, target: &str) -> Mount {
    Mount {
        kind,
        source: source.to_owned(),
        target: target.to_owned(),
        read_only: false,
        consistency: String::new(),
        bind_options: None,
        volume_options: None,
        image_options: None,
        tmpfs_options: None,
    }
}

#[test]
fn mounts_and_the_images_volumes() {
    let mounts = vec![
        Mount { read_only: true, ..mount(MountKind::Bind, "/host", "/in/") },
        mount(MountKind::Volume, "db", "/db"),
        mount(MountKind::Volume, "", "/anon"),
        Mount {
            tmpfs_options: Some(TmpfsOptions { size_bytes: 99, ..TmpfsOptions::default() }),
            ..mount(MountKind::Tmpfs, "", "/tmp")
        },
    ];
    let spec = ContainerSpec { mounts: mounts.clone(), ..ContainerSpec::default() };
    let plan = lowered(spec).unwrap();
    let id = "0000000000000000000000007";
    let names: Vec<String> = plan
        .mounts
        .iter()
        .map(|m| match &m.source {
            Source::Bind { path, create, field } => {
                format!("{} {create} {field}", path.display())
            }
            Source::Volume { config, copy, anonymous } => {
                format!("{} {copy} {anonymous}", config.name)
            }
            Source::Tmpfs { size_bytes, mode } => format!("{size_bytes:?} {mode:o}"),
        })
        .collect();
    let expected = [
        "/host false mounts[0].source".to_owned(),
        "db true false".to_owned(),
        format!("{id}-m2 true true"),
        "Some(99) 1777".to_owned(),
        format!("{id}-i0 true true"),
    ];
    assert_eq!(names, expected);
    assert_eq!(plan.mounts[0].target, PathBuf::from("/in"));
    assert!(plan.mounts[0].read_only && !plan.mounts[1].read_only);
    // A mount at the place of the image's volume takes it.
    let covered = ContainerSpec {
        mounts: vec![mount(MountKind::Tmpfs, "", "/data/")],
        ..ContainerSpec::default()
    };
    assert_eq!(lowered(covered).unwrap().mounts.len(), 1);
}

#[test]
fn volumes_of_an_image_do_not_cover_the_kernels_own() {
    let with = |place: &str| {
        let image = ImageDefaults { volumes: [place.to_owned()].into(), ..image() };
        plan(&task(ContainerSpec::default()), &BTreeMap::new(), &image, &host())
    };
    for place in ["/proc", "/proc/sys", "/proc/uptime", "/sys", "/sys/fs", "/dev", "/dev/pts/"] {
        let error = with(place).unwrap_err().to_string();
        assert!(error.starts_with(&format!("volume of the image: {place:?} is ")), "{error}");
    }
    for place in ["/dev/shm", "/devices", "/srv/proc"] {
        assert_eq!(with(place).unwrap().mounts[0].target, PathBuf::from(place));
    }
    let mounts = vec![mount(MountKind::Bind, "/x", "/proc/sys")];
    let error = lowered(ContainerSpec { mounts, ..Default::default() }).unwrap_err().to_string();
    assert!(error.starts_with("mounts[0].target: \"/proc/sys\" is in /proc"), "{error}");
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let bind =
        |options| Mount { bind_options: Some(options), ..mount(MountKind::Bind, "/a", "/b") };
    let with = |mount| ContainerSpec { mounts: vec![mount], ..ContainerSpec::default() };
    let shared = BindOptions { propagation: "shared".to_owned(), ..BindOptions::default() };
    let subpath = VolumeMountOptions { subpath: "x".to_owned(), ..VolumeMountOptions::default() };
    let cases = [
        (with(bind(shared)), "mounts[0].bind_options.propagation"),
        (
            with(bind(BindOptions { non_recursive: true, ..Default::default() })),
            "mounts[0].bind_options",
        ),
        (
            with(Mount { volume_options: Some(subpath), ..mount(MountKind::Volume, "v", "/v") }),
            "mounts[0].volume_options.subpath",
        ),
        (with(mount(MountKind::Image, "i", "/i")), "mounts[0].type"),
        (with(mount(MountKind::Tmpfs, "", "/a/../b")), "mounts[0].target"),
        (ContainerSpec { init: Some(true), ..Default::default() }, "init"),
        (ContainerSpec { groups: words(&["wheel"]), ..Default::default() }, "groups"),
        (ContainerSpec { stop_signal: "NOPE".to_owned(), ..Default::default() }, "stop_signal"),
        (ContainerSpec { dir: "rel".to_owned(), ..Default::default() }, "dir"),
        (ContainerSpec { hosts: words(&["name"]), ..Default::default() }, "hosts"),
    ];
    for (spec, field) in cases {
        let error = lowered(spec).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{field}: ")), "{error} names {field}");
    }
}

fn network(id: u128, name: &str, driver: &str) -> (NetworkId, Arc<Network>) {
    let spec = NetworkSpec {
        name: name.to_owned(),
        driver: Driver { name: driver.to_owned(), ..Driver::default() },
        ..NetworkSpec::default()
    };
    let network = Network {
        id: id.into(),
        meta: Meta::default(),
        spec,
        stack_id: None,
        predefined: false,
        subnets: Vec::new(),
    };
    (id.into(), Arc::new(network))
}

#[test]
fn networks() {
    let mut known: BTreeMap<_, _> = [
        network(1, "bridge", "bridge"),
        network(2, "host", "host"),
        network(3, "none", "none"),
        network(4, "wide", "overlay"),
    ]
    .into();
    let wide = known.get_mut(&4.into()).and_then(Arc::get_mut).unwrap();
    wide.subnets = vec!["10.0.4.0/24".parse().unwrap()];
    let joins = |ids: &[u128]| {
        let mut task = task(ContainerSpec::default());
        let join = |id: &u128| TaskNetwork {
            network_id: (*id).into(),
            aliases: words(&["www"]),
            driver_opts: BTreeMap::new(),
            addresses: (*id == 4).then(|| "10.0.4.9/24".parse().unwrap()).into_iter().collect(),
            connected: false,
        };
        task.networks = ids.iter().map(join).collect();
        plan(&task, &known, &image(), &host())
    };
    let NetworkPlan::Joined(joined) = joins(&[1]).unwrap().network else { panic!("bridge") };
    assert_eq!(joined[0].config.name, "bridge");
    assert_eq!(joined[0].request.container, "0000000000000000000000007");
    assert_eq!(joined[0].request.aliases, ["web", "web.3", "www"].map(str::to_owned).into());
    assert!(!joined[0].config.routed);
    let NetworkPlan::Joined(joined) = joins(&[4]).unwrap().network else { panic!("overlay") };
    assert!(joined[0].config.routed);
    assert_eq!(joined[0].config.subnets[0].subnet, "10.0.4.0/24".parse().unwrap());
    assert_eq!(joined[0].request.address, Some([10, 0, 4, 9].into()));
    assert_eq!(joins(&[3]).unwrap().network, NetworkPlan::Joined(Vec::new()));
    let on_host = joins(&[2]).unwrap();
    assert_eq!((on_host.network, on_host.hostname.as_str()), (NetworkPlan::Host, "alpha"));
    assert!(on_host.config.foreign_network);
    assert!(matches!(joins(&[1, 2]), Err(LowerError::Unsupported { .. })));
    assert!(matches!(joins(&[9]), Err(LowerError::UnknownNetwork { .. })));
}

fn port(published: u16, target: u16, mode: PublishMode) -> PortConfig {
    PortConfig {
        name: String::new(),
        protocol: Protocol::Tcp,
        target_port: target,
        published_port: published,
        publish_mode: mode,
        host_ip: None,
    }
}

#[test]
fn ports() {
    let with = |port, networks: &[u128]| {
        let mut task = task(ContainerSpec::default());
        task.ports = vec![port];
        let join = |id: &u128| TaskNetwork {
            network_id: (*id).into(),
            aliases: Vec::new(),
            driver_opts: BTreeMap::new(),
            addresses: Vec::new(),
            connected: false,
        };
        task.networks = networks.iter().map(join).collect();
        let networks = [network(2, "host", "host")].into();
        // What cannot be published is refused before anything is made.
        let planned = plan(&task, &networks, &image(), &host());
        let decided = publication(&task, &networks);
        assert_eq!(planned.err(), decided.clone().err());
        decided
    };
    let published = with(port(8080, 80, PublishMode::Host), &[]).unwrap();
    let Publication::ByNode { own, shared } = published else { panic!("{published:?}") };
    assert_eq!((own[0].to_string().as_str(), shared), ("0.0.0.0:8080->80/tcp", vec![]));
    let everywhere = with(port(8080, 80, PublishMode::Ingress), &[]).unwrap();
    let Publication::ByNode { own, shared } = everywhere else { panic!("{everywhere:?}") };
    assert_eq!((own, shared[0].to_string().as_str()), (vec![], "8080->80/tcp"));
    let error = with(port(0, 80, PublishMode::Ingress), &[]).unwrap_err().to_string();
    assert!(error.contains("managers have given it no number"), "{error}");
    let error = with(port(80, 80, PublishMode::Ingress), &[2]).unwrap_err().to_string();
    assert!(error.starts_with("ports[0]: \"80\" answers on every node"), "{error}");
    let own = port(80, 80, PublishMode::Host);
    assert_eq!(with(own.clone(), &[2]), Ok(Publication::ByItself(vec![own])));
    let error = with(port(8080, 80, PublishMode::Host), &[2]).unwrap_err().to_string();
    assert!(error.starts_with("ports[0]: \"8080:80\""), "{error}");
}

#[test]
fn resources_health_and_annotations_reach_the_container() {
    let mut task = task(ContainerSpec {
        healthcheck: Some(Healthcheck {
            interval: Some(Duration::from_secs(1)),
            ..Healthcheck::default()
        }),
        read_only: true,
        ..ContainerSpec::default()
    });
    let limits = Limits { nano_cpus: 500_000_000, memory_bytes: 64 << 20, pids: 10 };
    Arc::make_mut(&mut task.spec).resources =
        Some(ResourceRequirements { limits: Some(limits), ..Default::default() });
    let image = ImageDefaults {
        healthcheck: Some(Healthcheck { test: words(&["CMD", "ok"]), ..Default::default() }),
        ..image()
    };
    let plan = plan(&task, &BTreeMap::new(), &image, &host()).unwrap();
    let check = plan.healthcheck.clone().unwrap();
    assert_eq!((check.test, check.interval), (words(&["CMD", "ok"]), Some(Duration::from_secs(1))));
    let spec = plan.oci_spec(Vec::new()).unwrap();
    let annotations = spec.annotations().clone().unwrap();
    assert_eq!(annotations["io.shoal.service.name"], "web");
    let resources = spec.linux().clone().unwrap().resources().clone().unwrap();
    assert_eq!(resources.memory().unwrap().limit(), Some(64 << 20));
    assert_eq!(resources.pids().unwrap().limit(), 10);
    assert_eq!(spec.root().clone().unwrap().readonly(), Some(true));
}

#[test]
fn processes_are_bounded_whatever_is_asked_for() {
    let limits = |limits| Some(ResourceRequirements { limits, ..Default::default() });
    let memory = Limits { memory_bytes: 64 << 20, ..Limits::default() };
    for (resources, expected) in [
        (None, 16_384),
        (limits(None), 16_384),
        (limits(Some(memory)), 16_384),
        (limits(Some(Limits { pids: 100_000, ..memory })), 100_000),
    ] {
        let mut task = task(ContainerSpec::default());
        Arc::make_mut(&mut task.spec).resources = resources;
        let plan = plan(&task, &BTreeMap::new(), &image(), &host()).unwrap();
        let spec = plan.oci_spec(Vec::new()).unwrap();
        let resources = spec.linux().clone().unwrap().resources().clone().unwrap();
        assert_eq!(resources.pids().unwrap().limit(), expected);
    }
}

#[test]
fn own_files_give_way_to_mounts() {
    let spec = ContainerSpec {
        mounts: vec![mount(MountKind::Bind, "/x", "/etc/hosts")],
        ..ContainerSpec::default()
    };
    let names: Vec<&str> =
        own_files(&lowered(spec).unwrap()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["hostname", "resolv.conf"]);
}

/// Whoever shares the network of another task has its name and files, and never a network of its own instead.
#[test]
fn who_shares_a_network_is_what_its_partner_is_there() {
    let networks = BTreeMap::from([network(1, "bridge", "bridge"), network(3, "host", "host")]);
    let joined = |id: u128| TaskNetwork {
        network_id: id.into(),
        aliases: Vec::new(),
        driver_opts: BTreeMap::new(),
        addresses: Vec::new(),
        connected: false,
    };
    let partner = |on: u128| AssignedTask {
        id: 9.into(),
        service_name: "db".to_owned(),
        networks: vec![joined(on)],
        ..task(ContainerSpec::default())
    };
    let mut task = task(ContainerSpec::default());
    Arc::make_mut(&mut task.spec).network_of = Some("db".to_owned());
    task.partner = Some(9.into());
    let (image, host) = (ImageDefaults::default(), HostFacts { hostname: "alpha".to_owned() });
    let image = ImageDefaults { cmd: vec!["run".to_owned()], ..image };
    let planned = |task: &AssignedTask, partner: Option<&AssignedTask>| {
        plan_beside(task, partner, &networks, &image, &host)
    };
    let beside = planned(&task, Some(&partner(1))).unwrap();
    assert_eq!(beside.network, NetworkPlan::Of(9.into()));
    assert_eq!(beside.hostname, partner(1).id.to_string()[..12]);
    assert!(beside.config.foreign_network && beside.asker.is_none());
    let on_host = planned(&task, Some(&partner(3))).unwrap();
    assert_eq!((on_host.network, on_host.hostname.as_str()), (NetworkPlan::Host, "alpha"));
    // Another service, slot or node, one that shares itself, or nobody.
    let mut chained = partner(1);
    Arc::make_mut(&mut chained.spec).network_of = Some("third".to_owned());
    let others = [
        AssignedTask { service_name: "web".to_owned(), ..partner(1) },
        AssignedTask { slot: shoal_types::object::Slot::Replica(77), ..partner(1) },
        AssignedTask { node_id: 77.into(), ..partner(1) },
        AssignedTask { id: 10.into(), ..partner(1) },
        chained,
    ];
    for other in others.iter().map(Some).chain([None]) {
        let error = planned(&task, other).unwrap_err().to_string();
        let why = "no task of service \"db\", whose network the task shares, is known to this node";
        assert_eq!(error, why, "{other:?}");
    }
}
