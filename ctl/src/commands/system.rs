//! What nodes keep on their disks, and removing what nobody uses.

use clap::{Args, Subcommand};
use shoal_types::question::{DiskPart, ImagePrune, PlacedDisk, Prune, VolumePrune};

use super::prune::{bytes, confirm, told, warn_of};
use super::{Result, Shell};
use crate::render::json;
use crate::render::note;
use crate::render::table::{Column, whole};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what nodes keep on their disks, and what of it no task uses
    Df {
        /// Ids or host names; all nodes if absent
        #[arg(value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Remove what no task uses: logs of tasks that have ended, and images without a tag
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// All images that no task uses, also those with a tag and those that were loaded by hand
    #[arg(long, short)]
    all: bool,
    /// Also anonymous volumes
    #[arg(long)]
    volumes: bool,
    /// Do not ask first
    #[arg(long, short)]
    force: bool,
    /// Only on these nodes: ids or host names
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
}

pub(crate) async fn run(shell: &Shell, command: Command) -> Result {
    match command {
        Command::Df { nodes } => df(shell, &nodes).await,
        Command::Prune(args) => prune(shell, args).await,
    }
}

/// The columns of what nodes keep.
pub(crate) const COLUMNS: [Column; 6] = [
    whole("TYPE"),
    whole("NODE"),
    whole("TOTAL").field("TotalCount").rank(2),
    whole("ACTIVE").rank(1),
    whole("SIZE"),
    whole("RECLAIMABLE"),
];

/// One kind of things on one node.
#[derive(serde::Serialize)]
struct Row {
    kind: &'static str,
    node: String,
    part: DiskPart,
}

fn rows(node: &PlacedDisk) -> [Row; 4] {
    let row = |kind, part| Row { kind, node: node.hostname.clone(), part };
    [
        row("Images", node.usage.images),
        row("Containers", node.usage.containers),
        row("Local Volumes", node.usage.volumes),
        row("Logs", node.usage.logs),
    ]
}

async fn df(shell: &Shell, nodes: &[String]) -> Result {
    let found = shell.manager().await?.disk_usage(nodes).await?;
    if shell.is_json() {
        json::document(&found.items)?;
    } else {
        let all: Vec<Row> = found.items.iter().flat_map(rows).collect();
        let row = |row: &Row| {
            vec![
                row.kind.to_owned(),
                row.node.clone(),
                row.part.count.to_string(),
                row.part.active.to_string(),
                bytes(row.part.bytes),
                reclaimable(&row.part),
            ]
        };
        shell.list(&all, None, &COLUMNS, row, false)?;
    }
    for node in found.items.iter().filter(|node| !node.usage.whole) {
        note(&format!("warning: node {} has more than could be counted", node.hostname));
    }
    warn_of(&found.silent);
    Ok(())
}

/// With the share of all, as Docker writes it.
fn reclaimable(part: &DiskPart) -> String {
    let all = bytes(part.reclaimable_bytes);
    match part.bytes {
        0 => all,
        whole => format!("{all} ({}%)", part.reclaimable_bytes.saturating_mul(100) / whole),
    }
}

async fn prune(shell: &Shell, args: PruneArgs) -> Result {
    let mut what = vec!["logs of tasks that have ended"];
    if args.volumes {
        what.push("anonymous volumes that no task uses");
    }
    what.push(match args.all {
        true => "all images that no task uses",
        false => "images without a tag that no task uses",
    });
    let on = if args.node.is_empty() { "all nodes".to_owned() } else { args.node.join(", ") };
    confirm(args.force, &format!("This will remove on {on}:\n- {}", what.join("\n- ")))?;
    let prune = Prune {
        volumes: args.volumes.then(VolumePrune::default),
        images: Some(ImagePrune { all: args.all }),
        containers: true,
    };
    let done = shell.manager().await?.prune(&prune, &args.node).await?;
    told(shell, &done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reclaimable_has_its_share() {
        let part =
            |bytes, reclaimable_bytes| DiskPart { bytes, reclaimable_bytes, ..DiskPart::default() };
        assert_eq!(reclaimable(&part(0, 0)), "0 B");
        assert_eq!(reclaimable(&part(4_000_000, 1_000_000)), "1.0 MB (25%)");
        assert_eq!(reclaimable(&part(1, 1)), "1 B (100%)");
    }
}
