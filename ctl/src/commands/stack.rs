//! Stacks.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use shoal_client::{Applied, Client, TaskQuery};
use shoal_types::id::StackId;
use shoal_types::object::Stack;
use shoal_types::time::Timestamp;

use super::list::{self, List};
use super::login::WithLogins;
use super::service::{self, Waiting, wait_for};
use super::tasks::{self, TaskList};
use super::{Result, Shell, each};
use crate::cli::EXIT_CODES;
use crate::error::CommandError;
use crate::files;
use crate::progress::{Followed, gone};
use crate::render::record::{self, Record};
use crate::render::table::{Column, whole};
use crate::render::{json, line, note, own_line, time};
use crate::stack::{self, Files, Input, Loaded, Source, Variables, to_yaml};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create or update a stack and wait until it runs
    #[command(visible_alias = "up", after_help = EXIT_CODES)]
    Deploy(Deploy),
    /// List stacks
    #[command(visible_alias = "list")]
    Ls {
        /// Write names only
        #[arg(long, short)]
        quiet: bool,
    },
    /// List the tasks of a stack
    Ps {
        #[command(flatten)]
        list: TaskList,
        /// Id or name
        stack: String,
    },
    /// List the services of a stack
    #[command(mut_arg("filter", list::by(&service::FILTERS)))]
    Services {
        #[command(flatten)]
        list: List,
        /// Id or name
        stack: String,
    },
    /// Show all that is known of stacks, their history included
    Inspect {
        /// Ids or names
        #[arg(required = true, value_name = "STACK")]
        stacks: Vec<String>,
    },
    /// Put an earlier version of a stack back, whole, and wait until it runs
    #[command(after_help = EXIT_CODES)]
    Rollback {
        /// Which version; the last one that was not itself left by a rollback if absent
        #[arg(long, value_name = "VERSION")]
        to: Option<u64>,
        /// Id or name
        stack: String,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Remove stacks and wait until their tasks are gone
    #[command(visible_aliases = ["remove", "down"], after_help = EXIT_CODES)]
    Rm {
        /// Ids or names
        #[arg(required = true, value_name = "STACK")]
        stacks: Vec<String>,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Check stack files and show what they mean
    Config(Config),
}

impl Command {
    /// Whether the command writes records one after the other rather than one document.
    pub(crate) const fn writes_records(&self) -> bool {
        match self {
            Self::Deploy(_) | Self::Rollback { .. } | Self::Rm { .. } => true,
            Self::Ls { .. }
            | Self::Ps { .. }
            | Self::Services { .. }
            | Self::Inspect { .. }
            | Self::Config(_) => false,
        }
    }
}

/// Where a stack comes from.
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// A stack file, - for standard input; may be given several times, later ones win
    #[arg(long = "compose-file", short, value_name = "FILE", required = true)]
    compose_file: Vec<PathBuf>,
    /// A file of variables instead of .env beside the first stack file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    #[command(flatten)]
    files: FileArgs,
    /// Remove members that are not in the file any more
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    logins: WithLogins,
    #[command(flatten)]
    waiting: Waiting,
    /// Name of the stack; that of the file if absent
    stack: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(flatten)]
    files: FileArgs,
    /// Name of the stack; that of the file, else "stack", if absent
    stack: Option<String>,
}

pub(crate) async fn run(shell: &Shell, command: Command) -> Result {
    match command {
        Command::Deploy(args) => deploy(shell, args).await,
        Command::Ls { quiet } => list(shell, quiet).await,
        Command::Ps { list, stack } => {
            let client = shell.manager().await?;
            let stack = Some(client.stack(&stack).await?.id.to_string());
            let query = TaskQuery { stack, ..TaskQuery::default() };
            tasks::show(shell, &client, query, &list).await
        }
        Command::Services { list, stack } => {
            let stack = shell.manager().await?.stack(&stack).await?.id.to_string();
            service::list(shell, &list, Some(&stack)).await
        }
        Command::Inspect { stacks } => {
            let client = shell.manager().await?;
            let mut found = Vec::new();
            for stack in &stacks {
                found.push(client.stack(stack).await?);
            }
            shell.objects(&found)
        }
        Command::Rollback { to, stack, waiting } => rollback(shell, &stack, to, waiting).await,
        Command::Rm { stacks, waiting } => {
            each(shell, &stacks, |stack| remove(shell, stack, waiting)).await
        }
        Command::Config(args) => config(shell, &args),
    }
}

