//! Who asks a registry for something.

use std::collections::BTreeMap;
use std::fmt;

use crate::image_ref::{DEFAULT_REGISTRY, ImageReference};

/// Longest user name in bytes.
pub const USERNAME_LENGTH_MAX: usize = 1024;
/// Longest password or token in bytes: tokens of cloud registries take some thousands.
pub const SECRET_LENGTH_MAX: usize = 16 * 1024;
/// Registries for which one call may bring a credential.
pub const REGISTRIES_MAX: usize = 64;

/// A credential for a registry. `Debug` never shows its secret, and it has no JSON form.
#[derive(Clone, PartialEq, Eq)]
pub enum RegistryAuth {
    /// User and password (or access token), as of `docker login`.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: String,
    },
    /// A token that the registry's token server takes in place of user and password (OAuth 2: a
    /// refresh token).
    Identity(String),
    /// A bearer token that the registry takes as it is.
    Token(String),
}

/// Credentials by registry, each named as in [`ImageReference::registry`].
pub type RegistryAuths = BTreeMap<String, RegistryAuth>;

/// Never shows a secret.
impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, …)"),
            Self::Identity(_) => f.write_str("Identity(…)"),
            Self::Token(_) => f.write_str("Token(…)"),
        }
    }
}

/// What is wrong with a credential. Does not repeat any part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRegistryAuth {
    /// There is none.
    #[error("the user name is empty")]
    NoUsername,
    /// As RFC 7617 has it: what stands before the first colon is the user.
    #[error("the user name contains a colon, which ends it for registries")]
    Colon,
    /// Longer than [`USERNAME_LENGTH_MAX`].
    #[error("the user name has {length} bytes, at most {USERNAME_LENGTH_MAX} are accepted")]
    UsernameTooLong {
        /// Length in bytes.
        length: usize,
    },
    /// There is none.
    #[error("the password or token is empty")]
    NoSecret,
    /// Longer than [`SECRET_LENGTH_MAX`].
    #[error("the password or token has {length} bytes, at most {SECRET_LENGTH_MAX} are accepted")]
    SecretTooLong {
        /// Length in bytes.
        length: usize,
    },
    /// Line ends and the like, which no header can carry.
    #[error("it contains a control character, such as a line end")]
    Control,
}

impl RegistryAuth {
    /// Checks that it can be sent.
    ///
    /// # Errors
    /// [`InvalidRegistryAuth`].
    pub fn validate(&self) -> Result<(), InvalidRegistryAuth> {
        let secret = match self {
            Self::Basic { username, password } => {
                if username.is_empty() {
                    return Err(InvalidRegistryAuth::NoUsername);
                }
                if username.contains(':') {
                    return Err(InvalidRegistryAuth::Colon);
                }
                if username.len() > USERNAME_LENGTH_MAX {
                    return Err(InvalidRegistryAuth::UsernameTooLong { length: username.len() });
                }
                if username.chars().any(char::is_control) {
                    return Err(InvalidRegistryAuth::Control);
                }
                password
            }
            Self::Identity(token) | Self::Token(token) => token,
        };
        match secret.len() {
            0 => Err(InvalidRegistryAuth::NoSecret),
            length if length > SECRET_LENGTH_MAX => {
                Err(InvalidRegistryAuth::SecretTooLong { length })
            }
            _ if secret.chars().any(char::is_control) => Err(InvalidRegistryAuth::Control),
            _ => Ok(()),
        }
    }

    /// The user's name, if it is known.
    #[must_use]
    pub fn username(&self) -> Option<&str> {
        match self {
            Self::Basic { username, .. } => Some(username),
            Self::Identity(_) | Self::Token(_) => None,
        }
    }
}

/// A registry as people write it, `host` or `host:port`, in the form that image references have:
/// with a scheme, a path and the names of Docker Hub taken care of, as Docker does.
#[must_use]
pub fn registry_of_server(text: &str) -> Option<String> {
    let text = text.trim();
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = bare.unwrap_or(text).split('/').next().unwrap_or_default();
    let host = host.to_ascii_lowercase();
    if ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&host.as_str()) {
        return Some(DEFAULT_REGISTRY.to_owned());
    }
    // A name without a dot or port would be read as the first part of a repository.
    let is_registry =
        |host: &String| host == "localhost" || host.contains(['.', ':']) || host.starts_with('[');
    let parsed = |host: &String| ImageReference::parse(&format!("{host}/x")).ok();
    let reference = Some(host).filter(is_registry).as_ref().and_then(parsed)?;
    Some(reference.registry().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> RegistryAuth {
        RegistryAuth::Basic { username: username.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn secrets_are_not_shown() {
        let identity = RegistryAuth::Identity("hunter2".into());
        let token = RegistryAuth::Token("hunter2".into());
        let shown = format!("{:?} {identity:?} {token:?}", basic("u", "hunter2"));
        assert_eq!(shown, "Basic(\"u\", …) Identity(…) Token(…)");
    }

    #[test]
    fn what_cannot_be_sent_is_refused_without_being_repeated() {
        let long = "p".repeat(SECRET_LENGTH_MAX + 1);
        let table = [
            (basic("u", "hunter2 ö:x"), ""),
            (basic("", "hunter2"), "the user name is empty"),
            (basic("a:b", "hunter2"), "a colon"),
            (basic(&long, "hunter2"), "16385 bytes, at most 1024"),
            (basic("u", ""), "password or token is empty"),
            (basic("u", "hunter2\n"), "a control character"),
            (basic("u\r", "hunter2"), "a control character"),
            (basic("u", &long), "16385 bytes, at most 16384"),
            (RegistryAuth::Identity(String::new()), "is empty"),
            (RegistryAuth::Token("hunter2\r".into()), "a control character"),
        ];
        for (auth, expected) in table {
            let said = auth.validate().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn servers_are_named_as_in_images() {
        for (server, registry) in [
            ("docker.io", Some("docker.io")),
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("registry-1.docker.io", Some("docker.io")),
            ("registry.lan", Some("registry.lan")),
            ("Registry.LAN:5000", Some("registry.lan:5000")),
            ("http://registry.lan:5000/v2/", Some("registry.lan:5000")),
            ("localhost", Some("localhost")),
            ("10.0.0.1:5000/team", Some("10.0.0.1:5000")),
            ("[::1]:5000", Some("[::1]:5000")),
            ("registry", None),
            ("", None),
            ("a b.c", None),
            ("registry.lan:0", None),
        ] {
            assert_eq!(registry_of_server(server).as_deref(), registry, "{server}");
        }
    }
}
