//! Secrets and configs.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use shoal_client::Payloads;
use shoal_types::object::{Config, Meta, Secret};
use shoal_types::spec::{ConfigSpec, Driver, Labels, SecretSpec, Violations};

use super::filter::Filters;
use super::list::{self, List};
use super::service::pairs::KeyValue;
use super::{Result, Shell};
use crate::error::CommandError;
use crate::files;
use crate::render::table::{Column, bends, whole};
use crate::render::{id, time, words};

/// What lists are filtered by.
const FILTERS: [&str; 3] = ["id", "name", "label"];

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make one from a file, or from standard input
    Create(Create),
    /// Make another version of one: services that follow the latest version go over to it
    Update(Create),
    /// List all, with all their versions
    #[command(visible_alias = "list", mut_arg("filter", list::by(&FILTERS)))]
    Ls(List),
    /// Show all that is known; of a config what is in it, of a secret never
    Inspect {
        /// Names, NAME@VERSION or ids
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove; refused where a service has it
    #[command(visible_alias = "remove")]
    Rm {
        /// Names for all versions; NAME@VERSION or ids for one
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// A label
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    label: Vec<KeyValue>,
    /// In which language what is in it is a template
    #[arg(long, value_name = "DRIVER")]
    template_driver: Option<String>,
    /// What keeps it elsewhere
    #[arg(long, short, value_name = "DRIVER", hide = true)]
    driver: Option<String>,
    /// Its name
    name: String,
    /// What is in it; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Command {
    /// Whether the command writes records one after the other rather than one document.
    pub(crate) const fn writes_records(&self) -> bool {
        matches!(self, Self::Rm { .. })
    }
}

/// Secrets, or configs, for these commands.
pub(crate) trait Kind: Payloads + Serialize + Clone {
    /// What is wanted of one, checked.
    fn spec(args: Create, data: Vec<u8>) -> Result<Self::Spec>;
    /// Its id, and its times.
    fn shown(&self) -> (String, &Meta);
}

fn labels(list: Vec<KeyValue>) -> Labels {
    list.into_iter().map(|l| (l.key, l.value)).collect()
}

fn driver(name: Option<String>) -> Option<Driver> {
    name.map(|name| Driver { name, ..Driver::default() })
}

fn checked<T>(spec: T, found: std::result::Result<(), Violations>) -> Result<T> {
    let Err(wrong) = found else { return Ok(spec) };
    let lines: Vec<String> = wrong.0.iter().map(ToString::to_string).collect();
    Err(CommandError::failed(lines.join("\n")))
}

impl Kind for Secret {
    fn spec(args: Create, data: Vec<u8>) -> Result<SecretSpec> {
        let spec = SecretSpec {
            name: args.name,
            labels: labels(args.label),
            data,
            driver: driver(args.driver),
            templating: driver(args.template_driver),
        };
        let found = spec.validate();
        checked(spec, found)
    }

    fn shown(&self) -> (String, &Meta) {
        (self.id.to_string(), &self.meta)
    }
}

impl Kind for Config {
    fn spec(args: Create, data: Vec<u8>) -> Result<ConfigSpec> {
        if args.driver.is_some() {
            return Err(CommandError::usage("--driver is for secrets: configs have none"));
        }
        let templating = driver(args.template_driver);
        let spec = ConfigSpec { name: args.name, labels: labels(args.label), data, templating };
        let found = spec.validate();
        checked(spec, found)
    }

    fn shown(&self) -> (String, &Meta) {
        (self.id.to_string(), &self.meta)
    }
}

pub(crate) async fn run<K: Kind>(shell: &Shell, command: Command) -> Result {
    match command {
        Command::Create(args) => make::<K>(shell, args, false).await,
        Command::Update(args) => make::<K>(shell, args, true).await,
        Command::Ls(args) => list::<K>(shell, &args).await,
        Command::Inspect { names } => {
            let client = shell.manager().await?;
            let mut found = Vec::new();
            for name in &names {
                found.push(K::one(&client, name).await?);
            }
            shell.objects(&found)
        }
        Command::Rm { names } => {
            shell.remove(&names, async |client, name| Ok(K::remove(client, name).await?)).await
        }
    }
}

async fn make<K: Kind>(shell: &Shell, args: Create, replace: bool) -> Result {
    let data = read(&args.file)?;
    let spec = K::spec(args, data)?;
    let client = shell.manager().await?;
    let made = K::make(&client, &spec, replace).await?;
    let (id, _) = made.payload.shown();
    let (name, version) = (made.payload.name(), made.payload.version());
    let said = match (replace, made.unchanged) {
        (false, _) => id,
        (true, true) => format!("{name} has version {version} still: it is the same"),
        (true, false) if made.deployments.is_empty() => format!("{name} has version {version} now"),
        (true, false) => {
            let services: Vec<&str> = made.deployments.keys().map(String::as_str).collect();
            format!("{name} has version {version} now; {} go over to it", services.join(", "))
        }
    };
    shell.result(&said, &made)
}

/// What is in a file; `-` is standard input.
fn read(file: &Path) -> Result<Vec<u8>> {
    let is_input = file == Path::new("-");
    let read = if is_input { files::bytes(io::stdin().lock()) } else { files::bytes_of(file) };
    read.map_err(|e| {
        let shown = if is_input { "standard input".to_owned() } else { file.display().to_string() };
        CommandError::failed(format!("cannot read {shown}")).because(e)
    })
}

/// The columns of the lists of secrets and configs.
pub(crate) const COLUMNS: [Column; 4] =
    [whole("ID").rank(2), bends("NAME"), whole("VERSION"), whole("CREATED").rank(1)];

async fn list<K: Kind>(shell: &Shell, args: &List) -> Result {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let mut all = K::all(&shell.manager().await?).await?;
    all.retain(|one| {
        filters.allows("id", |v| one.shown().0.starts_with(v))
            && filters.allows("name", |v| one.name().contains(v))
            && filters.allows_labels("label", one.labels())
    });
    let now = time::now();
    let row = |one: &K| {
        let (own, meta) = one.shown();
        vec![
            id(own, args.no_trunc),
            one.name().to_owned(),
            one.version().to_string(),
            time::ago(meta.created_at, now),
        ]
    };
    let ids = args.quiet.then_some((|one: &K| one.shown().0) as fn(&K) -> String);
    let more = |one: &K| vec![words::labels(one.labels()), one.shown().1.created_at.to_string()];
    shell.list_more(&all, ids, &COLUMNS, row, (&["Labels", "CreatedAt"], more), args.no_trunc)
}
