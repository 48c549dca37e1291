//! The settings of the whole cluster.

mod upgrade;

use std::time::Duration;

use clap::{Args, Subcommand};
use shoal_types::object::Cluster;
use shoal_types::spec::{ClusterSpec, TunnelKeySpec};

use super::service::pairs::{KeyValue, duration};
use super::{Result, Shell};
use crate::error::CommandError;
use crate::render::pretty;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the cluster and its settings
    Inspect {
        /// For people
        #[arg(long)]
        pretty: bool,
    },
    /// Change settings; they hold at once
    Update(Update),
    /// Let the cluster use what all of its managers have learned by an upgrade
    Upgrade(upgrade::Upgrade),
}

#[derive(Debug, Default, Args)]
pub(crate) struct Update {
    /// Ended tasks that are kept for each replica, or node of a global service: 0 to 1000
    #[arg(long, value_name = "N")]
    task_history_limit: Option<u64>,
    /// Time between two heartbeats of an agent, 100ms to 1m; after three missed ones its node is down
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    dispatcher_heartbeat: Option<Duration>,
    /// How long certificates of nodes are valid, from the next one on: 1h to 87600h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    cert_expiry: Option<Duration>,
    /// How long the keys of the tunnels between nodes are used, 10m to 87600h; 0s: until somebody wants others
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    tunnel_key_expiry: Option<Duration>,
    /// Give all nodes other keys for the tunnels between them now; no packet is lost
    #[arg(long)]
    rotate_tunnel_keys: bool,
    /// Add or replace a label
    #[arg(long, value_name = "KEY=VALUE")]
    label_add: Vec<KeyValue>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
}

pub(crate) async fn run(shell: &Shell, command: Command) -> Result {
    let client = shell.manager().await?;
    match command {
        Command::Inspect { pretty } => {
            let page = |cluster: &Cluster| pretty::cluster(cluster);
            shell.inspected(&[client.cluster().await?], pretty.then_some(page))
        }
        Command::Update(args) => {
            let cluster = client.cluster().await?;
            let spec = changed(&cluster.spec, args)?;
            let cluster = client.update_cluster(&cluster, &spec).await?;
            shell.result(&cluster.spec.name, &cluster)
        }
        Command::Upgrade(args) => upgrade::upgrade(shell, &client, &args).await,
    }
}

fn changed(now: &ClusterSpec, args: Update) -> Result<ClusterSpec> {
    let Update {
        task_history_limit,
        dispatcher_heartbeat,
        cert_expiry,
        tunnel_key_expiry,
        rotate_tunnel_keys,
        label_add,
        label_rm,
    } = args;
    let mut spec = now.clone();
    for label in &label_rm {
        if spec.labels.remove(label).is_none() {
            return Err(CommandError::failed(format!("the cluster has no label {label:?}")));
        }
    }
    let is_empty = label_add.is_empty() && label_rm.is_empty();
    spec.labels.extend(label_add.into_iter().map(|l| (l.key, l.value)));
    if is_empty
        && task_history_limit.is_none()
        && dispatcher_heartbeat.is_none()
        && cert_expiry.is_none()
        && tunnel_key_expiry.is_none()
        && !rotate_tunnel_keys
    {
        return Err(CommandError::usage(
            "nothing is to be changed: expected --task-history-limit, --dispatcher-heartbeat, \
             --cert-expiry, --tunnel-key-expiry, --rotate-tunnel-keys, --label-add or --label-rm",
        ));
    }
    spec.task_history_retention_limit =
        task_history_limit.unwrap_or(spec.task_history_retention_limit);
    spec.heartbeat_period = dispatcher_heartbeat.unwrap_or(spec.heartbeat_period);
    spec.node_cert_expiry = cert_expiry.unwrap_or(spec.node_cert_expiry);
    let TunnelKeySpec { period, force_rotate } = &mut spec.tunnel_keys;
    *period = tunnel_key_expiry.or(*period);
    *force_rotate = force_rotate.wrapping_add(rotate_tunnel_keys.into());
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let labels = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into();
        let now = ClusterSpec { labels, ..ClusterSpec::default() };
        let none = changed(&now, Update::default()).unwrap_err().report();
        assert!(none.contains("nothing is to be changed"), "{none}");
        let all = Update {
            task_history_limit: Some(0),
            dispatcher_heartbeat: Some(Duration::from_secs(5)),
            cert_expiry: Some(Duration::from_secs(7200)),
            tunnel_key_expiry: Some(Duration::ZERO),
            rotate_tunnel_keys: true,
            label_add: vec!["c=3".parse().unwrap()],
            label_rm: vec!["a".to_owned()],
        };
        let wanted = ClusterSpec {
            name: now.name.clone(),
            labels: [("b".to_owned(), "2".to_owned()), ("c".to_owned(), "3".to_owned())].into(),
            task_history_retention_limit: 0,
            heartbeat_period: Duration::from_secs(5),
            node_cert_expiry: Duration::from_secs(7200),
            address_pools: Vec::new(),
            tunnel_keys: TunnelKeySpec { period: Some(Duration::ZERO), force_rotate: 1 },
        };
        assert_eq!(changed(&now, all).unwrap(), wanted);
        let again = Update { rotate_tunnel_keys: true, ..Update::default() };
        let tunnel_keys = TunnelKeySpec { period: Some(Duration::ZERO), force_rotate: 2 };
        assert_eq!(changed(&wanted, again).unwrap(), ClusterSpec { tunnel_keys, ..wanted });
        let one = Update { task_history_limit: Some(7), ..Update::default() };
        let wanted = ClusterSpec { task_history_retention_limit: 7, ..now.clone() };
        assert_eq!(changed(&now, one).unwrap(), wanted);
        let gone = Update { label_rm: vec!["x".to_owned()], ..Update::default() };
        assert!(changed(&now, gone).unwrap_err().report().contains("no label \"x\""));
    }
}
