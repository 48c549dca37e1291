//! What holds for volumes that containers share.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use shoal_types::spec::{Mount, MountKind};
use shoal_types::task_state::{DesiredState, TaskState};

use crate::host::{Host, able};
use crate::node::{self, Space, task};

#[test]
fn a_read_only_volume_is_read_only_with_what_is_mounted_in_it() {
    if !able() {
        return;
    }
    let space = Space::new("volumes");
    space.block_on(async {
        let host = Host::new();
        let mut node = node::start(host.home(), &host.config.cgroup_parent).await;
        let volume = Mount::new(MountKind::Volume, "data", "/data");
        let writer = volume.clone();
        let script = "mkdir_sub() { /bin/busybox mkdir /data/sub; }; mkdir_sub && touch /data/own";
        node.assign([task(1, script, |c| c.mounts = vec![writer])]);
        node.until_state(1, TaskState::Complete).await;
        let sub = host.home().join("volumes/data/_data/sub");
        mount("tmpfs", &sub, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
        let script = "touch /data/x; touch /data/sub/x; test -e /data/own \
                      && test ! -e /data/x && test ! -e /data/sub/x";
        let reader = Mount { read_only: true, ..volume };
        node.assign([task(2, script, |c| c.mounts = vec![reader])]);
        let status = node.until(2, |s| s.state.is_terminal()).await;
        let written = sub.join("x").exists();
        unmount(&sub, UnmountFlags::DETACH).unwrap();
        assert!(!written, "written through a read-only volume");
        assert_eq!(status.state, TaskState::Complete, "{status:?}");
        for id in [1, 2] {
            node.want(id, DesiredState::Remove);
            node.until_state(id, TaskState::Complete).await;
            node.drop_task(id);
        }
        host.assert_clean().await;
    });
}
