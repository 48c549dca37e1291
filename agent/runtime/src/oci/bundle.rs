//! What a supervisor finds on disk: the setup, and the specification as libcontainer is to see it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{
    LinuxNamespaceType, LinuxResources, LinuxSeccomp, Mount, MountBuilder, Spec,
};

use super::{ContainerId, ContainerSpec, Inner, RuntimeError, lock};
use crate::NetworkMode;
use shoal_agent_container::cgroup::Layout;
use shoal_agent_container::seccomp::{self, Instruction};
use shoal_agent_container::supervise::mounts::MountSetup;
use shoal_agent_container::supervise::protocol::chain;
use shoal_agent_container::supervise::rootfs::cgroup_view;
use shoal_agent_container::supervise::setup::{
    CONFIG_FILE, Common, Confinement, EXIT_FILE, LOG_DIR, ROOTFS_DIR, SETUP_FILE, Setup, UPPER_DIR,
    WORK_DIR,
};
use shoal_agent_container::supervise::{file, user};

/// Writes everything for a container's supervisor.
pub(super) fn write(
    inner: &Inner,
    id: &ContainerId,
    spec: ContainerSpec,
) -> Result<Setup, RuntimeError> {
    let (run_dir, state_dir) = (inner.run_dir(id), inner.state_dir(id));
    if run_dir.exists() || state_dir.exists() && !is_released(&state_dir) {
        return Err(RuntimeError::AlreadyExists { id: id.clone() });
    }
    let (setup, config) = plan(inner, id, spec)?;
    forget_exit(&state_dir).map_err(RuntimeError::io("removing the exit record in", &state_dir))?;
    let write = || -> Result<(), RuntimeError> {
        for dir in [&setup.common.run_dir, &setup.state_dir] {
            private_dir_all(dir).map_err(RuntimeError::io("making", dir))?;
        }
        private_file(&run_dir.join(SETUP_FILE), file::to_bytes(&setup))?;
        let config = serde_json::to_vec(&config).map_err(io::Error::from);
        private_file(&run_dir.join(CONFIG_FILE), config)
    };
    match write() {
        Ok(()) => Ok(setup),
        Err(error) => {
            erase(&setup);
            Err(error)
        }
    }
}

/// Takes back what [`write`] and the supervisor made. The log of an earlier container stays.
pub(super) fn erase(setup: &Setup) {
    let _ = fs::remove_dir_all(&setup.common.run_dir);
    for dir in [UPPER_DIR, WORK_DIR] {
        let _ = fs::remove_dir_all(setup.state_dir.join(dir));
    }
    let mut log = fs::read_dir(setup.state_dir.join(LOG_DIR)).into_iter().flatten().flatten();
    if !log.any(|file| file.metadata().is_ok_and(|file| file.len() > 0)) {
        let _ = fs::remove_dir_all(&setup.state_dir);
    }
}

/// Whether nothing but a log, and the record of its end, is left of a container.
fn is_released(state_dir: &Path) -> bool {
    let made = |dir: &str| state_dir.join(dir).exists();
    made(LOG_DIR) && !made(UPPER_DIR) && !made(WORK_DIR)
}

/// It is to be made again: how it ended before must not be taken for its end, not even after a crash of
/// the host.
fn forget_exit(state_dir: &Path) -> io::Result<()> {
    match fs::remove_file(state_dir.join(EXIT_FILE)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(()) => fs::File::open(state_dir)?.sync_all(),
    }
}

/// Makes a directory that only its owner may enter, with its parents.
pub(super) fn private_dir_all(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn private_file(path: &Path, bytes: io::Result<Vec<u8>>) -> Result<(), RuntimeError> {
    let write = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&bytes?)
    };
    write().map_err(RuntimeError::io("writing", path))
}

