//! What tasks, services and nodes use.

mod rows;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use shoal_client::{Client, Partial, UsageQuery};
use shoal_types::question::PlacedUsage;

use super::prune::{bytes, warn_of};
use super::{Result, Shell};
use crate::render::record::{self, Record};
use crate::render::table::{Column, whole};
use crate::render::{clear_screen, id, json};

pub(crate) use rows::{Of, Row, rows};

/// Time between two looks.
const TICK: Duration = Duration::from_secs(1);

/// Flags of all commands that show usage.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Show it once, by what is used within a second, and end
    #[arg(long)]
    no_stream: bool,
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
}

impl Flags {
    /// Whether rows come one after the other rather than in one document.
    pub(crate) const fn writes_records(&self) -> bool {
        !self.no_stream
    }
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    #[command(flatten)]
    flags: Flags,
    /// Tasks or services, by id or name; all tasks if absent
    #[arg(value_name = "TASK|SERVICE")]
    references: Vec<String>,
}

impl Stats {
    /// As [`Flags::writes_records`].
    pub(crate) const fn writes_records(&self) -> bool {
        self.flags.writes_records()
    }
}

/// The columns of tasks.
pub(crate) const TASKS: [Column; 8] = [
    whole("TASK ID").field("ID").rank(5),
    whole("NAME"),
    whole("NODE").rank(4),
    whole("CPU %").field("CPUPerc"),
    whole("MEM USAGE / LIMIT").field("MemUsage"),
    whole("MEM %").field("MemPerc").rank(3),
    whole("NET I/O").field("NetIO").rank(2),
    whole("PIDS").field("PIDs").rank(1),
];

/// The columns of services.
pub(crate) const SERVICES: [Column; 7] = [
    whole("NAME"),
    whole("TASKS").rank(4),
    whole("CPU %").field("CPUPerc"),
    whole("MEM USAGE / LIMIT").field("MemUsage"),
    whole("MEM %").field("MemPerc").rank(3),
    whole("NET I/O").field("NetIO").rank(2),
    whole("PIDS").field("PIDs").rank(1),
];

/// The columns of nodes.
pub(crate) const NODES: [Column; 8] = [
    whole("ID").rank(5),
    whole("HOSTNAME").field("Name"),
    whole("CPUS").rank(4),
    whole("CPU %").field("CPUPerc"),
    whole("MEM USAGE / LIMIT").field("MemUsage"),
    whole("MEM %").field("MemPerc").rank(3),
    whole("NET I/O").field("NetIO").rank(2),
    whole("PIDS").field("PIDs").rank(1),
];

pub(crate) async fn run(shell: &Shell, args: Stats) -> Result {
    show(shell, args.flags, Of::Tasks, &args.references, &[]).await
}

/// Shows the usage of whatever is meant until it is interrupted, or once.
pub(crate) async fn show(
    shell: &Shell,
    flags: Flags,
    of: Of,
    references: &[String],
    nodes: &[String],
) -> Result {
    let client = shell.manager().await?;
    let mut query = UsageQuery {
        nodes: nodes.to_vec(),
        references: known(&client, references).await?,
        without_tasks: of == Of::Nodes,
    };
    let mut before = client.usage(&query).await?;
    let mut warned = None;
    if flags.no_stream && !before.items.is_empty() {
        // Who is silent was waited for once.
        warn_of(&before.silent);
        warned = Some(before.silent.clone());
        query.nodes = before.items.iter().map(|node| node.node_id.to_string()).collect();
    }
    loop {
        tokio::time::sleep(TICK).await;
        let now = client.usage(&query).await?;
        let rows = rows(of, &by_node(&before), &now.items);
        if !flags.no_stream && !shell.is_json() && !shell.is_template() {
            clear_screen()?;
        }
        write(shell, &flags, of, &rows)?;
        // Said again only when it has changed.
        if warned.as_ref() != Some(&now.silent) {
            warn_of(&now.silent);
            warned = Some(now.silent.clone());
        }
        if flags.no_stream {
            return Ok(());
        }
        before = now;
    }
}

