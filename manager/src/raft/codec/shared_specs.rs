//! Task specs that are written once, however many tasks have them, and shared again when read; as is
//! what else tasks have taken over from their service.
//!
//! A spec may be large (an environment, labels), and a service's tasks all have the same one. In
//! memory they share it; a snapshot that did not would be as large as all tasks together, and so
//! would be the memory of whoever read it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prost::Message as _;
use shoal_manager_state::ObjectRef;
use shoal_proto::convert::InvalidMessage;
use shoal_proto::v1 as pb;
use shoal_proto::v1::SnapshotRecord;
use shoal_proto::v1::snapshot_record::Record;
use shoal_types::id::ServiceId;
use shoal_types::object::Task;
use shoal_types::spec::{ContainerSpec, TaskRuntime, TaskSpec};

use super::snapshot::from_wire;

/// The specs that were written so far. No longer than the state that is written.
#[derive(Default)]
pub(super) struct WrittenSpecs {
    /// Their numbers by where they lie in memory: most tasks need no more than a look here.
    by_place: HashMap<*const TaskSpec, u64>,
    /// The same by their bytes: some that are equal are not shared.
    by_bytes: BTreeMap<Vec<u8>, u64>,
}

impl WrittenSpecs {
    /// A task with its spec, or with the number of the one that an earlier task brought.
    pub(super) fn record(&mut self, task: &Task) -> SnapshotRecord {
        let (number, is_new) = self.number(&task.spec);
        if is_new {
            return SnapshotRecord { record: Some(Record::Task(task.into())), task_spec: 0 };
        }
        // Only for as long as it takes to write it without one.
        let bare = Task { spec: Arc::new(stand_in()), ..task.clone() };
        let bare = pb::Task { spec: None, ..pb::Task::from(&bare) };
        SnapshotRecord { record: Some(Record::Task(bare)), task_spec: number }
    }

    /// The number of a spec, and whether it is the first of its kind.
    fn number(&mut self, spec: &Arc<TaskSpec>) -> (u64, bool) {
        let place = Arc::as_ptr(spec);
        if let Some(number) = self.by_place.get(&place) {
            return (*number, false);
        }
        let next = self.by_bytes.len() as u64 + 1;
        let bytes = pb::TaskSpec::from(&**spec).encode_to_vec();
        let number = *self.by_bytes.entry(bytes).or_insert(next);
        self.by_place.insert(place, number);
        (number, number == next)
    }
}

/// The specs that were read so far.
#[derive(Default)]
pub(super) struct ReadSpecs {
    /// In the order in which tasks brought them.
    brought: Vec<Arc<TaskSpec>>,
    /// All of them, those of services too, by their bytes.
    by_bytes: BTreeMap<Vec<u8>, Arc<TaskSpec>>,
    /// The first task of each service and spec version.
    first: BTreeMap<(ServiceId, u64), Arc<Task>>,
}

impl ReadSpecs {
    /// The object of a record; `number` is that of a task's spec, 0 if the task brings its own.
    pub(super) fn object(
        &mut self,
        record: Record,
        number: u64,
    ) -> Result<ObjectRef, InvalidMessage> {
        match record {
            Record::Task(task) if number == 0 => self.bringing(task),
            Record::Task(task) => self.referring(task, number),
            record => {
                let object = from_wire(record)?;
                if let ObjectRef::Service(service) = &object {
                    for spec in [Some(&service.spec), service.previous_spec.as_ref()] {
                        spec.map(|spec| self.shared(&spec.task_template));
                    }
                }
                Ok(object)
            }
        }
    }

    /// The one of all equal specs that is kept.
    fn shared(&mut self, spec: &Arc<TaskSpec>) -> Arc<TaskSpec> {
        let bytes = pb::TaskSpec::from(&**spec).encode_to_vec();
        Arc::clone(self.by_bytes.entry(bytes).or_insert_with(|| Arc::clone(spec)))
    }

    fn bringing(&mut self, task: pb::Task) -> Result<ObjectRef, InvalidMessage> {
        let mut task = read(task)?;
        task.spec = self.shared(&task.spec);
        self.brought.push(Arc::clone(&task.spec));
        Ok(ObjectRef::Task(self.sharing(task)))
    }

    fn referring(&mut self, task: pb::Task, number: u64) -> Result<ObjectRef, InvalidMessage> {
        let at = number.checked_sub(1).and_then(|at| usize::try_from(at).ok());
        let spec = at.and_then(|at| self.brought.get(at)).ok_or_else(|| {
            let count = self.brought.len();
            InvalidMessage::new("task_spec", format!("is {number}: {count} are known"))
        })?;
        // Something has to be there to be read.
        let task = read(pb::Task { spec: Some((&stand_in()).into()), ..task })?;
        let task = Task { spec: Arc::clone(spec), ..task };
        Ok(ObjectRef::Task(self.sharing(task)))
    }

    /// The task, with what else it has in common with the first one of its service and spec version.
    fn sharing(&mut self, mut task: Task) -> Arc<Task> {
        let key = (task.service_id, task.spec_version);
        let Some(first) = self.first.get(&key) else {
            let task = Arc::new(task);
            self.first.insert(key, Arc::clone(&task));
            return task;
        };
        share(&mut task.service_name, &first.service_name);
        share(&mut task.service_labels, &first.service_labels);
        share(&mut task.networks, &first.networks);
        share(&mut task.payloads, &first.payloads);
        if let (Some(own), Some(first)) = (&mut task.endpoint, &first.endpoint) {
            share(own, first);
        }
        Arc::new(task)
    }
}

/// Keeps one of two that are equal.
fn share<T: PartialEq + ?Sized>(own: &mut Arc<T>, first: &Arc<T>) {
    if *own == *first {
        *own = Arc::clone(first);
    }
}

/// A spec in place of one that is elsewhere.
fn stand_in() -> TaskSpec {
    TaskSpec::of(TaskRuntime::Container(ContainerSpec::default()))
}

fn read(task: pb::Task) -> Result<Task, InvalidMessage> {
    task.try_into().map_err(|e: InvalidMessage| e.under("Task"))
}
