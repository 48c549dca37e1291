//! What nodes and tasks use, counted by the kernel since they began: two counts give a rate.

use crate::id::{NodeId, TaskId};

/// Which usage is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageQuestion {
    /// Only the node's own.
    pub without_tasks: bool,
    /// Of these tasks; of all if none is named.
    pub tasks: Vec<TaskId>,
}

/// What something uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// When this was counted, by a clock of the node that is never set, in nanoseconds.
    pub at_nanos: u64,
    /// Processor time since the beginning, in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory in use, in bytes, without what the kernel would give back at once.
    pub memory_bytes: u64,
    /// What that may grow to, in bytes.
    pub memory_limit_bytes: u64,
    /// Nothing where the network is shared with the host.
    pub network: Option<NetworkUsed>,
    /// Processes and threads.
    pub pids: u64,
}

/// What went over a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkUsed {
    /// Bytes that were received.
    pub received_bytes: u64,
    /// Bytes that were sent.
    pub sent_bytes: u64,
}

/// What a node and its tasks use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeUsage {
    /// The node as a whole.
    pub node: Used,
    /// Its processors.
    pub cpus: u64,
    /// Tasks that run there.
    pub tasks: Vec<TaskUsage>,
}

/// What a task uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskUsage {
    /// The task.
    pub id: TaskId,
    /// What it uses.
    pub used: Used,
}

/// What a node and its tasks use, with names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedUsage {
    /// The node.
    pub node_id: NodeId,
    /// Its name, for people.
    pub hostname: String,
    /// What it uses; without tasks.
    pub usage: NodeUsage,
    /// The tasks.
    pub tasks: Vec<NamedUsage>,
}

/// What a task uses, with names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedUsage {
    /// The task.
    pub id: TaskId,
    /// Its name.
    pub name: String,
    /// Its service's name.
    pub service: String,
    /// What it uses.
    pub used: Used,
}

impl Used {
    /// Processor use between two counts, in percent of one processor. Nothing where no time went by, or
    /// what was counted began anew in between.
    #[must_use]
    pub fn cpu_percent(&self, before: &Self) -> Option<f64> {
        let time = self.at_nanos.checked_sub(before.at_nanos).filter(|time| *time > 0)?;
        let used = self.cpu_nanos.checked_sub(before.cpu_nanos)?;
        Some(used as f64 / time as f64 * 100.0)
    }

    /// Memory in percent of what it may grow to.
    #[must_use]
    pub fn memory_percent(&self) -> f64 {
        match self.memory_limit_bytes {
            0 => 0.0,
            limit => self.memory_bytes as f64 / limit as f64 * 100.0,
        }
    }

    /// Both together. What one of them shares with its host is not counted.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let network = match (self.network, other.network) {
            (Some(a), Some(b)) => Some(NetworkUsed {
                received_bytes: a.received_bytes.saturating_add(b.received_bytes),
                sent_bytes: a.sent_bytes.saturating_add(b.sent_bytes),
            }),
            (one, other) => one.or(other),
        };
        Self {
            at_nanos: self.at_nanos.max(other.at_nanos),
            cpu_nanos: self.cpu_nanos.saturating_add(other.cpu_nanos),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            memory_limit_bytes: self.memory_limit_bytes.saturating_add(other.memory_limit_bytes),
            network,
            pids: self.pids.saturating_add(other.pids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at_nanos: u64, cpu_nanos: u64) -> Used {
        Used { at_nanos, cpu_nanos, ..Used::default() }
    }

    #[test]
    fn rates_come_from_two_counts() {
        let table = [
            (at(0, 0), at(1_000, 500), Some(50.0)),
            (at(5_000, 700), at(7_000, 4_700), Some(200.0)),
            (at(0, 9), at(1_000, 9), Some(0.0)),
            // No time went by, the clock of another boot, a container that was made anew.
            (at(1_000, 0), at(1_000, 500), None),
            (at(9_000, 0), at(1_000, 500), None),
            (at(0, 501), at(1_000, 500), None),
        ];
        for (before, after, expected) in table {
            assert_eq!(after.cpu_percent(&before), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn memory_is_a_share_of_its_limit() {
        let used = |memory_bytes, memory_limit_bytes| {
            Used { memory_bytes, memory_limit_bytes, ..Used::default() }.memory_percent()
        };
        assert!((used(50, 200) - 25.0).abs() < f64::EPSILON);
        assert!(used(50, 0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_tasks_use_adds_up() {
        let network = |n| Some(NetworkUsed { received_bytes: n, sent_bytes: 2 * n });
        let one = |n: u64, network| Used {
            at_nanos: n,
            cpu_nanos: n,
            memory_bytes: n,
            memory_limit_bytes: 10 * n,
            network,
            pids: n,
        };
        let all = one(1, network(1)).and(one(2, None)).and(one(4, network(4)));
        assert_eq!(all, Used { at_nanos: 4, ..one(7, network(5)) });
        assert_eq!(one(1, None).and(one(2, None)).network, None);
    }
}
