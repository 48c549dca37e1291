//! Which fields of messages hold secrets, and a `Debug` of their messages without them. Part of the
//! build script, and of the tests.

use std::fmt::Write as _;

use protox::prost_reflect::{
    DescriptorPool, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
};

/// The option that says it.
pub(crate) const OPTION: &str = "shoal.v1.secret";

/// What the name of a field sounds like that may hold a secret.
const FIELDS: [&str; 9] =
    ["token", "secret", "password", "credential", "key", "auth", "pem", "passphrase", "private"];

/// The same of a message with any text or bytes in it.
const MESSAGES: [&str; 8] =
    ["Token", "Secret", "Password", "Credential", "Key", "Auth", "RootCa", "Private"];

/// What the fields of some messages say.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Messages with a secret in them, and their fields.
    pub(crate) secrets: Vec<(MessageDescriptor, Vec<FieldDescriptor>)>,
    /// What is wrong: one line each.
    pub(crate) faults: Vec<String>,
}

/// Looks at every message of a package.
pub(crate) fn find(pool: &DescriptorPool, package: &str) -> Found {
    let mut found = Found::default();
    let Some(option) = pool.get_extension_by_name(OPTION) else {
        found.faults.push(format!("the option {OPTION} is not defined"));
        return found;
    };
    for message in pool.all_messages().filter(|m| m.package_name() == package) {
        // A map's entry is decided where the map is.
        if message.is_map_entry() {
            continue;
        }
        let mut secrets = Vec::new();
        for field in message.fields() {
            let said = says(&field, &option);
            match said {
                Some(true) if field.containing_oneof().is_some_and(|o| !o.is_synthetic()) => {
                    found
                        .faults
                        .push(format!("{}: a secret cannot be part of a oneof", field.full_name()));
                }
                Some(true) if !carries(&field) => {
                    found
                        .faults
                        .push(format!("{}: only text and bytes are secret", field.full_name()));
                }
                Some(true) => secrets.push(field),
                None if sounds(&field) => found.faults.push(format!(
                    "{}: say whether it holds a secret: [(secret) = true] or [(secret) = false]",
                    field.full_name()
                )),
                Some(false) | None => {}
            }
        }
        if !secrets.is_empty() {
            found.secrets.push((message, secrets));
        }
    }
    found
}

/// What a field says of itself.
fn says(field: &FieldDescriptor, option: &ExtensionDescriptor) -> Option<bool> {
    let options = field.options();
    options.has_extension(option).then(|| options.get_extension(option).as_bool().unwrap_or(true))
}

/// Whether a field is text or bytes, or many of them.
fn carries(field: &FieldDescriptor) -> bool {
    let kind = match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    };
    matches!(kind, Kind::String | Kind::Bytes)
}

fn sounds(field: &FieldDescriptor) -> bool {
    let of_message = MESSAGES.iter().any(|part| field.parent_message().name().contains(part));
    let by_itself = FIELDS.iter().any(|part| field.name().contains(part));
    carries(field) && (of_message || by_itself)
}

/// Rust code: a `Debug` of each of these messages that shows everything else.
pub(crate) fn debugs(found: &Found) -> String {
    let mut code = String::new();
    for (message, secrets) in &found.secrets {
        let name = message.name();
        let mut shown: Vec<String> = message
            .fields()
            .filter(|field| !secrets.contains(field))
            .map(|field| match field.containing_oneof() {
                Some(oneof) if !oneof.is_synthetic() => oneof.name().to_owned(),
                _ => field.name().to_owned(),
            })
            .collect();
        shown.dedup();
        let fields: String = shown.iter().fold(String::new(), |mut all, field| {
            let _ = write!(all, "\n            .field({field:?}, &self.r#{field})");
            all
        });
        let _ = write!(
            code,
            "impl ::core::fmt::Debug for {name} {{
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{
        f.debug_struct({name:?}){fields}
            .finish_non_exhaustive()
    }}
}}
"
        );
    }
    code
}
