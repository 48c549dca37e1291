//! Every command: what it does, when it does nothing, and each refusal.

mod address;
mod cluster;
mod connection;
mod credentials;
mod dual;
mod fixed;
mod hosts;
mod network;
mod node;
mod payload;
mod port;
mod service;
mod sharing;
mod stack;
mod stack_rollback;
mod status;
mod task;
mod tunnel_address;
mod user;
mod wire;

use crate::testing::TestCluster;
use crate::{Action, Command, Rejected, RejectedCode};

/// Applies a command that must be refused, and demands that it leaves no trace.
#[track_caller]
fn refused(cluster: &TestCluster, command: Command) -> Rejected {
    let mut after = cluster.clone();
    let shown = format!("{command:?}");
    let Err(rejected) = after.try_apply(command) else { panic!("was not refused: {shown}") };
    let mut before = cluster.state.clone();
    before.pass(after.state.applied_index());
    assert!(before == after.state, "a refused command left something behind: {shown}");
    rejected
}

/// Demands that each command is refused with this code and with all of these words.
#[track_caller]
fn all_refused(cluster: &TestCluster, cases: Vec<(Command, RejectedCode, &[&str])>) {
    for (command, code, words) in cases {
        let shown = format!("{command:?}");
        let rejected = refused(cluster, command);
        assert_eq!(rejected.code(), code, "{rejected}: {shown}");
        for word in words {
            assert!(rejected.to_string().contains(word), "{rejected}: no {word:?}: {shown}");
        }
    }
}

/// The change feed since the last look, as `create service` and the like.
fn feed(cluster: &mut TestCluster) -> Vec<String> {
    let action = |action| match action {
        Action::Create => "create",
        Action::Update => "update",
        Action::Remove => "remove",
    };
    let events = cluster.events();
    events.iter().map(|e| format!("{} {}", action(e.action), e.object.kind())).collect()
}
