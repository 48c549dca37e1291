//! The shapes that are measured.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use shoal_manager_planning::assignment::{Held, News, news};
use shoal_manager_planning::scheduler;
use shoal_manager_state::testing::{TestCluster, cluster_with_nodes, service_spec, with_task};
use shoal_manager_state::{Command, UpdateKind};
use shoal_types::id::{IdSource as _, NodeId, ServiceId};
use shoal_types::level::Level;
use shoal_types::object::{Slot, TaskStatus};
use shoal_types::spec::{Placement, ServiceSpec};
use shoal_types::task_state::{DesiredState, TaskState};

use super::leader::Leader;

/// One line of the table.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) bar: &'static str,
    pub(crate) measure: fn() -> String,
}

pub(crate) const SHAPES: &[Shape] = &[
    Shape {
        name: "10k",
        what: "1,000 nodes, one service to 10,000 tasks",
        bar: "flat",
        measure: || grow(1_000, 10_000, false),
    },
    Shape {
        name: "100k",
        what: "1,000 nodes, one service to 100,000 tasks",
        bar: "1.5 s",
        measure: || grow(1_000, 100_000, false),
    },
    Shape {
        name: "batch",
        what: "5,000 nodes, 150,000 tasks, 3,000 services: one status batch",
        bar: "1 ms",
        measure: status_batch,
    },
    Shape { name: "one", what: "the same, one new task placed", bar: "3 ms", measure: one_task },
    Shape {
        name: "1m",
        what: "100,000 nodes, one service to 1,000,000 tasks",
        bar: "30 s, 1.2 GB",
        measure: || grow(100_000, 1_000_000, false),
    },
    Shape {
        name: "plan",
        what: "1,000 nodes, 100,000 tasks placed by one look",
        bar: "0.12 + 0.5 s",
        measure: one_plan,
    },
    Shape {
        name: "woken",
        what: "a node with 400 tasks, one of them changed: what it is told",
        bar: "",
        measure: woken,
    },
    Shape {
        name: "wide",
        what: "100,000 nodes, one service to 1,000 tasks",
        bar: "",
        measure: || grow(100_000, 1_000, false),
    },
    Shape {
        name: "where",
        what: "5,000 nodes, one service to 100,000 tasks, constraints",
        bar: "",
        measure: || grow(5_000, 100_000, true),
    },
];

fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 0.1 { format!("{ms:.4} ms") } else { format!("{ms:.2} ms") }
}

/// What this process has had of memory at most, in MB; 0 where the kernel does not say.
fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024 / 1_000_000
}

/// How long this process has had a processor: on a machine that does something else, too, this is what
/// it would have taken alone. Zero where the kernel does not say.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// A cluster of so many nodes, with nothing in it.
fn cluster(nodes: usize) -> (TestCluster, Vec<NodeId>) {
    let (mut cluster, nodes) = cluster_with_nodes(nodes);
    cluster.events();
    (cluster, nodes)
}

fn spec(replicas: u64, constrained: bool) -> ServiceSpec {
    with_task(service_spec("web", replicas), |task| {
        let constraints = ["node.platform.os==linux", "node.hostname!=node-17"];
        let constraints = constraints.map(str::to_owned).to_vec();
        task.placement = constrained.then(|| Placement { constraints, ..Placement::default() });
    })
}

/// A service of one node becomes one of so many tasks: made, and assigned to nodes.
fn grow(nodes: usize, tasks: u64, constrained: bool) -> String {
    let (cluster, _) = cluster(nodes);
    let mut leader = Leader::new(cluster);
    let service = leader.cluster.add_service(spec(1, constrained));
    leader.apply([]);
    leader.work();
    leader.reset();
    let base = peak_mb();
    let (begun, cpu) = (Instant::now(), on_cpu());
    scale(&mut leader, service, spec(tasks, constrained));
    leader.work();
    let (took, cpu) = (begun.elapsed(), on_cpu() - cpu);
    let placed = leader.cluster.state.tasks().filter(|t| t.status.state == TaskState::Assigned);
    assert_eq!(placed.count() as u64, tasks, "all are placed");
    even(&leader, nodes, tasks);
    let [orchestrator, scheduler] = leader.planning.map(|time| time.as_secs_f64());
    let (took, cpu) = (took.as_secs_f64(), cpu.as_secs_f64());
    let mut told = format!("{took:.2} s, {cpu:.2} s of a CPU");
    let applying = leader.applying.as_secs_f64();
    let _ = write!(told, " (orchestrator {orchestrator:.2}, scheduler {scheduler:.2}, ");
    let _ = write!(told, "apply {applying:.2}), {} MB, {base} before", peak_mb());
    told
}

