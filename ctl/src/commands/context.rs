//! Contexts.

use clap::Subcommand;
use serde_json::json;

use super::{Result, Shell};
use crate::error::CommandError;
use crate::render::table::{bends, whole};
use crate::render::{json, line};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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

pub(crate) fn run(shell: &Shell, command: Command) -> Result {
    let store = shell.store()?;
    let mut all = store.load()?;
    let named = shell.global.context.as_deref();
    match command {
        Command::Ls { quiet } => {
            let current = named.or(all.current.as_deref()).unwrap_or_default();
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
            let columns = [whole("NAME"), whole("CLUSTER"), bends("ENDPOINTS")];
            let row = |v: &serde_json::Value| {
                let mark = if v["Current"] == true { " *" } else { "" };
                let endpoints = v["Endpoints"].as_array().into_iter().flatten();
                let endpoints: Vec<&str> = endpoints.filter_map(|e| e.as_str()).collect();
                vec![
                    format!("{}{mark}", text(v, "Name")),
                    text(v, "ClusterID"),
                    endpoints.join(", "),
                ]
            };
            let name: fn(&serde_json::Value) -> String =
                |v| v["Name"].as_str().unwrap_or("").to_owned();
            shell.list(&items, quiet.then_some(name), &columns, row, false)
        }
        Command::Use { name } => {
            all.select(Some(&name))?;
            all.current = Some(name.clone());
            store.save(&all)?;
            shell.result(&name, &json!({ "Current": name }))
        }
        Command::Show => {
            let Some((name, context)) = all.select(named)? else {
                return Err(CommandError::failed("no context is selected")
                    .hint("shoalctl context use NAME selects one, shoalctl init makes one"));
            };
            let credentials = store.credentials(name)?;
            if shell.is_json() {
                return json::document(&json!({
                    "Name": name, "ClusterID": context.cluster, "Endpoints": context.endpoints,
                    "Credentials": store.credentials_dir(name),
                }));
            }
            line(&format!("Name: {name}"))?;
            line(&format!("Cluster: {}", context.cluster))?;
            line(&format!("Endpoints: {}", context.endpoints.join(", ")))?;
            line(&format!("Credentials: {}", store.credentials_dir(name).display()))?;
            line(&format!("Identity: {}", credentials.identity().id))
        }
    }
}
