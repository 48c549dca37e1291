//! Names as containers see them: the real process, the real sockets.

use std::time::Duration;

use shoal_types::task_state::{DesiredState, TaskState};

use crate::assigner::Assigner;
use crate::host::{Host, able, kill, wait_for};
use crate::node::{self, Space, log, task, until_said};

/// Asks for one name again and again, and says for how many hundredths of a second at the most it had no
/// answer, when it is told to stop.
const ASKS: &str = "
    trap 'echo asked $n times, slowest $slowest; exit 0' TERM
    now() { read up _ < /proc/uptime; echo ${up%.*}${up#*.}; }
    n=0; slowest=0
    while :; do
        begun=$(now)
        until nslookup -type=a web.1. 127.0.0.11 | grep -q '^Address: [0-9.]*$'; do :; done
        took=$(($(now) - begun)); n=$((n + 1))
        [ $took -le $slowest ] || slowest=$took
        [ $n = 20 ] && echo begun
    done";

/// Every answer to a name, from a container that ends.
async fn ask(node: &mut Assigner, id: u128, script: &str) -> String {
    node.assign([task(id, script, |_| {})]);
    node.until_state(id, TaskState::Complete).await;
    let said = log(node, id).await;
    node.drop_task(id);
    said
}

#[test]
fn containers_ask_for_each_other_while_agents_and_processes_come_and_go() {
    if !able() {
        return;
    }
    let space = Space::new("names");
    space.block_on(async {
        let host = Host::new();
        let parent = &host.config.cgroup_parent;
        let mut node = node::start(host.home(), parent).await;
        assert_eq!(space.answering(), None, "there is nobody to be answered");
        node.assign([
            task(1, "trap 'exit 0' TERM; while :; do sleep 0.05; done", |_| {}),
            task(2, ASKS, |c| c.stop_grace_period = Some(Duration::from_secs(10))),
        ]);
        node.until_state(1, TaskState::Running).await;
        until_said(&node, 2, "begun").await;
        let one = space.answering().unwrap();
        let all = "cat /etc/resolv.conf; nslookup -type=a web. 127.0.0.11";
        let said = ask(&mut node, 3, all).await;
        assert!(said.starts_with("nameserver 127.0.0.11\n"), "{said}");
        for address in ["172.20.0.2\n", "172.20.0.3\n"] {
            assert!(said.contains(address), "{address} in {said}");
        }
        let own = "until nslookup -type=a $(hostname). 127.0.0.11; do :; done
            tail -n 1 /etc/hosts";
        let said = ask(&mut node, 4, own).await;
        let address = said.lines().last().unwrap().split('\t').next().unwrap();
        assert!(said.contains(&format!("Address: {address}\n")), "{said}");
        let reverse = "own=$(tail -n 1 /etc/hosts | cut -f 1)
            until nslookup $own 127.0.0.11; do :; done";
        let said = ask(&mut node, 5, reverse).await;
        assert!(said.contains("name = web.5.back"), "{said}");

        // The agent is replaced, the process killed, and at last both.
        node.worker.shut_down().await;
        node.turn_to(node::start(host.home(), parent).await.worker);
        node.until_state(2, TaskState::Running).await;
        assert_eq!(space.answering(), Some(one));
        node.want(2, DesiredState::Shutdown);
        node.until_state(2, TaskState::Shutdown).await;
        let said = log(&node, 2).await;
        let slowest = said.trim().rsplit(' ').next().unwrap().parse::<u32>();
        // One that is not answered is asked again after more than two seconds.
        assert!(slowest.is_ok_and(|slowest| slowest < 150), "{said}");
        kill(one, 9);
        let another = || space.answering().is_some_and(|pid| pid != one);
        wait_for("another process", another).await.unwrap();
        node.worker.shut_down().await;
        // What is left of the agent may still start another one.
        let nobody = || space.answering().map(|pid| kill(pid, 9)).is_none();
        wait_for("nobody to answer", nobody).await.unwrap();
        node.turn_to(node::start(host.home(), parent).await.worker);
        let said = ask(&mut node, 6, "nslookup -type=a web.1. 127.0.0.11").await;
        assert_eq!(said.matches("Address: 172.").count(), 1, "{said}");
        node.worker.leave().await.unwrap();
        assert_eq!(space.answering(), None);
        host.assert_clean().await;
    });
}
