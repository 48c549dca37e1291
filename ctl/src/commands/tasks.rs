//! Tasks: lists of them, and which one is meant.

use std::collections::BTreeMap;

use clap::Args;
use shoal_client::{Client, TaskQuery};
use shoal_types::id::{NodeId, ServiceId};
use shoal_types::object::{Node, Slot, Task};
use shoal_types::spec::{PortConfig, PublishMode};
use shoal_types::task_state::{DesiredState, TaskState};

use super::filter::Filters;
use super::{Result, Shell};
use crate::error::CommandError;
use crate::render::table::{Column, bends, whole};
use crate::render::{id, time, words};

/// Flags of lists of tasks.
#[derive(Debug, Args)]
pub(crate) struct TaskList {
    /// Write ids only
    #[arg(long, short)]
    quiet: bool,
    /// Only those that fit: id=, name=, node=, desired-state=
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// Do not look names of nodes up
    #[arg(long)]
    no_resolve: bool,
}

/// The columns of lists of tasks.
pub(crate) const COLUMNS: [Column; 8] = [
    whole("ID"),
    whole("NAME"),
    bends("IMAGE").rank(5),
    whole("NODE"),
    whole("DESIRED STATE").rank(4),
    bends("CURRENT STATE").rank(1),
    bends("ERROR").rank(2),
    bends("PORTS").rank(3),
];

/// Shows tasks, those of a slot together, the newest first.
pub(crate) async fn show(
    shell: &Shell,
    client: &Client,
    query: TaskQuery,
    args: &TaskList,
) -> Result {
    let filters = Filters::parse(&args.filter, &["id", "name", "node", "desired-state"])?;
    let mut tasks = client.tasks(&query).await?;
    let nodes: BTreeMap<NodeId, Node> = if args.no_resolve || args.quiet {
        BTreeMap::new()
    } else {
        client.nodes().await?.into_iter().map(|n| (n.id, n)).collect()
    };
    let host = |task: &Task| match task.node_id {
        None => String::new(),
        Some(id) => host_name(nodes.get(&id), id, args.no_trunc),
    };
    tasks.retain(|t| {
        filters.allows("id", |v| t.id.to_string().starts_with(v))
            && filters.allows("name", |v| t.name().starts_with(v))
            && filters
                .allows("node", |v| host(t) == v || t.node_id.is_some_and(|n| n.to_string() == v))
            && filters.allows("desired-state", |v| t.desired_state.to_string() == v)
    });
    sort(&mut tasks);
    let is_lost =
        |task: &Task| task.node_id.and_then(|id| nodes.get(&id)).is_some_and(Node::is_lost);
    let now = time::now();
    let firsts = firsts(&tasks);
    let row = |task: &Task| {
        let name =
            if firsts.contains(&task.id) { task.name() } else { format!(" \\_ {}", task.name()) };
        // Those that answer everywhere are the service's.
        let here = |port: &&PortConfig| port.publish_mode == PublishMode::Host;
        let ports = if task.status.port_status.is_empty() {
            task.ports()
        } else {
            &task.status.port_status
        };
        let ports: Vec<PortConfig> = ports.iter().filter(here).cloned().collect();
        vec![
            id(task.id, args.no_trunc),
            name,
            task.spec.container().map(|c| words::image(&c.image)).unwrap_or_default(),
            format!("{}{}", host(task), doubt(task.status.state, is_lost(task))),
            words::capital(&task.desired_state.to_string()),
            words::current_state(task, now),
            quoted(&task.status.err),
            if task.status.state == TaskState::Running {
                words::ports(&ports)
            } else {
                String::new()
            },
        ]
    };
    let names = args.quiet.then_some((|t: &Task| t.id.to_string()) as fn(&Task) -> String);
    shell.list(&tasks, names, &COLUMNS, row, args.no_trunc)
}

fn host_name(node: Option<&Node>, node_id: NodeId, whole: bool) -> String {
    match node.map(|node| node.description.hostname.as_str()) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => id(node_id, whole),
    }
}

/// A sign that the state of a task is what was heard last from a node that is silent now.
fn doubt(state: TaskState, node_is_lost: bool) -> &'static str {
    if node_is_lost && !state.is_terminal() { " (down)" } else { "" }
}

/// Errors stand in quotes, as in Docker.
fn quoted(error: &str) -> String {
    if error.is_empty() { String::new() } else { format!("\"{error}\"") }
}

fn sort(tasks: &mut [Task]) {
    tasks.sort_by(|a, b| {
        (&a.service_name, a.slot)
            .cmp(&(&b.service_name, b.slot))
            .then(a.desired_state.is_stop().cmp(&b.desired_state.is_stop()))
            .then(b.meta.created_at.cmp(&a.meta.created_at))
            .then(b.id.cmp(&a.id))
    });
}

/// The first task of each slot in a sorted list.
fn firsts(tasks: &[Task]) -> Vec<shoal_types::id::TaskId> {
    let mut seen: Vec<(ServiceId, Slot)> = Vec::new();
    let mut firsts = Vec::new();
    for task in tasks {
        let place = (task.service_id, task.slot);
        if seen.last() != Some(&place) {
            seen.push(place);
            firsts.push(task.id);
        }
    }
    firsts
}

/// The task that a reference means: an id, the beginning of one, or a name such as `web.1`. `None`
/// if it means none.
pub(crate) async fn find(client: &Client, reference: &str) -> Result<Option<Task>> {
    if let Some((service, slot)) = reference.rsplit_once('.')
        && let Some(found) = client.find_service(service).await?
    {
        let service_ids = vec![found.service.id.to_string()];
        let query = TaskQuery { service_ids, ..TaskQuery::default() };
        let mut tasks = client.tasks(&query).await?;
        tasks.retain(|t| t.slot.to_string() == slot);
        sort(&mut tasks);
        return Ok(tasks.into_iter().next());
    }
    // A service's name wins over the beginning of a task's id.
    if client.find_service(reference).await?.is_some() {
        return Ok(None);
    }
    Ok(client.find_task(reference).await?)
}

/// The running task that a reference means: as [`find`], or the only one of a service.
pub(crate) async fn find_running(client: &Client, reference: &str) -> Result<Task> {
    if let Some(task) = find(client, reference).await? {
        return Ok(task);
    }
    let Some(found) = client.find_service(reference).await? else {
        return Err(CommandError::failed(format!("there is no task {reference:?}"))
            .hint("shoalctl service ps SERVICE lists tasks"));
    };
    let query = TaskQuery {
        service_ids: vec![found.service.id.to_string()],
        desired_running: true,
        ..TaskQuery::default()
    };
    let mut tasks = client.tasks(&query).await?;
    tasks.retain(|t| {
        t.status.state == TaskState::Running && t.desired_state == DesiredState::Running
    });
    sort(&mut tasks);
    match tasks.len() {
        0 => Err(CommandError::failed(format!("no task of service {reference:?} runs"))),
        1 => Ok(tasks.remove(0)),
        n => {
            let names: Vec<String> = tasks.iter().take(5).map(Task::name).collect();
            Err(CommandError::failed(format!("service {reference:?} has {n} running tasks"))
                .hint(format!("name one of them: {}", names.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_puts_what_it_said_last_in_doubt() {
        assert_eq!(doubt(TaskState::Running, true), " (down)");
        assert_eq!(doubt(TaskState::Preparing, true), " (down)");
        assert_eq!(doubt(TaskState::Failed, true), "", "nothing can change that any more");
        assert_eq!(doubt(TaskState::Running, false), "");
    }
}
