//! The supervisor's own namespaces: its mounts, with the container's root file system, and its
//! network. All of it goes when the last process in them does.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, mount, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::umask;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::file;
use super::mounts::{self, HeldMount};
use super::protocol::Failure;
use super::setup::{SUPERVISOR_FILE, Setup, UPPER_DIR, WORK_DIR};
use crate::cgroup::Layout;
use crate::{ContainerId, NetworkMode, ProcessIdentity, sys};

/// Where libcontainer looks for control groups.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Stands for the layers of an image that has none, in the container's state directory.
const EMPTY_DIR: &str = "empty";
/// Longest string fsconfig(2) takes.
const FSCONFIG_MAX: usize = 255;

/// Enters the namespaces and mounts the root file system. Gives back what is to be mounted in it.
///
/// # Errors
/// [`Failure::Other`] naming the step.
pub fn enter(setup: &Setup) -> Result<Vec<HeldMount>, Failure> {
    let step = |stage: &'static str| move |e: io::Error| Failure::other(stage, &e);
    // Opened while the paths still mean the host's.
    let groups = cgroup_views(setup).map_err(step("opening the control groups"))?;
    let mut flags = UnshareFlags::NEWNS;
    if setup.network == NetworkMode::Own {
        flags |= UnshareFlags::NEWNET;
    }
    if let NetworkMode::Of(other) = &setup.network {
        join_network(setup, other)?;
    }
    sys::process::unshare(flags).map_err(step("making namespaces"))?;
    // What the host unmounts goes here too, so nothing is held busy; what is mounted here stays here.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave).map_err(io::Error::from).map_err(step("detaching mounts"))?;
    // Nothing has been mounted yet, so paths still mean the host's.
    let held = mounts::hold(&setup.mounts)?;
    overlay(setup).map_err(step("mounting the root file system"))?;
    // Places for the mounts are made for everybody who uses the container.
    let own_umask = umask(Mode::from_raw_mode(0o022));
    let ready = mounts::make_ready(&setup.common.rootfs(), &held);
    umask(own_umask);
    ready?;
    if let Some(groups) = groups {
        show_cgroups(&groups).map_err(step("arranging the control groups"))?;
    }
    if setup.network == NetworkMode::Own {
        sys::net::loopback_up().map_err(step("bringing up the loopback interface"))?;
        // `/proc/sys/net` is that of whoever looks.
        for (name, value) in &setup.net_sysctls {
            let file = Path::new("/proc/sys").join(name.replace('.', "/"));
            fs::write(file, value)
                .map_err(|e| Failure::other(&format!("setting {name} to {value:?}"), &e))?;
        }
    }
    Ok(held)
}

/// Enters the network namespace of another container: that of its supervisor.
fn join_network(setup: &Setup, other: &ContainerId) -> Result<(), Failure> {
    let stage = format!("entering the network of container {other}");
    let failed = |e: io::Error| Failure::other(&stage, &e);
    // Containers' directories lie side by side.
    let beside = setup.common.run_dir.with_file_name(other.as_str()).join(SUPERVISOR_FILE);
    let supervisor: ProcessIdentity = file::from_bytes(&fs::read(beside).map_err(failed)?)?;
    let network = fs::File::open(format!("/proc/{}/ns/net", supervisor.pid)).map_err(failed)?;
    // Looked at after opening: a later process with this id is none of ours.
    if !supervisor.exists() {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| failed(e.into()))
}

/// Mounts the image's layers and the container's own on top.
///
/// `volatile` leaves out syncing the container's own layer: it is never mounted a second time, and a
/// container does not survive its host. Volumes are not in it.
fn overlay(setup: &Setup) -> io::Result<()> {
    let layers: Vec<&Path> = setup.layers.0.iter().map(PathBuf::as_path).collect();
    merge(&layers, &setup.state_dir, &setup.common.rootfs())
}

/// Merges layers (lowest first) with those of a container.
fn merge(image: &[&Path], state_dir: &Path, rootfs: &Path) -> io::Result<()> {
    let (upper, work) = (state_dir.join(UPPER_DIR), state_dir.join(WORK_DIR));
    let empty = state_dir.join(EMPTY_DIR);
    for dir in [&upper, &work, rootfs, &empty] {
        match fs::create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    // The root directory of an overlay looks like that of its uppermost layer.
    if let Some(image) = image.last() {
        let meta = fs::metadata(image)?;
        fs::set_permissions(&upper, meta.permissions())?;
        std::os::unix::fs::chown(&upper, Some(meta.uid()), Some(meta.gid()))?;
    } else {
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))?;
    }
    let mut layers: Vec<&Path> = image.iter().rev().copied().collect();
    if layers.is_empty() {
        // An image may have no layers; an overlay has at least one.
        layers.push(&empty);
    }
    match overlay_by_fd(&layers, &upper, &work, rootfs) {
        Err(e) if is_old_kernel(&e) => overlay_by_text(&layers, &upper, &work, rootfs),
        other => other,
    }
}

/// What a kernel says that does not know `lowerdir+` (before Linux 6.5).
fn is_old_kernel(e: &io::Error) -> bool {
    [Errno::INVAL, Errno::NOSYS].iter().any(|n| e.raw_os_error() == Some(n.raw_os_error()))
}

