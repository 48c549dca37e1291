//! What each command does; one file per noun.

pub(crate) mod cluster;
pub(crate) mod context;
mod draining;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod filter;
pub(crate) mod image;
pub(crate) mod leave;
mod links;
pub(crate) mod list;
pub(crate) mod login;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod payload;
pub(crate) mod prune;
pub(crate) mod service;
pub(crate) mod settings;
pub(crate) mod stack;
pub(crate) mod stats;
pub(crate) mod system;
pub(crate) mod tasks;
pub(crate) mod user;
pub(crate) mod volume;

use std::cell::RefCell;

use clap::CommandFactory as _;
use serde_json::{Value, json};
use shoal_client::context::{Context, Store};
use shoal_client::local::LocalAgent;
use shoal_client::portable::Portable;
use shoal_client::{Client, ClientError, Notice, TaskQuery};
use shoal_transport::utc_date;
use shoal_types::object::{Config, Secret};

use crate::cli::{Cli, Command, Global};
use crate::error::{CommandError, Kind};
use crate::interrupt::asked_to_stop;
use crate::portable;
use crate::progress::ServiceReport;
use crate::render::record::{self, Record};
use crate::render::table::{Column, draw, left_out};
use crate::render::template::{Template, TemplateError};
use crate::render::{Format, block, json, line, note, report, terminal_width};

pub(crate) type Result<T = (), E = CommandError> = std::result::Result<T, E>;

/// What commands work with.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) global: Global,
    ended: RefCell<Ended>,
}

/// How a stream of records ends if all is well.
#[derive(Debug)]
struct Ended {
    outcome: &'static str,
    services: Vec<ServiceReport>,
}

impl Shell {
    pub(crate) fn store(&self) -> Result<Store> {
        Ok(Store::from_env()?)
    }

    pub(crate) async fn manager(&self) -> Result<Client> {
        let (client, notice) = match self.carried()? {
            Some((carried, variable)) => Client::over(carried, variable).await?,
            None => Client::connect(&self.store()?, self.global.context.as_deref()).await?,
        };
        if let Some(notice) = notice {
            note(&words_of(&notice));
        }
        Ok(client)
    }

    /// The context that the environment holds, unless another one is named.
    pub(crate) fn carried(&self) -> Result<Option<(Portable, &'static str)>> {
        if self.global.context.is_some() { Ok(None) } else { portable::from_env() }
    }

    /// Name and context of who asks.
    pub(crate) fn context(&self) -> Result<(String, Context)> {
        if let Some((carried, _)) = self.carried()? {
            let name = carried.name.clone();
            return Ok((name, carried.open()?.0));
        }
        let all = self.store()?.load()?;
        match all.select(self.global.context.as_deref())? {
            Some((name, context)) => Ok((name.to_owned(), context.clone())),
            None => Err(ClientError::NoContext.into()),
        }
    }

    pub(crate) fn agent(&self) -> Result<LocalAgent> {
        Ok(LocalAgent::connect(&self.global.agent_socket)?)
    }

    pub(crate) fn is_json(&self) -> bool {
        self.global.format.kind == Format::Json
    }

    /// Whether results are written by a template.
    pub(crate) fn is_template(&self) -> bool {
        self.global.format.template.is_some()
    }

    /// Writes a list: names only, a table, a document, or what a template makes of the columns.
    pub(crate) fn list<T: serde::Serialize>(
        &self,
        items: &[T],
        names: Option<fn(&T) -> String>,
        columns: &[Column],
        row: impl Fn(&T) -> Vec<String>,
        whole: bool,
    ) -> Result {
        self.list_more(items, names, columns, row, (&[], |_: &T| Vec::new()), whole)
    }

