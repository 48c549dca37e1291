//! `Debug` of messages with secrets in them: without the secrets, so that no log ever has one. Which
//! fields those are is said in the `.proto` files (see `options.proto`); `build.rs` writes the rest.

use crate::v1::*;

include!(concat!(env!("OUT_DIR"), "/secrets.rs"));

#[cfg(test)]
#[path = "../build/secrets.rs"]
mod secrets;

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost::encoding::string;
    use protox::prost_reflect::DescriptorPool;

    use super::*;

    include!(concat!(env!("OUT_DIR"), "/secrets_shown.rs"));

    fn pool() -> DescriptorPool {
        let mut pool = DescriptorPool::global();
        pool.decode_file_descriptor_set(crate::FILE_DESCRIPTOR_SET).unwrap();
        pool
    }

    #[test]
    fn no_secret_is_shown() {
        let found = secrets::find(&pool(), "shoal.v1");
        assert_eq!(found.faults, [""; 0]);
        for (message, fields) in &found.secrets {
            let mut bytes = Vec::new();
            for field in fields {
                string::encode(field.number(), &"hush".to_owned(), &mut bytes);
            }
            let shown = shown(message.name(), &bytes).unwrap();
            assert!(shown.starts_with(message.name()) && !shown.contains("hush"), "{shown}");
        }
    }

    /// Whoever takes one out of this list has thought about it.
    #[test]
    fn these_are_secrets() {
        let found = secrets::find(&pool(), "shoal.v1");
        let fields = found.secrets.iter().flat_map(|(_, fields)| fields);
        let mut names: Vec<String> =
            fields.map(|f| f.full_name().trim_start_matches("shoal.v1.").to_owned()).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "BootstrapResponse.agent_join_token",
                "BootstrapResponse.manager_join_token",
                "GetJoinTokenResponse.token",
                "InitResponse.agent_join_token",
                "InitResponse.manager_join_token",
                "IssueNodeCertificateRequest.join_token",
                "JoinRequest.join_token",
                "JoinTokens.agent",
                "JoinTokens.manager",
                "RegistryAuth.identity_token",
                "RegistryAuth.password",
                "RegistryAuth.registry_token",
                "RootCa.key_pem",
                "RotateJoinTokenCommand.secret",
                "RotateJoinTokenResponse.token",
                "SecretSpec.data",
            ]
        );
    }

    /// Messages as somebody may write them.
    fn planted(body: &str) -> secrets::Found {
        let dir = tempfile::tempdir().unwrap();
        let options = concat!(env!("CARGO_MANIFEST_DIR"), "/shoal/v1/options.proto");
        std::fs::create_dir_all(dir.path().join("shoal/v1")).unwrap();
        std::fs::copy(options, dir.path().join("shoal/v1/options.proto")).unwrap();
        let head = "syntax = \"proto3\"; package planted; import \"shoal/v1/options.proto\";";
        std::fs::write(dir.path().join("a.proto"), format!("{head}\n{body}")).unwrap();
        let mut compiler = protox::Compiler::new([dir.path()]).unwrap();
        compiler.open_files(["a.proto"]).unwrap();
        secrets::find(&compiler.descriptor_pool(), "planted")
    }

    #[test]
    fn a_field_that_sounds_like_a_secret_has_to_be_decided() {
        for (body, fault) in [
            ("message A { string password = 1; }", "planted.A.password: say whether"),
            ("message A { optional bytes key_pem = 1; }", "planted.A.key_pem: say whether"),
            ("message A { repeated string tokens = 1; }", "planted.A.tokens: say whether"),
            ("message A { map<string, bytes> keys = 1; }", "planted.A.keys: say whether"),
            ("message A { oneof b { string token = 1; } }", "planted.A.token: say whether"),
            ("message NewSecret { bytes data = 1; }", "planted.NewSecret.data: say whether"),
            (
                "message A { oneof b { string token = 1 [(shoal.v1.secret) = true]; } }",
                "planted.A.token: a secret cannot be part of a oneof",
            ),
            (
                "message A { uint32 pin = 1 [(shoal.v1.secret) = true]; }",
                "planted.A.pin: only text and bytes are secret",
            ),
        ] {
            let found = planted(body);
            assert_eq!(found.faults.len(), 1, "{body}: {found:?}");
            assert!(found.faults[0].starts_with(fault), "{body}: {found:?}");
        }
        let body = "message A { string name = 1; bool token_set = 2; optional string token = 3 \
                    [(shoal.v1.secret) = true]; string key = 4 [(shoal.v1.secret) = false]; \
                    oneof kind { string type = 5; bytes other = 6; } }";
        let found = planted(body);
        assert_eq!(found.faults, [""; 0]);
        let code = secrets::debugs(&found);
        for part in ["self.r#name", "self.r#token_set", "self.r#key", "self.r#kind"] {
            assert_eq!(code.matches(part).count(), 1, "{part}: {code}");
        }
        assert!(!code.contains("r#token)") && !code.contains("r#type"), "{code}");
    }
}
