//! Networks.

mod connect;
mod ipam;
pub(crate) mod trace;
pub(crate) mod verify;

use clap::{Args, Subcommand};
use shoal_types::object::{AddressCount, Network, NetworkSummary};
use shoal_types::spec::{Driver, Ipam, NetworkKind, NetworkScope, NetworkSpec};

use super::filter::Filters;
use super::list::{self, List};
use super::service::pairs::KeyValue;
use super::{Result, Shell};
use crate::error::CommandError;
use crate::render::table::{Column, bends, whole};
use crate::render::{id, label, note, words};

/// What lists are filtered by.
const FILTERS: [&str; 5] = ["id", "name", "label", "driver", "scope"];

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a network
    Create(Create),
    /// List networks
    #[command(visible_alias = "list", mut_arg("filter", list::by(&FILTERS)))]
    Ls(List),
    /// Show all that is known of networks
    Inspect {
        /// Ids or names
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
    },
    /// Connect one task to a further network
    Connect(connect::Connect),
    /// Disconnect a task from a network to which it was connected
    Disconnect(connect::Disconnect),
    /// See where a packet goes from a task or node to somewhere, and where it would stop
    ///
    /// Each step is as it is planned, and is checked by the node that it is on. Sends nothing but what finds out
    /// whether these nodes reach each other.
    Trace(trace::Trace),
    /// See whether networks are as they should be on every node, and which nodes reach which
    ///
    /// Each node compares what its kernel has with what it should have, and sends packets of full size to the
    /// others through the tunnel. Changes nothing.
    Verify(verify::Verify),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm {
        /// Ids or names
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What makes it work
    #[arg(long, short, default_value = NetworkKind::Bridge.as_str())]
    driver: String,
    /// Nothing outside can be reached from it
    #[arg(long)]
    internal: bool,
    /// A label
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<KeyValue>,
    /// An option of the driver: of macvlan and ipvlan parent=, macvlan_mode=, ipvlan_mode=, ipvlan_flag=
    #[arg(long, short, value_name = "KEY=VALUE")]
    opt: Vec<KeyValue>,
    #[command(flatten)]
    addresses: ipam::Addresses,
    /// It has IPv4; with --ipv4=false and --ipv6 it has IPv6 alone
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv4: Option<bool>,
    /// It has IPv6
    #[arg(long)]
    ipv6: bool,
    /// Has no effect: only tasks join networks
    #[arg(long)]
    attachable: bool,
    /// Its name
    name: String,
}

impl Command {
    /// Whether the command writes records one after the other rather than one document.
    pub(crate) const fn writes_records(&self) -> bool {
        matches!(self, Self::Rm { .. })
    }
}

pub(crate) async fn run(shell: &Shell, command: Command) -> Result {
    match command {
        Command::Create(args) => create(shell, args).await,
        Command::Connect(args) => connect::connect(shell, args).await,
        Command::Disconnect(args) => connect::disconnect(shell, args).await,
        Command::Ls(args) => list(shell, &args).await,
        Command::Inspect { networks } => {
            let client = shell.manager().await?;
            let mut found = Vec::new();
            for network in &networks {
                found.push(client.network(network).await?);
            }
            shell.objects(&found)
        }
        Command::Trace(args) => trace::run(shell, args).await,
        Command::Verify(args) => verify::run(shell, args).await,
        Command::Rm { networks } => {
            shell
                .remove(&networks, async |client, network| {
                    Ok(client.remove_network(network).await?)
                })
                .await
        }
    }
}

async fn create(shell: &Shell, args: Create) -> Result {
    let config = args.addresses.config().map_err(CommandError::usage)?;
    if args.attachable {
        note(&attachable("--attachable"));
    }
    let spec = NetworkSpec {
        name: args.name,
        labels: args.label.into_iter().map(|l| (l.key, l.value)).collect(),
        driver: Driver {
            name: args.driver,
            options: args.opt.into_iter().map(|o| (o.key, o.value)).collect(),
        },
        internal: args.internal,
        attachable: args.attachable,
        enable_ipv4: args.ipv4,
        enable_ipv6: args.ipv6,
        ipam: (!config.is_empty()).then(|| Ipam { config, ..Ipam::default() }),
        ..NetworkSpec::default()
    };
    let network = shell.manager().await?.create_network(&spec).await?;
    shell.result(&network.id.to_string(), &network)
}

/// What is said of a network that others than tasks may join.
pub(crate) fn attachable(by: &str) -> String {
    format!("warning: {by} has no effect: only tasks join networks")
}

/// The columns of the list of networks.
pub(crate) const COLUMNS: [Column; 7] = [
    whole("NETWORK ID").field("ID").rank(3),
    whole("NAME"),
    whole("DRIVER").rank(1),
    whole("SCOPE").rank(2),
    bends("SUBNETS").rank(4),
    whole("USED").field("AddressesUsed").rank(5),
    whole("FREE").field("AddressesFree").rank(5),
];

async fn list(shell: &Shell, args: &List) -> Result {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let mut networks = shell.manager().await?.networks().await?;
    networks.retain(|NetworkSummary { network: n, .. }| {
        filters.allows("id", |v| n.id.to_string().starts_with(v))
            && filters.allows("name", |v| n.spec.name.contains(v))
            && filters.allows("driver", |v| n.spec.driver.name == v)
            && filters.allows("scope", |v| scope(n) == v)
            && filters.allows_labels("label", &n.spec.labels)
    });
    let row = |NetworkSummary { network: n, addresses, .. }: &NetworkSummary| {
        let subnets: Vec<String> = n.subnets.iter().map(ToString::to_string).collect();
        let count = |of: fn(&AddressCount) -> u64| {
            addresses.as_ref().map_or_else(String::new, |count| of(count).to_string())
        };
        vec![
            id(n.id, args.no_trunc),
            n.spec.name.clone(),
            n.spec.driver.name.clone(),
            scope(n).to_owned(),
            subnets.join(" "),
            count(|count| count.used),
            count(|count| count.free),
        ]
    };
    let names = args.quiet.then_some(
        (|n: &NetworkSummary| n.network.id.to_string()) as fn(&NetworkSummary) -> String,
    );
    let more = |NetworkSummary { network: n, .. }: &NetworkSummary| {
        vec![
            n.spec.internal.to_string(),
            words::labels(&n.spec.labels),
            n.meta.created_at.to_string(),
            n.spec.has_ipv4().to_string(),
            n.spec.enable_ipv6.to_string(),
            label::field(&n.spec.labels),
        ]
    };
    shell.list_more(
        &networks,
        names,
        &COLUMNS,
        row,
        (&["Internal", "Labels", "CreatedAt", "IPv4", "IPv6", label::FIELD], more),
        args.no_trunc,
    )
}

fn scope(network: &Network) -> &'static str {
    match (network.spec.scope, NetworkKind::of(&network.spec.driver)) {
        (Some(NetworkScope::Swarm), _) => "swarm",
        (None, Some(kind)) if kind.spans_nodes() => "swarm",
        (Some(NetworkScope::Global), _) => "global",
        _ => "local",
    }
}
