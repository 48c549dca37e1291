//! The agent dies at the n-th call of a driver or of the ledger, before or after it has had its effect,
//! for every n there is; what it had in memory is thrown away, and another one goes on. The end has to be
//! that of a story without a death.

mod drivers;
mod host;
mod meter;

use std::time::Duration;

use shoal_types::assignment::AssignedTask;
use shoal_types::spec::{Healthcheck, Mount, MountKind};
use shoal_types::task_state::{DesiredState, TaskState};

use super::lab::{other_network, task};
use super::lives::port;
use crate::testing::assigner;
use host::{End, Host, Manager, Process, Said, same};
use meter::{Death, Point};
use shoal_agent_runtime::ExitStatus;

/// More calls than any story has.
const CALLS_MAX: usize = 200;

/// Something that happens to a node, after something else.
struct Story {
    /// What is assigned at first, and when that is over.
    first: fn(&mut Manager),
    settled: fn(&Said) -> bool,
    /// What happens then. The calls that follow from it are those at which the agent dies.
    then: fn(&mut Host, &mut Manager),
    /// Whether the agent that has lived so far dies of it.
    agent_dies: bool,
    over: fn(&Said) -> bool,
}

impl Story {
    /// Tells it, with a death or without. Returns the end, and how many calls there were.
    fn tell(
        &self,
        death: Option<Death>,
        left_out: Option<&'static str>,
    ) -> Result<(End, usize), String> {
        let (mut host, mut manager) = (Host::new(), Manager::new());
        if let Some(name) = left_out {
            host.meter.leave_out(name);
        }
        (self.first)(&mut manager);
        let first = self.reach(&mut host, &mut manager);
        let process = host.live(&mut manager, first, self.settled)?;
        host.meter.arm(death);
        (self.then)(&mut host, &mut manager);
        let process = if self.agent_dies {
            process.end();
            None
        } else {
            process.hear(&manager);
            Some(process)
        };
        let process = host.live(&mut manager, process, self.over)?;
        let calls = host.meter.calls().len();
        let end = host.end(process, &manager);
        match manager.wrong.as_slice() {
            [] => Ok((end, calls)),
            wrong => Err(wrong.join("; ")),
        }
    }

    fn reach(&self, host: &mut Host, manager: &mut Manager) -> Option<Process> {
        let process = host.agent();
        if let Some(process) = &process {
            process.hear(manager);
        }
        process
    }

    /// Dies everywhere. Returns how many deaths there were.
    fn enumerate(&self, left_out: Option<&'static str>) -> Result<usize, String> {
        let (expected, _) = self.tell(None, None)?;
        let (end, _) = self.tell(None, left_out)?;
        same(&expected, &end).map_err(|e| format!("without a death: {e}"))?;
        for call in 1..CALLS_MAX {
            let mut calls = 0;
            for point in [Point::Before, Point::After] {
                let at = |e| format!("dying {point:?} call {call}: {e}");
                let (end, made) = self.tell(Some((call, point)), left_out).map_err(at)?;
                same(&expected, &end).map_err(at)?;
                calls = calls.max(made);
            }
            if calls < call {
                return Ok(call - 1);
            }
        }
        Err("it has no end".to_owned())
    }

    #[track_caller]
    fn holds(&self) {
        match self.enumerate(None) {
            Ok(calls) => assert!(calls > 4, "{calls} calls are too few to be true"),
            Err(wrong) => panic!("{wrong}"),
        }
    }

    #[track_caller]
    fn notices(&self, left_out: &'static str, said: &str) {
        let wrong = self.enumerate(Some(left_out)).expect_err("nobody notices");
        assert!(wrong.contains(said), "{wrong}");
    }
}

