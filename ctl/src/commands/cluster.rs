//! The cluster and this host's place in it.

use std::fs;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use ipnet::Ipv4Net;
use serde_json::{Value, json};
use shoal_client::Client;
use shoal_client::context::{Context, Store};
use shoal_durable::write_file;
use shoal_transport::{Credentials, ManagerAddress, PrivateKey, SecretPem, utc_date};
use shoal_types::object::{Cluster, Node, TunnelKeys};
use shoal_types::spec::{AddressPool, Availability, ClusterSpec, NodeRole};

use super::{Result, Shell, links};
use crate::error::CommandError;
use crate::render::time::exact;
use crate::render::{block, json, line, note};
use crate::terminal;

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where other hosts reach this one: HOST[:PORT] [default: the address of its default route, or its
    /// only one]
    #[arg(long, value_name = "ADDR")]
    advertise_addr: Option<ManagerAddress>,
    /// Where the manager listens: HOST[:PORT]
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:4242")]
    listen_addr: ManagerAddress,
    /// Whether this host takes tasks
    #[arg(long, value_enum, default_value = "active")]
    availability: AvailabilityArg,
    /// Name of the cluster, and of the context that is made for it
    #[arg(long, default_value = "default")]
    name: String,
    /// Where overlay networks get their subnets from that name none: ADDRESS/LENGTH; may be given several
    /// times [default: 10.0.0.0/8]
    #[arg(long, value_name = "SUBNET", value_parser = pool)]
    default_addr_pool: Vec<Ipv4Net>,
    /// How large those subnets are: the length of their prefix, up to 30
    #[arg(long, value_name = "LENGTH", default_value_t = AddressPool::USUAL_SIZE)]
    default_addr_pool_mask_length: u8,
}

fn pool(text: &str) -> Result<Ipv4Net, String> {
    text.parse().map_err(|_| "expected ADDRESS/LENGTH, such as 10.20.0.0/16".to_owned())
}

