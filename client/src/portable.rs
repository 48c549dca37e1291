//! A context in one file: where the cluster answers, and the key and certificates of who asks. For
//! carrying it to another machine, and for programs that get one secret.

use std::fmt;

use serde::{Deserialize, Serialize};
use shoal_transport::{Credentials, CredentialsError, SecretPem};

use crate::context::Context;

/// Why such a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PortableError {
    /// It is none.
    #[error("{at} holds no context of shoalctl")]
    Unreadable {
        /// Where it is from.
        at: String,
        /// Where and why.
        #[source]
        source: serde_yaml::Error,
    },
    /// A newer version wrote it.
    #[error(
        "{at} is of version {version} and was exported by a newer shoalctl; this one reads versions up \
         to {VERSION}"
    )]
    Newer {
        /// Where it is from.
        at: String,
        /// Its version.
        version: u32,
    },
    /// What it holds is damaged.
    #[error("cannot use the credentials of context {name:?}")]
    Credentials {
        /// Of which context.
        name: String,
        /// What is wrong with them.
        #[source]
        source: CredentialsError,
    },
    /// It cannot be written.
    #[error("cannot write the context")]
    Unwritable(#[source] serde_yaml::Error),
}

/// The version of the format.
const VERSION: u32 = 1;

const HEADER: &str =
    "# A context of shoalctl. It holds a private key: whoever has it is this user.\n";

/// What is in the file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Portable {
    shoal_context: u32,
    /// What it is called where it is imported.
    pub name: String,
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
    #[must_use]
    pub fn of(name: &str, context: &Context, credentials: &Credentials) -> Self {
        Self {
            shoal_context: VERSION,
            name: name.to_owned(),
            cluster: context.cluster.clone(),
            endpoints: context.all(),
            certificate: credentials.chain_pem().to_owned(),
            key: credentials.key_pem().reveal().to_owned(),
            root: credentials.root_pem().to_owned(),
        }
    }

    /// Reads one. `at` says where the text is from.
    ///
    /// # Errors
    /// It is none, or a newer version wrote it.
    pub fn parse(text: &str, at: &str) -> Result<Self, PortableError> {
        let unreadable = |source| PortableError::Unreadable { at: at.to_owned(), source };
        // First, as the other fields of a newer one may be anything.
        let Versioned { shoal_context: version } =
            serde_yaml::from_str(text).map_err(unreadable)?;
        if version > VERSION {
            return Err(PortableError::Newer { at: at.to_owned(), version });
        }
        serde_yaml::from_str(text).map_err(unreadable)
    }

    /// What it is made of.
    ///
    /// # Errors
    /// The credentials in it are damaged.
    pub fn open(self) -> Result<(Context, Credentials), PortableError> {
        let credentials =
            Credentials::from_pem(self.certificate, SecretPem::new(self.key), self.root)
                .map_err(|source| PortableError::Credentials { name: self.name, source })?;
        let (cluster, endpoints) = (self.cluster, self.endpoints);
        Ok((Context { cluster, endpoints, managers: Vec::new() }, credentials))
    }

    /// The text of the file.
    ///
    /// # Errors
    /// It cannot be written as YAML.
    pub fn text(&self) -> Result<String, PortableError> {
        let text = serde_yaml::to_string(self).map_err(PortableError::Unwritable)?;
        Ok(format!("{HEADER}{text}"))
    }
}

#[cfg(test)]
mod tests {
    use shoal_types::error_chain::chain;

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
            let error = chain(&Portable::parse(text, "ci.yaml").unwrap_err()).to_string();
            assert!(error.contains("ci.yaml") && error.contains(part), "{error} lacks {part}");
        }
        let text = "{shoal_context: 1, name: a, cluster: c, endpoints: [], certificate: x, key: hush, root: y}";
        let context = Portable::parse(text, "").unwrap();
        assert!(!format!("{context:?}").contains("hush"));
        let error = chain(&context.open().unwrap_err()).to_string();
        assert!(
            error.contains("credentials of context \"a\"") && !error.contains("hush"),
            "{error}"
        );
    }
}
