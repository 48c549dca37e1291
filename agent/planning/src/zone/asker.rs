//! Who asks.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A container that asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Asker {
    /// Its id, which is that of its task.
    pub container: String,
    /// The networks that it is in, in the order of its interfaces.
    pub networks: Vec<String>,
    /// Its name for itself, which leads to itself and is told to nobody else.
    #[serde(default)]
    pub hostname: String,
    /// Who is asked what is not ours.
    pub forwards: Forwards,
}

/// Who is asked what is not ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forwards {
    /// Nobody: the container reaches nobody outside, and shall not do so through names either.
    #[default]
    Nobody,
    /// The host's resolvers.
    Host,
    /// These.
    To(Vec<SocketAddr>),
}
