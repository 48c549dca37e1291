//! Credentials for registries that come with what is deployed.

use std::collections::BTreeMap;

use shoal_manager_state::Command;
use shoal_proto::convert::field::{Auths, Kind as _};
use shoal_proto::v1 as pb;
use shoal_types::registry_auth::{REGISTRIES_MAX, RegistryAuths, registry_of_server};
use tonic::Status;

use super::invalid;

/// The command, with the credentials that came beside its spec.
pub(super) fn with(
    auths: BTreeMap<String, pb::RegistryAuth>,
    command: Command,
) -> Result<Command, Status> {
    let auths = checked(auths)?;
    if auths.is_empty() {
        return Ok(command);
    }
    Ok(Command::WithRegistryAuth { auths, command: Box::new(command) })
}

/// Credentials that came in, checked. No refusal has a part of one in it.
fn checked(auths: BTreeMap<String, pb::RegistryAuth>) -> Result<RegistryAuths, Status> {
    const FIELD: &str = "registry_auths";
    if auths.len() > REGISTRIES_MAX {
        let count = auths.len();
        let text = format!("{FIELD}: are {count}, at most {REGISTRIES_MAX} are accepted");
        return Err(Status::invalid_argument(text));
    }
    let auths = Auths::read(FIELD, auths).map_err(|e| invalid(&e))?;
    for (registry, auth) in &auths {
        if registry_of_server(registry).as_ref() != Some(registry) {
            let text = format!("{FIELD}[{registry:?}]: is not a registry as images name it");
            return Err(Status::invalid_argument(text));
        }
        auth.validate()
            .map_err(|error| Status::invalid_argument(format!("{FIELD}[{registry:?}]: {error}")))?;
    }
    Ok(auths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_credential_is_said_without_it() {
        let auth = |username: &str, password: &str| pb::RegistryAuth {
            username: username.to_owned(),
            password: password.to_owned(),
            ..pb::RegistryAuth::default()
        };
        let table = [
            ("a.lan", auth("u", "hunter2"), ""),
            ("docker.io", auth("u", "hunter2"), ""),
            ("index.docker.io", auth("u", "hunter2"), "is not a registry as images name it"),
            ("https://a.lan", auth("u", "hunter2"), "is not a registry"),
            ("a.lan", auth("u:v", "hunter2"), "registry_auths[\"a.lan\"]: the user name contains"),
            ("a.lan", auth("", "hunter2"), "the user name is empty"),
            ("a.lan", auth("u", "hunter2\n"), "a control character"),
            ("a.lan", auth("u", &"hunter2".repeat(9999)), "at most 16384"),
            ("a.lan", pb::RegistryAuth::default(), "registry_auths[\"a.lan\"].username"),
        ];
        for (registry, auth, expected) in table {
            let said = match checked([(registry.to_owned(), auth)].into()) {
                Ok(_) => String::new(),
                Err(status) => status.message().to_owned(),
            };
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        let many = (0..65).map(|n| (format!("r{n}.lan"), auth("u", "hunter2"))).collect();
        assert!(checked(many).unwrap_err().message().contains("at most 64"));
    }
}
