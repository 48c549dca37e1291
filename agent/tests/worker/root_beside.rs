//! Two containers in one network namespace, while the agent comes and goes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use shoal_types::assignment::AssignedTask;
use shoal_types::id::TaskId;
use shoal_types::task_state::{DesiredState, TaskState};

use crate::assigner::Assigner;
use crate::host::{Host, able};
use crate::node::{self, Space, task, until_said};

/// Answers on its loopback and on its address.
const SERVES: &str = "
    mkdir -p /tmp/w && echo 'I am the one' > /tmp/w/index.html
    trap 'exit 0' TERM
    httpd -p 8080 -h /tmp/w
    while :; do sleep 0.05; done";

/// Asks it there, and says who and where it is itself.
const ASKS: &str = "
    trap 'exit 0' TERM
    until wget -q -O - http://127.0.0.1:8080/; do sleep 0.05; done
    wget -q -O - http://$(hostname):8080/
    cat /etc/hosts /etc/resolv.conf; echo name $(hostname), $(cat /etc/hostname)
    ls /sys/class/net; echo said
    while :; do sleep 0.05; done";

fn beside(id: u128, script: &str, partner: u128) -> AssignedTask {
    let mut sharer = task(id, script, |_| {});
    Arc::make_mut(&mut sharer.spec).network_of = Some("web".to_owned());
    sharer.networks.clear();
    (sharer.partner, sharer.slot) = (Some(partner.into()), task(partner, "", |_| {}).slot);
    sharer
}

/// The network namespace of a task's first process.
async fn space_of(node: &Assigner, id: u128) -> u64 {
    let pid = node.until_state(id, TaskState::Running).await.container_status.unwrap().pid;
    fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino()
}

#[test]
fn one_container_asks_the_other_on_the_loopback_that_they_share() {
    if !able() {
        return;
    }
    let space = Space::new("beside");
    space.block_on(async {
        let host = Host::new();
        let parent = &host.config.cgroup_parent;
        let mut node = node::start(host.home(), parent).await;
        node.assign([beside(2, ASKS, 1), task(1, SERVES, |_| {})]);
        node.until_state(2, TaskState::Running).await;
        let said = until_said(&node, 2, "said").await;
        assert_eq!(said.matches("I am the one").count(), 2, "{said}");
        let name: String = TaskId::from(1).to_string().chars().take(12).collect();
        assert!(said.contains(&format!("name {name}, {name}\n")), "its partner's: {said}");
        assert!(said.contains(&format!("\t{name}\n")), "with its address: {said}");
        assert!(said.contains("nameserver 127.0.0.11\n") && said.contains("eth0\n"), "{said}");
        let shared = space_of(&node, 1).await;
        assert_eq!(space_of(&node, 2).await, shared);

        // A process that joins is in it, too, and an agent that comes back finds all of it.
        node.worker.shut_down().await;
        node.turn_to(node::start(host.home(), parent).await.worker);
        assert_eq!((space_of(&node, 1).await, space_of(&node, 2).await), (shared, shared));
        let spec = shoal_agent_runtime::ExecSpec {
            argv: ["/bin/sh", "-c", "wget -q -O - http://127.0.0.1:8080/"]
                .map(str::to_owned)
                .to_vec(),
            ..shoal_agent_runtime::ExecSpec::default()
        };
        let session = node.worker.exec(2.into(), spec).await.unwrap();
        let ended = session.wait.await.unwrap();
        assert!(ended.is_success(), "{ended}");

        // The one ends, and takes the other along, which is no failure of that.
        node.want(1, DesiredState::Shutdown);
        let status = node.until_state(2, TaskState::Shutdown).await;
        assert!(status.err.starts_with("the task whose network it shares, web.1, "), "{status:?}");
        node.until_state(1, TaskState::Shutdown).await;
        node.worker.leave().await.unwrap();
        host.assert_clean().await;
    });
}
