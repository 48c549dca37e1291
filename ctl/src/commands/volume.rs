//! Volumes, wherever they are.

use clap::{Args, Subcommand};
use serde_json::json;
use shoal_types::question::{LabelFilter, PlacedVolume, Prune, VolumePrune};

use super::filter::Filters;
use super::prune::{confirm, failures, told, warn_of};
use super::{Result, Shell, each};
use crate::error::CommandError;
use crate::render::table::{Column, bends, whole};
use crate::render::{label, words};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List volumes, where they are and who uses them
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show all that is known of volumes
    Inspect {
        /// Names
        #[arg(required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
        /// Only on these nodes: ids or host names
        #[arg(long, value_name = "NODE")]
        node: Vec<String>,
    },
    /// Remove volumes with their data, on every node that has them
    #[command(visible_alias = "remove")]
    Rm {
        /// Names
        #[arg(required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
        /// Only on these nodes: ids or host names
        #[arg(long, value_name = "NODE")]
        node: Vec<String>,
        /// One that does not exist is no error
        #[arg(long, short)]
        force: bool,
    },
    /// Remove volumes that no task uses
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Write names only
    #[arg(long, short)]
    quiet: bool,
    /// Only those that fit: name=, label=, driver=, node=, dangling=true or false
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Also volumes that have a name, not anonymous ones alone
    #[arg(long, short)]
    all: bool,
    /// Only those that fit: label=KEY, label=KEY=VALUE, or with label!=
    #[arg(long, value_name = "FILTER", value_parser = |text: &str| text.parse::<LabelFilter>())]
    filter: Vec<LabelFilter>,
    /// Do not ask first
    #[arg(long, short)]
    force: bool,
    /// Only on these nodes: ids or host names
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
}

impl Command {
    /// Whether the command writes records one after the other rather than one document.
    pub(crate) const fn writes_records(&self) -> bool {
        matches!(self, Self::Rm { .. })
    }
}

pub(crate) async fn run(shell: &Shell, command: Command) -> Result {
    match command {
        Command::Ls(args) => list(shell, &args).await,
        Command::Inspect { volumes, node } => inspect(shell, &volumes, &node).await,
        Command::Rm { volumes, node, force } => remove(shell, &volumes, &node, force).await,
        Command::Prune(args) => prune(shell, args).await,
    }
}

/// The columns of the list of volumes.
pub(crate) const COLUMNS: [Column; 4] = [
    whole("DRIVER").rank(2),
    whole("VOLUME NAME").field("Name"),
    whole("NODE"),
    bends("USED BY").rank(1),
];

/// Fields of the list that have no column.
const MORE: [&str; 8] =
    ["Labels", "Links", "Mountpoint", "Scope", "Size", "Status", "CreatedAt", label::FIELD];

async fn list(shell: &Shell, args: &List) -> Result {
    let known = ["name", "label", "driver", "node", "dangling"];
    let filters = Filters::parse(&args.filter, &known)?;
    for text in &args.filter {
        if let Some(value) = text.strip_prefix("dangling=")
            && dangling(value).is_none()
        {
            return Err(CommandError::usage(format!(
                "filter {text:?}: expected dangling=true or dangling=false"
            )));
        }
    }
    let mut found = shell.manager().await?.volumes(&[]).await?;
    found.items.retain(|v| {
        filters.allows("name", |name| v.volume.name.contains(name))
            && filters.allows("driver", |driver| v.volume.driver == driver)
            && filters.allows("node", |n| v.hostname == n || v.node_id.to_string().starts_with(n))
            && filters.allows("dangling", |d| dangling(d) == Some(v.used_by.is_empty()))
            && filters.allows_labels("label", &v.volume.labels)
    });
    let row = |v: &PlacedVolume| {
        vec![
            v.volume.driver.clone(),
            v.volume.name.clone(),
            v.hostname.clone(),
            v.used_by.join(", "),
        ]
    };
    let more = |v: &PlacedVolume| {
        vec![
            words::labels(&v.volume.labels),
            v.used_by.len().to_string(),
            v.volume.mountpoint.clone(),
            "local".to_owned(),
            "N/A".to_owned(),
            String::new(),
            v.volume.created_at.to_string(),
            label::field(&v.volume.labels),
        ]
    };
    let names =
        args.quiet.then_some((|v: &PlacedVolume| v.volume.name.clone()) as fn(&PlacedVolume) -> _);
    shell.list_more(&found.items, names, &COLUMNS, row, (&MORE, more), false)?;
    warn_of(&found.silent);
    Ok(())
}

fn dangling(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

async fn inspect(shell: &Shell, names: &[String], nodes: &[String]) -> Result {
    let found = shell.manager().await?.volumes(nodes).await?;
    let mut shown = Vec::new();
    for name in names {
        let before = shown.len();
        shown.extend(found.items.iter().filter(|v| v.volume.name == *name).cloned());
        if shown.len() == before {
            warn_of(&found.silent);
            return Err(CommandError::failed(format!("there is no volume {name}")));
        }
    }
    shell.objects(&shown)?;
    warn_of(&found.silent);
    Ok(())
}

async fn remove(shell: &Shell, names: &[String], nodes: &[String], force: bool) -> Result {
    let client = shell.manager().await?;
    shell.ended("removed", Vec::new());
    each(shell, names, |name| {
        let client = client.clone();
        async move {
            let done = match client.remove_volume(&name, nodes).await {
                Err(error) if force && error.is_not_found() => return Ok(()),
                other => other?,
            };
            let what = json!({ "Name": name, "Nodes": done.items, "Silent": done.silent });
            shell.removed(&name, what)?;
            warn_of(&done.silent);
            failures(&done)
        }
    })
    .await
}

async fn prune(shell: &Shell, args: PruneArgs) -> Result {
    let what = if args.all { "all volumes" } else { "anonymous volumes" };
    let on = if args.node.is_empty() { "all nodes".to_owned() } else { args.node.join(", ") };
    confirm(args.force, &format!("This will remove {what} on {on} that no task uses."))?;
    let volumes = VolumePrune { all: args.all, labels: args.filter };
    let prune = Prune { volumes: Some(volumes), ..Prune::default() };
    let done = shell.manager().await?.prune(&prune, &args.node).await?;
    told(shell, &done)
}
