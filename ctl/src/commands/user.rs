//! Users.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use shoal_client::portable::Portable;
use shoal_transport::{Credentials, PrivateKey, utc_date};
use shoal_types::object::User;
use shoal_types::spec::{UserRole, UserSpec};
use shoal_types::time::Timestamp;

use super::filter::Filters;
use super::list::{self, List};
use super::service::pairs::KeyValue;
use super::{Result, Shell};
use crate::error::CommandError;
use crate::portable::Output;
use crate::render::table::{Column, bends, whole};
use crate::render::{id, note, time, words};

/// What lists are filtered by.
const FILTERS: [&str; 5] = ["id", "name", "role", "stack", "label"];

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a user, and write the context with its key and certificate to one file
    Create(Create),
    /// List users
    #[command(visible_alias = "list", mut_arg("filter", list::by(&FILTERS)))]
    Ls(List),
    /// Show all that is known of users
    Inspect {
        /// Ids or names; the one who asks if absent
        #[arg(value_name = "USER")]
        users: Vec<String>,
    },
    /// Change what users may do; holds at once
    Update(Update),
    /// Remove users: their certificates open nothing any more, at once
    #[command(visible_alias = "remove")]
    Rm {
        /// Ids or names
        #[arg(required = true, value_name = "USER")]
        users: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Reads everything but join tokens; runs nothing
    Viewer,
    /// Deploys, reads and enters the stacks that are named, and sees no others
    Deployer,
    /// Does everything but making users and managers
    Operator,
    /// Does everything
    Admin,
}

impl From<RoleArg> for UserRole {
    fn from(arg: RoleArg) -> Self {
        match arg {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Deployer => Self::Deployer,
            RoleArg::Operator => Self::Operator,
            RoleArg::Admin => Self::Admin,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name
    name: String,
    /// What it may do
    #[arg(long, value_enum)]
    role: RoleArg,
    /// A stack that a deployer deploys; it need not exist yet
    #[arg(long, value_name = "STACK")]
    stack: Vec<String>,
    /// A deployer's services may also use binds, the host's network and more capabilities: as good
    /// as root on every node
    #[arg(long)]
    host_access: bool,
    /// When it ends, certificate and user: a duration such as 30d or 12h, at most 365d. Without, the
    /// certificate lives for 90 days and is renewed by use where the context was imported; one in
    /// SHOAL_CONTEXT_FILE or SHOAL_CONTEXT_DATA never is
    #[arg(long, value_name = "DURATION", value_parser = life)]
    expires: Option<Duration>,
    /// A label
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<KeyValue>,
    /// Where the context is written, with the private key: a new file, or - for standard output
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// What it may do
    #[arg(long, value_enum)]
    role: Option<RoleArg>,
    /// Add a stack that a deployer deploys
    #[arg(long, value_name = "STACK")]
    stack_add: Vec<String>,
    /// Take a stack away
    #[arg(long, value_name = "STACK")]
    stack_rm: Vec<String>,
    /// Whether a deployer's services may reach the host
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    host_access: Option<bool>,
    /// When it ends: a duration from now, or never
    #[arg(long, value_name = "DURATION|never", value_parser = life_or_never)]
    expires: Option<Life>,
    /// Id or name
    user: String,
}

/// When a user ends, from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life(Option<Duration>);

fn life(text: &str) -> Result<Duration, String> {
    const DAY: u64 = 24 * 3600;
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok());
    match days.and_then(|days| days.checked_mul(DAY)) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => crate::stack::scalar::duration(text),
    }
}

fn life_or_never(text: &str) -> Result<Life, String> {
    if text == "never" { Ok(Life(None)) } else { life(text).map(|life| Life(Some(life))) }
}

fn end(life: Duration) -> Timestamp {
    time::now() + life
}

impl Command {
    /// Whether the command writes records one after the other rather than one document.
    pub(crate) const fn writes_records(&self) -> bool {
        matches!(self, Self::Rm { .. })
    }
}

pub(crate) async fn run(shell: &Shell, command: Command) -> Result {
    match command {
        Command::Create(args) => create(shell, args).await,
        Command::Ls(args) => list(shell, &args).await,
        Command::Inspect { users } => inspect(shell, users).await,
        Command::Update(args) => update(shell, args).await,
        Command::Rm { users } => {
            shell.remove(&users, async |client, user| Ok(client.remove_user(user).await?)).await
        }
    }
}

async fn create(shell: &Shell, args: Create) -> Result {
    let output = Output::new(args.output)?;
    let spec = UserSpec {
        name: args.name,
        labels: args.label.into_iter().map(|l| (l.key, l.value)).collect(),
        role: args.role.into(),
        stacks: args.stack,
        host_access: args.host_access,
        expires_at: args.expires.map(end),
    };
    let (via, context) = shell.context()?;
    let no_key = |e| CommandError::failed("cannot make a key").because(e);
    let key = PrivateKey::generate().map_err(no_key)?;
    let client = shell.manager().await?;
    let made = client.create_user(&spec, key.request().map_err(no_key)?).await?;
    let name = format!("{via}-{}", spec.name);
    let name = if shoal_types::name::is_valid(&name) { name } else { spec.name.clone() };
    let credentials = Credentials::from_pem(made.chain_pem, key.to_pem(), made.root_pem)
        .map_err(|e| CommandError::failed("the new credentials cannot be used").because(e))?;
    if let Err(error) = output.write(&Portable::of(&name, &context, &credentials)) {
        // A user of which nobody has the key is of no use.
        return Err(match client.remove_user(&made.user.id.to_string()).await {
            Ok(_) => error.hint("the user was not made"),
            Err(_) => error.hint(format!("remove the user: shoalctl user rm {}", spec.name)),
        });
    }
    if !made.adopted.is_empty() {
        note(&format!(
            "note: this cluster had no users yet; you are user {} now, an admin. Certificates from \
             before of anybody else open nothing any more",
            made.adopted
        ));
    }
    let until = credentials.identity().not_after;
    let record = json!({ "ID": made.user.id, "Context": name, "CertificateExpiry": until });
    if output.is_shown() {
        return Ok(());
    }
    let said = format!(
        "user {} is made; its context is in {output}, valid until {}",
        spec.name,
        utc_date(until)
    );
    shell.result(&said, &record)
}

