//! The private key of a host's tunnel: made on it, and never leaves it.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shoal_durable::{FileError, Format, Lasting};
use shoal_types::object::TunnelKey;
use wireguard_control::Key;

const FILE: &str = "tunnel.key";

/// A private key. Nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PrivateKey(pub(crate) [u8; 32]);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl PrivateKey {
    /// By which others know its owner.
    pub(crate) fn public(&self) -> TunnelKey {
        TunnelKey(Key(self.0).get_public().0)
    }

    /// The host's, made now if there is none.
    pub(crate) fn of_host(state_dir: &Path) -> Result<Self, FileError> {
        let path = state_dir.join(FILE);
        if let Some(content) = shoal_durable::read::<KeyFile>(&path)? {
            return Ok(content.private_key);
        }
        let content = Content { private_key: Self(Key::generate_private().0) };
        // Others know the host by it: it is on disk before anybody hears of it.
        shoal_durable::write::<KeyFile>(&path, &content, 0o600, Lasting::PowerCut)?;
        Ok(content.private_key)
    }
}

enum KeyFile {}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Content {
    private_key: PrivateKey,
}

impl Format for KeyFile {
    type Content = Content;
    const NAME: &'static str = "tunnel-key";
    const VERSION: u32 = 1;
    const MAX_BYTES: u64 = 4096;
}

impl Serialize for PrivateKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for PrivateKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        // Without the text, which is a secret.
        bytes.map(Self).ok_or_else(|| D::Error::custom("expected the base64 of 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let key = PrivateKey::of_host(dir.path()).unwrap();
        assert_eq!(PrivateKey::of_host(dir.path()).unwrap(), key);
        let path = dir.path().join(FILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(PrivateKey::of_host(other.path()).unwrap(), key);
        assert_eq!(format!("{key:?}"), "PrivateKey(..)");
    }

    #[test]
    fn a_damaged_key_is_refused_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", r#"{"version": 1, "private_key": "c2VjcmV0"}"#] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let error = PrivateKey::of_host(dir.path()).unwrap_err();
            assert!(matches!(error, FileError::Damaged { .. }), "{text}: {error}");
            assert!(!format!("{error:?}").contains("c2VjcmV0"));
            assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
        }
    }

    #[test]
    fn the_public_key_is_that_of_wireguards_tools() {
        let bytes = STANDARD.decode("SGb+ojrRNDuMePufwtIYhXzA//k6wF3R21tEBgKlzlM=").unwrap();
        let key = PrivateKey(bytes.try_into().unwrap());
        assert_eq!(key.public().to_string(), "DD5yKRfzExcV5+kDnTroDgCU15latdMjiQ59j1hEuk8=");
    }

    #[test]
    fn files_of_every_version_are_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden");
        let content = Content { private_key: PrivateKey([7; 32]) };
        shoal_durable::testing::check_golden::<KeyFile>(&golden, &content);
    }
}
