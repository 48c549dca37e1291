//! Secrets and configs: small pieces of data handed to tasks.

use std::fmt;

use serde::Serialize;

use super::{Driver, Labels, json};

/// A secret. Its data is never shown again.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SecretSpec {
    /// What it is called; its versions have the same name.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// The secret itself, 1 byte to [`SecretSpec::BYTES_MAX`]; never serialised for people.
    #[serde(skip)]
    pub data: Vec<u8>,
    /// Where it comes from instead of `data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
    /// Template language in which `data` is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templating: Option<Driver>,
}

impl SecretSpec {
    /// The most that is in one: 500 KiB.
    pub const BYTES_MAX: usize = 500 << 10;
}

impl ConfigSpec {
    /// The most that is in one: 1000 KiB.
    pub const BYTES_MAX: usize = 1000 << 10;
}

impl fmt::Debug for SecretSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSpec")
            .field("name", &self.name)
            .field("labels", &self.labels)
            .field("data", &format_args!("<{} bytes>", self.data.len()))
            .field("driver", &self.driver)
            .field("templating", &self.templating)
            .finish()
    }
}

/// A config: like a secret, but readable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConfigSpec {
    /// What it is called; its versions have the same name.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// The config itself, 1 byte to [`ConfigSpec::BYTES_MAX`].
    #[serde(serialize_with = "json::base64")]
    pub data: Vec<u8>,
    /// Template language in which `data` is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templating: Option<Driver>,
}