fn volume(source: &str, target: &str) -> Mount {
    Mount {
        kind: MountKind::Volume,
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

/// A task with everything: a network, a port, a volume of its own and one that stays, a health check.
fn full(id: u128) -> AssignedTask {
    let mut task = task(id, |container| {
        container.mounts = vec![volume("data", "/data"), volume("", "/scratch")];
        container.healthcheck = Some(Healthcheck {
            test: ["CMD", "check"].map(str::to_owned).to_vec(),
            interval: Some(Duration::from_secs(10)),
            retries: 2,
            ..Healthcheck::default()
        });
    });
    task.ports = vec![port(8000 + u16::try_from(id).unwrap())];
    task
}

fn assign(manager: &mut Manager, task: AssignedTask) {
    manager.assignment.tasks.insert(task.id, task);
}

fn nothing(_: &mut Manager) {}

fn one(manager: &mut Manager) {
    assign(manager, full(1));
}

const fn at_once(_: &Said) -> bool {
    true
}

fn runs(said: &Said) -> bool {
    said.is(1, TaskState::Running)
}

fn failed(said: &Said) -> bool {
    said.is(1, TaskState::Failed)
}

fn exit(host: &Host) {
    let status = ExitStatus { code: Some(3), ..ExitStatus::default() };
    host.runtime.exit(&shoal_types::id::TaskId::from(1).into(), status);
}

const START: Story = Story {
    first: nothing,
    settled: at_once,
    then: |_, manager| one(manager),
    agent_dies: false,
    over: runs,
};

const REJECT: Story = Story {
    then: |_, manager| assign(manager, task(1, |c| c.image = "nothing:1".to_owned())),
    over: |said| said.is(1, TaskState::Rejected),
    ..START
};

const STOP: Story = Story {
    first: one,
    settled: runs,
    then: |_, manager| {
        let task = manager.assignment.tasks.values_mut().next().unwrap();
        task.desired_state = DesiredState::Shutdown;
    },
    agent_dies: false,
    over: |said| said.is(1, TaskState::Shutdown),
};

const REMOVE: Story = Story {
    then: |_, manager| manager.assignment.tasks.clear(),
    over: |said| said.summary.is_empty(),
    ..STOP
};

const REASSIGN: Story = Story {
    then: |_, manager| {
        manager.assignment.tasks.clear();
        assign(manager, full(2));
    },
    over: |said| !said.holds(1) && said.is(2, TaskState::Running),
    ..STOP
};

const UNHEALTHY: Story =
    Story { then: |host, _| host.runtime.exec_code(&["check"], 1), over: failed, ..STOP };

const EXIT: Story = Story { then: |host, _| exit(host), over: failed, ..STOP };

const RESTART: Story = Story { then: |_, _| {}, agent_dies: true, over: runs, ..STOP };

const EXIT_UNHEARD: Story = Story { agent_dies: true, ..EXIT };

/// A task that is on a second network, too.
fn two(manager: &mut Manager) {
    plain(manager);
    connect(manager);
}

/// What the ledger says of the state of one that lives is not different before and after its first health check.
fn plain(manager: &mut Manager) {
    assign(manager, task(1, |_| {}));
}

fn connect(manager: &mut Manager) {
    let (id, network) = other_network();
    manager.assignment.networks.insert(id, network);
    let task = manager.assignment.tasks.values_mut().next().unwrap();
    task.networks.push(assigner::joined(id));
}

const CONNECT: Story = Story {
    first: plain,
    then: |_, manager| connect(manager),
    over: |said| runs(said) && said.is_connected(1, 2),
    ..STOP
};

/// Only what the ledger has is known to the next agent when it begins.
const CONNECT_AND_DIE: Story = Story { agent_dies: true, ..CONNECT };

const DISCONNECT: Story = Story {
    first: two,
    settled: |said| runs(said) && said.is_connected(1, 2),
    then: |_, manager| {
        manager.assignment.networks.remove(&other_network().0);
        manager.assignment.tasks.values_mut().next().unwrap().networks.truncate(1);
    },
    over: |said| runs(said) && said.is_connected(1, 1),
    ..STOP
};

/// It loses the network that its default route was by, which another one has then.
const DISCONNECT_WAY_OUT: Story = Story {
    then: |_, manager| {
        let task = manager.assignment.tasks.values_mut().next().unwrap();
        let gone = task.networks.remove(0);
        manager.assignment.networks.remove(&gone.network_id);
    },
    ..DISCONNECT
};

const REBOOT: Story = Story { then: |host, _| host.reboot(), ..RESTART };

#[test]
fn at_every_call_of_a_start() {
    START.holds();
}

#[test]
fn at_every_call_of_a_rejection() {
    REJECT.holds();
}

#[test]
fn at_every_call_of_a_stop() {
    STOP.holds();
}

#[test]
fn at_every_call_of_a_removal() {
    REMOVE.holds();
}

#[test]
fn at_every_call_while_one_task_takes_the_place_of_another() {
    REASSIGN.holds();
}

#[test]
fn at_every_call_of_what_follows_a_failed_health_check() {
    UNHEALTHY.holds();
}

#[test]
fn at_every_call_of_what_follows_an_exit() {
    EXIT.holds();
}

#[test]
fn at_every_call_of_a_restart_of_the_agent() {
    RESTART.holds();
}

#[test]
fn at_every_call_of_a_restart_after_an_exit_that_nobody_heard() {
    EXIT_UNHEARD.holds();
}

#[test]
fn at_every_call_of_a_connection() {
    CONNECT.holds();
}

#[test]
fn at_every_call_of_a_connection_of_which_the_next_agent_hears() {
    CONNECT_AND_DIE.holds();
}

#[test]
fn at_every_call_of_a_disconnection() {
    DISCONNECT.holds();
}

#[test]
fn at_every_call_of_a_disconnection_from_the_network_that_leads_out() {
    DISCONNECT_WAY_OUT.holds();
}

#[test]
fn at_every_call_of_coming_back_after_a_reboot() {
    REBOOT.holds();
}

/// Bugs that are planted. The first two show only where the agent dies.
#[test]
fn what_is_not_written_or_given_back_is_noticed() {
    EXIT.notices("ledger.starting", "state: Running");
    UNHEALTHY.notices("ledger.draining", "state: Complete");
    STOP.notices("networks.release", "leases is");
    STOP.notices("names.let_go", "answered is");
    REMOVE.notices("ledger.remove", "ledger is");
}
