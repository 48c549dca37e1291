//! The private keys of a host's tunnel: made on it, and never leave it. Each epoch has one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shoal_agent_planning::tunnel::Side;
use shoal_durable::{FileError, Format, Lasting};
use shoal_types::object::TunnelKey;
use wireguard_control::Key;

const FILE: &str = "tunnel.key";
const STEM: &str = "tunnel";
const EXTENSION: &str = "key";

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

    /// That of an epoch, made now if there is none.
    pub(crate) fn of_epoch(state_dir: &Path, epoch: u64) -> Result<Self, FileError> {
        let path = path(state_dir, epoch);
        if let Some(content) = shoal_durable::read::<KeyFile>(&path)? {
            return Ok(content.private_key);
        }
        let content = Content { private_key: Self(Key::generate_private().0) };
        // Others know the host by it: it is on disk before anybody hears of it.
        shoal_durable::write::<KeyFile>(&path, &content, 0o600, Lasting::PowerCut)?;
        Ok(content.private_key)
    }
}

/// Where the key of an epoch is. That of the first one is where it is with agents that have no other.
fn path(state_dir: &Path, epoch: u64) -> PathBuf {
    match epoch {
        0 => state_dir.join(FILE),
        epoch => state_dir.join(format!("{STEM}.{epoch}.{EXTENSION}")),
    }
}

/// The epoch whose key is in a file of this name.
fn epoch_of(name: &str) -> Option<u64> {
    let middle = name.strip_prefix(STEM)?.strip_suffix(EXTENSION)?;
    match middle {
        "." => Some(0),
        // As it is written, and in no other way.
        middle => {
            let digits = middle.strip_prefix('.')?.strip_suffix('.')?;
            let epoch: u64 = digits.parse().ok()?;
            (epoch != 0 && epoch.to_string() == digits).then_some(epoch)
        }
    }
}

/// The epochs of which there are keys for this interface.
pub(crate) fn epochs(state_dir: &Path, side: Side) -> io::Result<BTreeSet<u64>> {
    let entries = match fs::read_dir(state_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let epoch = entry?.file_name().to_str().and_then(epoch_of);
        found.extend(epoch.filter(|epoch| Side::of(*epoch) == side));
    }
    Ok(found)
}

/// Forgets all keys for this interface but that of one epoch.
pub(crate) fn keep(state_dir: &Path, side: Side, epoch: Option<u64>) -> io::Result<()> {
    for other in epochs(state_dir, side)?.into_iter().filter(|other| Some(*other) != epoch) {
        match fs::remove_file(path(state_dir, other)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
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
        let key = PrivateKey::of_epoch(dir.path(), 0).unwrap();
        assert_eq!(PrivateKey::of_epoch(dir.path(), 0).unwrap(), key);
        let path = dir.path().join(FILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(PrivateKey::of_epoch(other.path(), 0).unwrap(), key);
        assert_eq!(format!("{key:?}"), "PrivateKey(..)");
    }

    #[test]
    fn each_epoch_has_a_key_of_its_own_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let at = |side| epochs(dir.path(), side).unwrap();
        assert_eq!(epochs(&dir.path().join("none"), Side::First).unwrap(), [].into());
        let keys = [0, 1, 2, 11].map(|epoch| PrivateKey::of_epoch(dir.path(), epoch).unwrap());
        for (n, key) in keys.iter().enumerate() {
            assert!(!keys[..n].contains(key));
        }
        for name in ["tunnel.pid", "tunnel..key", "tunnel.0.key", "tunnel.03.key", "tunnel.x.key"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!((at(Side::First), at(Side::Second)), ([0, 2].into(), [1, 11].into()));
        keep(dir.path(), Side::First, Some(2)).unwrap();
        keep(dir.path(), Side::Second, None).unwrap();
        assert_eq!((at(Side::First), at(Side::Second)), ([2].into(), [].into()));
        assert_eq!(PrivateKey::of_epoch(dir.path(), 2).unwrap(), keys[2]);
        assert_ne!(PrivateKey::of_epoch(dir.path(), 1).unwrap(), keys[1]);
    }

    #[test]
    fn a_damaged_key_is_refused_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", r#"{"version": 1, "private_key": "c2VjcmV0"}"#] {
            fs::write(dir.path().join(FILE), text).unwrap();
            let error = PrivateKey::of_epoch(dir.path(), 0).unwrap_err();
            assert!(matches!(error, FileError::Damaged { .. }), "{text}: {error}");
            assert!(!format!("{error:?}").contains("c2VjcmV0"));
            assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
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