/// References as a manager understands them: names of tasks are made ids.
async fn known(client: &Client, references: &[String]) -> Result<Vec<String>> {
    let mut known = Vec::with_capacity(references.len());
    for reference in references {
        let task = match reference.contains('.') {
            true => super::tasks::find(client, reference).await?,
            false => None,
        };
        known.push(task.map_or_else(|| reference.clone(), |task| task.id.to_string()));
    }
    Ok(known)
}

fn by_node(usage: &Partial<PlacedUsage>) -> BTreeMap<String, &PlacedUsage> {
    usage.items.iter().map(|node| (node.node_id.to_string(), node)).collect()
}

fn write(shell: &Shell, flags: &Flags, of: Of, rows: &[Row]) -> Result {
    if shell.is_json() && !flags.no_stream {
        return rows
            .iter()
            .try_for_each(|row| record::write(&Record::Usage { what: document(row) }));
    }
    if shell.is_json() {
        let all: Vec<_> = rows.iter().map(document).collect();
        return json::document(&all);
    }
    let columns: &[Column] = match of {
        Of::Tasks => &TASKS,
        Of::Services => &SERVICES,
        Of::Nodes => &NODES,
    };
    let cells = |row: &Row| {
        let own = id(&row.id, flags.no_trunc);
        let mut cells = match of {
            Of::Tasks => vec![own, row.name.clone(), row.node.clone()],
            Of::Services => vec![row.name.clone(), row.count.to_string()],
            Of::Nodes => vec![row.id.clone(), row.name.clone(), row.count.to_string()],
        };
        cells.extend(used(row));
        cells
    };
    let shown: Vec<Shown> = rows
        .iter()
        .map(|row| Shown { cells: cells(row), container: container(row, flags.no_trunc) })
        .collect();
    // Docker's names of what is not counted, or is called otherwise here.
    let more = |row: &Shown| vec![row.container.clone(), "--".to_owned()];
    let row = |row: &Shown| row.cells.clone();
    shell.list_more(&shown, None, columns, row, (&["Container", "BlockIO"], more), flags.no_trunc)
}

/// A row as it is drawn.
#[derive(serde::Serialize)]
struct Shown {
    cells: Vec<String>,
    container: String,
}

/// What stands for Docker's container: the task, or what has no id by its name.
fn container(row: &Row, whole: bool) -> String {
    if row.id.is_empty() { row.name.clone() } else { id(&row.id, whole) }
}

/// As Docker writes them.
fn used(row: &Row) -> [String; 5] {
    let binary = |n: u64| bytesize::ByteSize::b(n).display().iec().to_string();
    let percent = |p: f64| format!("{p:.2}%");
    [
        row.cpu_percent.map_or_else(|| "--".to_owned(), percent),
        format!("{} / {}", binary(row.used.memory_bytes), binary(row.used.memory_limit_bytes)),
        percent(row.used.memory_percent()),
        row.used.network.map_or_else(
            || "--".to_owned(),
            |n| format!("{} / {}", bytes(n.received_bytes), bytes(n.sent_bytes)),
        ),
        row.used.pids.to_string(),
    ]
}

/// Numbers, for programs; what is not known is absent.
fn document(row: &Row) -> serde_json::Value {
    let mut all = json!({
        "ID": row.id, "Name": row.name,
        "MemoryBytes": row.used.memory_bytes, "MemoryLimitBytes": row.used.memory_limit_bytes,
        "MemoryPercent": row.used.memory_percent(), "PIDs": row.used.pids,
    });
    let mut add = |key: &str, value: serde_json::Value| all[key] = value;
    if let Some(percent) = row.cpu_percent {
        add("CPUPercent", percent.into());
    }
    if let Some(network) = row.used.network {
        add("ReceivedBytes", network.received_bytes.into());
        add("SentBytes", network.sent_bytes.into());
    }
    match row.of {
        Of::Tasks => add("Node", row.node.clone().into()),
        Of::Services => add("Tasks", row.count.into()),
        Of::Nodes => add("CPUs", row.count.into()),
    }
    all
}