impl Init {
    /// The settings of the new cluster.
    fn spec(&self) -> ClusterSpec {
        let size = self.default_addr_pool_mask_length;
        let mut address_pools: Vec<AddressPool> =
            self.default_addr_pool.iter().map(|base| AddressPool { base: *base, size }).collect();
        if address_pools.is_empty() && size != AddressPool::USUAL_SIZE {
            address_pools.push(AddressPool { size, ..AddressPool::USUAL });
        }
        ClusterSpec { name: self.name.clone(), address_pools, ..ClusterSpec::default() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// Read the token that lets this host in from a file, or from standard input: - ; without any
    /// of these options it is asked for
    #[arg(long, value_name = "FILE|-")]
    token_file: Option<PathBuf>,
    /// The token itself, which everybody on this host can see while the command runs
    #[arg(long, env = "SHOAL_JOIN_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    token: Option<String>,
    /// Where other managers reach this host's manager, if it is one or becomes one: HOST[:PORT] [default: the
    /// address that it has towards the others]
    #[arg(long, value_name = "ADDR")]
    advertise_addr: Option<ManagerAddress>,
    /// Where this host's manager listens, if it is one or becomes one: HOST[:PORT] [default: 0.0.0.0:4242]
    #[arg(long, value_name = "ADDR")]
    listen_addr: Option<ManagerAddress>,
    /// Where a manager listens: HOST[:PORT]
    #[arg(required = true, value_name = "ADDR")]
    managers: Vec<ManagerAddress>,
}

#[derive(Debug, Args)]
pub(crate) struct JoinToken {
    /// What the joining host will be
    #[arg(value_enum, default_value = "worker")]
    role: RoleArg,
    /// Make the old token worthless and a new one
    #[arg(long)]
    rotate: bool,
    /// Write the token only
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Info {}

#[derive(Debug, Args)]
pub(crate) struct Version {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AvailabilityArg {
    /// It takes tasks
    Active,
    /// It keeps those it has, and takes no new ones
    Pause,
    /// It gives away those it has
    Drain,
}

impl From<AvailabilityArg> for Availability {
    fn from(arg: AvailabilityArg) -> Self {
        match arg {
            AvailabilityArg::Active => Self::Active,
            AvailabilityArg::Pause => Self::Pause,
            AvailabilityArg::Drain => Self::Drain,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Runs tasks
    Worker,
    /// Takes part in managing, and runs tasks too
    Manager,
}

impl From<RoleArg> for NodeRole {
    fn from(arg: RoleArg) -> Self {
        match arg {
            RoleArg::Worker => Self::Agent,
            RoleArg::Manager => Self::Manager,
        }
    }
}

pub(crate) async fn init(shell: &Shell, args: Init) -> Result {
    if !shoal_types::name::is_valid(&args.name) {
        let rule = shoal_types::name::NAME_RULE;
        return Err(CommandError::usage(format!("{:?} is not a name: expected {rule}", args.name)));
    }
    let spec = args.spec();
    if let Err(wrong) = spec.validate() {
        return Err(CommandError::usage(wrong.to_string()));
    }
    let store = shell.store()?;
    let agent = shell.agent()?;
    // Without one the agent finds it: this program may see another network than the host's.
    let advertise = args.advertise_addr.map(|address| address.to_string()).unwrap_or_default();
    let pending = PendingKey::load_or_make(&store)?;
    let made =
        agent.init(args.listen_addr.to_string(), advertise, pending.csr_der.clone(), &spec).await?;
    let credentials =
        Credentials::from_pem(made.admin_chain_pem, pending.key_pem.clone(), made.root_pem)
            .map_err(|e| CommandError::failed("the new credentials cannot be used").because(e))?;
    let endpoint = made.manager_addr;
    let context = Context {
        cluster: made.cluster_id.clone(),
        endpoints: vec![endpoint.clone()],
        managers: Vec::new(),
    };
    let name = store.add(&args.name, context, &credentials)?;
    pending.forget();
    if args.availability != AvailabilityArg::Active {
        let (client, _) = Client::connect(&store, Some(&name)).await?;
        let node = client.node(&made.node_id).await?;
        let mut spec = node.spec.clone();
        spec.availability = args.availability.into();
        client.update_node(&node, &spec).await?;
    }
    if shell.is_json() {
        return json::document(&json!({
            "ClusterID": made.cluster_id, "NodeID": made.node_id, "Context": name,
            "Endpoint": endpoint, "WorkerJoinToken": made.agent_join_token,
        }));
    }
    line(&format!("cluster {} is made; this host is its first node, {}", args.name, made.node_id))?;
    line(&format!("context {name} is selected"))?;
    block("\nTo bring in another host, run there:\n")?;
    line(&join_line(&made.agent_join_token, &endpoint))?;
    block("")
}

/// The admin's key lives on disk before anything is asked for, so that an `init` that breaks off
/// can be repeated with the same request.
struct PendingKey {
    dir: PathBuf,
    key_pem: SecretPem,
    csr_der: Vec<u8>,
}

impl PendingKey {
    fn load_or_make(store: &Store) -> Result<Self> {
        let dir = store.credentials_dir("pending-init");
        let (key_file, csr_file) = (dir.join("key.pem"), dir.join("request.der"));
        let unreadable = |error: io::Error| {
            CommandError::failed(format!("cannot use {}", dir.display())).because(error)
        };
        match (fs::read_to_string(&key_file), fs::read(&csr_file)) {
            (Ok(key), Ok(csr_der)) => {
                return Ok(Self { dir, key_pem: SecretPem::new(key), csr_der });
            }
            (Err(error), _) | (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unreadable(error));
            }
            _ => {}
        }
        let no_key = |e| CommandError::failed("cannot make a key").because(e);
        let key = PrivateKey::generate().map_err(no_key)?;
        let csr_der = key.request().map_err(no_key)?;
        let key_pem = key.to_pem();
        store.make_dir(&dir)?;
        // The request last: it stands for the whole.
        write_file(&key_file, key_pem.reveal().as_bytes(), 0o600).map_err(unreadable)?;
        write_file(&csr_file, &csr_der, 0o600).map_err(unreadable)?;
        Ok(Self { dir, key_pem, csr_der })
    }

    fn forget(self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            note(&format!("warning: cannot remove {}: {error}", self.dir.display()));
        }
    }
}

pub(crate) async fn join(shell: &Shell, args: Join) -> Result {
    let token = token(args.token, args.token_file.as_deref()).await?;
    let managers = args.managers.iter().map(ToString::to_string).collect();
    let text = |address: Option<ManagerAddress>| address.map(|a| a.to_string()).unwrap_or_default();
    let own = [text(args.listen_addr), text(args.advertise_addr)];
    let (node_id, role) = shell.agent()?.join(token.trim().to_owned(), managers, own).await?;
    if !shell.is_json() {
        line(&format!("this host joined the cluster as a {role}: {node_id}"))?;
    }
    // It has joined, whatever comes of this.
    let links = links::tried(shell).await.unwrap_or_else(|error| {
        note(&format!("warning: the links to other nodes cannot be tried: {}", error.reason()));
        Value::Null
    });
    if shell.is_json() {
        json::record(&json!({ "NodeID": node_id, "Role": role, "Links": links }))?;
    }
    Ok(())
}

/// The most that is read where a token is expected, in bytes.
const TOKEN_MAX: u64 = 4096;

/// From where it is not seen by others, if it was not given.
async fn token(given: Option<String>, file: Option<&Path>) -> Result<String> {
    let unreadable =
        |name: String| move |e| CommandError::failed(format!("cannot read {name}")).because(e);
    let mut text = String::new();
    match (given, file.filter(|file| *file != Path::new("-"))) {
        (Some(token), _) => return Ok(token),
        (None, Some(file)) => {
            let read =
                fs::File::open(file).and_then(|f| f.take(TOKEN_MAX).read_to_string(&mut text));
            read.map_err(unreadable(file.display().to_string()))?;
        }
        (None, None) if io::stdin().is_terminal() => {
            text = terminal::ask("Join token: ", false).await?;
        }
        (None, None) => {
            let read = io::stdin().lock().take(TOKEN_MAX).read_to_string(&mut text);
            read.map_err(unreadable("the token from standard input".to_owned()))?;
        }
    }
    if text.trim().is_empty() {
        let from = file.map_or("standard input".to_owned(), |file| file.display().to_string());
        let hint = "shoalctl join-token worker, where the cluster is, shows one";
        return Err(CommandError::usage(format!("there is no join token in {from}")).hint(hint));
    }
    Ok(text)
}

/// What is typed, or pasted, on a host that is to join. The token goes from the shell itself into the
/// command, so it is in nobody's list of arguments.
fn join_line(token: &str, address: &str) -> String {
    format!("    echo {token} | shoalctl join --token-file - {address}")
}

pub(crate) async fn join_token(shell: &Shell, args: &JoinToken) -> Result {
    let client = shell.manager().await?;
    let role = NodeRole::from(args.role);
    let rotated = if args.rotate { Some(client.rotate_join_token(role).await?) } else { None };
    let (token, managers) = match rotated {
        Some(token) if args.quiet => (token, Vec::new()),
        _ => client.join_token(role).await?,
    };
    if args.quiet {
        return line(&token);
    }
    if shell.is_json() {
        let managers: Vec<String> = managers;
        return json::document(&json!({
            "Role": role.as_str(), "Token": token, "ManagerAddrs": managers,
        }));
    }
    let address = managers.first().map_or("ADDR", String::as_str);
    block(&format!("To bring in a host as a {}, run there:\n", role.as_str()))?;
    line(&join_line(&token, address))?;
    block("")
}

pub(crate) async fn info(shell: &Shell) -> Result {
    let host = match shell.agent() {
        Ok(agent) => agent.info().await.map_err(CommandError::from),
        Err(error) => Err(error),
    };
    let cluster = match shell.manager().await {
        Ok(client) => facts(&client).await,
        Err(error) => Err(error),
    };
    if let (Err(host), Err(cluster)) = (&host, &cluster) {
        let text = format!("neither host nor cluster can be asked: {host}; {cluster}");
        return Err(CommandError::failed(text).hint("start the agent: systemctl start shoal-agent"));
    }
    if shell.is_json() || shell.is_template() {
        let said = |r: &CommandError| json!({ "Error": r.report().trim().to_owned() });
        let host = host.as_ref().map_or_else(said, |h| json!(h));
        let cluster = cluster.as_ref().map_or_else(said, Clone::clone);
        return shell.document(&json!({ "Host": host, "Cluster": cluster }));
    }
    match host {
        Ok(host) => {
            line(&format!("Host: {}", host.hostname))?;
            line(&format!(" Agent version: {}", host.version))?;
            line(&format!(" State: {}", host.state))?;
            if !host.message.is_empty() {
                line(&format!(" Message: {}", host.message))?;
            }
            if !host.node_id.is_empty() {
                line(&format!(" Node: {} ({})", host.node_id, host.role))?;
                line(&format!(" Managers: {}", host.manager_addrs.join(", ")))?;
                line(&format!(" Tasks: {}", host.tasks))?;
            }
        }
        Err(error) => line(&format!("Host: {error}"))?,
    }
    match cluster {
        Ok(facts) => {
            for (key, value) in facts.as_object().into_iter().flatten() {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                line(&format!("{key}: {value}"))?;
            }
            Ok(())
        }
        Err(error) => line(&format!("Cluster: {error}")),
    }
}

async fn facts(client: &Client) -> Result<Value> {
    let cluster = client.cluster().await?;
    let nodes = client.nodes().await?;
    let version = client.version().await?;
    let managers = nodes.iter().filter(|n| n.manager_status.is_some()).count();
    let services = client.services(None).await?.len();
    Ok(json!({
        "Cluster": cluster.spec.name, "ClusterID": cluster.id, "Nodes": nodes.len(),
        "Managers": managers, "Services": services, "ManagerVersion": version.version,
        "TaskHistoryRetentionLimit": cluster.spec.task_history_retention_limit,
        "HeartbeatPeriod": exact(cluster.spec.heartbeat_period),
        "CertExpiry": exact(cluster.spec.node_cert_expiry),
        "TunnelKeys": tunnel_keys(&cluster, &nodes),
        "FeatureLevel": cluster.level,
    }))
}

/// How far the cluster is with the keys of its tunnels, and who is missing while they change.
fn tunnel_keys(cluster: &Cluster, nodes: &[Node]) -> String {
    let TunnelKeys { epochs, since, forced } = cluster.tunnel_keys;
    let since = utc_date(since.max(cluster.meta.created_at));
    let tunnels = || nodes.iter().filter_map(|node| Some((node, node.description.tunnel?)));
    let name = |node: &Node| node.description.hostname.clone();
    if epochs.former.is_some() {
        let missing = tunnels().filter(|(_, tunnel)| !tunnel.has_followed(epochs, 0));
        let missing: Vec<String> = missing.map(|(node, _)| name(node)).collect();
        let waits = match missing.as_slice() {
            [] => String::new(),
            names => format!(", waiting for {}", names.join(", ")),
        };
        return format!("epoch {}, changing since {since}{waits}", epochs.present);
    }
    let hinder = tunnels().filter(|(node, tunnel)| node.is_reachable() && tunnel.keys.is_none());
    let hinder: Vec<String> = hinder.map(|(node, _)| name(node)).collect();
    let wanted = cluster.spec.tunnel_keys.force_rotate != forced;
    match hinder.as_slice() {
        names if wanted && !names.is_empty() => {
            format!(
                "epoch {} since {since}, too old to change: {}",
                epochs.present,
                names.join(", ")
            )
        }
        _ => format!("epoch {} since {since}", epochs.present),
    }
}

pub(crate) async fn version(shell: &Shell) -> Result {
    let own = env!("CARGO_PKG_VERSION");
    let manager = match shell.manager().await {
        Ok(client) => client.version().await.map_err(CommandError::from),
        Err(error) => Err(error),
    };
    if shell.is_json() || shell.is_template() {
        let manager =
            manager.as_ref().map_or_else(|e| json!({ "Error": e.to_string() }), |m| json!(m));
        return shell.document(&json!({ "Client": { "Version": own }, "Manager": manager }));
    }
    line(&format!("Client:  {own}"))?;
    // The client's own version is an answer, too.
    match manager {
        Ok(manager) => line(&format!("Manager: {}", manager.version)),
        Err(error) => line(&format!("Manager: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_comes_from_a_file_or_is_missed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, "SHOAL-1-a-b\n").unwrap();
        assert_eq!(token(None, Some(&file)).await.unwrap().trim(), "SHOAL-1-a-b");
        assert_eq!(token(Some("given".to_owned()), None).await.unwrap(), "given");
        fs::write(&file, "\n").unwrap();
        let missed = token(None, Some(&file)).await.unwrap_err().report();
        assert!(missed.contains("no join token in") && missed.contains("join-token"), "{missed}");
        let missed = token(None, Some(&dir.path().join("none"))).await.unwrap_err().report();
        assert!(missed.contains("cannot read"), "{missed}");
    }

    #[test]
    fn address_pools_are_as_they_are_said() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            init: Init,
        }
        let spec = |args: &[&str]| {
            let all = std::iter::once("init").chain(args.iter().copied());
            <Line as clap::Parser>::parse_from(all).init.spec()
        };
        let pool = |base: &str, size| AddressPool { base: base.parse().unwrap(), size };
        let (pools, length) = ("--default-addr-pool", "--default-addr-pool-mask-length");
        let cases: [(&[&str], Vec<AddressPool>); 4] = [
            (&[], vec![]),
            (&[length, "20"], vec![pool("10.0.0.0/8", 20)]),
            (&[pools, "10.1.0.0/16"], vec![pool("10.1.0.0/16", 24)]),
            (
                &[pools, "10.1.0.0/16", pools, "10.9.0.0/16", length, "28"],
                vec![pool("10.1.0.0/16", 28), pool("10.9.0.0/16", 28)],
            ),
        ];
        for (args, expected) in cases {
            assert_eq!(spec(args).address_pools, expected, "{args:?}");
        }
        let wrong = spec(&[pools, "10.1.0.0/28"]).validate().unwrap_err().to_string();
        assert!(wrong.contains("expected 28 to 30 for a part of 10.1.0.0/28"), "{wrong}");
    }

    /// In a shell's pipe, never as an argument of a program.
    #[test]
    fn what_is_shown_keeps_the_token_out_of_argument_lists() {
        let line = join_line("SHOAL-1-a-b", "10.0.0.1:4242");
        assert_eq!(line.trim(), "echo SHOAL-1-a-b | shoalctl join --token-file - 10.0.0.1:4242");
    }
}
