mod network;
mod ports;
mod sharing;

use std::sync::Arc;
use std::time::Duration;

use crate::resources::{Limits, ResourceRequirements};
use crate::spec::{
    Affinity, BindOptions, ContainerSpec, DnsConfig, Driver, EndpointMode, EndpointSpec,
    Healthcheck, Ipam, Locality, Mount, MountKind, NetworkAttachmentConfig, NetworkSpec, Placement,
    PortConfig, Privileges, Protocol, PublishMode, RestartPolicy, Seccomp, ServiceMode,
    ServiceSpec, TaskRuntime, TaskSpec, Ulimit, UpdateConfig, UpdateOrder,
};

fn service(edit: impl FnOnce(&mut ServiceSpec, &mut TaskSpec, &mut ContainerSpec)) -> ServiceSpec {
    let mut container = ContainerSpec { image: "busybox".to_owned(), ..Default::default() };
    let mut task = TaskSpec::of(TaskRuntime::Container(ContainerSpec::default()));
    let mut spec = ServiceSpec {
        name: "web".to_owned(),
        labels: std::collections::BTreeMap::new(),
        task_template: Arc::new(task.clone()),
        mode: ServiceMode::Replicated { replicas: 1 },
        update_config: None,
        rollback_config: None,
        endpoint_spec: None,
    };
    edit(&mut spec, &mut task, &mut container);
    task.runtime = TaskRuntime::Container(container);
    spec.task_template = Arc::new(task);
    spec
}

fn port(published: u16, mode: PublishMode) -> PortConfig {
    PortConfig {
        name: String::new(),
        protocol: Protocol::Tcp,
        target_port: 80,
        published_port: published,
        publish_mode: mode,
        host_ip: None,
    }
}

fn violations(spec: &ServiceSpec) -> Vec<String> {
    spec.validate().err().map_or_else(Vec::new, |v| v.0.iter().map(ToString::to_string).collect())
}

#[test]
fn a_plain_service_is_fine() {
    assert_eq!(violations(&service(|_, _, _| {})), Vec::<String>::new());
}

