//! Contexts.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use shoal_client::ClientError;
use shoal_client::context::{Context, Store};
use shoal_client::portable::Portable;
use shoal_transport::{Credentials, Identity, PrivateKey, utc_date};

use super::{Result, Shell, each};
use crate::error::CommandError;
use crate::portable::{self, Output};
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
    /// Write a context with its key and certificate to one file, for another machine or a program
    Export {
        /// Which; the one that is meant if absent
        name: Option<String>,
        /// A new file, readable by you alone, or - for standard output
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Take in a context that was exported, or made with a user; selects it if none is selected
    Import {
        /// The file, or - for standard input
        file: PathBuf,
        /// How it is called here; by default as in the file
        #[arg(long)]
        name: Option<String>,
    },
    /// Show all that is known of contexts, but for the keys
    Inspect {
        /// Which; the one that is meant if absent
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove contexts with their keys from this machine; their users stay
    #[command(visible_alias = "remove")]
    Rm {
        /// Which
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Also the one that is selected
        #[arg(long, short)]
        force: bool,
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

impl Command {
    /// Whether the command writes records one after the other rather than one document.
    pub(crate) const fn writes_records(&self) -> bool {
        matches!(self, Self::Rm { .. })
    }
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
        Command::Export { name, output } => export(shell, name.as_deref(), output),
        Command::Import { file, name } => import(shell, &file, name),
        Command::Inspect { names } => inspect(shell, &names),
        Command::Rm { names, force } => {
            shell.ended("removed", Vec::new());
            each(shell, &names, |name| {
                std::future::ready(shell.store().and_then(|store| {
                    store.remove(&name, force)?;
                    shell.removed(&name, json!({ "Name": name }))
                }))
            })
            .await
        }
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
    let context = Context {
        cluster: issued.cluster_id,
        endpoints: issued.manager_addrs,
        managers: Vec::new(),
    };
    let name = store.recover(name, &issued.cluster_name, context, &credentials)?;
    let until = credentials.identity().not_after;
    let said = format!(
        "context {name} has a new certificate, valid until {} and renewed by use; {}",
        utc_date(until),
        selection(&store, &name)?
    );
    shell.result(&said, &json!({ "Name": name, "CertificateExpiry": until }))
}

/// Whether a context is selected, and how it would be.
fn selection(store: &Store, name: &str) -> Result<String> {
    Ok(match store.load()?.current {
        Some(current) if current == name => "it is selected".to_owned(),
        _ => format!("shoalctl context use {name} selects it"),
    })
}

fn export(shell: &Shell, name: Option<&str>, output: PathBuf) -> Result {
    let output = Output::new(output)?;
    let carried = if name.is_none() { shell.carried()? } else { None };
    let context = match carried {
        Some((carried, _)) => carried,
        None => {
            let store = shell.store()?;
            let all = store.load()?;
            let named = name.or(shell.global.context.as_deref());
            let (name, context) = all.select(named)?.ok_or(ClientError::NoContext)?;
            Portable::of(name, context, &store.credentials(name)?)
        }
    };
    output.write(&context)?;
    if output.is_shown() {
        return Ok(());
    }
    let name = &context.name;
    shell.result(&format!("context {name} is in {output}"), &json!({ "Name": name }))
}

fn import(shell: &Shell, file: &Path, name: Option<String>) -> Result {
    let context = portable::read(file, "this command")?;
    let name = name.unwrap_or_else(|| context.name.clone());
    let (context, credentials) = context.open()?;
    let store = shell.store()?;
    let name = store.import(&name, context, &credentials)?;
    let until = credentials.identity().not_after;
    let said = format!(
        "context {name} is imported, its certificate is valid until {}; {}",
        utc_date(until),
        selection(&store, &name)?
    );
    shell.result(&said, &json!({ "Name": name, "CertificateExpiry": until }))
}

fn inspect(shell: &Shell, names: &[String]) -> Result {
    if names.is_empty() {
        let (name, context, identity, place) = meant(shell)?;
        return shell.objects(&[document(&name, &context, &identity, &place)]);
    }
    let store = shell.store()?;
    let all = store.load()?;
    let mut found = Vec::new();
    for name in names {
        let (name, context) = all.select(Some(name))?.ok_or(ClientError::NoContext)?;
        let place = store.credentials_dir(name).display().to_string();
        found.push(document(name, context, store.credentials(name)?.identity(), &place));
    }
    shell.objects(&found)
}

fn document(name: &str, context: &Context, identity: &Identity, place: &str) -> serde_json::Value {
    json!({
        "Name": name, "ClusterID": context.cluster, "Endpoints": context.all(),
        "Credentials": place, "Identity": identity.id.to_string(),
        "CertificateExpiry": identity.not_after,
    })
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
                "Endpoints": context.all(),
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

/// The context that is meant: name, where it answers, who asks, and where the key comes from.
fn meant(shell: &Shell) -> Result<(String, Context, Identity, String)> {
    if let Some((carried, variable)) = shell.carried()? {
        let name = carried.name.clone();
        let (context, credentials) = carried.open()?;
        return Ok((name, context, *credentials.identity(), variable.to_owned()));
    }
    let store = shell.store()?;
    let all = store.load()?;
    let Some((name, context)) = all.select(shell.global.context.as_deref())? else {
        return Err(CommandError::failed("no context is selected")
            .hint("shoalctl context use NAME selects one, shoalctl init makes one"));
    };
    let place = store.credentials_dir(name).display().to_string();
    Ok((name.to_owned(), context.clone(), *store.credentials(name)?.identity(), place))
}

fn show(shell: &Shell) -> Result {
    let (name, context, identity, place) = meant(shell)?;
    if shell.is_json() || shell.is_template() {
        return shell.document(&document(&name, &context, &identity, &place));
    }
    line(&format!("Name: {name}"))?;
    line(&format!("Cluster: {}", context.cluster))?;
    line(&format!("Endpoints: {}", context.all().join(", ")))?;
    line(&format!("Credentials: {place}"))?;
    line(&format!("Identity: {}", identity.id))?;
    let word = if identity.not_after > time::now() { "valid until" } else { "expired on" };
    line(&format!("Certificate: {word} {}", utc_date(identity.not_after)))
}
