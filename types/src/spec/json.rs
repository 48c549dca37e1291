//! Where Docker's JSON is shaped otherwise than our structs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use super::{Driver, OnChange, PayloadReference, PayloadTarget, TaskRuntime};

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

/// References to secrets, with Docker's name of the name.
pub(super) fn secrets<S: Serializer>(all: &[PayloadReference], s: S) -> Result<S::Ok, S::Error> {
    references("SecretName", all, s)
}

/// References to configs.
pub(super) fn configs<S: Serializer>(all: &[PayloadReference], s: S) -> Result<S::Ok, S::Error> {
    references("ConfigName", all, s)
}

fn references<S: Serializer>(
    called: &'static str,
    all: &[PayloadReference],
    s: S,
) -> Result<S::Ok, S::Error> {
    s.collect_seq(all.iter().map(|reference| Named { called, reference }))
}

struct Named<'a> {
    called: &'static str,
    reference: &'a PayloadReference,
}

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut reference = s.serialize_struct("PayloadReference", 4)?;
        match &self.reference.target {
            PayloadTarget::File(file) => reference.serialize_field("File", file)?,
            PayloadTarget::Env(name) => reference.serialize_field("Env", name)?,
            PayloadTarget::Runtime => reference.serialize_field("Runtime", &Empty {})?,
        }
        reference.serialize_field(self.called, &self.reference.name)?;
        if let Some(version) = self.reference.version {
            reference.serialize_field("Version", &version)?;
        }
        if self.reference.on_change != OnChange::default() {
            reference.serialize_field("OnChange", &self.reference.on_change)?;
        }
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
