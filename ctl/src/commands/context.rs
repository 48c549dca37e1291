//! Contexts.

use clap::Subcommand;
use serde_json::json;
use shoal_proto::transport::{Credentials, PrivateKey, utc_date};

use super::{Result, Shell};
use crate::context::Context;
use crate::error::CommandError;
use crate::render::table::{Column, bends, whole};
use crate::render::{line, time};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a context, or give new credentials to one
    Create {
        /// How it is called; by default as before, else as the cluster
        name: Option<String>,
        /// Let the manager of this host issue a certificate, which only root may ask for: the way
        /// back in when those of all users are lost or have expired
        #[arg(long, required = true)]
        local: bool,
    },
    /// List contexts
    #[command(visible_alias = "list")]
    Ls {
        /// Write names only
        #[arg(long, short)]
        quiet: bool,
    },
    /// Select a context for all commands to come
    Use {
        /// Which
        name: String,
    },
    /// Show the context that is meant
    Show,
}

pub(crate) async fn run(shell: &Shell, command: Command) -> Result {
    match command {
        Command::Create { name, local: _ } => create(shell, name.as_deref()).await,
        Command::Ls { quiet } => list(shell, quiet),
        Command::Use { name } => {
            shell.store()?.select(&name)?;
            shell.result(&name, &json!({ "Current": name }))
        }
        Command::Show => show(shell),
    }
}

async fn create(shell: &Shell, name: Option<&str>) -> Result {
    if let Some(name) = name.filter(|name| !shoal_types::name::is_valid(name)) {
        let rule = shoal_types::name::NAME_RULE;
        return Err(CommandError::usage(format!("{name:?} is not a name: expected {rule}")));
    }
    let store = shell.store()?;
    let no_key = |e| CommandError::failed("cannot make a key").because(e);
    let key = PrivateKey::generate().map_err(no_key)?;
    let issued = shell.agent()?.issue_user_certificate(key.request().map_err(no_key)?).await?;
    let credentials = Credentials::from_pem(issued.chain_pem, key.to_pem(), issued.root_pem)
        .map_err(|e| CommandError::failed("the new credentials cannot be used").because(e))?;
    let context = Context { cluster: issued.cluster_id, endpoints: issued.manager_addrs };
    let name = store.recover(name, &issued.cluster_name, context, &credentials)?;
    let until = credentials.identity().not_after;
    let said = format!(
        "context {name} is selected; its certificate is valid until {} and is renewed by use",
        utc_date(until)
    );
    shell.result(&said, &json!({ "Current": name, "CertificateExpiry": until }))
}

/// The columns of the list of contexts.
pub(crate) const COLUMNS: [Column; 3] =
    [whole("NAME"), whole("CLUSTER").rank(2), bends("ENDPOINTS").rank(1)];

fn list(shell: &Shell, quiet: bool) -> Result {
    let all = shell.store()?.load()?;
    let current = shell.global.context.as_deref().or(all.current.as_deref()).unwrap_or_default();
    let items: Vec<serde_json::Value> = all
        .contexts
        .iter()
        .map(|(name, context)| {
            json!({
                "Name": name, "Current": name == current, "ClusterID": context.cluster,
                "Endpoints": context.endpoints,
            })
        })
        .collect();
    let text = |v: &serde_json::Value, key: &str| v[key].as_str().unwrap_or("").to_owned();
    let row = |v: &serde_json::Value| {
        let mark = if v["Current"] == true { " *" } else { "" };
        let endpoints = v["Endpoints"].as_array().into_iter().flatten();
        let endpoints: Vec<&str> = endpoints.filter_map(|e| e.as_str()).collect();
        vec![
            if shell.is_template() {
                text(v, "Name")
            } else {
                format!("{}{mark}", text(v, "Name"))
            },
            text(v, "ClusterID"),
            endpoints.join(", "),
        ]
    };
    let name: fn(&serde_json::Value) -> String = |v| v["Name"].as_str().unwrap_or("").to_owned();
    let more = |v: &serde_json::Value| vec![v["Current"].to_string()];
    shell.list_more(&items, quiet.then_some(name), &COLUMNS, row, (&["Current"], more), false)
}

fn show(shell: &Shell) -> Result {
    let store = shell.store()?;
    let all = store.load()?;
    let Some((name, context)) = all.select(shell.global.context.as_deref())? else {
        return Err(CommandError::failed("no context is selected")
            .hint("shoalctl context use NAME selects one, shoalctl init makes one"));
    };
    let identity = *store.credentials(name)?.identity();
    if shell.is_json() || shell.is_template() {
        return shell.document(&json!({
            "Name": name, "ClusterID": context.cluster, "Endpoints": context.endpoints,
            "Credentials": store.credentials_dir(name), "CertificateExpiry": identity.not_after,
        }));
    }
    line(&format!("Name: {name}"))?;
    line(&format!("Cluster: {}", context.cluster))?;
    line(&format!("Endpoints: {}", context.endpoints.join(", ")))?;
    line(&format!("Credentials: {}", store.credentials_dir(name).display()))?;
    line(&format!("Identity: {}", identity.id))?;
    let word = if identity.not_after > time::now() { "valid until" } else { "expired on" };
    line(&format!("Certificate: {word} {}", utc_date(identity.not_after)))
}
