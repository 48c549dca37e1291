//! `login` and `logout`, and the logins that go with what is deployed.

use std::io::{self, IsTerminal as _};

use clap::Args;
use serde_json::json;
use shoal_registry::{Registries, RegistryConfig, RegistryError};
use shoal_types::image_ref::DEFAULT_REGISTRY;
use shoal_types::registry_auth::{RegistryAuth, RegistryAuths, registry_of_server};
use shoal_types::spec::ServiceSpec;

use super::{Result, Shell};
use crate::error::CommandError;
use crate::files;
use crate::logins::{Kept, LoginError, Logins};
use crate::render::note;
use crate::terminal;

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The user's name
    #[arg(long, short, value_name = "USER")]
    username: Option<String>,
    /// The password or token; other users of this host can read it while this runs
    #[arg(long, short, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password or token from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Speak to the registry without encryption
    #[arg(long)]
    plain_http: bool,
    /// The registry, HOST or HOST:PORT; Docker Hub if absent
    server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Logout {
    /// The registry, HOST or HOST:PORT; Docker Hub if absent
    server: Option<String>,
}

/// Flag of commands that deploy.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct WithLogins {
    /// Give the nodes this user's logins for the registries of the images; see shoalctl login
    #[arg(long)]
    with_registry_auth: bool,
}

impl WithLogins {
    /// What goes with images, if anything is to. Says where there is no login.
    pub(crate) async fn of<'a>(
        self,
        images: impl Iterator<Item = &'a str>,
    ) -> Result<RegistryAuths> {
        if !self.with_registry_auth {
            return Ok(RegistryAuths::new());
        }
        let (auths, without) = Logins::from_env()?.of_images(images).await?;
        for registry in without {
            note(&format!(
                "note: there is no login for {registry} here, so nodes get none; shoalctl login \
                 {registry} makes one"
            ));
        }
        Ok(auths)
    }

    /// The same for services.
    pub(crate) async fn of_services<'a>(
        self,
        specs: impl Iterator<Item = &'a ServiceSpec>,
    ) -> Result<RegistryAuths> {
        self.of(specs.filter_map(|spec| Some(spec.task_template.container()?.image.as_str()))).await
    }
}

impl From<LoginError> for CommandError {
    fn from(error: LoginError) -> Self {
        Self::failed("cannot use the logins for registries").because(error)
    }
}

fn registry_of(server: Option<&str>) -> Result<String> {
    let Some(server) = server else { return Ok(DEFAULT_REGISTRY.to_owned()) };
    registry_of_server(server).ok_or_else(|| {
        CommandError::usage(format!(
            "{server:?} is not a registry: expected HOST or HOST:PORT, such as registry.lan:5000"
        ))
    })
}

pub(crate) async fn login(shell: &Shell, args: Login) -> Result {
    let registry = registry_of(args.server.as_deref())?;
    let logins = Logins::from_env()?;
    let registries = registries(&registry, args.plain_http);
    if args.password.is_some() {
        note(
            "warning: a password on the command line is visible to other users of this host and \
             stays in the shell's history; --password-stdin keeps it to yourself",
        );
    }
    if args.username.is_none()
        && args.password.is_none()
        && let Some(stored) = logins.get(&registry).await?
    {
        match registries.verify(&registry, stored).await {
            Ok(_) => {
                let said = format!("logged in to {registry} already");
                return shell.result(&said, &json!({ "Registry": registry, "Kept": "before" }));
            }
            Err(error @ RegistryError::LoginRefused { .. }) => {
                note(&format!("note: the login of before is not good any more: {error}"));
            }
            Err(error) => return Err(refused(&registry, args.plain_http, error)),
        }
    }
    let (username, password) = asked(args.username, args.password, args.password_stdin).await?;
    let auth = RegistryAuth::Basic { username: username.clone(), password };
    auth.validate().map_err(|e| CommandError::usage("this login cannot be used").because(e))?;
    let verified = registries
        .verify(&registry, auth.clone())
        .await
        .map_err(|error| refused(&registry, args.plain_http, error))?;
    if !verified.asked {
        note(&format!("note: {registry} lets everybody in; the password was not checked"));
    }
    let auth = verified.identity.map_or(auth, RegistryAuth::Identity);
    let kept = logins.store(&registry, &username, &auth).await?;
    let kept = match kept {
        Kept::Helper(name) => format!("docker-credential-{name}"),
        Kept::File(path) => {
            let path = path.display().to_string();
            note(&format!(
                "warning: the login is kept unencrypted in {path}; a credential helper (credsStore \
                 there) keeps it better"
            ));
            path
        }
    };
    let said = format!("logged in to {registry} as {username}");
    shell.result(&said, &json!({ "Registry": registry, "Username": username, "Kept": kept }))
}

fn registries(registry: &str, plain_http: bool) -> Registries {
    let plain_http = if plain_http { vec![registry.to_owned()] } else { Vec::new() };
    Registries::new(RegistryConfig { plain_http, attempts: 2, ..RegistryConfig::default() })
}

fn refused(registry: &str, plain_http: bool, error: RegistryError) -> CommandError {
    let unreachable = matches!(error, RegistryError::Unreachable { .. });
    let failed = CommandError::failed(format!("cannot log in to {registry}")).because(error);
    if unreachable && !plain_http {
        return failed.hint("a registry without TLS takes --plain-http");
    }
    failed
}

/// User and password from the command line, standard input or the terminal.
async fn asked(
    username: Option<String>,
    password: Option<String>,
    from_stdin: bool,
) -> Result<(String, String)> {
    if from_stdin {
        let read = files::text(io::stdin());
        let text = read.map_err(|e| CommandError::failed("cannot read the password").because(e))?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        return Ok((username.unwrap_or_default(), line.to_owned()));
    }
    if (username.is_none() || password.is_none()) && !io::stdin().is_terminal() {
        return Err(CommandError::usage("there is no terminal to ask for user and password")
            .hint("shoalctl login --username USER --password-stdin SERVER <FILE"));
    }
    let username = match username {
        Some(username) => username,
        None => terminal::ask("Username: ", true).await?,
    };
    let password = match password {
        Some(password) => password,
        None => terminal::ask("Password: ", false).await?,
    };
    Ok((username, password))
}

pub(crate) async fn logout(shell: &Shell, args: &Logout) -> Result {
    let registry = registry_of(args.server.as_deref())?;
    let found = Logins::from_env()?.erase(&registry).await?;
    let said = match found {
        true => format!("logged out of {registry}"),
        false => format!("there was no login for {registry}"),
    };
    shell.result(&said, &json!({ "Registry": registry, "Found": found }))
}