/// Divides a container's description into what the supervisor does and what libcontainer does.
fn plan(
    inner: &Inner,
    id: &ContainerId,
    mut wanted: ContainerSpec,
) -> Result<(Setup, Spec), RuntimeError> {
    let unsupported = |field: &str, reason: &str| RuntimeError::Unsupported {
        field: field.to_owned(),
        reason: reason.to_owned(),
    };
    let spec = &mut wanted.oci;
    let process = spec.process().clone().ok_or_else(|| unsupported("process", "it is missing"))?;
    let linux = spec.linux().clone().ok_or_else(|| unsupported("linux", "it is missing"))?;
    if spec.hooks().is_some() {
        return Err(unsupported("hooks", "they would run outside of the confinement"));
    }
    let filter = linux.seccomp().as_ref().map(|s| compiled(inner, s)).transpose()?;
    let filter = filter.ok_or_else(|| unsupported("linux.seccomp", "it is missing"))?;
    let resources = linux.resources().clone().unwrap_or_default();
    check_resources(&resources)?;
    if resources.devices().as_ref().is_none_or(Vec::is_empty) {
        return Err(unsupported("linux.resources.devices", "it is missing"));
    }
    let confinement = Confinement::new(&process, filter.to_vec());
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let own = take_own(&mut mounts).map_err(|reason| unsupported("mounts", &reason))?;
    spec.set_mounts(Some(mounts.clone()));
    let cgroup_mount = mounts.iter().any(|m| m.typ().as_deref() == Some("cgroup"));
    let is_v1 = matches!(inner.layout, Layout::Hierarchies(_));
    let mut namespaces = linux.namespaces().iter().flatten();
    let sysctls = linux.sysctl().iter().flatten();
    let net = sysctls.filter(|(name, _)| name.starts_with("net."));
    let net_sysctls: BTreeMap<String, String> =
        net.map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(bad) = net_sysctls.keys().find(|n| n.contains(['/', '\0']) || n.contains("..")) {
        return Err(unsupported("linux.sysctl", &format!("{bad:?} is not a parameter's name")));
    }
    if wanted.network != NetworkMode::Own && !net_sysctls.is_empty() {
        return Err(unsupported(
            "linux.sysctl",
            "net.* would be the host's, or another container's",
        ));
    }
    let common = Common {
        id: id.clone(),
        run_dir: inner.run_dir(id),
        layout: inner.layout.clone(),
        cgroup: inner.cgroup(id),
        own_cgroups: is_v1 && namespaces.any(|n| n.typ() == LinuxNamespaceType::Cgroup),
        home_given: process.env().as_ref().is_some_and(|env| user::home(env).is_some()),
        read_only_root: spec.root().as_ref().is_some_and(|r| r.readonly().unwrap_or(false)),
        confinement,
    };
    let setup = Setup {
        common,
        state_dir: inner.state_dir(id),
        layers: wanted.layers.clone(),
        resources,
        cgroup_mount,
        network: wanted.network,
        tty: process.terminal().unwrap_or(false),
        open_stdin: wanted.open_stdin,
        log: wanted.log,
        user: wanted.user.clone(),
        labels: wanted.labels.clone(),
        mounts: own,
        net_sysctls,
    };
    let config = for_libcontainer(&setup, wanted.oci)?;
    Ok((setup, config))
}

/// Takes what is the supervisor's to mount out of a specification's mounts.
fn take_own(mounts: &mut Vec<Mount>) -> Result<Vec<MountSetup>, String> {
    let mut own = Vec::new();
    let mut rest = Vec::new();
    for mount in mounts.drain(..) {
        match MountSetup::of_spec(&mount)? {
            Some(setup) => own.push(setup),
            None => rest.push(mount),
        }
    }
    *mounts = rest;
    Ok(own)
}

/// Limits that nobody would apply must not be promised.
fn check_resources(resources: &LinuxResources) -> Result<(), RuntimeError> {
    let cpu = resources.cpu().as_ref();
    let refused = [
        ("blockIO", resources.block_io().is_some()),
        ("hugepageLimits", resources.hugepage_limits().as_ref().is_some_and(|h| !h.is_empty())),
        ("network", resources.network().is_some()),
        ("rdma", resources.rdma().as_ref().is_some_and(|r| !r.is_empty())),
        ("unified", resources.unified().as_ref().is_some_and(|u| !u.is_empty())),
        ("cpu.cpus", cpu.is_some_and(|c| c.cpus().is_some())),
        ("cpu.mems", cpu.is_some_and(|c| c.mems().is_some())),
        ("cpu.realtimeRuntime", cpu.is_some_and(|c| c.realtime_runtime().is_some())),
    ];
    match refused.into_iter().find(|(_, set)| *set) {
        None => Ok(()),
        Some((field, _)) => Err(RuntimeError::Unsupported {
            field: format!("linux.resources.{field}"),
            reason: "only memory, cpu quota and shares, pids and devices can be limited".to_owned(),
        }),
    }
}

