//! Credentials for registries. What is wrong with one is said without a part of it.

use std::collections::BTreeMap;

use shoal_types::registry_auth::{RegistryAuth, RegistryAuths};

use super::field::{Kind, Same};
use super::{InvalidMessage, by_value};
use crate::v1;

impl From<&RegistryAuth> for v1::RegistryAuth {
    fn from(value: &RegistryAuth) -> Self {
        let mut wire = Self::default();
        match value {
            RegistryAuth::Basic { username, password } => {
                wire.username.clone_from(username);
                wire.password.clone_from(password);
            }
            RegistryAuth::Identity(token) => wire.identity_token.clone_from(token),
            RegistryAuth::Token(token) => wire.registry_token.clone_from(token),
        }
        wire
    }
}

impl TryFrom<v1::RegistryAuth> for RegistryAuth {
    type Error = InvalidMessage;

    fn try_from(wire: v1::RegistryAuth) -> Result<Self, InvalidMessage> {
        let v1::RegistryAuth { username, password, identity_token, registry_token } = wire;
        let basic = !username.is_empty() || !password.is_empty();
        match (basic, identity_token.is_empty(), registry_token.is_empty()) {
            (true, true, true) => Ok(Self::Basic { username, password }),
            (false, false, true) => Ok(Self::Identity(identity_token)),
            (false, true, false) => Ok(Self::Token(registry_token)),
            _ => Err(InvalidMessage::new(
                "username",
                "is to stand with a password, or a token alone without both",
            )),
        }
    }
}

by_value!(RegistryAuth => v1::RegistryAuth);

/// Credentials by what they are for.
#[derive(Debug)]
pub struct Auths;

impl Kind<RegistryAuths, BTreeMap<String, v1::RegistryAuth>> for Auths {
    fn write(value: &RegistryAuths) -> BTreeMap<String, v1::RegistryAuth> {
        value.iter().map(|(key, auth)| (Same::write(key), auth.into())).collect()
    }

    fn read(
        field: &str,
        wire: BTreeMap<String, v1::RegistryAuth>,
    ) -> Result<RegistryAuths, InvalidMessage> {
        let pair = |(key, auth): (String, v1::RegistryAuth)| {
            let named = |e: InvalidMessage| e.under(&format!("{field}[{key:?}]"));
            let auth = RegistryAuth::try_from(auth).map_err(named)?;
            Ok((key, auth))
        };
        wire.into_iter().map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_survive_and_mixtures_are_refused_without_being_shown() {
        let basic = RegistryAuth::Basic { username: "u".into(), password: "p".into() };
        let auths: RegistryAuths = [
            ("a".to_owned(), basic),
            ("b".to_owned(), RegistryAuth::Identity("i".into())),
            ("c".to_owned(), RegistryAuth::Token("t".into())),
        ]
        .into();
        assert_eq!(Auths::read("auths", Auths::write(&auths)), Ok(auths));
        let mixed = v1::RegistryAuth {
            password: "hunter2".into(),
            registry_token: "hunter2".into(),
            ..v1::RegistryAuth::default()
        };
        for wrong in [mixed, v1::RegistryAuth::default()] {
            let error = Auths::read("auths", [("x".to_owned(), wrong)].into()).unwrap_err();
            let said = error.to_string();
            assert!(said.starts_with("field auths[\"x\"].username: "), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
