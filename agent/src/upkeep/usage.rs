//! What the node and its tasks use now.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use rustix::param::clock_ticks_per_second;
use shoal_agent_ground::blocking::COUNT;
use shoal_agent_planning::network::names::is_ours;
use shoal_agent_planning::usage::{memory, network, processors, threads};
use shoal_types::id::TaskId;
use shoal_types::question::{NodeUsage, TaskUsage, UsageQuestion, Used};

use super::{Upkeep, failed};
use crate::session::WorkloadError;
use shoal_agent_runtime::ContainerStats;

/// Whoever asks again within this time is told the same: the cost does not grow with those who ask.
const FRESH: Duration = Duration::from_millis(250);
/// Tasks that are counted at the same time.
const AT_ONCE: usize = 8;

/// The last count.
pub(super) type Last = tokio::sync::Mutex<Option<(Instant, Arc<NodeUsage>)>>;

impl Upkeep {
    pub(super) async fn usage(&self, asked: &UsageQuestion) -> Result<NodeUsage, WorkloadError> {
        // Held while it is counted, so that one count serves all who wait.
        let mut last = self.last_usage.lock().await;
        let usage = match &*last {
            Some((at, usage)) if at.elapsed() < FRESH => Arc::clone(usage),
            _ => {
                let usage = Arc::new(self.count().await?);
                *last = Some((Instant::now(), Arc::clone(&usage)));
                usage
            }
        };
        drop(last);
        let wanted: BTreeSet<TaskId> = asked.tasks.iter().copied().collect();
        let is_wanted = |task: &&TaskUsage| {
            !asked.without_tasks && (wanted.is_empty() || wanted.contains(&task.id))
        };
        let tasks = usage.tasks.iter().filter(is_wanted).cloned().collect();
        Ok(NodeUsage { node: usage.node, cpus: usage.cpus, tasks })
    }

    async fn count(&self) -> Result<NodeUsage, WorkloadError> {
        let prefix = self.network_prefix.clone();
        let clock = Arc::clone(&self.clock);
        let count = move || of_node(clock.now().steady.as_nanos(), &prefix);
        let node = COUNT.run(count).await.map_err(|e| failed(&e))?;
        let (node, cpus) = node.map_err(|e| failed(&e))?;
        let held = self.worker.holdings().await.map_err(|e| failed(&e))?;
        let live = held.into_iter().filter(|task| !task.ended).map(|task| async move {
            // One that is not there, or not any more, uses nothing.
            let stats = self.runtime.stats(&task.id.into()).await.ok()?;
            let at_nanos = self.clock.now().steady.as_nanos();
            Some(TaskUsage { id: task.id, used: of_task(stats, at_nanos, node.memory_limit_bytes) })
        });
        let counted = futures::stream::iter(live).buffered(AT_ONCE);
        let tasks = counted.filter_map(std::future::ready).collect().await;
        Ok(NodeUsage { node, cpus, tasks })
    }
}

/// What has no limit may have all that the host has.
fn of_task(stats: ContainerStats, at_nanos: u64, host_bytes: u64) -> Used {
    Used {
        at_nanos,
        cpu_nanos: stats.cpu_nanos,
        memory_bytes: stats.memory_bytes.saturating_sub(stats.inactive_file_bytes),
        memory_limit_bytes: stats.memory_limit.map_or(host_bytes, |limit| limit.min(host_bytes)),
        network: stats.network,
        pids: stats.pids,
    }
}

/// The node as a whole, and how many processors it has.
fn of_node(at_nanos: u64, network_prefix: &str) -> std::io::Result<(Used, u64)> {
    let read = |path: &str| std::fs::read_to_string(path);
    let odd = |path: &str| std::io::Error::other(format!("{path} has not what it should have"));
    let (ticks, cpus) = processors(&read("/proc/stat")?).ok_or_else(|| odd("/proc/stat"))?;
    let (used, total) = memory(&read("/proc/meminfo")?).ok_or_else(|| odd("/proc/meminfo"))?;
    // What goes to and from containers would count twice.
    let over = network(&read("/proc/self/net/dev")?, |name| is_ours(network_prefix, name));
    let node = Used {
        at_nanos,
        cpu_nanos: ticks.saturating_mul(1_000_000_000 / clock_ticks_per_second().max(1)),
        memory_bytes: used,
        memory_limit_bytes: total,
        network: Some(over),
        pids: threads(&read("/proc/loadavg")?).ok_or_else(|| odd("/proc/loadavg"))?,
    };
    Ok((node, cpus))
}
