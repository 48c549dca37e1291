//! `Debug` of messages with secrets in them: without the secrets, so that no log ever has one.
//! `build.rs` lists them, too.

use std::fmt;

use crate::v1::*;

/// Shows the named fields of a message alone.
macro_rules! show_only {
    ($($message:ident { $($field:ident),* })*) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        }
    )*};
}

show_only! {
    BootstrapResponse { cluster_id, node_id }
    GetJoinTokenResponse { manager_addrs }
    InitResponse { cluster_id, node_id, manager_addr }
    IssueNodeCertificateRequest { hints }
    JoinRequest { manager_addrs, listen_addr, advertise_addr }
    JoinTokens {}
    RegistryAuth { username }
    RootCa { cert_pem }
    RotateJoinTokenCommand { role }
    RotateJoinTokenResponse {}
    SecretSpec { name, labels, driver, templating }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost::encoding::string;
    use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

    use super::*;

    /// What a field is called that holds a secret.
    fn is_secret(message: &str, field: &str) -> bool {
        let names = ["token", "join_token", "agent_join_token", "manager_join_token"];
        let of_one = [
            ("JoinTokens", "agent"),
            ("JoinTokens", "manager"),
            ("RegistryAuth", "password"),
            ("RegistryAuth", "identity_token"),
            ("RegistryAuth", "registry_token"),
            ("RootCa", "key_pem"),
            ("RotateJoinTokenCommand", "secret"),
            ("SecretSpec", "data"),
        ];
        names.contains(&field) || of_one.contains(&(message, field))
    }

    /// Shows a message whose secrets are all "hush".
    fn shown(message: &DescriptorProto, secrets: &[&FieldDescriptorProto]) -> String {
        let mut bytes = Vec::new();
        for secret in secrets {
            string::encode(secret.number() as u32, &"hush".to_owned(), &mut bytes);
        }
        macro_rules! decode {
            ($($name:ident)*) => {
                match message.name() {
                    $(stringify!($name) => format!("{:?}", $name::decode(&*bytes).unwrap()),)*
                    other => panic!("{other} has a secret: add it here and in build.rs"),
                }
            };
        }
        decode!(BootstrapResponse GetJoinTokenResponse InitResponse IssueNodeCertificateRequest
            JoinRequest JoinTokens RegistryAuth RootCa RotateJoinTokenCommand RotateJoinTokenResponse SecretSpec)
    }

    #[test]
    fn no_secret_is_shown() {
        let set = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
        let mut found = 0;
        for message in set.file.iter().flat_map(|f| &f.message_type) {
            let secrets: Vec<_> =
                message.field.iter().filter(|f| is_secret(message.name(), f.name())).collect();
            if !secrets.is_empty() {
                found += 1;
                let shown = shown(message, &secrets);
                assert!(!shown.contains("hush"), "{shown}");
            }
        }
        assert_eq!(found, 11, "a secret field has another name now");
    }
}
