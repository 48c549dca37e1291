//! Services.

mod checked;
mod confine;
mod create;
mod logs;
mod mount;
mod network;
pub(crate) mod pairs;
pub(crate) mod payload;
mod publish;
mod settings;
mod update;

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use shoal_client::{Client, ServiceSummary, TaskQuery};
use shoal_types::object::Service;

use super::filter::Filters;
use super::list::{self, List};
use super::tasks::{self, TaskList};
use super::{Result, Shell, stats};
use crate::cli::EXIT_CODES;
use crate::progress::{Followed, Wait, follow, gone};
use crate::render::record::{self, Record};
use crate::render::table::{Column, bends, whole};
use crate::render::{id, line, note, pretty, words};

pub(crate) use logs::Logs;

/// What lists are filtered by.
pub(crate) const FILTERS: [&str; 4] = ["id", "name", "label", "mode"];

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a service and wait until it runs
    #[command(after_help = EXIT_CODES)]
    Create(Box<create::Create>),
    /// List services
    #[command(visible_alias = "list", mut_arg("filter", list::by(&FILTERS)))]
    Ls(List),
    /// List the tasks of services
    Ps {
        #[command(flatten)]
        list: TaskList,
        /// Ids or names
        #[arg(required = true, value_name = "SERVICE")]
        services: Vec<String>,
    },
    /// Show all that is known of services
    Inspect {
        /// Ids or names
        #[arg(required = true, value_name = "SERVICE")]
        services: Vec<String>,
        /// For people
        #[arg(long)]
        pretty: bool,
    },
    /// Change a service and wait until that is done
    #[command(after_help = EXIT_CODES)]
    Update(Box<update::Update>),
    /// Change how many tasks services have, and wait until that is done
    #[command(after_help = EXIT_CODES)]
    Scale {
        /// Which service, and how many tasks
        #[arg(required = true, value_name = "SERVICE=REPLICAS")]
        wanted: Vec<pairs::KeyValue>,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Show what the containers of a service or a task wrote
    Logs(Logs),
    /// Show what services use, all their running tasks together; 100 % is one processor
    Stats {
        #[command(flatten)]
        flags: stats::Flags,
        /// Ids or names; all if absent
        #[arg(value_name = "SERVICE")]
        services: Vec<String>,
    },
    /// Put the previous spec of a service back, and wait until that is done
    #[command(after_help = EXIT_CODES)]
    Rollback {
        /// Id or name
        service: String,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Remove services and wait until their tasks are gone
    #[command(visible_alias = "remove", after_help = EXIT_CODES)]
    Rm {
        /// Ids or names
        #[arg(required = true, value_name = "SERVICE")]
        services: Vec<String>,
        #[command(flatten)]
        waiting: Waiting,
    },
}

/// Flags of commands that wait.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Waiting {
    /// Do not wait
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Wait no longer than this; 0 waits for ever
    #[arg(long, value_name = "DURATION", value_parser = pairs::duration, default_value = "10m")]
    pub(crate) timeout: Duration,
}

impl Waiting {
    pub(crate) fn wait(self, shell: &Shell) -> Wait {
        Wait {
            timeout: Some(self.timeout).filter(|t| !t.is_zero()),
            quiet: self.quiet,
            format: shell.global.format.kind,
        }
    }
}

pub(crate) async fn run(shell: &Shell, command: Command) -> Result {
    match command {
        Command::Create(args) => create::run(shell, *args).await,
        Command::Ls(args) => list(shell, &args, None).await,
        Command::Ps { list, services } => {
            let client = shell.manager().await?;
            let mut service_ids = Vec::new();
            for service in &services {
                service_ids.push(client.service(service).await?.service.id.to_string());
            }
            let query = TaskQuery { service_ids, ..TaskQuery::default() };
            tasks::show(shell, &client, query, &list).await
        }
        Command::Inspect { services, pretty } => {
            let client = shell.manager().await?;
            let mut found = Vec::new();
            for service in &services {
                found.push(client.service(service).await?);
            }
            let page = |s: &ServiceSummary| pretty::service(&s.service, s.deployment.as_ref());
            shell.inspected(&found, pretty.then_some(page))
        }
        Command::Update(args) => update::run(shell, *args).await,
        Command::Scale { wanted, waiting } => update::scale(shell, &wanted, waiting).await,
        Command::Logs(args) => logs::run(shell, &args).await,
        Command::Stats { flags, services } => {
            stats::show(shell, flags, stats::Of::Services, &services, &[]).await
        }
        Command::Rollback { service, waiting } => update::rollback(shell, &service, waiting).await,
        Command::Rm { services, waiting } => remove(shell, &services, waiting).await,
    }
}

