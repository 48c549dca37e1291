//! The control loops of the leading manager.
//!
//! One generic loop: wait for a change or for the time a planner asked for, tell the planner what has
//! changed, take a view, ask the planner, propose what it wants in bounded batches, and begin again.
//! What planners remember begins with the term and ends with it. All policy is in
//! `shoal-manager-planning`. Loops run only while this manager leads; each is supervised for
//! itself, so one that panics is started again and takes nothing with it.

use std::sync::Arc;
use std::time::Duration;

use shoal_manager_planning::liveness::Watch;
use shoal_manager_planning::{BATCH_MAX, Plan, orchestrator, scheduler, tunnel_keys};
use shoal_manager_state::{Action, ClusterState, Event, ObjectRef, Outcome};
use shoal_types::error_chain::chain;
use shoal_types::level::Level;
use shoal_types::time::Timestamp;
use tokio::task::JoinSet;

use crate::clock::{self, RandomIds};
use crate::cluster::Cluster;
use crate::dispatcher::{Sessions, Telling};
use crate::managers;
use crate::raft::LeaderState;

/// Changes that come within this time are planned together.
const DEBOUNCE: Duration = Duration::from_millis(2);

/// Wait after a plan of which nothing was written, or a loop that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(250);

/// One of the loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loop {
    Orchestrator,
    Scheduler,
    Liveness,
    TunnelKeys,
    Managers,
    Facts,
}

impl Loop {
    const ALL: [Self; 6] = [
        Self::Orchestrator,
        Self::Scheduler,
        Self::Liveness,
        Self::TunnelKeys,
        Self::Managers,
        Self::Facts,
    ];
}

/// Runs the loops whenever this manager leads. Ends with the runtime.
pub async fn run(cluster: Cluster, sessions: Arc<Sessions>) {
    let mut leadership = cluster.leadership();
    loop {
        let term = match leadership.wait_for(leads).await {
            Ok(state) => state.clone(),
            Err(_) => return,
        };
        // What earlier leaders acknowledged must be in the first view.
        if let Err(status) = cluster.read().await {
            tracing::warn!(error = status.message(), "leading, but cannot read yet");
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            continue;
        }
        tracing::info!("leading");
        tokio::select! {
            () = supervise(&cluster, &sessions) => {}
            // Also when it leads again by now: another manager may have led in between.
            _ = leadership.wait_for(|state| *state != term) => {
                tracing::info!("not leading any more");
            }
        }
        sessions.end_all();
    }
}

fn leads(state: &LeaderState) -> bool {
    matches!(state, LeaderState::Leader { .. })
}

/// Keeps every loop going.
async fn supervise(cluster: &Cluster, sessions: &Arc<Sessions>) {
    let mut running: JoinSet<Loop> = JoinSet::new();
    let mut ids = std::collections::BTreeMap::new();
    for which in Loop::ALL {
        ids.insert(start(&mut running, which, cluster, sessions), which);
    }
    while let Some(ended) = running.join_next_with_id().await {
        let id = match ended {
            Ok((id, _)) => id,
            Err(error) => {
                tracing::error!(%error, "a control loop failed, starting it again");
                error.id()
            }
        };
        tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        if let Some(which) = ids.remove(&id) {
            ids.insert(start(&mut running, which, cluster, sessions), which);
        }
    }
}

fn start(
    running: &mut JoinSet<Loop>,
    which: Loop,
    cluster: &Cluster,
    sessions: &Arc<Sessions>,
) -> tokio::task::Id {
    let (cluster, sessions) = (cluster.clone(), Arc::clone(sessions));
    let work = async move {
        match which {
            Loop::Orchestrator => {
                plan_loop(&cluster, clock::now, orchestrator::Memory::default()).await;
            }
            Loop::Scheduler => plan_loop(&cluster, clock::now, scheduler::Memory::default()).await,
            Loop::TunnelKeys => {
                plan_loop(&cluster, clock::now, tunnel_keys::Memory::default()).await;
            }
            Loop::Managers => managers::keep(&cluster).await,
            Loop::Facts => plan_loop(&cluster, clock::now, Telling::new(sessions)).await,
            Loop::Liveness => {
                let (watch, removed) = (Watch::begin(clock::steady()), true);
                plan_loop(
                    &cluster,
                    clock::steady,
                    Liveness { watch, sessions, removed, level: None },
                )
                .await;
            }
        }
        which
    };
    running.spawn(work).id()
}

/// One who plans, and remembers what has changed since.
trait Planner {
    /// Notes what an event has changed.
    fn hear(&mut self, event: &Event);

    /// Begins anew: some events were missed.
    fn forget(&mut self);

    /// What is to be done on a view that has everything that was heard of.
    fn plan(&mut self, view: &ClusterState, now: Timestamp) -> Plan;
}

impl Planner for orchestrator::Memory {
    fn hear(&mut self, event: &Event) {
        self.hear(event);
    }

    fn forget(&mut self) {
        self.forget();
    }

    fn plan(&mut self, view: &ClusterState, now: Timestamp) -> Plan {
        orchestrator::plan(view, self, now, &mut RandomIds)
    }
}

impl Planner for scheduler::Memory {
    fn hear(&mut self, event: &Event) {
        self.hear(event);
    }

    fn forget(&mut self) {
        self.forget();
    }