    /// As [`Self::list`], with more fields for templates than there are columns.
    pub(crate) fn list_more<T: serde::Serialize>(
        &self,
        items: &[T],
        names: Option<fn(&T) -> String>,
        columns: &[Column],
        row: impl Fn(&T) -> Vec<String>,
        more: (&[&'static str], impl Fn(&T) -> Vec<String>),
        whole: bool,
    ) -> Result {
        if let Some(name) = names {
            return items.iter().try_for_each(|item| line(&name(item)));
        }
        if self.is_json() {
            return json::document(&items);
        }
        if let Some(template) = &self.global.format.template {
            return templated(template, items, columns, row, more);
        }
        let rows: Vec<Vec<String>> = items.iter().map(row).collect();
        let width = if whole { None } else { terminal_width() };
        let missing = left_out(columns, &rows, width);
        block(&draw(columns, rows, width))?;
        if !missing.is_empty() {
            let missing = missing.join(", ");
            note(&format!("hint: too narrow for {missing}; --format json shows everything"));
        }
        Ok(())
    }

    /// Writes objects as a document, or each as a page.
    pub(crate) fn inspected<T: serde::Serialize>(
        &self,
        items: &[T],
        page: Option<impl Fn(&T) -> String>,
    ) -> Result {
        let Some(page) = page else { return self.objects(items) };
        if self.is_json() || self.is_template() {
            return Err(CommandError::usage("--pretty does not go with --format"));
        }
        let pages: Vec<String> = items.iter().map(page).collect();
        block(&pages.join("\n\n"))
    }

    /// Writes objects as a document, or by a template, one a line.
    pub(crate) fn objects<T: serde::Serialize>(&self, items: &[T]) -> Result {
        let Some(template) = &self.global.format.template else { return json::document(&items) };
        let objects: Result<Vec<_>, _> = items.iter().map(serde_json::to_value).collect();
        let objects = objects.map_err(json::not_json)?;
        block(&template.objects(&objects).map_err(by_template)?)
    }

    /// Writes one document, or what a template makes of it.
    pub(crate) fn document(&self, item: &impl serde::Serialize) -> Result {
        if self.is_template() { self.objects(&[item]) } else { json::document(item) }
    }

    /// Notes how a command that writes records has ended, for the last of them.
    pub(crate) fn ended(&self, outcome: &'static str, services: Vec<ServiceReport>) {
        self.ended.replace(Ended { outcome, services });
    }

    /// Writes one line for people, or a record for programs.
    pub(crate) fn result(&self, text: &str, record: &impl serde::Serialize) -> Result {
        if self.is_json() { json::record(record) } else { line(text) }
    }

    /// Says that something was removed: its name for people, all of `what` for programs.
    pub(crate) fn removed(&self, name: &str, mut what: Value) -> Result {
        if !self.is_json() {
            return line(name);
        }
        what["Removed"] = true.into();
        record::write(&Record::Applied { what })
    }

    /// Removes objects one by one, as [`each`] does, and says which; what removes answers with an id.
    pub(crate) async fn remove(
        &self,
        references: &[String],
        remove: impl AsyncFn(&Client, &str) -> Result<String>,
    ) -> Result {
        let (client, remove) = (&self.manager().await?, &remove);
        let one = |reference: String| async move {
            let id = remove(client, &reference).await?;
            self.removed(&reference, json!({ "ID": id, "Name": reference }))
        };
        self.ended("removed", Vec::new());
        each(self, references, one).await
    }
}

/// Writes a list by a template.
fn templated<T>(
    template: &Template,
    items: &[T],
    columns: &[Column],
    row: impl Fn(&T) -> Vec<String>,
    (more, fields): (&[&'static str], impl Fn(&T) -> Vec<String>),
) -> Result {
    let names: Vec<String> = columns.iter().map(Column::placeholder).collect();
    let headings: Vec<(&str, &str)> = names
        .iter()
        .map(String::as_str)
        .zip(columns.iter().map(Column::heading))
        .chain(more.iter().map(|name| (*name, *name)))
        .collect();
    let rows: Vec<_> = items
        .iter()
        .map(|item| {
            let own = names.iter().cloned().zip(row(item));
            let more = more.iter().map(|name| (*name).to_owned()).zip(fields(item));
            own.chain(more).collect()
        })
        .collect();
    let text = template.rows(&headings, &rows).map_err(by_template)?;
    if text.is_empty() { Ok(()) } else { block(&text) }
}

#[expect(clippy::needless_pass_by_value, reason = "handed to map_err")]
fn by_template(error: TemplateError) -> CommandError {
    CommandError::usage(error.to_string())
}

/// Subcommands whose results a template can shape.
pub(crate) const LISTINGS: [&str; 10] =
    ["ls", "ps", "services", "inspect", "show", "info", "version", "events", "df", "stats"];

/// What people hear of a certificate that is near its end.
fn words_of(notice: &Notice) -> String {
    match notice {
        Notice::NotRenewed { context, not_after, reason } => format!(
            "warning: the certificate of context {context:?} expires on {} and cannot be renewed: {reason}",
            utc_date(*not_after),
        ),
        Notice::Ends { context, not_after, variable } => format!(
            "note: the certificate of context {context:?} expires on {}, and use does not renew it, as it \
             comes from {variable}: shoalctl user create makes another user, and shoalctl context \
             export writes the context anew where it is kept",
            utc_date(*not_after),
        ),
    }
}

/// Runs a command until it ends or a signal asks it to. One that writes records ends with one that says
/// how it ended, whatever happens.
pub(crate) async fn run(cli: Cli) -> Result {
    let ended = RefCell::new(Ended { outcome: "done", services: Vec::new() });
    let shell = Shell { global: cli.global, ended };
    if matches!(cli.command, Command::Exec(_)) {
        // What is run for the user decides what a signal means.
        return dispatch(&shell, cli.command).await;
    }
    let writes_records = shell.is_json() && cli.command.writes_records();
    let is_endless = cli.command.is_endless();
    // Once somebody has listened for a signal it does nothing by itself any more, so that somebody
    // has to listen all the time. What is told of a signal within comes first: it knows more.
    let result = tokio::select! {
        biased;
        result = dispatch(&shell, cli.command) => result,
        kind = asked_to_stop() => Err(match is_endless {
            // It ends in no other way.
            true => CommandError::new(Kind::Exit(kind.exit_code()), ""),
            false => CommandError::new(kind, kind.outcome()),
        }),
    };
    if !writes_records {
        return result;
    }
    let Ended { outcome, services } = shell.ended.into_inner();
    record::end(result.as_ref().map(|()| outcome), &services);
    result
}

async fn dispatch(shell: &Shell, command: Command) -> Result {
    match command {
        Command::Init(args) => cluster::init(shell, args).await,
        Command::Join(args) => cluster::join(shell, args).await,
        Command::Leave(args) => leave::run(shell, &args).await,
        Command::JoinToken(args) => cluster::join_token(shell, &args).await,
        Command::Cluster(command) => settings::run(shell, command).await,
        Command::Info(_) => cluster::info(shell).await,
        Command::Version(_) => cluster::version(shell).await,
        Command::Ps(list) => {
            let client = shell.manager().await?;
            tasks::show(shell, &client, TaskQuery::default(), &list).await
        }
        Command::Node(command) => node::run(shell, command).await,
        Command::Service(command) => service::run(shell, command).await,
        Command::Stack(command) => stack::run(shell, command).await,
        Command::Network(command) => network::run(shell, command).await,
        Command::Secret(command) => payload::run::<Secret>(shell, command).await,
        Command::Config(command) => payload::run::<Config>(shell, command).await,
        Command::Stats(args) => stats::run(shell, args).await,
        Command::System(command) => system::run(shell, command).await,
        Command::Volume(command) => volume::run(shell, command).await,
        Command::Image(command) => image::run(shell, command).await,
        Command::Login(args) => login::login(shell, args).await,
        Command::Logout(args) => login::logout(shell, &args).await,
        Command::Exec(args) => exec::run(shell, args).await,
        Command::Events(args) => events::run(shell, &args).await,
        Command::Context(command) => context::run(shell, command).await,
        Command::User(command) => user::run(shell, command).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "shoalctl", &mut script);
            crate::render::script(&script)
        }
    }
}

/// Runs the same on several references, all of them even if some fail. The last error counts; those
/// before it are told as they come, to programs as news.
pub(crate) async fn each<F>(
    shell: &Shell,
    references: &[String],
    mut one: impl FnMut(String) -> F,
) -> Result
where
    F: Future<Output = Result>,
{
    let mut last: Result = Ok(());
    for reference in references {
        let Err(error) = one(reference.clone()).await else { continue };
        if let Err(before) = std::mem::replace(&mut last, Err(error)) {
            report(before.report().trim_end());
            if shell.is_json() {
                record::write(&Record::notice("error", &before.reason()))?;
            }
        }
    }
    last
}