#[test]
fn who_is_found_by_its_tasks_publishes_on_their_hosts_alone() {
    let problems = |mode, port_mode| {
        let spec = service(|s, _, _| {
            let ports = vec![port(80, port_mode)];
            s.endpoint_spec = Some(EndpointSpec { mode, ports, ..EndpointSpec::default() });
        });
        let found = spec.validate().err().map(|all| all.0).unwrap_or_default();
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let why = "\"ingress\" cannot be combined with endpoint mode dnsrr: expected mode host";
    let found = problems(EndpointMode::Dnsrr, PublishMode::Ingress);
    assert!(found.contains(&format!("endpoint_spec.ports[0]: {why}")), "{found}");
    assert!(!problems(EndpointMode::Vip, PublishMode::Ingress).contains(why));
    assert_eq!(problems(EndpointMode::Dnsrr, PublishMode::Host), "");
}

/// A fixed address is one task's.
#[test]
fn fixed_addresses_are_of_one_task() {
    let of = |replicas, order, addresses: &[&str]| {
        let spec = service(|s, t, _| {
            s.mode = ServiceMode::Replicated { replicas };
            s.update_config = Some(UpdateConfig { order, ..UpdateConfig::default() });
            let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
            let target = "n".to_owned();
            t.networks = vec![NetworkAttachmentConfig { target, addresses, ..Default::default() }];
        });
        violations(&spec).join("; ")
    };
    use UpdateOrder::{StartFirst, StopFirst};
    for replicas in [0, 1] {
        assert_eq!(of(replicas, StopFirst, &["10.0.0.7", "fd00::7"]), "");
    }
    assert_eq!(of(2, StartFirst, &[]), "");
    let error = of(2, StopFirst, &["10.0.0.7"]);
    assert!(
        error.contains(
            "task_template.networks[0].addresses[0]: \"10.0.0.7\" can be had by one task only"
        ),
        "{error}"
    );
    let error = of(1, StartFirst, &["10.0.0.7"]);
    assert!(error.contains("expected update order stop-first"), "{error}");
    let error = of(1, StopFirst, &["10.0.0.7", "10.0.0.8"]);
    assert!(
        error.contains("addresses[1]: \"10.0.0.8\" is one of several of its family"),
        "{error}"
    );
}

#[test]
fn what_is_open_is_not_served_for_ever() {
    let with =
        |secs| violations(&service(|_, _, c| c.drain_timeout = Some(Duration::from_secs(secs))));
    assert_eq!(with(3600), [] as [&str; 0]);
    let error = with(3601).join("");
    assert!(
        error.contains("container.drain_timeout: \"3601s\" is too long: expected at most 3600s"),
        "{error}"
    );
}

#[test]
fn each_violation_names_path_value_and_what_is_accepted() {
    let cases: [(ServiceSpec, &str); 14] = [
        (
            service(|_, t, _| {
                let (target, aliases) = ("n".to_owned(), vec!["ok".to_owned(); 65]);
                t.networks =
                    vec![NetworkAttachmentConfig { target, aliases, ..Default::default() }];
            }),
            "task_template.networks[0].aliases: \"65\" are too many: expected at most 64 aliases",
        ),
        (
            service(|_, t, _| {
                let (target, aliases) = ("n".to_owned(), vec!["ok".to_owned(), "a b".to_owned()]);
                t.networks =
                    vec![NetworkAttachmentConfig { target, aliases, ..Default::default() }];
            }),
            "task_template.networks[0].aliases[1]: \"a b\" is no name: expected letters",
        ),
        (service(|s, _, _| s.name = "a.b".to_owned()), "name: \"a.b\" is not a name: expected"),
        (service(|_, _, c| c.image = "UP PER".to_owned()), "task_template.container.image: "),
        (service(|_, _, c| c.env = vec!["=x".to_owned()]), "container.env[0]: \"=x\" has no name"),
        (service(|_, _, c| c.dir = "etc".to_owned()), "container.dir: \"etc\" is not absolute"),
        (service(|_, _, c| c.stop_signal = "SIGFOO".to_owned()), "stop_signal: \"SIGFOO\""),
        (service(|_, _, c| c.init = Some(true)), "container.init: not supported yet"),
        (service(|s, _, _| s.mode = ServiceMode::GlobalJob {}), "mode: \"global-job\""),
        (
            service(|_, t, _| {
                t.restart_policy = Some(RestartPolicy { max_attempts: 101, ..Default::default() });
            }),
            "restart_policy.max_attempts: \"101\" is too many: expected at most 100, or 0 for no",
        ),
        (
            service(|_, t, _| {
                t.placement =
                    Some(Placement { constraints: vec!["x=1".to_owned()], ..Default::default() });
            }),
            "task_template.placement.constraints[0]: constraint \"x=1\" has no operator",
        ),
        (
            service(|s, _, _| {
                let ports = vec![port(80, PublishMode::Host), port(80, PublishMode::Host)];
                s.endpoint_spec = Some(EndpointSpec { ports, ..Default::default() });
            }),
            "endpoint_spec.ports[1]: \"80\" is published twice",
        ),
        (
            service(|_, _, c| {
                c.healthcheck =
                    Some(Healthcheck { test: vec!["curl".to_owned()], ..Default::default() });
            }),
            "healthcheck.test: \"curl\" is no kind of test",
        ),
        (
            service(|_, _, c| {
                c.mounts = vec![Mount::new(MountKind::Bind, "data", "/data")];
            }),
            "container.mounts[0].source: \"data\" is not absolute",
        ),
    ];
    for (spec, expected) in cases {
        let found = violations(&spec);
        assert_eq!(found.len(), 1, "{expected}: {found:?}");
        assert!(found[0].contains(expected), "{found:?} lacks {expected:?}");
    }
}

#[test]
fn ports_that_cannot_answer_on_every_node() {
    let cases: [(ServiceSpec, &str); 3] = [
        (
            service(|s, _, _| {
                s.endpoint_spec = Some(EndpointSpec {
                    ports: vec![port(80, PublishMode::Ingress)],
                    mode: EndpointMode::Dnsrr,
                    affinity: None,
                    locality: None,
                });
            }),
            "endpoint_spec.ports[0]: \"ingress\" cannot be combined with endpoint mode dnsrr",
        ),
        (
            service(|s, t, _| {
                let ports = vec![port(80, PublishMode::Ingress)];
                s.endpoint_spec = Some(EndpointSpec { ports, ..Default::default() });
                let target = "host".to_owned();
                t.networks = vec![NetworkAttachmentConfig { target, ..Default::default() }];
            }),
            "endpoint_spec.ports[0]: \"ingress\" leads nowhere on the host's own network",
        ),
        (
            service(|s, _, _| {
                let host_ip = Some([127, 0, 0, 1].into());
                let ports = vec![PortConfig { host_ip, ..port(80, PublishMode::Ingress) }];
                s.endpoint_spec = Some(EndpointSpec { ports, ..Default::default() });
            }),
            "\"ingress\" is on all addresses, and 127.0.0.1 is one: expected mode host",
        ),
    ];
    for (spec, expected) in cases {
        let found = violations(&spec);
        let said = found.iter().any(|violation| violation.contains(expected));
        assert!(said, "{found:?} lacks {expected:?}");
    }
}

#[test]
fn clients_are_led_to_chosen_tasks_where_there_is_somebody_to_choose() {
    let found = |mode, target: &str| {
        let networks =
            vec![NetworkAttachmentConfig { target: target.to_owned(), ..Default::default() }];
        violations(&service(move |s, t, _| {
            t.networks = networks;
            let (affinity, locality) = (Some(Affinity::ClientIp), Some(Locality::PreferLocal));
            s.endpoint_spec = Some(EndpointSpec { mode, affinity, locality, ports: Vec::new() });
        }))
    };
    assert_eq!(found(EndpointMode::Vip, "back"), [] as [&str; 0]);
    for (mode, target, why) in [
        (
            EndpointMode::Dnsrr,
            "back",
            "endpoint mode dnsrr, by which clients choose: expected mode vip",
        ),
        (EndpointMode::Vip, "host", "is of no use on the host's own network"),
    ] {
        let found = found(mode, target);
        let said = ["affinity: \"client-ip\"", "locality: \"prefer-local\""];
        assert_eq!(found.len(), said.len(), "{found:?}");
        for (found, said) in found.iter().zip(said) {
            assert!(found.contains(&format!("endpoint_spec.{said}")), "{found}");
            assert!(found.contains(why), "{found} lacks {why}");
        }
    }
}

#[test]
fn mounts_among_the_kernels_own_are_refused_but_for_dockers_few() {
    use MountKind::{Bind, Tmpfs, Volume};
    let found = |kind, source: &str, target: &str| {
        let mount = Mount::new(kind, source, target);
        violations(&service(move |_, _, c| c.mounts = vec![mount]))
    };
    for (kind, source, target) in [
        (Bind, "/proc", "/host/proc"),
        (Bind, "/proc", "/proc"),
        (Bind, "/var/lib/lxcfs/proc/uptime", "/proc/uptime"),
        (Bind, "/x", "//proc/./sys/crypto/fips_enabled"),
        (Bind, "/sys", "/sys"),
        (Bind, "/sys/fs/cgroup", "/sys/fs/cgroup"),
        (Bind, "/dev", "/dev/"),
        (Bind, "/dev/net/tun", "/dev/net/tun"),
        (Tmpfs, "", "/dev/shm"),
        (Tmpfs, "", "/sys/firmware"),
        (Volume, "shared", "/dev/shm"),
        (Volume, "v", "/process"),
        (Volume, "v", "/data/proc"),
    ] {
        assert_eq!(found(kind, source, target), Vec::<String>::new(), "{target}");
    }
    for (kind, source, target, accepted) in [
        (Bind, "/x", "/proc", "a bind of /proc"),
        (Tmpfs, "", "/proc", "a bind of /proc"),
        (Bind, "/x", "/proc/sys", "cpuinfo, diskstats"),
        (Bind, "/x", "/./proc//self/attr", "cpuinfo, diskstats"),
        (Volume, "v", "/proc/uptime", "cpuinfo, diskstats"),
        (Volume, "v", "/sys", "a bind"),
        (Volume, "v", "/sys/fs/cgroup/", "a bind or tmpfs"),
        (Tmpfs, "", "/dev", "a bind"),
        (Volume, "", "/dev/pts", "a bind, tmpfs, or /dev/shm"),
    ] {
        let found = found(kind, source, target);
        assert_eq!(found.len(), 1, "{target}: {found:?}");
        assert!(found[0].contains(&format!("mounts[0].target: {target:?} is")), "{found:?}");
        assert!(found[0].contains(accepted), "{found:?}");
    }
}

#[test]
fn all_violations_are_told_at_once() {
    let spec = service(|s, _, c| {
        s.name = String::new();
        c.dir = "x".to_owned();
        c.image = String::new();
    });
    assert_eq!(violations(&spec).len(), 3);
}

#[test]
fn networks_must_fit_together() {
    let mut spec = NetworkSpec { name: "n".to_owned(), ..Default::default() };
    assert!(spec.validate().is_ok());
    spec.ipam = Some(Ipam {
        driver: Driver::default(),
        config: vec![crate::spec::IpamConfig {
            subnet: "10.1.0.0/24".to_owned(),
            gateway: "10.2.0.1".to_owned(),
            ..Default::default()
        }],
    });
    let error = spec.validate().unwrap_err().to_string();
    assert!(error.contains("ipam.config[0].gateway: \"10.2.0.1\" is not an address in"), "{error}");
}

#[test]
fn confinement_is_checked_before_it_reaches_a_node() {
    let own = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let sysctl = |name: &str| {
        let sysctls = own(&[(name, "1")]);
        service(move |_, _, c| c.sysctls = sysctls)
    };
    let ulimit = |name: &str, soft, hard| {
        let limit = Ulimit { name: name.to_owned(), soft, hard };
        service(move |_, _, c| c.ulimits = vec![limit])
    };
    let host = |line: &str| {
        let line = line.to_owned();
        service(move |_, _, c| c.hosts = vec![line])
    };
    let dns = |config: DnsConfig| service(move |_, _, c| c.dns_config = Some(config));
    let words = |word: &str| vec![word.to_owned()];
    let privileges = |p: Privileges| service(move |_, _, c| c.privileges = Some(p));

    let fine = [
        service(|_, _, c| c.capability_add = vec!["net_admin".to_owned(), "ALL".to_owned()]),
        service(|_, _, c| c.capability_drop = vec!["CAP_CHOWN".to_owned()]),
        sysctl("net.core.somaxconn"),
        sysctl("fs.mqueue.msg_max"),
        sysctl("kernel.shmmax"),
        ulimit("nofile", 1024, 2048),
        ulimit("core", -1, -1),
        host("10.0.0.1 db db.local"),
        host("::1 six"),
        dns(DnsConfig { nameservers: words("10.0.0.53"), ..Default::default() }),
        dns(DnsConfig { search: words("."), options: words("ndots:2"), ..Default::default() }),
        privileges(Privileges { no_new_privileges: true, ..Default::default() }),
        service(|_, _, c| (c.oom_score_adj, c.open_stdin) = (Some(-1000), true)),
    ];
    for spec in fine {
        assert_eq!(violations(&spec), Vec::<String>::new());
    }
    let bad = [
        (service(|_, _, c| c.capability_add = vec!["ROOT".to_owned()]), "add[0]: \"ROOT\" is no"),
        (sysctl("kernel.panic"), "sysctls: \"kernel.panic\" is not the container's own"),
        (sysctl("net.../../kernel/panic"), "is not the container's own"),
        (ulimit("files", 1, 1), "ulimits[0]: \"files\" is no resource limit"),
        (ulimit("nofile", -1, 5), "ulimits[0]: \"-1\" is a soft limit above"),
        (host("db 10.0.0.1"), "hosts[0]: \"db 10.0.0.1\" is no line"),
        (host("10.0.0.1"), "hosts[0]"),
        (
            dns(DnsConfig { nameservers: words("dns"), ..Default::default() }),
            "dns_config.nameservers[0]: \"dns\" is no address",
        ),
        (dns(DnsConfig { search: words("a b"), ..Default::default() }), "search[0]: \"a b\""),
        (
            privileges(Privileges { seccomp: Some(Seccomp::Unconfined), ..Default::default() }),
            "container.privileges.seccomp: not supported yet",
        ),
        (service(|_, _, c| c.oom_score_adj = Some(1001)), "oom_score_adj: \"1001\" is out of"),
    ];
    for (spec, expected) in bad {
        let found = violations(&spec);
        assert_eq!(found.len(), 1, "{expected}: {found:?}");
        assert!(found[0].contains(expected), "{found:?} lacks {expected:?}");
    }
    let on_host = service(|_, t, c| {
        t.networks =
            vec![NetworkAttachmentConfig { target: "host".to_owned(), ..Default::default() }];
        c.sysctls = own(&[("net.core.somaxconn", "1")]);
    });
    assert!(violations(&on_host)[0].contains("not on the host's network"));
}

/// The same bounds as in the agent's lowering: what a node would reject is refused before.
#[test]
fn what_no_node_can_do_is_refused_at_once() {
    let limits = |limits: Limits| {
        service(move |_, t, _| {
            t.resources = Some(ResourceRequirements { limits: Some(limits), ..Default::default() });
        })
    };
    let bind = |options: BindOptions| {
        service(move |_, _, c| {
            let mount = Mount::new(MountKind::Bind, "/a", "/b");
            c.mounts = vec![Mount { bind_options: Some(options), ..mount }];
        })
    };
    let published = |port: PortConfig, network: &'static str| {
        service(move |s, t, _| {
            s.endpoint_spec = Some(EndpointSpec { ports: vec![port], ..Default::default() });
            let target = network.to_owned();
            t.networks = vec![NetworkAttachmentConfig { target, ..Default::default() }];
        })
    };
    let on_host = port(8080, PublishMode::Host);
    let six = PortConfig { host_ip: Some(std::net::Ipv6Addr::LOCALHOST.into()), ..on_host.clone() };
    let cases = [
        (limits(Limits { nano_cpus: 500_000, ..Default::default() }), "\"0.0005\" is too little"),
        (limits(Limits { memory_bytes: 5 << 20, ..Default::default() }), "at least 6 MiB"),
        (limits(Limits { pids: 1 << 30, ..Default::default() }), "at most 4194304"),
        (bind(BindOptions { non_recursive: true, ..Default::default() }), "how far a bind"),
        (
            bind(BindOptions { propagation: "rslave".to_owned(), ..Default::default() }),
            "mounts[0].bind_options.propagation: not supported yet",
        ),
        (published(six, "n"), "ports[0].host_ip: not supported yet"),
        (published(on_host.clone(), "host"), "ports[0]: \"8080\" leads to port 80 on the host's"),
    ];
    for (spec, expected) in cases {
        let found = violations(&spec);
        assert_eq!(found.len(), 1, "{expected}: {found:?}");
        assert!(found[0].contains(expected), "{found:?} lacks {expected:?}");
    }
    let fine = [
        limits(Limits { nano_cpus: 10_000_000, memory_bytes: 6 << 20, pids: 1 }),
        bind(BindOptions { propagation: "rprivate".to_owned(), ..Default::default() }),
        published(on_host, "n"),
        published(port(80, PublishMode::Host), "host"),
    ];
    for spec in fine {
        assert_eq!(violations(&spec), Vec::<String>::new());
    }
}
