//! A context in one file: where the cluster answers, and the key and certificates of who asks. For
//! carrying it to another machine, and for programs that get one secret.

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_durable::write_file;
use shoal_transport::{Credentials, SecretPem};

use crate::context::Context;
use crate::error::CommandError;
use crate::files;
use crate::render::block;

/// Names the path of such a file, which is then used instead of the contexts that are kept.
pub(crate) const FILE_VARIABLE: &str = "SHOAL_CONTEXT_FILE";
/// Holds the text of such a file.
pub(crate) const DATA_VARIABLE: &str = "SHOAL_CONTEXT_DATA";

/// The version of the format.
const VERSION: u32 = 1;

const HEADER: &str =
    "# A context of shoalctl. It holds a private key: whoever has it is this user.\n";

/// What is in the file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Portable {
    shoal_context: u32,
    /// What it is called where it is imported.
    pub(crate) name: String,
    cluster: String,
    endpoints: Vec<String>,
    certificate: String,
    key: String,
    root: String,
}

/// The part of the file that every version has.
#[derive(Deserialize)]
struct Versioned {
    shoal_context: u32,
}

impl fmt::Debug for Portable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Portable").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Portable {
    /// A context as it is written.
    pub(crate) fn of(name: &str, context: &Context, credentials: &Credentials) -> Self {
        Self {
            shoal_context: VERSION,
            name: name.to_owned(),
            cluster: context.cluster.clone(),
            endpoints: context.endpoints.clone(),
            certificate: credentials.chain_pem().to_owned(),
            key: credentials.key_pem().reveal().to_owned(),
            root: credentials.root_pem().to_owned(),
        }
    }

    /// The context that the environment holds, with the variable that does.
    pub(crate) fn from_env() -> Result<Option<(Self, &'static str)>, CommandError> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        match (set(FILE_VARIABLE), set(DATA_VARIABLE)) {
            (None, None) => Ok(None),
            (Some(path), None) => {
                let found = Self::read(&PathBuf::from(path), FILE_VARIABLE)?;
                Ok(Some((found, FILE_VARIABLE)))
            }
            (None, Some(text)) => {
                let text = text
                    .into_string()
                    .map_err(|_| CommandError::failed(format!("{DATA_VARIABLE} is not UTF-8")))?;
                Ok(Some((Self::parse(&text, DATA_VARIABLE)?, DATA_VARIABLE)))
            }
            (Some(_), Some(_)) => Err(CommandError::failed(format!(
                "both {FILE_VARIABLE} and {DATA_VARIABLE} are set: expected one of them"
            ))),
        }
    }

    /// Reads a file, or standard input for `-`.
    pub(crate) fn read(path: &Path, named_by: &str) -> Result<Self, CommandError> {
        let text = if path.as_os_str() == "-" {
            files::text(io::stdin().lock())
        } else {
            files::text_of(path)
        };
        let at = path.display().to_string();
        let text = text.map_err(|e| {
            CommandError::failed(format!("cannot read the context of {named_by}: {at}")).because(e)
        })?;
        Self::parse(&text, &at)
    }

    fn parse(text: &str, at: &str) -> Result<Self, CommandError> {
        let wrong = || CommandError::failed(format!("{at} holds no context of shoalctl"));
        let unreadable =
            |e: serde_yaml::Error| wrong().because(e).hint("shoalctl context export writes one");
        // First, as the other fields of a newer one may be anything.
        let Versioned { shoal_context: version } =
            serde_yaml::from_str(text).map_err(unreadable)?;
        if version > VERSION {
            return Err(CommandError::failed(format!(
                "{at} is of version {version} and was exported by a newer shoalctl; this one reads \
                 versions up to {VERSION}"
            ))
            .hint("use a shoalctl of that version, or export the context with this one"));
        }
        serde_yaml::from_str(text).map_err(unreadable)
    }

    /// What it is made of.
    pub(crate) fn open(self) -> Result<(Context, Credentials), CommandError> {
        let credentials =
            Credentials::from_pem(self.certificate, SecretPem::new(self.key), self.root).map_err(
                |e| {
                    let name = &self.name;
                    CommandError::failed(format!("cannot use the credentials of context {name:?}"))
                        .because(e)
                },
            )?;
        Ok((Context { cluster: self.cluster, endpoints: self.endpoints }, credentials))
    }

    fn text(&self) -> Result<String, CommandError> {
        let text = serde_yaml::to_string(self)
            .map_err(|e| CommandError::failed("cannot write the context").because(e))?;
        Ok(format!("{HEADER}{text}"))
    }
}

/// Where a context is written: a file that does not exist yet, for its owner alone, or standard
/// output for `-`.
#[derive(Debug, Clone)]
pub(crate) struct Output(PathBuf);

impl Output {
    /// Looked at before anything is done whose result would have no place.
    pub(crate) fn new(path: PathBuf) -> Result<Self, CommandError> {
        if path.as_os_str() != "-" && fs::symlink_metadata(&path).is_ok() {
            let at = path.display();
            return Err(CommandError::failed(format!("{at} exists already"))
                .hint("name another file, or remove this one first"));
        }
        Ok(Self(path))
    }

    /// Whether it goes to standard output, which then has nothing else.
    pub(crate) fn is_shown(&self) -> bool {
        self.0.as_os_str() == "-"
    }

    pub(crate) fn write(&self, context: &Portable) -> Result<(), CommandError> {
        let text = context.text()?;
        if self.is_shown() {
            return block(text.trim_end());
        }
        write_file(&self.0, text.as_bytes(), 0o600).map_err(|e| {
            CommandError::failed(format!("cannot write {}", self.0.display())).because(e)
        })
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_shown() { f.write_str("standard output") } else { self.0.display().fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_context_says_so_and_never_shows_a_key() {
        for (text, part) in [
            ("", "holds no context of shoalctl: "),
            ("contexts: {}", "missing field `shoal_context`"),
            ("{shoal_context: 1, contexts: {}}", "unknown field `contexts`"),
            (
                "{shoal_context: 9, key: hush, sealed: {by: the future}}",
                "is of version 9 and was exported by a newer shoalctl; this one reads versions up to 1",
            ),
        ] {
            let error = Portable::parse(text, "ci.yaml").unwrap_err().report();
            assert!(error.contains("ci.yaml") && error.contains(part), "{error} lacks {part}");
        }
        let text = "{shoal_context: 1, name: a, cluster: c, endpoints: [], certificate: x, key: hush, root: y}";
        let context = Portable::parse(text, "").unwrap();
        assert!(!format!("{context:?}").contains("hush"));
        let error = context.open().unwrap_err().report();
        assert!(
            error.contains("credentials of context \"a\"") && !error.contains("hush"),
            "{error}"
        );
    }
}