    fn plan(&mut self, view: &ClusterState, now: Timestamp) -> Plan {
        scheduler::plan(view, self, now)
    }
}

impl Planner for tunnel_keys::Memory {
    fn hear(&mut self, event: &Event) {
        self.hear(event);
    }

    fn forget(&mut self) {
        self.forget();
    }

    fn plan(&mut self, view: &ClusterState, now: Timestamp) -> Plan {
        tunnel_keys::plan(view, self, now)
    }
}

/// Watches for silent nodes, and ends the sessions of those that are members no more.
struct Liveness {
    watch: Watch,
    sessions: Arc<Sessions>,
    /// Whether nodes may have been removed.
    removed: bool,
    /// The cluster's, when it was looked at last.
    level: Option<Level>,
}

impl Planner for Liveness {
    fn hear(&mut self, event: &Event) {
        self.watch.hear(event);
        self.removed |=
            matches!((event.action, &event.object), (Action::Remove, ObjectRef::Node(_)));
    }

    fn forget(&mut self) {
        self.watch.forget();
        self.removed = true;
    }

    fn plan(&mut self, view: &ClusterState, now: Timestamp) -> Plan {
        if std::mem::take(&mut self.removed) {
            self.sessions.retain(|node| view.node(node).is_some());
        }
        // What of a node's words is written down depends on it, and it speaks when a session begins.
        let level = view.level();
        if self.level.replace(level).is_some_and(|known| known < level) {
            tracing::info!(%level, "the cluster was raised: its agents are heard anew");
            self.sessions.end_all();
        }
        self.watch.plan(view, |node| self.sessions.heard_of(node), now, clock::now())
    }
}

impl Planner for Telling {
    fn hear(&mut self, event: &Event) {
        self.hear(event);
    }

    fn forget(&mut self) {
        self.forget();
    }

    fn plan(&mut self, view: &ClusterState, _: Timestamp) -> Plan {
        self.tell(view);
        Plan::default()
    }
}

/// Plans by `clock`, for as long as this manager leads.
async fn plan_loop(cluster: &Cluster, clock: fn() -> Timestamp, mut planner: impl Planner) {
    let mut events = cluster.feed().follow();
    loop {
        match events.take() {
            Some(events) => events.iter().for_each(|event| planner.hear(event)),
            None => planner.forget(),
        }
        // After the events, so that it has what they say.
        let plan = planner.plan(&cluster.view(), clock());
        for missed in &plan.missed {
            tracing::error!(missed, "a planner had missed a change; it is made good now");
        }
        if !plan.commands.is_empty() {
            if !carry_out(cluster, plan).await {
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
            continue;
        }
        let wake = plan.wake_at.map(|at| at.since(clock()));
        tokio::select! {
            () = events.changed() => {}
            () = tokio::time::sleep(wake.unwrap_or(Duration::MAX)), if wake.is_some() => {}
        }
        tokio::time::sleep(DEBOUNCE).await;
    }
}

/// Proposes a plan; true if anything was written. One of which nothing comes is not made again at
/// once: it would spin, with an entry in the log each time.
async fn carry_out(cluster: &Cluster, plan: Plan) -> bool {
    let mut written = false;
    let mut commands = plan.commands.into_iter().peekable();
    while commands.peek().is_some() {
        let batch: Vec<_> = commands.by_ref().take(BATCH_MAX).collect();
        match cluster.propose_all(batch).await {
            Ok(results) => {
                for result in results {
                    match result {
                        Ok(outcome) => written |= outcome != Outcome::Unchanged,
                        // Planned from a view that somebody changed meanwhile: plan again.
                        Err(rejected) => {
                            tracing::debug!(%rejected, "a planned command was refused");
                        }
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "a plan was not carried out");
                return false;
            }
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::Command;
    use shoal_manager_state::testing::cluster_with_nodes;
    use shoal_types::id::SessionId;
    use shoal_types::object::ManagerStatus;

    use super::*;

    #[test]
    fn agents_are_heard_anew_when_the_cluster_was_raised() {
        let (mut cluster, nodes) = cluster_with_nodes(1);
        let (sessions, watch) = (Arc::<Sessions>::default(), Watch::begin(Timestamp::ZERO));
        let mut liveness =
            Liveness { watch, sessions: Arc::clone(&sessions), removed: false, level: None };
        let open = || {
            let id = SessionId::from(1);
            sessions.open(nodes[0], id, 7, Timestamp::ZERO, Default::default()).0
        };
        let session = open();
        let _ = liveness.plan(&cluster.state, Timestamp::ZERO);
        let (raft_id, addr, level) = (1, "h:1".to_owned(), Level::OVERLAY);
        let status = Some(ManagerStatus { raft_id, addr, level });
        cluster.apply(Command::SetManagerStatus { id: nodes[0], status });
        let _ = liveness.plan(&cluster.state, Timestamp::ZERO);
        assert!(!session.ended.is_cancelled());
        cluster.apply(Command::RaiseLevel { level });
        let _ = liveness.plan(&cluster.state, Timestamp::ZERO);
        assert!(session.ended.is_cancelled());
        let session = open();
        let _ = liveness.plan(&cluster.state, Timestamp::ZERO);
        assert!(!session.ended.is_cancelled(), "once");
    }
}
