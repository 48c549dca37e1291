//! Programs that keep credentials, `docker-credential-NAME`: the action is the argument, everything
//! else goes through standard input and output.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_types::registry_auth::RegistryAuth;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::file::{Document, key_of};
use super::{LoginError, Result};

/// It may ask its user for something.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Characters of a refusal that are shown.
const SHOWN_MAX: usize = 300;
/// How helpers say that they have nothing.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user name of an identity token.
const TOKEN_USER: &str = "<token>";

/// Why a helper does not help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelperError {
    #[error("it is not the name of a program")]
    Name,
    #[error("cannot run {}", program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error("it does not answer within {PATIENCE:?}")]
    Silent,
    #[error("it ended with {status}: {said}")]
    Refused { status: ExitStatus, said: String },
    /// What it said is not repeated: it may well be a secret.
    #[error("its answer is not a credential")]
    Answer,
}

/// A credential as helpers have it. Not shown by `Debug`.
#[derive(Serialize, Deserialize)]
struct Credential {
    #[serde(rename = "ServerURL", default)]
    server: String,
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A helper.
#[derive(Debug)]
pub(super) struct Helper {
    name: String,
    program: PathBuf,
}

impl Helper {
    /// The one that a registry's logins are kept by.
    pub(super) fn of(document: &Document, registry: &str) -> Result<Option<Self>> {
        let Some(name) = document.helper(registry)? else { return Ok(None) };
        let program = PathBuf::from(format!("docker-credential-{name}"));
        let helper = Self { name: name.to_owned(), program };
        if name.contains(['/', '\0']) {
            return Err(helper.failed(HelperError::Name));
        }
        Ok(Some(helper))
    }

    /// A helper that is not on the path.
    #[cfg(test)]
    pub(super) fn at(program: PathBuf) -> Self {
        Self { name: "test".to_owned(), program }
    }

    pub(super) fn into_name(self) -> String {
        self.name
    }

    pub(super) async fn get(&self, registry: &str) -> Result<Option<RegistryAuth>> {
        let answer = match self.run("get", key_of(registry).as_bytes()).await {
            Err(HelperError::Refused { said, .. }) if said.contains(NOT_FOUND) => return Ok(None),
            other => other.map_err(|error| self.failed(error))?,
        };
        let credential: Credential =
            serde_json::from_slice(&answer).map_err(|_| self.failed(HelperError::Answer))?;
        let Credential { username, secret, .. } = credential;
        Ok(Some(match username.as_str() {
            TOKEN_USER => RegistryAuth::Identity(secret),
            _ => RegistryAuth::Basic { username, password: secret },
        }))
    }

    pub(super) async fn store(&self, registry: &str, auth: &RegistryAuth) -> Result<()> {
        let (username, secret) = match auth {
            RegistryAuth::Basic { username, password } => (username.as_str(), password),
            RegistryAuth::Identity(token) | RegistryAuth::Token(token) => (TOKEN_USER, token),
        };
        let credential = Credential {
            server: key_of(registry).to_owned(),
            username: username.to_owned(),
            secret: secret.clone(),
        };
        let input =
            serde_json::to_vec(&credential).map_err(|_| self.failed(HelperError::Answer))?;
        self.run("store", &input).await.map(|_| ()).map_err(|error| self.failed(error))
    }

    /// What it does not have is erased.
    pub(super) async fn erase(&self, registry: &str) -> Result<()> {
        match self.run("erase", key_of(registry).as_bytes()).await {
            Err(HelperError::Refused { said, .. }) if said.contains(NOT_FOUND) => Ok(()),
            other => other.map(|_| ()).map_err(|error| self.failed(error)),
        }
    }

    fn failed(&self, source: HelperError) -> LoginError {
        LoginError::Helper { name: self.name.clone(), source }
    }

    async fn run(&self, action: &str, input: &[u8]) -> Result<Vec<u8>, HelperError> {
        let talk = self.talk(action, input);
        tokio::time::timeout(PATIENCE, talk).await.map_err(|_| HelperError::Silent)?
    }

    async fn talk(&self, action: &str, input: &[u8]) -> Result<Vec<u8>, HelperError> {
        let failed = |source| HelperError::Run { program: self.program.clone(), source };
        let mut child = Command::new(&self.program)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                match stdin.write_all(input).await {
                    // It may know enough without.
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        };
        let ((), out, err) =
            tokio::try_join!(write, bounded(stdout), bounded(stderr)).map_err(failed)?;
        let status = child.wait().await.map_err(failed)?;
        if status.success() {
            return Ok(out);
        }
        let said = if out.is_empty() { err } else { out };
        let said = String::from_utf8_lossy(&said);
        let said = said.trim().chars().take(SHOWN_MAX).collect();
        Err(HelperError::Refused { status, said })
    }
}

async fn bounded(from: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}
