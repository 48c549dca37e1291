//! Nodes.

mod usage;

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use shoal_client::{Client, TaskQuery};
use shoal_types::object::{Node, NodeState, NodeSummary, Task};
use shoal_types::spec::{NodeRole, NodeSpec};

use super::cluster::{AvailabilityArg, RoleArg};
use super::draining::{Remaining, Wait};
use super::filter::Filters;
use super::list::{self, List};
use super::service::pairs::{KeyValue, duration};
use super::tasks::TaskList;
use super::{Result, Shell, stats};
use crate::error::CommandError;
use crate::render::record::{self, Record};
use crate::render::table::{Column, bends, whole};
use crate::render::words::{self, capital};
use crate::render::{id, line, note, pretty};

pub(crate) use usage::Usage;

/// What lists are filtered by.
const FILTERS: [&str; 4] = ["id", "name", "label", "role"];

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List nodes
    #[command(visible_alias = "list", mut_arg("filter", list::by(&FILTERS)))]
    Ls(List),
    /// List the tasks of nodes
    Ps {
        #[command(flatten)]
        list: TaskList,
        /// Ids or host names; the manager that answers if absent
        #[arg(value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Show all that is known of nodes, and what is free there
    Inspect {
        /// Ids or host names
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        /// For people
        #[arg(long)]
        pretty: bool,
    },
    /// Show what nodes use as a whole; 100 % is one processor
    Stats {
        #[command(flatten)]
        flags: stats::Flags,
        /// Ids or host names; all if absent
        #[arg(value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Change what is wanted of a node
    Update(Update),
    /// Make nodes managers; each takes part when node ls shows it as reachable
    Promote {
        /// Ids or host names
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Make managers workers; what they run stays
    Demote {
        /// Ids or host names
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Remove nodes from the cluster
    #[command(visible_alias = "remove")]
    Rm {
        /// Ids or host names
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        /// Also when it is still there; its certificate is refused from then on
        #[arg(long, short)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Add or replace a label
    #[arg(long, value_name = "KEY=VALUE")]
    label_add: Vec<KeyValue>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Whether it takes tasks
    #[arg(long, value_enum)]
    availability: Option<AvailabilityArg>,
    /// With --availability drain: wait until no task is left there
    #[arg(long, requires = "availability")]
    wait: bool,
    /// Wait no longer than this; 0 waits for ever
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m", requires = "wait")]
    timeout: Duration,
    /// What it is
    #[arg(long, value_enum)]
    role: Option<RoleArg>,
    /// Id or host name
    node: String,
}

impl Command {
    /// Whether the command writes records one after the other rather than one document.
    pub(crate) const fn writes_records(&self) -> bool {
        match self {
            Self::Stats { flags, .. } => flags.writes_records(),
            Self::Update(update) => update.wait,
            Self::Rm { .. } | Self::Promote { .. } | Self::Demote { .. } => true,
            _ => false,
        }
    }
}

pub(crate) async fn run(shell: &Shell, command: Command) -> Result {
    match command {
        Command::Ls(args) => list(shell, &args).await,
        Command::Inspect { nodes, pretty } => {
            let client = shell.manager().await?;
            let mut found = Vec::new();
            for node in &nodes {
                found.push(inspected(&client, node).await?);
            }
            let page = |n: &Inspected| pretty::node(&n.node, &n.usage);
            shell.inspected(&found, pretty.then_some(page))
        }
        Command::Stats { flags, nodes } => {
            stats::show(shell, flags, stats::Of::Nodes, &[], &nodes).await
        }
        Command::Ps { list, nodes } => {
            let client = shell.manager().await?;
            let mut node_ids = Vec::new();
            for node in &nodes {
                node_ids.push(client.node(node).await?.id.to_string());
            }
            if node_ids.is_empty() {
                node_ids.push(client.version().await?.node_id);
            }
            let query = TaskQuery { node_ids, ..TaskQuery::default() };
            super::tasks::show(shell, &client, query, &list).await
        }
        Command::Update(args) => update(shell, args).await,
        Command::Promote { nodes } => become_role(shell, &nodes, NodeRole::Manager).await,
        Command::Demote { nodes } => become_role(shell, &nodes, NodeRole::Agent).await,
        Command::Rm { nodes, force } => {
            shell
                .remove(&nodes, async |client, node| Ok(client.remove_node(node, force).await?))
                .await
        }
    }
}

/// A node, and what its tasks have set aside there.
#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    #[serde(flatten)]
    node: NodeSummary,
    usage: Usage,
}

async fn inspected(client: &Client, reference: &str) -> Result<Inspected> {
    let node = client.node_summary(reference).await?;
    let query = TaskQuery { node_ids: vec![node.node.id.to_string()], ..TaskQuery::default() };
    let usage = Usage::of(&node.node, &client.tasks(&query).await?);
    Ok(Inspected { node, usage })
}

/// The columns of the list of nodes.
pub(crate) const COLUMNS: [Column; 6] = [
    whole("ID"),
    whole("HOSTNAME"),
    bends("STATUS").rank(0),
    whole("AVAILABILITY").rank(1),
    whole("MANAGER STATUS").rank(2),
    whole("ENGINE VERSION").rank(5),
];

async fn list(shell: &Shell, args: &List) -> Result {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let client = shell.manager().await?;
    let mut nodes = client.node_summaries().await?;
    nodes.retain(|NodeSummary { node: n, .. }| {
        filters.allows("id", |v| n.id.to_string().starts_with(v))
            && filters.allows("name", |v| n.description.hostname.starts_with(v))
            && filters.allows("role", |v| n.spec.role.as_str() == v)
            && filters.allows_labels("label", &n.spec.labels)
    });
    let answering = if args.quiet { String::new() } else { client.version().await?.node_id };
    let row = |summary: &NodeSummary| {
        let n = &summary.node;
        let mark = if n.id.to_string() == answering { " *" } else { "" };
        let state = capital(n.status.state.as_str());
        let own = id(n.id, args.no_trunc);
        vec![
            // Scripts for Docker, which shortens no node's id, hand it on.
            if shell.is_template() { n.id.to_string() } else { format!("{own}{mark}") },
            n.description.hostname.clone(),
            if shell.is_template() { state } else { state_words(n) },
            capital(n.spec.availability.as_str()),
            manager_status(summary).to_owned(),
            n.description.engine.version.clone(),
        ]
    };
    let names = args
        .quiet
        .then_some((|n: &NodeSummary| n.node.id.to_string()) as fn(&NodeSummary) -> String);
    let more = |NodeSummary { node: n, .. }: &NodeSummary| {
        // A session begins with a certificate that the cluster's own root has signed.
        let tls = if n.status.state == NodeState::Ready { "Ready" } else { "Unknown" };
        let own = (n.id.to_string() == answering).to_string();
        vec![own, tls.to_owned(), words::labels(&n.spec.labels)]
    };
    let fields = &["Self", "TLSStatus", "Labels"];
    shell.list_more(&nodes, names, &COLUMNS, row, (fields, more), args.no_trunc)
}

/// The state, why a node that is there takes no tasks, and whether it has trouble to reach others.
fn state_words(node: &Node) -> String {
    let state = capital(node.status.state.as_str());
    let links = node.description.troubled_links.as_ref().map_or(0, |links| links.count);
    match (node.status.unable(), links) {
        (Some(why), _) => format!("{state}: {why}"),
        (None, 0) => state,
        (None, 1) => format!("{state} (1 troubled link)"),
        (None, count) => format!("{state} ({count} troubled links)"),
    }
}

fn manager_status(node: &NodeSummary) -> &'static str {
    match node.manager {
        None => "",
        Some(health) if health.leader => "Leader",
        Some(health) => pretty::reachability(health.reachability),
    }
}

async fn update(shell: &Shell, args: Update) -> Result {
    let Update { label_add, label_rm, availability, role, .. } = &args;
    let is_empty = label_add.is_empty() && label_rm.is_empty();
    if is_empty && availability.is_none() && role.is_none() {
        return Err(CommandError::usage(
            "nothing is to be changed: expected --label-add, --label-rm, --availability or --role",
        ));
    }
    if args.wait && args.availability != Some(AvailabilityArg::Drain) {
        return Err(CommandError::usage("--wait goes with --availability drain"));
    }
    let client = shell.manager().await?;
    let node = client.node(&args.node).await?;
    let mut spec = node.spec.clone();
    for label in &args.label_rm {
        if spec.labels.remove(label).is_none() {
            return Err(CommandError::failed(format!("the node has no label {label:?}")));
        }
    }
    spec.labels.extend(args.label_add.into_iter().map(|l| (l.key, l.value)));
    if let Some(availability) = args.availability {
        spec.availability = availability.into();
    }
    if let Some(role) = args.role {
        spec.role = role.into();
    }
    let node = client.update_node(&node, &spec).await?;
    if !args.wait {
        return shell.result(&args.node, &node);
    }
    let what = json!({ "ID": node.id, "Node": node.description.hostname, "Availability": "drain" });
    match shell.is_json() {
        true => record::write(&Record::Applied { what })?,
        false => line(&args.node)?,
    }
    let wait = Wait {
        shell,
        node: &node.description.hostname,
        node_id: &node.id.to_string(),
        timeout: args.timeout,
        hint: format!("it goes on without this command; shoalctl node ps {} shows how", args.node),
    };
    wait.until_empty(async || remaining(&client, &node).await).await?;
    shell.ended("drained", Vec::new());
    Ok(())
}

/// One after the other: each changes how many managers there are.
async fn become_role(shell: &Shell, nodes: &[String], role: NodeRole) -> Result {
    let client = shell.manager().await?;
    for reference in nodes {
        let mut node = client.node(reference).await?;
        if node.spec.role == role {
            note(&format!("node {reference} is a {} already", role.as_str()));
        } else {
            let spec = NodeSpec { role, ..node.spec.clone() };
            node = client.update_node(&node, &spec).await?;
        }
        shell.result(reference, &node)?;
    }
    Ok(())
}

/// What has not ended on a node that can still say so.
async fn remaining(client: &Client, node: &Node) -> Result<Remaining> {
    let query = TaskQuery { node_ids: vec![node.id.to_string()], ..TaskQuery::default() };
    let mut tasks = client.tasks(&query).await?;
    tasks.retain(Task::is_live);
    let names = tasks.iter().map(|t| format!("{} ({})", t.name(), t.status.state)).collect();
    let remaining = Remaining { left: tasks.len(), awaited: 0, names };
    if tasks.is_empty() {
        return Ok(remaining);
    }
    let now = client.node(&node.id.to_string()).await?;
    if now.status.state != NodeState::Ready {
        return Err(CommandError::failed(format!(
            "the node is {}: what became of {} cannot be known",
            now.status.state.as_str(),
            remaining.named()
        )));
    }
    Ok(remaining)
}