impl Command {
    /// Whether the command writes records one after the other rather than one document.
    pub(crate) const fn writes_records(&self) -> bool {
        match self {
            Self::Create(_)
            | Self::Update(_)
            | Self::Scale { .. }
            | Self::Logs(_)
            | Self::Rollback { .. }
            | Self::Rm { .. } => true,
            Self::Stats { flags, .. } => flags.writes_records(),
            Self::Ls(_) | Self::Ps { .. } | Self::Inspect { .. } => false,
        }
    }
}

/// Says that a service was created or changed.
fn applied(shell: &Shell, service: &Service, words: &str) -> Result {
    let (id, name) = (service.id, &service.spec.name);
    let what = json!({ "ID": id, "Name": name, "DeploymentID": service.deployment_id });
    match shell.is_json() {
        true => record::write(&Record::Applied { what }),
        false => line(words),
    }
}

/// Waits for the deployments of services, unless told not to.
pub(crate) async fn wait_for(
    shell: &Shell,
    client: &Client,
    followed: Followed,
    waiting: Waiting,
) -> Result {
    if waiting.detach {
        shell.ended("accepted", Vec::new());
        return Ok(());
    }
    let (services, result) = follow(client, &followed, waiting.wait(shell)).await;
    shell.ended("converged", services);
    result
}

/// What is followed of services without a stack.
fn alone(services: Vec<Service>) -> Followed {
    Followed { services, stack: None }
}

async fn remove(shell: &Shell, services: &[String], waiting: Waiting) -> Result {
    let client = shell.manager().await?;
    let mut ids = Vec::new();
    let removed = super::each(shell, services, |service| {
        let client = client.clone();
        async move {
            let id = client.remove_service(&service).await?;
            shell.removed(&service, json!({ "ID": id, "Name": service }))
        }
    });
    // Ids first: a service that is gone cannot be looked up any more.
    for service in services {
        if let Some(found) = client.find_service(service).await? {
            ids.push(found.service.id.to_string());
        }
    }
    removed.await?;
    shell.ended(if waiting.detach { "accepted" } else { "removed" }, Vec::new());
    if waiting.detach {
        return Ok(());
    }
    gone(&client, ids, waiting.wait(shell)).await
}

/// Tells people where ports answer that name an address of a host without a word on that.
pub(super) fn note_narrow_ports(services: &[String]) {
    if services.is_empty() {
        return;
    }
    note(&format!(
        "warning: ports of {} that name an address of a host answer only on nodes that run a task of it \
         (mode: host)",
        services.join(", ")
    ));
}

/// The columns of lists of services.
pub(crate) const COLUMNS: [Column; 6] = [
    whole("ID").rank(3),
    whole("NAME"),
    whole("MODE").rank(4),
    whole("REPLICAS"),
    bends("IMAGE").rank(1),
    bends("PORTS").rank(2),
];

/// Services as a table, all or those of a stack.
pub(super) async fn list(shell: &Shell, args: &List, stack: Option<&str>) -> Result {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let mut services = shell.manager().await?.services(stack).await?;
    services.retain(|s| {
        let service = &s.service;
        filters.allows("id", |v| service.id.to_string().starts_with(v))
            && filters.allows("name", |v| service.spec.name.starts_with(v))
            && filters.allows("mode", |v| service.spec.mode.as_str() == v)
            && filters.allows_labels("label", &service.spec.labels)
    });
    let row = |s: &ServiceSummary| {
        let spec = &s.service.spec;
        let template = &spec.task_template;
        let max = template.placement.as_ref().map_or(0, |p| p.max_replicas);
        vec![
            id(s.service.id, args.no_trunc),
            spec.name.clone(),
            words::mode(spec.mode).to_owned(),
            words::replicas(s.running_tasks, s.desired_tasks, max),
            template.container().map(|c| words::image(&c.image)).unwrap_or_default(),
            words::ports(&s.service.endpoint.ports),
        ]
    };
    let names = args.quiet.then_some(
        (|s: &ServiceSummary| s.service.id.to_string()) as fn(&ServiceSummary) -> String,
    );
    shell.list(&services, names, &COLUMNS, row, args.no_trunc)
}
