//! Every example's stack file is understood, and planned onto a cluster of three nodes. The end-to-end
//! suite runs them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_ctl::stack::{self, Files, Input, Source, Variables};
use shoal_manager_planning::{orchestrator, scheduler};
use shoal_manager_state::{ClusterState, Command, PredefinedIds, StackIds, apply};
use shoal_types::id::{IdSource as _, NodeId, SeededIds};
use shoal_types::level::Level;
use shoal_types::object::{
    JoinTokens, NodeDescription, NodeState, NodeStatus, RootCa, Service, Task, TunnelDescription,
    TunnelKey, TunnelKind,
};
use shoal_types::resources::{NANO_CPUS_PER_CPU, Resources};
use shoal_types::spec::{ClusterSpec, NodeRole, NodeSpec, Platform, ServiceMode, StackSpec};
use shoal_types::time::Timestamp;

struct Disk;

impl Files for Disk {
    fn read(&self, path: &str) -> Result<Option<String>, String> {
        fs::read_to_string(path).map(Some).map_err(|e| e.to_string())
    }
}

fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let dirs = fs::read_dir(root).unwrap().map(|e| e.unwrap().path());
    dirs.filter(|dir| dir.is_dir()).collect()
}

fn load(dir: &Path, variables: &Variables) -> StackSpec {
    let file = dir.join("stack.yaml");
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let sources = [Source { name: file.display().to_string(), text }];
    let input = Input {
        name: None,
        fallback_name: None,
        sources: &sources,
        variables,
        dir: dir.to_str().unwrap(),
        files: &Disk,
    };
    let loaded = stack::load(&input).unwrap_or_else(|p| panic!("{}:\n{p}", file.display()));
    assert!(loaded.warnings.is_empty(), "{}: {:?}", file.display(), loaded.warnings);
    loaded.spec
}

#[test]
fn every_example_is_understood() {
    let examples = examples();
    assert!(examples.len() >= 2, "{examples:?}");
    for dir in examples {
        let spec = load(&dir, &Variables::new());
        assert_eq!(Some(spec.name.as_str()), dir.file_name().and_then(|n| n.to_str()));
        assert!(!spec.services.is_empty(), "{}", dir.display());
        assert!(dir.join("README.md").is_file(), "{} has no README.md", dir.display());
    }
}

#[test]
fn variables_reach_the_shop() {
    let dir = examples().into_iter().find(|dir| dir.ends_with("shop")).unwrap();
    let pairs = [("REGISTRY", "r.lan:5000"), ("VERSION", "7")];
    let variables = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let spec = serde_json::to_value(load(&dir, &variables)).unwrap();
    let container = spec.pointer("/Services/web/TaskTemplate/ContainerSpec").unwrap();
    assert_eq!(container["Image"], "r.lan:5000/shop-web:7");
    let env: Vec<&str> =
        container["Env"].as_array().unwrap().iter().flat_map(|v| v.as_str()).collect();
    assert!(env.contains(&"COUNTER=counter:8081"), "{env:?}");
    assert!(env.contains(&"VERSION=7"), "{env:?}");
}

const NODES: u64 = 3;
const NOW: Timestamp = Timestamp::from_secs(1000);

/// The state of a cluster, and what a leader would do to it.
struct Planned {
    state: ClusterState,
    ids: SeededIds,
}

impl Planned {
    fn new() -> Self {
        let mut planned = Self { state: ClusterState::new(), ids: SeededIds::new(7) };
        let ids = &mut planned.ids;
        let networks =
            PredefinedIds { bridge: ids.next_id(), host: ids.next_id(), none: ids.next_id() };
        let create = Command::CreateCluster {
            id: ids.next_id(),
            spec: ClusterSpec::default(),
            root_ca: RootCa { cert_pem: "certificate".to_owned(), key_pem: "key".to_owned() },
            join_tokens: JoinTokens::default(),
            networks,
            level: Level::OWN,
        };
        planned.apply(create);
        for number in 1..=NODES {
            planned.node(number);
        }
        planned
    }

    /// The first has the label that the shop's README asks for.
    fn node(&mut self, number: u64) {
        let id: NodeId = self.ids.next_id();
        let tunnel = TunnelDescription {
            public_key: TunnelKey([u8::try_from(number).unwrap(); 32]),
            port: 51820,
            addr: None,
            kind: TunnelKind::Kernel,
            keys: None,
        };
        let description = NodeDescription {
            hostname: format!("h{number}"),
            platform: Platform { architecture: "amd64".to_owned(), os: "linux".to_owned() },
            resources: Resources {
                nano_cpus: 2 * NANO_CPUS_PER_CPU,
                memory_bytes: 1 << 30,
                generic_resources: Vec::new(),
            },
            level: Level::OWN,
            tunnel: Some(tunnel),
            ..NodeDescription::default()
        };
        let role = if number == 1 { NodeRole::Manager } else { NodeRole::Agent };
        let mut spec = NodeSpec { role, ..NodeSpec::default() };
        if number == 1 {
            spec.labels.insert("role".to_owned(), "store".to_owned());
        }
        self.apply(Command::CreateNode { id, spec, description });
        let status =
            NodeStatus { state: NodeState::Ready, message: String::new(), addr: None, since: NOW };
        self.apply(Command::ReportNode { id, description: None, status });
    }

    fn apply(&mut self, command: Command) {
        let index = self.state.applied_index() + 1;
        let applied = apply(&mut self.state, index, NOW, command);
        applied.unwrap_or_else(|why| panic!("refused: {why}"));
    }

    fn stack(&mut self, spec: StackSpec) {
        let ids = &mut self.ids;
        let ids = StackIds {
            stack: ids.next_id(),
            services: spec
                .services
                .keys()
                .map(|key| (key.clone(), (ids.next_id(), ids.next_id())))
                .collect(),
            networks: spec.networks.keys().map(|key| (key.clone(), ids.next_id())).collect(),
        };
        let spec = Arc::new(spec);
        self.apply(Command::ApplyStack {
            spec,
            ids,
            prune: false,
            expected: None,
            payloads: Default::default(),
        });
    }

    /// Plans until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..100 {
            let mut commands = {
                let mut memory = orchestrator::Memory::default();
                orchestrator::plan(&self.state, &mut memory, NOW, &mut self.ids)
            }
            .commands;
            if commands.is_empty() {
                commands =
                    scheduler::plan(&self.state, &mut scheduler::Memory::default(), NOW).commands;
            }
            if commands.is_empty() {
                return;
            }
            for command in commands {
                self.apply(command);
            }
        }
        panic!("planning does not come to rest");
    }

    fn placed(&self, service: &Service) -> Vec<&Arc<Task>> {
        let tasks: Vec<_> = self.state.tasks_of_service(service.id).collect();
        for task in &tasks {
            assert!(task.node_id.is_some(), "{} waits: {:?}", service.spec.name, task.status);
        }
        tasks
    }
}

#[test]
fn every_example_finds_its_places() {
    for dir in examples() {
        let mut planned = Planned::new();
        let spec = load(&dir, &Variables::new());
        let count = spec.services.len();
        planned.stack(spec);
        planned.settle();
        let services: Vec<_> = planned.state.services().cloned().collect();
        assert_eq!(services.len(), count, "{}", dir.display());
        for service in services {
            let expected = match service.spec.mode {
                ServiceMode::Replicated { replicas } => replicas,
                ServiceMode::Global {} => NODES,
                ref other => panic!("{other:?}"),
            };
            let placed = planned.placed(&service).len() as u64;
            assert_eq!(placed, expected, "tasks of {}", service.spec.name);
        }
    }
}
