//! What each command does; one file per noun.

pub(crate) mod cluster;
pub(crate) mod context;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod filter;
pub(crate) mod image;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod service;
pub(crate) mod stack;
pub(crate) mod tasks;

use std::io;

use clap::CommandFactory as _;

use crate::cli::{Cli, Command, Global};
use crate::client::Client;
use crate::client::local::LocalAgent;
use crate::context::Store;
use crate::error::CommandError;
use crate::render::table::{Column, draw};
use crate::render::{Format, json, line, terminal_width};

pub(crate) type Result<T = (), E = CommandError> = std::result::Result<T, E>;

/// What commands work with.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) global: Global,
}

impl Shell {
    pub(crate) fn store(&self) -> Result<Store> {
        Ok(Store::from_env()?)
    }

    pub(crate) async fn manager(&self) -> Result<Client> {
        Client::connect(&self.store()?, self.global.context.as_deref()).await
    }

    pub(crate) fn agent(&self) -> Result<LocalAgent> {
        LocalAgent::connect(&self.global.agent_socket)
    }

    pub(crate) fn is_json(&self) -> bool {
        self.global.format == Format::Json
    }

    /// Writes a list: names only, a table, or a document.
    pub(crate) fn list<T: serde::Serialize>(
        &self,
        items: &[T],
        names: Option<fn(&T) -> String>,
        columns: &[Column],
        row: impl Fn(&T) -> Vec<String>,
        whole: bool,
    ) -> Result {
        if let Some(name) = names {
            return items.iter().try_for_each(|item| line(&name(item)));
        }
        if self.is_json() {
            return json::document(&items);
        }
        let rows = items.iter().map(row).collect();
        line(&draw(columns, rows, if whole { None } else { terminal_width() }))
    }

    /// Writes objects as a document, or each as a page.
    pub(crate) fn inspected<T: serde::Serialize>(
        &self,
        items: &[T],
        page: Option<impl Fn(&T) -> String>,
    ) -> Result {
        let Some(page) = page else { return json::document(&items) };
        if self.is_json() {
            return Err(CommandError::usage("--pretty does not go with --format json"));
        }
        let pages: Vec<String> = items.iter().map(page).collect();
        line(&pages.join("\n\n"))
    }

    /// Writes one line for people, or a record for programs.
    pub(crate) fn result(&self, text: &str, record: &impl serde::Serialize) -> Result {
        if self.is_json() { json::record(record) } else { line(text) }
    }
}

/// Runs a command.
pub(crate) async fn run(cli: Cli) -> Result {
    let shell = Shell { global: cli.global };
    match cli.command {
        Command::Init(args) => cluster::init(&shell, args).await,
        Command::Join(args) => cluster::join(&shell, args).await,
        Command::Leave(args) => cluster::leave(&shell, &args).await,
        Command::JoinToken(args) => cluster::join_token(&shell, &args).await,
        Command::Info(_) => cluster::info(&shell).await,
        Command::Version(_) => cluster::version(&shell).await,
        Command::Node(command) => node::run(&shell, command).await,
        Command::Service(command) => service::run(&shell, command).await,
        Command::Stack(command) => stack::run(&shell, command).await,
        Command::Network(command) => network::run(&shell, command).await,
        Command::Image(command) => image::run(&shell, command).await,
        Command::Exec(args) => exec::run(&shell, args).await,
        Command::Events(args) => events::run(&shell, &args).await,
        Command::Context(command) => context::run(&shell, command).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "shoalctl", &mut script);
            io::Write::write_all(&mut io::stdout().lock(), &script)?;
            Ok(())
        }
    }
}

/// Runs the same on several references, all of them even if some fail; the last error counts.
pub(crate) async fn each<F>(references: &[String], mut one: impl FnMut(String) -> F) -> Result
where
    F: Future<Output = Result>,
{
    let mut last = Ok(());
    for reference in references {
        if let Err(error) = one(reference.clone()).await {
            if references.len() > 1 && last.is_err() {
                crate::render::note(
                    last.err().map(|e: CommandError| e.report()).unwrap_or_default().trim_end(),
                );
            }
            last = Err(error);
        }
    }
    last
}
