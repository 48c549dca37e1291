use super::*;

fn config() -> ContainerConfig {
    ContainerConfig { argv: vec!["/bin/true".to_owned()], ..ContainerConfig::default() }
}

#[test]
fn the_default_capability_mask_is_dockers() {
    let caps = capabilities::effective(&[], &[]).unwrap();
    assert_eq!(caps.mask(), 0xa804_25fb);
    assert_eq!(capabilities::CapabilitySet::from_oci(&caps.to_oci()), caps);
}

#[test]
fn every_capability_that_a_spec_may_name_is_one_here() {
    assert_eq!(capabilities::ALL.map(|(name, _)| name), shoal_types::capability::NAMES);
}

#[test]
fn capabilities_are_added_and_dropped_as_docker_does() {
    let own = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mask = |add: &[&str], drop: &[&str]| {
        capabilities::effective(&own(add), &own(drop)).map(|c| c.mask()).map_err(|(f, _)| f)
    };
    let default = 0xa804_25fb;
    type Case<'a> = (&'a [&'a str], &'a [&'a str], Result<u64, &'a str>);
    let table: &[Case<'_>] = &[
        (&["NET_ADMIN"], &[], Ok(default | 1 << 12)),
        (&["cap_net_admin"], &[], Ok(default | 1 << 12)),
        (&[], &["ALL"], Ok(0)),
        (&["CHOWN"], &["ALL"], Ok(1)),
        (&["ALL"], &["CHOWN"], Ok((1 << 41) - 2)),
        (&["ALL"], &[], Ok((1 << 41) - 1)),
        (&["NET_ADMINN"], &[], Err("cap_add")),
        (&[], &["nope"], Err("cap_drop")),
    ];
    for (add, drop, expected) in table {
        assert_eq!(mask(add, drop), *expected, "add {add:?} drop {drop:?}");
    }
}

#[test]
fn refusals_name_the_field() {
    let with = |change: fn(&mut ContainerConfig)| {
        let mut c = config();
        change(&mut c);
        spec(&c).map(|_| ()).map_err(|e| e.to_string())
    };
    type Case = (fn(&mut ContainerConfig), &'static str);
    let table: &[Case] = &[
        (|c| c.argv.clear(), "argv"),
        (|c| c.argv[0].clear(), "argv"),
        (|c| c.env.push("A=\0".to_owned()), "env"),
        (|c| c.cwd = PathBuf::from("tmp"), "cwd"),
        (|c| c.cwd = PathBuf::from("/a/../b"), "cwd"),
        (|c| c.cap_add.push("X".to_owned()), "cap_add"),
        (|c| c.rlimits.push(Rlimit { name: "x".to_owned(), soft: 1, hard: 1 }), "rlimits"),
        (|c| c.rlimits.push(Rlimit { name: "nofile".to_owned(), soft: 2, hard: 1 }), "rlimits"),
        (|c| drop(c.sysctls.insert("vm.swappiness".to_owned(), "1".to_owned())), "sysctls"),
        (
            |c| {
                c.foreign_network = true;
                c.sysctls.insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
            },
            "sysctls",
        ),
        (|c| c.resources.memory_bytes = Some(1 << 20), "resources.memory_bytes"),
        (|c| c.resources.nano_cpus = Some(1), "resources.nano_cpus"),
        (|c| c.resources.cpu_shares = Some(1), "resources.cpu_shares"),
        (|c| c.resources.pids = Some(0), "resources.pids"),
    ];
    for (change, field) in table {
        let refusal = with(*change).unwrap_err();
        assert!(refusal.starts_with(field), "{refusal:?} should name {field}");
    }
}

#[test]
fn limits_are_lowered_to_cgroup_terms() {
    let mut c = config();
    c.resources = Resources {
        memory_bytes: Some(64 << 20),
        nano_cpus: Some(500_000_000),
        pids: Some(10),
        ..Resources::default()
    };
    let spec = spec(&c).unwrap();
    let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
    let memory = resources.memory().unwrap();
    assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(64 << 20)));
    let cpu = resources.cpu().clone().unwrap();
    assert_eq!((cpu.quota(), cpu.period()), (Some(50_000), Some(100_000)));
    assert_eq!(resources.pids().unwrap().limit(), 10);
}

#[test]
fn little_cpu_gets_a_longer_period() {
    // The kernel takes quotas of 1 ms or more in periods of 1 s or less.
    let cases = [
        (2_000_000_000, (200_000, 100_000)),
        (10_000_000, (1_000, 100_000)),
        (5_000_000, (1_000, 200_000)),
        (1_000_000, (1_000, 1_000_000)),
    ];
    for (nano_cpus, expected) in cases {
        assert_eq!(cpu_share(nano_cpus), expected, "{nano_cpus}");
    }
}

#[test]
fn own_mounts_replace_defaults_and_parents_come_first() {
    let mut c = config();
    let tmpfs = |d: &str| MountConfig {
        destination: PathBuf::from(d),
        kind: MountKind::Tmpfs { size_bytes: Some(1), mode: 0o1777 },
        read_only: false,
    };
    c.mounts = vec![tmpfs("/data/inner"), tmpfs("/dev/shm"), tmpfs("/data")];
    let spec = spec(&c).unwrap();
    let mounts = spec.mounts().as_ref().unwrap();
    let at = |d: &str| mounts.iter().position(|m| m.destination() == Path::new(d)).unwrap();
    assert!(at("/data") < at("/data/inner"));
    assert_eq!(mounts.iter().filter(|m| m.destination() == Path::new("/dev/shm")).count(), 1);
    assert!(mounts[at("/dev/shm")].options().as_ref().unwrap().contains(&"size=1".to_owned()));
}

#[test]
fn the_profile_follows_the_capabilities() {
    let allowed = |add: &[&str], name: &str| {
        let add: Vec<String> = add.iter().map(ToString::to_string).collect();
        let caps = capabilities::effective(&add, &[]).unwrap();
        let profile = seccomp::profile(&caps);
        profile.syscalls().as_ref().unwrap().iter().any(|r| {
            r.action() == oci_spec::runtime::LinuxSeccompAction::ScmpActAllow
                && r.args().is_none()
                && r.names().iter().any(|n| n == name)
        })
    };
    assert!(allowed(&[], "read") && allowed(&[], "chroot"));
    for name in ["mount", "unshare", "setns", "keyctl", "add_key", "bpf", "reboot", "kexec_load"] {
        assert!(!allowed(&[], name), "{name}");
    }
    assert!(allowed(&["SYS_ADMIN"], "mount") && !allowed(&["SYS_ADMIN"], "keyctl"));
    assert!(allowed(&["SYS_TIME"], "settimeofday"));
}

#[test]
fn no_new_privileges_and_empty_inheritable_sets() {
    let mut c = config();
    c.no_new_privileges = true;
    let spec = spec(&c).unwrap();
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.no_new_privileges(), Some(true));
    let caps = process.capabilities().as_ref().unwrap();
    assert!(caps.inheritable().is_none() && caps.ambient().is_none());
}
