//! Raising the cluster's feature level, once all of its managers have been upgraded.

use clap::Args;
use serde_json::json;
use shoal_client::Client;

use super::super::{Result, Shell};

#[derive(Debug, Args)]
pub(crate) struct Upgrade {
    /// Only up to this feature level [default: the highest that all managers have]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u32).range(1..))]
    level: Option<u32>,
}

pub(super) async fn upgrade(shell: &Shell, client: &Client, args: &Upgrade) -> Result {
    let (cluster, raised) = client.raise_level(args.level).await?;
    let level = cluster.level;
    let text = match (raised, level.brought()) {
        (false, _) => format!("the cluster has feature level {level} already"),
        (true, None) => format!("the cluster has feature level {level} now"),
        (true, Some(what)) => format!("the cluster has feature level {level} now: {what}"),
    };
    shell
        .result(&text, &json!({ "ClusterID": cluster.id, "FeatureLevel": level, "Raised": raised }))
}
