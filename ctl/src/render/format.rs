//! `--format`: for people, for programs, or by a Go template.

use std::str::FromStr;

use super::template::{Template, TemplateError};

/// How results are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one document, or one a line for streams.
    Json,
}

/// What `--format` says.
#[derive(Debug, Clone, Default)]
pub(crate) struct FormatArg {
    pub(crate) kind: Format,
    /// For lists and objects; stands above `kind`.
    pub(crate) template: Option<Template>,
}

impl FromStr for FormatArg {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let template = match text.trim() {
            "table" => return Ok(Self::default()),
            "json" => return Ok(Self { kind: Format::Json, template: None }),
            text if text.contains("{{") => Some(Template::new(text)?),
            _ => return Err(TemplateError::Unknown),
        };
        Ok(Self { kind: Format::Table, template })
    }
}
