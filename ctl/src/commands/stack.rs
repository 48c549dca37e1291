//! Stacks.

use std::collections::BTreeSet;
use std::env;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use shoal_types::object::Stack;

use super::service::{self, Waiting, wait_for};
use super::tasks::{self, TaskList};
use super::{Result, Shell, each};
use crate::cli::EXIT_CODES;
use crate::client::{Applied, TaskQuery};
use crate::error::CommandError;
use crate::files;
use crate::progress::gone;
use crate::render::table::{Column, whole};
use crate::render::{json, line, note, own_line};
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
    Services {
        #[command(flatten)]
        list: service::List,
        /// Id or name
        stack: String,
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
        Command::Rm { stacks, waiting } => {
            each(&stacks, |stack| remove(shell, stack, waiting)).await
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
    let loaded = load(&args.files, args.stack.as_deref(), None)?;
    service::note_host_mode(&loaded.unsaid_ports);
    let client = shell.manager().await?;
    let applied = client.apply_stack(&loaded.spec, args.prune).await?;
    if shell.is_json() {
        json::record(
            &serde_json::json!({ "Event": "applied", "Stack": loaded.spec.name, "Applied": applied }),
        )?;
    } else if !args.waiting.quiet {
        said(&applied)?;
    }
    if args.waiting.detach {
        return Ok(());
    }
    // Also those that did not change: a stack has converged when all of it has.
    let names: BTreeSet<&str> = loaded.spec.services.values().map(|s| s.name.as_str()).collect();
    let all = client.services(Some(&applied.stack_id)).await?;
    let services: Vec<_> = all
        .into_iter()
        .map(|s| s.service)
        .filter(|s| names.contains(s.spec.name.as_str()))
        .collect();
    wait_for(shell, &client, &services, args.waiting).await
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
pub(crate) const COLUMNS: [Column; 2] = [whole("NAME"), whole("SERVICES")];

async fn list(shell: &Shell, quiet: bool) -> Result {
    let stacks = shell.manager().await?.stacks().await?;
    let row = |s: &Stack| vec![s.spec.name.clone(), s.services.len().to_string()];
    let names = quiet.then_some((|s: &Stack| s.spec.name.clone()) as fn(&Stack) -> String);
    shell.list(&stacks, names, &COLUMNS, row, false)
}

async fn remove(shell: &Shell, reference: String, waiting: Waiting) -> Result {
    let client = shell.manager().await?;
    let stack = client.stack(&reference).await?;
    let services = stack.services.values().map(ToString::to_string).collect();
    let removed = client.remove_stack(&stack.id.to_string()).await?;
    if shell.is_json() {
        json::record(&serde_json::json!({ "Stack": stack.spec.name, "Removed": removed }))?;
    } else if !waiting.quiet {
        for name in &removed {
            line(&format!("{name}: removed"))?;
        }
    }
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