fn scale(leader: &mut Leader, id: ServiceId, spec: ServiceSpec) {
    let deployment_id = leader.cluster.ids.next_id();
    let (spec, kind) = (spec.into(), UpdateKind::Update);
    leader.apply([Command::UpdateService { id, expected: None, deployment_id, spec, kind }]);
}

/// However many batches there were: no node has two tasks more than another one.
fn even(leader: &Leader, nodes: usize, tasks: u64) {
    let per_node = |n: &NodeId| leader.cluster.state.tasks_on_node(*n).count() as u64;
    let counts: Vec<u64> =
        leader.cluster.state.nodes().map(|n| per_node(&n.id)).filter(|n| *n > 0).collect();
    let (least, most) = (counts.iter().min(), counts.iter().max());
    let (least, most) = (*least.expect("some"), *most.expect("some"));
    assert!(most - least <= 1, "{least} to {most} tasks on a node of {nodes} for {tasks}");
}

const BIG_NODES: usize = 5_000;
const BIG_SERVICES: u64 = 3_000;
const BIG_TASKS_EACH: u64 = 50;

/// A cluster in which everything runs, and a leader that has looked at it.
fn big() -> (Leader, Vec<NodeId>, Vec<ServiceId>) {
    let (mut cluster, nodes) = cluster(BIG_NODES);
    let mut next = nodes.iter().cycle();
    let mut services = Vec::new();
    for n in 0..BIG_SERVICES {
        let service = cluster.add_service(service_spec(&format!("s{n}"), BIG_TASKS_EACH));
        services.push(service);
        for replica in 1..=BIG_TASKS_EACH {
            let (id, command) = cluster.new_task(service, Slot::Replica(replica));
            cluster.try_apply(command).expect("made");
            let node_id = *next.next().expect("a node");
            cluster
                .try_apply(Command::AssignTask { id, node_id, partner: None })
                .expect("assigned");
        }
        cluster.events();
    }
    for node_id in &nodes {
        report(&mut cluster, *node_id, "running");
    }
    cluster.events();
    let mut leader = Leader::new(cluster);
    leader.work();
    // What was rolled out stays so.
    leader.cluster.advance(Duration::from_secs(60));
    leader.work();
    leader.reset();
    (leader, nodes, services)
}

/// The node says of all of its tasks that they run.
fn report(cluster: &mut TestCluster, node_id: NodeId, message: &str) {
    let command = statuses(cluster, node_id, message);
    cluster.try_apply(command).expect("a report");
}

fn statuses(cluster: &TestCluster, node_id: NodeId, message: &str) -> Command {
    let status = TaskStatus::new(TaskState::Running, cluster.now, message);
    let tasks = cluster.state.tasks_on_node(node_id).map(|t| (t.id, status.clone()));
    Command::UpdateTaskStatuses { node_id, statuses: tasks.collect() }
}

/// Median and worst of what it takes to get over one batch: planners, and the assignment of the node
/// that is named in it.
fn status_batch() -> String {
    let (mut leader, nodes, _) = big();
    let mut times = Vec::new();
    for (n, node) in nodes.iter().enumerate().step_by(25) {
        leader.cluster.advance(Duration::from_millis(10));
        let mut held = Held::new(*node);
        let told = held.catch_up(&leader.cluster.state, &News::whole()).count() as u64;
        // A network beside the tasks.
        assert_eq!(told, BIG_SERVICES * BIG_TASKS_EACH / BIG_NODES as u64 + 1);
        let batch = statuses(&leader.cluster, *node, &format!("running, {n}"));
        leader.apply([batch]);
        leader.reset();
        assert_eq!(leader.work(), 0, "a report leaves nothing to do");
        let (view, begun) = (&leader.cluster.state, Instant::now());
        let news = news(&leader.written, view);
        let told: usize = news.values().map(|news| held.catch_up(view, news).count()).sum();
        let sent = begun.elapsed();
        assert_eq!((news.len(), told), (1, 0), "the node knows what it has said");
        let [orchestrator, scheduler] = leader.planning;
        times.push((orchestrator + scheduler + sent, orchestrator, scheduler, sent));
    }
    times.sort();
    let (total, orchestrator, scheduler, sent) = times[times.len() / 2];
    let parts = [orchestrator, scheduler, sent].map(ms).join(" + ");
    let worst = ms(times[times.len() - 1].0);
    format!("{} = {parts}; at most {worst}; {} MB", ms(total), peak_mb())
}