/// The files of this host.
#[derive(Debug)]
struct Disk;

impl Files for Disk {
    fn read(&self, path: &str) -> Result<Option<String>, String> {
        match files::text_of(Path::new(path)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn bytes(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        match files::bytes_of(Path::new(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn load(args: &FileArgs, name: Option<&str>, fallback: Option<&str>) -> Result<Loaded> {
    let here = env::current_dir()
        .map_err(|e| CommandError::failed("cannot tell the current directory").because(e))?;
    let mut sources = Vec::new();
    for path in &args.compose_file {
        sources.push(source(path)?);
    }
    let first = args.compose_file.first().filter(|p| p.as_os_str() != "-");
    let dir = first.and_then(|p| p.parent()).map_or_else(|| here.clone(), |p| here.join(p));
    let dir = dir.to_str().ok_or_else(|| {
        CommandError::failed(format!("the directory {} has no UTF-8 name", dir.display()))
    })?;
    let variables = variables(args, Path::new(dir))?;
    let input = Input {
        name,
        fallback_name: fallback,
        sources: &sources,
        variables: &variables,
        dir,
        files: &Disk,
    };
    let loaded = stack::load(&input)?;
    for warning in &loaded.warnings {
        note(&format!("warning: {warning}"));
    }
    Ok(loaded)
}

fn source(path: &Path) -> Result<Source> {
    let (name, read) = match path.as_os_str() == "-" {
        true => ("standard input".to_owned(), files::text(io::stdin())),
        false => (path.display().to_string(), files::text_of(path)),
    };
    match read {
        Ok(text) => Ok(Source { name, text }),
        Err(error) => Err(CommandError::failed(format!("cannot read {name}")).because(error)),
    }
}

/// This process's environment over the files of variables.
fn variables(args: &FileArgs, dir: &Path) -> Result<Variables> {
    let own: Variables = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let beside = dir.join(".env");
    let files = if args.env_file.is_empty() && beside.is_file() {
        vec![beside]
    } else {
        args.env_file.clone()
    };
    let mut all = Variables::new();
    for file in files {
        let shown = file.display().to_string();
        let text = files::text_of(&file)
            .map_err(|e| CommandError::failed(format!("cannot read {shown}")).because(e))?;
        let read = stack::parse_env_file(&text, &own)
            .map_err(|e| CommandError::failed(format!("cannot understand {shown}")).because(e))?;
        read.warnings(&shown).for_each(|warning| note(&format!("warning: {warning}")));
        all.extend(read.lines.into_iter().filter_map(|(name, value)| Some((name, value?))));
    }
    all.extend(own);
    Ok(all)
}

async fn deploy(shell: &Shell, args: Deploy) -> Result {
    let mut loaded = load(&args.files, args.stack.as_deref(), None)?;
    service::note_narrow_ports(&loaded.narrow_ports);
    let auths = args.logins.of_services(loaded.spec.services.values()).await?;
    let client = shell.manager().await?;
    if !loaded.unsaid_drivers.is_empty() {
        keep_drivers(&client, &mut loaded).await?;
    }
    let Loaded { spec, secrets, configs, .. } = &loaded;
    let applied = client.apply_stack(spec, (secrets, configs), args.prune, &auths).await?;
    wait_for_stack(shell, &client, &loaded.spec.name, &applied, args.waiting).await
}

/// What was deployed before networks of stacks spanned hosts keeps its meaning.
async fn keep_drivers(client: &Client, loaded: &mut Loaded) -> Result {
    let before = match client.stack(&loaded.spec.name).await {
        Ok(stack) => stack.spec,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for network in loaded.keep_drivers(&before) {
        let name = &loaded.spec.name;
        note(&format!(
            "warning: network {network} stays one of each host (driver bridge), as it was deployed: in a new \
             stack it spans hosts (driver overlay)\nhint: `shoalctl stack rm {name}`, then deploy again"
        ));
    }
    Ok(())
}

async fn rollback(shell: &Shell, reference: &str, to: Option<u64>, waiting: Waiting) -> Result {
    let client = shell.manager().await?;
    let stack = client.stack(reference).await?;
    let applied = client.roll_back_stack(&stack, to).await?;
    wait_for_stack(shell, &client, &stack.spec.name, &applied, waiting).await
}

/// Says what was done to a stack, and waits for all of it: also for what did not change, as a
/// stack has converged when all of it has.
async fn wait_for_stack(
    shell: &Shell,
    client: &Client,
    name: &str,
    applied: &Applied,
    waiting: Waiting,
) -> Result {
    if shell.is_json() {
        let what = serde_json::json!({ "Stack": name, "Applied": applied });
        record::write(&Record::Applied { what })?;
    } else if !waiting.quiet {
        said(applied)?;
    }
    let mut services = Vec::new();
    if !waiting.detach && !applied.deployments.is_empty() {
        let all = client.services(Some(&applied.stack_id.to_string())).await?;
        for mut service in all.into_iter().map(|s| s.service) {
            // What is waited for is what this began, whatever came after it.
            if let Some(id) = applied.deployments.get(&service.spec.name) {
                service.deployment_id = *id;
                services.push(service);
            }
        }
    }
    let stack = Some((applied.stack_id, applied.spec_version));
    wait_for(shell, client, Followed { services, stack }, waiting).await
}

fn said(applied: &Applied) -> Result {
    let groups = [
        ("created", &applied.created),
        ("updated", &applied.updated),
        ("unchanged", &applied.unchanged),
        ("removed", &applied.removed),
        ("kept though it left the file", &applied.kept),
    ];
    for (word, names) in groups {
        for name in names {
            line(&format!("{name}: {word}"))?;
        }
    }
    if !applied.kept.is_empty() {
        note("hint: --prune removes what left the file");
    }
    Ok(())
}

/// The columns of the list of stacks.
pub(crate) const COLUMNS: [Column; 4] =
    [whole("NAME"), whole("SERVICES"), whole("VERSION"), whole("UPDATED").rank(1)];

async fn list(shell: &Shell, quiet: bool) -> Result {
    let stacks = shell.manager().await?.stacks().await?;
    let stacks: Vec<Listed> = stacks.iter().map(Listed::from).collect();
    let now = time::now();
    let row = |s: &Listed| {
        let updated = time::ago(s.updated_at, now);
        vec![s.name.clone(), s.services.to_string(), s.version.to_string(), updated]
    };
    let names = quiet.then_some((|s: &Listed| s.name.clone()) as fn(&Listed) -> String);
    shell.list(&stacks, names, &COLUMNS, row, false)
}

/// A stack in a list. All that is known of it, specs and history, `stack inspect` has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(rename = "ID")]
    id: StackId,
    name: String,
    services: usize,
    networks: usize,
    /// Its spec version.
    version: u64,
    /// Earlier versions that are kept.
    earlier: usize,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// Full names.
    service_names: Vec<String>,
    network_names: Vec<String>,
}

impl From<&Stack> for Listed {
    fn from(stack: &Stack) -> Self {
        Self {
            id: stack.id,
            name: stack.spec.name.clone(),
            services: stack.services.len(),
            networks: stack.networks.len(),
            version: stack.meta.spec_version,
            earlier: stack.history.len(),
            created_at: stack.meta.created_at,
            updated_at: stack.meta.updated_at,
            service_names: stack.services.keys().cloned().collect(),
            network_names: stack.networks.keys().cloned().collect(),
        }
    }
}

async fn remove(shell: &Shell, reference: String, waiting: Waiting) -> Result {
    let client = shell.manager().await?;
    let stack = client.stack(&reference).await?;
    let services = stack.services.values().map(ToString::to_string).collect();
    let removed = client.remove_stack(&stack.id.to_string()).await?;
    if shell.is_json() {
        let what = serde_json::json!({ "Stack": stack.spec.name, "Removed": removed });
        record::write(&Record::Applied { what })?;
    } else if !waiting.quiet {
        for name in &removed {
            line(&format!("{name}: removed"))?;
        }
    }
    shell.ended(if waiting.detach { "accepted" } else { "removed" }, Vec::new());
    if waiting.detach {
        return Ok(());
    }
    gone(&client, services, waiting.wait(shell)).await
}

fn config(shell: &Shell, args: &Config) -> Result {
    let loaded = load(&args.files, args.stack.as_deref(), Some("stack"))?;
    if shell.is_json() {
        return json::document(&loaded.config);
    }
    let text = to_yaml(&loaded.config)
        .map_err(|e| CommandError::failed("the result has no YAML form").because(e))?;
    own_line(text.trim_end())
}
