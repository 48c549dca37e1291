//! Specs that many tasks share are written once, and shared again.

use std::collections::BTreeSet;

use shoal_manager_state::testing::{with_host_port, with_task};
use shoal_types::id::ServiceId;
use shoal_types::spec::TaskRuntime;

use super::*;

/// Two services' tasks, as many as 80 replicas with their past, with an environment as long as a
/// command line.
fn many_tasks() -> (TestCluster, [ServiceId; 2]) {
    let (mut cluster, _) = cluster_with_nodes(1);
    let services = ["large", "larger"].map(|name| {
        let spec = with_task(service_spec(name, 400), |task| {
            let TaskRuntime::Container(container) = &mut task.runtime else { return };
            container.env = vec![format!("NAME={name}{}", "x".repeat(190_000))];
        });
        cluster.add_service(spec)
    });
    for replica in 1..=400 {
        for service in services {
            cluster.add_task(service, replica);
        }
    }
    cluster.events();
    (cluster, services)
}

/// How many specs the tasks of a state have in memory, and whether they are their services' own.
fn specs_in_memory(state: &ClusterState) -> (usize, bool) {
    let places: BTreeSet<_> = state.tasks().map(|task| Arc::as_ptr(&task.spec)).collect();
    let own = |task: &Arc<Task>| {
        let service = state.service(task.service_id).unwrap();
        Arc::ptr_eq(&task.spec, &service.spec.task_template)
    };
    (places.len(), state.tasks().all(own))
}

#[test]
fn a_snapshot_grows_with_the_specs_and_not_with_the_tasks() {
    let (cluster, _) = many_tasks();
    assert_eq!(specs_in_memory(&cluster.state), (2, true));
    let bytes = written(&cluster.state);
    // Each spec with its service and with its first task; the tasks are small.
    assert!(bytes.len() < 4 * 190_000 + 800 * 400, "800 tasks take {} bytes", bytes.len());
    let read = read_snapshot(&mut &*bytes).unwrap();
    assert!(read == cluster.state);
    assert_eq!(specs_in_memory(&read), (2, true), "what was shared is shared again");
    assert!(written(&read) == bytes);
}

/// What else tasks take over from their service: how often each of it is in memory.
fn inherited_in_memory(state: &ClusterState) -> [usize; 4] {
    fn places<T>(all: impl Iterator<Item = *const T>) -> usize {
        all.collect::<BTreeSet<_>>().len()
    }
    [
        places(state.tasks().map(|task| task.service_name.as_ptr())),
        places(state.tasks().map(|task| Arc::as_ptr(&task.service_labels))),
        places(state.tasks().map(|task| task.networks.as_ptr())),
        places(state.tasks().filter_map(|task| task.endpoint.as_ref()).map(Arc::as_ptr)),
    ]
}

#[test]
fn what_tasks_take_over_from_their_service_is_in_memory_once() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    for name in ["a", "b"] {
        let mut spec = with_host_port(service_spec(name, 5), 0);
        spec.labels.insert("of".to_owned(), name.to_owned());
        let service = cluster.add_service(spec);
        for replica in 1..=5 {
            cluster.add_running(service, replica, nodes[0]);
        }
    }
    cluster.events();
    assert_eq!(inherited_in_memory(&cluster.state), [2; 4]);
    let read = read_snapshot(&mut &*written(&cluster.state)).unwrap();
    assert!(read == cluster.state);
    assert_eq!(inherited_in_memory(&read), [2; 4], "what was shared is shared again");
}

#[test]
fn a_snapshot_of_the_first_format_is_read_and_shares_its_specs() {
    let (mut cluster, [web, _]) = many_tasks();
    // A version that tasks still have and the service not any more.
    cluster.update_service(web, service_spec("large", 400));
    cluster.events();
    let state = &cluster.state;
    let first = |format| {
        let preamble = pb::SnapshotPreamble {
            format,
            records: state.export().len() as u64,
            applied_index: state.applied_index(),
        };
        let records = state.export().into_iter().map(|object| match object {
            ObjectRef::Task(task) => Record::Task((&*task).into()),
            ObjectRef::Cluster(object) => Record::Cluster((&*object).into()),
            ObjectRef::Node(object) => Record::Node((&*object).into()),
            ObjectRef::Network(object) => Record::Network((&*object).into()),
            ObjectRef::Service(object) => Record::Service((&*object).into()),
            ObjectRef::Deployment(object) => Record::Deployment((&*object).into()),
            other => panic!("{other:?} is not in this test"),
        });
        let all: Vec<Record> = std::iter::once(Record::Preamble(preamble)).chain(records).collect();
        framed(&all)
    };
    let read = read_snapshot(&mut &*first(1)).unwrap();
    assert!(read == *state);
    assert_eq!(specs_in_memory(&read).0, 2);
    assert!(matches!(read_snapshot(&mut &*first(3)), Err(SnapshotError::Format { found: 3 })));
}

#[test]
fn a_spec_that_no_task_brought_is_refused() {
    let mut cluster = cluster_with_nodes(1).0;
    let web = cluster.add_service(service_spec("web", 1));
    let task = cluster.add_task(web, 1);
    let task = pb::Task::from(&**cluster.state.task(task).unwrap());
    let preamble = pb::SnapshotPreamble { format: 2, records: 1, applied_index: 1 };
    let refusal = |task_spec| {
        let bare = Record::Task(pb::Task { spec: None, ..task.clone() });
        let bare = pb::SnapshotRecord { record: Some(bare), task_spec };
        let bytes = [framed(&[Record::Preamble(preamble)]), bare.encode_length_delimited_to_vec()];
        chain(&read_snapshot(&mut &*bytes.concat()).unwrap_err()).to_string()
    };
    assert!(refusal(7).ends_with("task_spec: is 7: 0 are known"), "{}", refusal(7));
    assert!(refusal(u64::MAX).ends_with(": 0 are known"), "{}", refusal(u64::MAX));
    assert!(refusal(0).contains("Task.spec"), "{}", refusal(0));
}