fn overlay_by_fd(layers: &[&Path], upper: &Path, work: &Path, at: &Path) -> io::Result<()> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        set_path(fs.as_fd(), "lowerdir+", layer)?;
    }
    set_path(fs.as_fd(), "upperdir", upper)?;
    set_path(fs.as_fd(), "workdir", work)?;
    fsconfig_set_flag(fs.as_fd(), "volatile")?;
    fsconfig_create(fs.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let mount = fsmount(fs.as_fd(), flags, MountAttrFlags::empty())?;
    let from_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount.as_fd(), "", CWD, at, from_fd)?;
    Ok(())
}

fn set_path(fs: std::os::fd::BorrowedFd<'_>, key: &str, path: &Path) -> io::Result<()> {
    if path.as_os_str().len() <= FSCONFIG_MAX {
        fsconfig_set_string(fs, key, path)?;
        return Ok(());
    }
    // By descriptor since Linux 6.13.
    let dir = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    fsconfig_set_fd(fs, key, dir.as_fd())?;
    Ok(())
}

fn overlay_by_text(layers: &[&Path], upper: &Path, work: &Path, at: &Path) -> io::Result<()> {
    // Through descriptors the option is short and needs no escapes, whatever the paths are: it must
    // fit one page.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| openat(CWD, path, flags, Mode::empty());
    let link = |dir: &OwnedFd| format!("/proc/self/fd/{}", dir.as_raw_fd());
    let layers: Vec<OwnedFd> = layers.iter().map(|p| open(p)).collect::<Result<_, _>>()?;
    let lower: Vec<String> = layers.iter().map(link).collect();
    let (upper, work) = (open(upper)?, open(work)?);
    let (lower, upper, work) = (lower.join(":"), link(&upper), link(&work));
    let data = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let data = std::ffi::CString::new(data)?;
    mount("overlay", at, "overlay", MountFlags::empty(), data.as_c_str())?;
    Ok(())
}

/// A hierarchy's name for the container, and its group there.
type View = (String, OwnedFd);

/// Copies of the mounts of the container's own groups; `None` when libcontainer may see the host's
/// arrangement as it is (version 2).
fn cgroup_views(setup: &Setup) -> io::Result<Option<Vec<View>>> {
    let Layout::Hierarchies(hierarchies) = &setup.common.layout else { return Ok(None) };
    if !setup.cgroup_mount {
        return Ok(Some(Vec::new()));
    }
    let view = |root: &Path| -> io::Result<View> {
        let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dir = root.join(setup.common.cgroup.trim_matches('/'));
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok((name, open_tree(CWD, &dir, flags)?))
    };
    hierarchies.iter().map(|h| view(&h.root)).collect::<io::Result<_>>().map(Some)
}

/// Where a view is mounted for the container's bind mount to start from. libcontainer knows a
/// hierarchy by the last part of its mount point; under another name it finds none and joins none,
/// which is what we want: the process is already where it belongs.
#[must_use]
pub fn cgroup_view(name: &str) -> PathBuf {
    Path::new(CGROUP_ROOT).join(format!("own-{name}"))
}

fn show_cgroups(views: &[View]) -> io::Result<()> {
    unmount(CGROUP_ROOT, UnmountFlags::DETACH)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", CGROUP_ROOT, "tmpfs", flags, c"mode=755,size=64k")?;
    for (name, tree) in views {
        let at = cgroup_view(name);
        fs::create_dir(&at)?;
        move_mount(tree.as_fd(), "", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_agent_ground::testing::skip_without_root;

    #[test]
    fn an_image_without_layers_has_an_empty_root() {
        if skip_without_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("rootfs");
        let merged = merge(&[], dir.path(), &at);
        let written = fs::write(at.join("new"), "");
        let seen = fs::read_dir(&at).map(Iterator::count);
        let mode = fs::metadata(&at).map(|meta| meta.mode() & 0o7777);
        let _ = unmount(&at, UnmountFlags::DETACH);
        merged.unwrap();
        written.unwrap();
        assert_eq!((seen.unwrap(), mode.unwrap()), (1, 0o755));
    }

    /// As many layers as an image may have, under paths as long as those of the image store.
    #[test]
    fn many_layers_mount_on_an_old_kernel() {
        if skip_without_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let layer = |n: usize| {
            let path = make(&format!("{n:0>64}"));
            fs::write(path.join(n.to_string()), "").unwrap();
            path
        };
        let layers: Vec<PathBuf> = (0..127).map(layer).collect();
        let layers: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
        let (upper, work, at) = (make("up,per:"), make("work"), make("rootfs"));
        let mounted = overlay_by_text(&layers, &upper, &work, &at);
        let written = fs::write(at.join("new"), "");
        let seen = fs::read_dir(&at).map(Iterator::count);
        let _ = unmount(&at, UnmountFlags::DETACH);
        mounted.unwrap();
        written.unwrap();
        assert_eq!(seen.unwrap(), 128);
        assert!(upper.join("new").exists());
    }
}