/// Median and worst of what a node's stream does when it is woken.
fn woken() -> String {
    let (mut cluster, nodes) = cluster(1);
    let service = cluster.add_service(service_spec("web", 400));
    let mut tasks = Vec::new();
    for replica in 1..=400 {
        let (id, command) = cluster.new_task(service, Slot::Replica(replica));
        cluster.try_apply(command).expect("made");
        cluster
            .try_apply(Command::AssignTask { id, node_id: nodes[0], partner: None })
            .expect("assigned");
        tasks.push(id);
    }
    report(&mut cluster, nodes[0], "running");
    cluster.events();
    let mut held = Held::new(nodes[0]);
    let begun = Instant::now();
    assert_eq!(held.catch_up(&cluster.state, &News::whole()).count(), 401, "a network, too");
    let whole = begun.elapsed();
    let mut times = Vec::new();
    for id in tasks {
        let desired = DesiredState::Shutdown;
        cluster.try_apply(Command::SetDesired { id, desired }).expect("stopped");
        let events = cluster.events();
        let begun = Instant::now();
        let news = news(&events, &cluster.state);
        let changes: Vec<_> = held.catch_up(&cluster.state, &news[&nodes[0]]).collect();
        times.push(begun.elapsed());
        assert_eq!(changes.len(), 1);
    }
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    format!("{}; at most {}; all {}", ms(median), ms(worst), ms(whole))
}

/// From a service that is to have one task more to that task's place.
fn one_task() -> String {
    let (mut leader, _, services) = big();
    let mut times = Vec::new();
    for service in services.iter().step_by(30) {
        leader.cluster.advance(Duration::from_millis(10));
        let name = leader.cluster.state.service(*service).expect("there").spec.name.clone();
        scale(&mut leader, *service, service_spec(&name, BIG_TASKS_EACH + 1));
        leader.reset();
        leader.work();
        let [orchestrator, scheduler] = leader.planning;
        times.push((orchestrator + scheduler, orchestrator, scheduler));
        let all = leader.cluster.state.tasks_of_service(*service);
        let placed = all.filter(|t| t.node_id.is_some()).count() as u64;
        assert_eq!(placed, BIG_TASKS_EACH + 1);
    }
    times.sort();
    let (total, orchestrator, scheduler) = times[times.len() / 2];
    let parts = [orchestrator, scheduler].map(ms).join(" + ");
    format!("{} = {parts}; at most {}", ms(total), ms(times[times.len() - 1].0))
}

/// The scheduler alone, on tasks that are all there.
fn one_plan() -> String {
    const TASKS: u64 = 100_000;
    let (mut cluster, _) = cluster(1_000);
    let service = cluster.add_service(service_spec("web", TASKS));
    for replica in 1..=TASKS {
        let (id, service_version) = (cluster.ids.next_id(), 1);
        let (slot, desired) = (Slot::Replica(replica), DesiredState::Running);
        let command = Command::CreateTask {
            id,
            service_id: service,
            service_version,
            slot,
            node_id: None,
            desired,
            start_after: None,
            rejections: 0,
            level: Level::FIRST,
        };
        cluster.try_apply(command).expect("made");
    }
    cluster.events();
    let mut memory = scheduler::Memory::default();
    let (mut planning, mut applying, mut looks) = (Duration::ZERO, Duration::ZERO, 0);
    loop {
        let view = cluster.state.clone();
        let begun = Instant::now();
        let plan = scheduler::plan(&view, &mut memory, cluster.now);
        planning += begun.elapsed();
        drop(view);
        if plan.commands.is_empty() {
            break;
        }
        looks += 1;
        let begun = Instant::now();
        for command in plan.commands {
            cluster.try_apply(command).expect("nothing is refused");
        }
        applying += begun.elapsed();
        cluster.events().iter().for_each(|event| memory.hear(event));
    }
    let (planning, applying) = (planning.as_secs_f64(), applying.as_secs_f64());
    format!("{planning:.2} + {applying:.2} s, {looks} looks, {} MB", peak_mb())
}
