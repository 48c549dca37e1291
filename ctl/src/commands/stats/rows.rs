//! From two looks at what is used to rows with rates.

use std::collections::BTreeMap;

use shoal_types::question::{PlacedUsage, Used};

/// What rows stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Tasks,
    Services,
    Nodes,
}

/// What something uses.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) of: Of,
    /// Empty for services.
    pub(crate) id: String,
    pub(crate) name: String,
    /// The host of a task.
    pub(crate) node: String,
    /// Running tasks of a service, processors of a node.
    pub(crate) count: u64,
    /// Of one processor; nothing if it was not there at the first look.
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) used: Used,
}

/// The rows of what is there now, by what was there before.
pub(crate) fn rows(
    of: Of,
    before: &BTreeMap<String, &PlacedUsage>,
    now: &[PlacedUsage],
) -> Vec<Row> {
    match of {
        Of::Nodes => now.iter().map(|node| of_node(before, node)).collect(),
        Of::Tasks => {
            let mut rows = of_tasks(before, now);
            rows.sort_by(|a, b| (&a.0.name, &a.0.id).cmp(&(&b.0.name, &b.0.id)));
            rows.into_iter().map(|(row, _)| row).collect()
        }
        Of::Services => of_services(of_tasks(before, now)),
    }
}

fn of_node(before: &BTreeMap<String, &PlacedUsage>, node: &PlacedUsage) -> Row {
    let id = node.node_id.to_string();
    let earlier = before.get(&id).map(|node| node.usage.node);
    Row {
        of: Of::Nodes,
        name: node.hostname.clone(),
        node: String::new(),
        count: node.usage.cpus,
        cpu_percent: earlier.and_then(|earlier| node.usage.node.cpu_percent(&earlier)),
        used: node.usage.node,
        id,
    }
}

/// Each with its service's name.
fn of_tasks(before: &BTreeMap<String, &PlacedUsage>, now: &[PlacedUsage]) -> Vec<(Row, String)> {
    let mut rows = Vec::new();
    for node in now {
        let earlier: BTreeMap<_, Used> = before
            .get(&node.node_id.to_string())
            .map(|node| node.tasks.iter().map(|task| (task.id, task.used)).collect())
            .unwrap_or_default();
        rows.extend(node.tasks.iter().map(|task| {
            let row = Row {
                of: Of::Tasks,
                id: task.id.to_string(),
                name: task.name.clone(),
                node: node.hostname.clone(),
                count: 1,
                cpu_percent: earlier.get(&task.id).and_then(|e| task.used.cpu_percent(e)),
                used: task.used,
            };
            (row, task.service.clone())
        }));
    }
    rows
}

/// Rates add up, those that are known.
fn of_services(tasks: Vec<(Row, String)>) -> Vec<Row> {
    let mut services: BTreeMap<String, Row> = BTreeMap::new();
    for (task, name) in tasks {
        let empty = Row {
            of: Of::Services,
            id: String::new(),
            node: String::new(),
            count: 0,
            cpu_percent: None,
            used: Used::default(),
            name: name.clone(),
        };
        let row = services.entry(name).or_insert(empty);
        row.count += 1;
        row.used = row.used.and(task.used);
        row.cpu_percent = match (row.cpu_percent, task.cpu_percent) {
            (Some(a), Some(b)) => Some(a + b),
            (one, other) => one.or(other),
        };
    }
    services.into_values().collect()
}

#[cfg(test)]
mod tests {
    use shoal_types::id::{NodeId, TaskId};
    use shoal_types::question::{NamedUsage, NodeUsage};

    use super::*;

    fn used(at_nanos: u64, cpu_nanos: u64, memory_bytes: u64) -> Used {
        Used { at_nanos, cpu_nanos, memory_bytes, memory_limit_bytes: 100, pids: 1, network: None }
    }

    fn node(id: u128, own: Used, tasks: &[(u128, &str, Used)]) -> PlacedUsage {
        let task = |(id, service, used): &(u128, &str, Used)| NamedUsage {
            id: TaskId::from(*id),
            name: format!("{service}.{id}"),
            service: (*service).to_owned(),
            used: *used,
        };
        PlacedUsage {
            node_id: NodeId::from(id),
            hostname: format!("h{id}"),
            usage: NodeUsage { node: own, cpus: 2, tasks: Vec::new() },
            tasks: tasks.iter().map(task).collect(),
        }
    }

    /// Each node has a clock of its own.
    fn looks() -> (Vec<PlacedUsage>, Vec<PlacedUsage>) {
        let before = vec![
            node(1, used(0, 0, 0), &[(1, "web", used(0, 0, 1)), (2, "db", used(0, 50, 1))]),
            node(2, used(9_000, 0, 0), &[(3, "web", used(9_000, 10, 1))]),
        ];
        let now = vec![
            node(
                1,
                used(1_000, 1_500, 7),
                &[(1, "web", used(1_000, 1_000, 10)), (2, "db", used(1_000, 50, 20))],
            ),
            node(
                2,
                used(9_500, 50, 8),
                &[(3, "web", used(9_500, 260, 30)), (4, "db", used(9_500, 9, 5))],
            ),
        ];
        (before, now)
    }

    fn seen(of: Of) -> Vec<(String, String, u64, Option<f64>, u64)> {
        let (before, now) = looks();
        let before = before.iter().map(|n| (n.node_id.to_string(), n)).collect();
        let row = |r: Row| (r.name, r.node, r.count, r.cpu_percent, r.used.memory_bytes);
        rows(of, &before, &now).into_iter().map(row).collect()
    }

    #[test]
    fn rates_of_tasks_services_and_nodes() {
        let row = |name: &str, node: &str, count, cpu, memory| {
            (name.to_owned(), node.to_owned(), count, cpu, memory)
        };
        assert_eq!(
            seen(Of::Tasks),
            [
                row("db.2", "h1", 1, Some(0.0), 20),
                // Not there at the first look.
                row("db.4", "h2", 1, None, 5),
                row("web.1", "h1", 1, Some(100.0), 10),
                row("web.3", "h2", 1, Some(50.0), 30),
            ]
        );
        assert_eq!(
            seen(Of::Services),
            [row("db", "", 2, Some(0.0), 25), row("web", "", 2, Some(150.0), 40)]
        );
        assert_eq!(
            seen(Of::Nodes),
            [row("h1", "", 2, Some(150.0), 7), row("h2", "", 2, Some(10.0), 8)]
        );
    }
}