/// The columns of the list of users.
pub(crate) const COLUMNS: [Column; 5] = [
    whole("ID").rank(3),
    whole("NAME"),
    whole("ROLE"),
    bends("STACKS").rank(1),
    whole("EXPIRES").rank(2),
];

async fn list(shell: &Shell, args: &List) -> Result {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let mut users = shell.manager().await?.users().await?;
    users.retain(|u| {
        filters.allows("id", |v| u.id.to_string().starts_with(v))
            && filters.allows("name", |v| u.spec.name.contains(v))
            && filters.allows("role", |v| u.spec.role.as_str() == v)
            && filters.allows("stack", |v| u.spec.stacks.iter().any(|stack| stack == v))
            && filters.allows_labels("label", &u.spec.labels)
    });
    let row = |u: &User| {
        let host = if u.spec.host_access { " (with the hosts)" } else { "" };
        vec![
            id(u.id, args.no_trunc),
            u.spec.name.clone(),
            u.spec.role.to_string(),
            format!("{}{host}", u.spec.stacks.join(", ")),
            u.spec.expires_at.map_or_else(|| "never".to_owned(), utc_date),
        ]
    };
    let ids = args.quiet.then_some((|u: &User| u.id.to_string()) as fn(&User) -> String);
    let more = |u: &User| vec![words::labels(&u.spec.labels), u.meta.created_at.to_string()];
    shell.list_more(&users, ids, &COLUMNS, row, (&["Labels", "CreatedAt"], more), args.no_trunc)
}

async fn inspect(shell: &Shell, mut users: Vec<String>) -> Result {
    if users.is_empty() {
        // An empty reference means the caller.
        users.push(String::new());
    }
    let client = shell.manager().await?;
    let mut found = Vec::new();
    for user in &users {
        found.push(client.user(user).await?);
    }
    shell.objects(&found)
}

async fn update(shell: &Shell, args: Update) -> Result {
    let nothing = args.role.is_none()
        && args.stack_add.is_empty()
        && args.stack_rm.is_empty()
        && args.host_access.is_none()
        && args.expires.is_none();
    if nothing {
        return Err(CommandError::usage(
            "nothing is to be changed: expected --role, --stack-add, --stack-rm, --host-access or \
             --expires",
        ));
    }
    let client = shell.manager().await?;
    let user = client.user(&args.user).await?;
    let spec = changed(&user.spec, args)?;
    let user = client.update_user(&user, &spec).await?;
    shell.result(&user.spec.name, &user)
}

fn changed(old: &UserSpec, args: Update) -> Result<UserSpec> {
    let mut spec = old.clone();
    if let Some(role) = args.role {
        spec.role = role.into();
        if spec.role != UserRole::Deployer {
            (spec.stacks, spec.host_access) = (Vec::new(), false);
        }
    }
    for stack in &args.stack_rm {
        let before = spec.stacks.len();
        spec.stacks.retain(|s| s != stack);
        if spec.stacks.len() == before {
            return Err(CommandError::failed(format!("the user has no stack {stack:?}")));
        }
    }
    let new: Vec<String> =
        args.stack_add.into_iter().filter(|stack| !spec.stacks.contains(stack)).collect();
    spec.stacks.extend(new);
    spec.host_access = args.host_access.unwrap_or(spec.host_access);
    if let Some(Life(life)) = args.expires {
        spec.expires_at = life.map(end);
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_given_in_days_or_as_durations() {
        let hour = Duration::from_secs(3600);
        assert_eq!(life("30d"), Ok(hour * 24 * 30));
        assert_eq!(life("12h"), Ok(hour * 12));
        assert_eq!(life_or_never("never"), Ok(Life(None)));
        for text in ["", "d", "-1d", "30", "soon"] {
            assert!(life(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn who_is_no_deployer_any_more_has_no_stacks() {
        let old = UserSpec {
            name: "ci".to_owned(),
            role: UserRole::Deployer,
            stacks: vec!["shop".to_owned()],
            host_access: true,
            ..UserSpec::default()
        };
        let args = |role, add: &[&str], rm: &[&str]| Update {
            role,
            stack_add: add.iter().map(|s| (*s).to_owned()).collect(),
            stack_rm: rm.iter().map(|s| (*s).to_owned()).collect(),
            host_access: None,
            expires: None,
            user: "ci".to_owned(),
        };
        let new = changed(&old, args(Some(RoleArg::Viewer), &[], &[])).unwrap();
        assert_eq!((new.role, new.stacks.len(), new.host_access), (UserRole::Viewer, 0, false));
        let new = changed(&old, args(None, &["blog", "shop"], &["shop"])).unwrap();
        assert_eq!(new.stacks, ["blog", "shop"]);
        assert!(changed(&old, args(None, &[], &["blog"])).is_err());
    }
}