fn compiled(inner: &Inner, profile: &LinuxSeccomp) -> Result<Arc<[Instruction]>, RuntimeError> {
    let mut cache = lock(&inner.filter);
    if let Some((_, program)) = cache.as_ref().filter(|(known, _)| known == profile) {
        return Ok(Arc::clone(program));
    }
    let program =
        seccomp::compile(profile).map_err(|e| RuntimeError::CannotConfine { reason: chain(&e) })?;
    let program: Arc<[Instruction]> = program.into();
    *cache = Some((profile.clone(), Arc::clone(&program)));
    Ok(program)
}

/// Leaves to libcontainer: namespaces, mounts, root, user. Takes from it: control groups,
/// capabilities and the filter, which are the supervisor's, and the network namespace, which exists.
fn for_libcontainer(setup: &Setup, mut spec: Spec) -> Result<Spec, RuntimeError> {
    let mut root = spec.root().clone().unwrap_or_default();
    // Read-only once what is mounted in it has its place.
    root.set_path(PathBuf::from(ROOTFS_DIR)).set_readonly(Some(false));
    spec.set_root(Some(root));
    if let Some(process) = spec.process_mut() {
        process.set_capabilities(None).set_no_new_privileges(None);
        if process.oom_score_adj().is_none() {
            // The supervisor's own must not be inherited.
            process.set_oom_score_adj(Some(0));
        }
    }
    let hierarchies = match &setup.common.layout {
        Layout::Hierarchies(all) if setup.cgroup_mount => all.as_slice(),
        Layout::Hierarchies(_) | Layout::Unified { .. } => &[],
    };
    let mut mounts = Vec::new();
    for mount in spec.mounts().clone().unwrap_or_default() {
        if mount.typ().as_deref() == Some("cgroup") && !hierarchies.is_empty() {
            let roots = hierarchies.iter().map(|h| h.root.as_path());
            mounts.extend(cgroup_mounts(mount.destination(), roots)?);
        } else {
            mounts.push(mount);
        }
    }
    let cgroup_at = setup.cgroup_mount.then(|| PathBuf::from("/sys/fs/cgroup"));
    spec.set_mounts(Some(mounts));
    if let Some(linux) = spec.linux_mut() {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|n| n.typ() != LinuxNamespaceType::Network);
        if setup.common.own_cgroups {
            // Entered after the groups have been joined, or it would show what is above them.
            namespaces.retain(|n| n.typ() != LinuxNamespaceType::Cgroup);
        }
        if setup.network != NetworkMode::Host {
            // Its creator is in it already; named so that later processes join it.
            let mut network = oci_spec::runtime::LinuxNamespace::default();
            network
                .set_typ(LinuxNamespaceType::Network)
                .set_path(Some(PathBuf::from("/proc/self/ns/net")));
            namespaces.push(network);
        }
        let mut readonly = linux.readonly_paths().clone().unwrap_or_default();
        if let Some(at) = cgroup_at.filter(|_| !hierarchies.is_empty()) {
            readonly.push(at.display().to_string());
        }
        // Those of the network are the supervisor's; libcontainer takes a namespace that exists for
        // the host's.
        let mut sysctl = linux.sysctl().clone().unwrap_or_default();
        sysctl.retain(|name, _| !name.starts_with("net."));
        linux
            .set_sysctl(Some(sysctl))
            .set_namespaces(Some(namespaces))
            .set_readonly_paths(Some(readonly))
            .set_seccomp(None)
            .set_resources(None)
            .set_cgroups_path(Some(PathBuf::from(&setup.common.cgroup)));
    }
    Ok(spec)
}

/// The container's own groups in the older hierarchies: an empty file system, and each group bound
/// into it. It is made read-only as a whole afterwards.
fn cgroup_mounts<'a>(
    at: &Path,
    roots: impl Iterator<Item = &'a Path>,
) -> Result<Vec<Mount>, RuntimeError> {
    let build = |builder: MountBuilder| {
        builder.build().map_err(|e| RuntimeError::Unsupported {
            field: "mounts".to_owned(),
            reason: chain(&e),
        })
    };
    let options = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut mounts = vec![build(
        MountBuilder::default()
            .destination(at)
            .typ("tmpfs")
            .source("tmpfs")
            .options(options(&["nosuid", "noexec", "nodev", "mode=755", "size=64k"])),
    )?];
    for root in roots {
        let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        mounts.push(build(
            MountBuilder::default()
                .destination(at.join(&name))
                .typ("bind")
                .source(cgroup_view(&name))
                .options(options(&["bind", "nosuid", "noexec", "nodev", "ro"])),
        )?);
    }
    Ok(mounts)
}
