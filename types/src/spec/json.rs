//! Where Docker's JSON is shaped otherwise than our structs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use super::{Driver, PayloadReference, PayloadTarget, TaskRuntime};
use crate::id::{ConfigId, SecretId};

/// Bytes, as Go's JSON has them.
pub(super) fn base64<S: Serializer>(data: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&STANDARD.encode(data))
}

/// A driver as two fields of the struct around it. Use with `flatten`.
pub(super) fn driver_and_options<S: Serializer>(driver: &Driver, s: S) -> Result<S::Ok, S::Error> {
    let mut map = s.serialize_map(Some(2))?;
    map.serialize_entry("Driver", &driver.name)?;
    map.serialize_entry("Options", &driver.options)?;
    map.end()
}

/// The name of a network inside a struct of its own.
pub(super) fn network<S: Serializer>(name: &str, s: S) -> Result<S::Ok, S::Error> {
    let mut reference = s.serialize_struct("ConfigReference", 1)?;
    reference.serialize_field("Network", name)?;
    reference.end()
}

/// Kinds of id whose objects are handed to containers.
pub trait PayloadId: Serialize {
    /// Docker's name of the id.
    const ID: &'static str;
    /// Docker's name of the name.
    const NAME: &'static str;
}

impl PayloadId for SecretId {
    const ID: &'static str = "SecretID";
    const NAME: &'static str = "SecretName";
}

impl PayloadId for ConfigId {
    const ID: &'static str = "ConfigID";
    const NAME: &'static str = "ConfigName";
}

impl<Id: PayloadId> Serialize for PayloadReference<Id> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut reference = s.serialize_struct("PayloadReference", 3)?;
        match &self.target {
            PayloadTarget::File(file) => reference.serialize_field("File", file)?,
            PayloadTarget::Runtime => reference.serialize_field("Runtime", &Empty {})?,
        }
        reference.serialize_field(Id::ID, &self.id)?;
        reference.serialize_field(Id::NAME, &self.name)?;
        reference.end()
    }
}

impl Serialize for TaskRuntime {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(2))?;
        let runtime = match self {
            Self::Container(spec) => {
                map.serialize_entry("ContainerSpec", spec)?;
                "container"
            }
            Self::Plugin(spec) => {
                map.serialize_entry("PluginSpec", spec)?;
                "plugin"
            }
            Self::Attachment { container_id } => {
                map.serialize_entry("NetworkAttachmentSpec", &Attachment { container_id })?;
                "attachment"
            }
        };
        map.serialize_entry("Runtime", runtime)?;
        map.end()
    }
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Attachment<'a> {
    #[serde(rename = "ContainerID")]
    container_id: &'a str,
}
