//! What this host keeps of its membership: who it is, where its managers are.
//!
//! ```text
//! <dir>/identity/identity.pem, root.pem   the credentials; their presence is the membership
//! <dir>/enrolment.pem                     the key of an enrolment that has not succeeded yet
//! <dir>/cluster.json                      where the managers are; what this host's manager was told
//! <dir>/init.json                         an `init` under way, or its answer
//! ```
//!
//! The credentials are written last and removed first, so that a crash leaves a host that is a
//! member with everything it needs, or one that is none and may begin again.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shoal_durable::{Fields, FileError, Format, Lasting, write_file};
use shoal_transport::{Credentials, CredentialsError, KeyError, PrivateKey, SecretPem};

/// No file of ours comes near this size, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Why the membership cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file operation failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file of ours cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The credentials cannot be used.
    #[error("cannot use this host's credentials")]
    Credentials(#[source] CredentialsError),
    /// The key cannot be made or used.
    #[error("cannot use this host's key")]
    Key(#[source] KeyError),
}

/// What is known of the cluster besides its certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// `host:port` of managers, in the order in which they are tried.
    pub managers: Vec<String>,
    /// Set where this host runs a manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<ManagerEndpoint>,
    /// Where one would listen and be reached, if somebody has said so: for the time when it becomes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<ManagerEndpoint>,
}

/// Where this host's manager listens and is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerEndpoint {
    /// `host:port` to bind.
    pub listen: String,
    /// `host:port` for others.
    pub advertise: String,
}

impl Format for ClusterFile {
    type Content = Self;
    const NAME: &'static str = "cluster";
    const VERSION: u32 = 1;

    /// Version 0 had no version and the same fields.
    fn upgrade(from: u32, fields: Fields) -> Option<Fields> {
        (from == 0).then_some(fields)
    }
}

/// How far an `init` has come.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state")]
pub enum InitFile {
    /// The manager may have made a cluster; nobody has been given a certificate of it.
    UnderWay,
    /// Its answer, for a repeat by the same user: hexadecimal protobuf. Holds join tokens.
    Done {
        /// SHA-256 of the user's signing request, hexadecimal.
        request: String,
        /// The encoded answer, hexadecimal.
        answer: String,
    },
}

impl Format for InitFile {
    type Content = Self;
    const NAME: &'static str = "init";
    const VERSION: u32 = 1;

    /// Version 0 was the bare name of the state `UnderWay`.
    fn unwrapped(content: Value) -> Option<Fields> {
        let name = content.as_str().filter(|name| *name == "UnderWay")?;
        Some([(name.to_owned(), Value::Object(Fields::new()))].into_iter().collect())
    }

    /// Version 0 had no version, and the name of the state around its fields.
    fn upgrade(from: u32, fields: Fields) -> Option<Fields> {
        let mut states = fields.into_iter().filter(|_| from == 0);
        let (state, Value::Object(mut fields)) = states.next()? else { return None };
        fields.insert("state".to_owned(), state.into());
        Some(fields)
    }
}

/// The answer holds join tokens.
impl fmt::Debug for InitFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnderWay => "UnderWay",
            Self::Done { .. } => "Done",
        })
    }
}

/// The files.
#[derive(Debug, Clone)]
pub struct IdentityStore {
    dir: PathBuf,
    /// Held by whoever changes a part of a file.
    changing: Arc<Mutex<()>>,
}

impl IdentityStore {
    /// Keeps everything in `dir`, which need not exist.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, changing: Arc::default() }
    }

    fn credentials_dir(&self) -> PathBuf {
        self.dir.join("identity")
    }

    /// The credentials; `None` if this host belongs to no cluster.
    ///
    /// # Errors
    /// [`IdentityError::Credentials`].
    pub fn credentials(&self) -> Result<Option<Credentials>, IdentityError> {
        Credentials::load(&self.credentials_dir()).map_err(IdentityError::Credentials)
    }

    /// Makes this host a member, durably, or replaces its credentials.
    ///
    /// # Errors
    /// [`CredentialsError::Write`].
    pub fn save_credentials(&self, credentials: &Credentials) -> Result<(), CredentialsError> {
        credentials.save(&self.credentials_dir())
    }

    /// The key for enrolling: the same one at every attempt, so that a repeat is the same node.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn enrolment_key(&self) -> Result<PrivateKey, IdentityError> {
        let path = self.dir.join("enrolment.pem");
        if let Some(pem) = read(&path)? {
            return PrivateKey::from_pem(&SecretPem::new(pem)).map_err(IdentityError::Key);
        }
        let key = PrivateKey::generate().map_err(IdentityError::Key)?;
        write(&path, key.to_pem().reveal().as_bytes())?;
        Ok(key)
    }

    /// Removes the key of [`IdentityStore::enrolment_key`], once there are credentials with it.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn forget_enrolment_key(&self) -> Result<(), IdentityError> {
        remove(&self.dir.join("enrolment.pem"))
    }

    /// What is known of the cluster; empty if nothing.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn cluster(&self) -> Result<ClusterFile, IdentityError> {
        Ok(shoal_durable::read::<ClusterFile>(&self.dir.join("cluster.json"))?.unwrap_or_default())
    }

    /// Keeps what is known of the cluster.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn save_cluster(&self, cluster: &ClusterFile) -> Result<(), IdentityError> {
        save::<ClusterFile>(&self.dir.join("cluster.json"), cluster)
    }

    /// Changes a part of what is known of the cluster. Clones of this keep out of each other's way.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn change_cluster(
        &self,
        change: impl FnOnce(&mut ClusterFile),
    ) -> Result<(), IdentityError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cluster = self.cluster()?;
        change(&mut cluster);
        self.save_cluster(&cluster)
    }

    /// How far an `init` has come; `None` if there was none.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn init(&self) -> Result<Option<InitFile>, IdentityError> {
        Ok(shoal_durable::read::<InitFile>(&self.dir.join("init.json"))?)
    }

    /// Keeps how far an `init` has come.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn save_init(&self, init: &InitFile) -> Result<(), IdentityError> {
        save::<InitFile>(&self.dir.join("init.json"), init)
    }

    /// Ends the membership. Goes on after an error and returns the first; may be repeated.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn forget(&self) -> Result<(), IdentityError> {
        let mut outcome = Ok(());
        let identity = self.credentials_dir();
        let others = ["enrolment.pem", "init.json", "cluster.json"].map(|name| self.dir.join(name));
        let first = [identity.join("identity.pem"), identity.join("root.pem")];
        for path in first.into_iter().chain(others) {
            let removed = remove(&path);
            outcome = outcome.and(removed);
        }
        outcome
    }
}

fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    let limited = || {
        if fs::metadata(path)?.len() > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "file is far too large"));
        }
        fs::read_to_string(path)
    };
    match limited() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::Io { action: "read", path: path.to_owned(), source }),
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::Io { action: "write", path: path.to_owned(), source };
    write_file(path, content, 0o600).map_err(failed)
}

fn save<F: Format>(path: &Path, content: &F::Content) -> Result<(), IdentityError> {
    Ok(shoal_durable::write::<F>(path, content, 0o600, Lasting::PowerCut)?)
}

fn remove(path: &Path) -> Result<(), IdentityError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(IdentityError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use shoal_durable::testing::check_golden;

    use super::*;

    #[test]
    fn an_enrolment_repeats_with_the_same_key_until_it_is_forgotten() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = IdentityStore::new(dir.path().join("agent"));
        assert!(store.credentials().expect("readable").is_none());
        let first = store.enrolment_key().expect("key").public_key();
        let again = store.enrolment_key().expect("key").public_key();
        assert_eq!(first, again);
        store.forget_enrolment_key().expect("removed");
        assert_ne!(first, store.enrolment_key().expect("key").public_key());
    }

    #[test]
    fn the_cluster_is_kept_and_forgotten() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = IdentityStore::new(dir.path().to_owned());
        let cluster = ClusterFile {
            managers: vec!["10.0.0.1:4242".to_owned()],
            manager: Some(ManagerEndpoint {
                listen: "0.0.0.0:4242".to_owned(),
                advertise: "10.0.0.1:4242".to_owned(),
            }),
            endpoint: None,
        };
        assert_eq!(store.cluster().expect("readable"), ClusterFile::default());
        store.save_cluster(&cluster).expect("written");
        store.save_init(&InitFile::UnderWay).expect("written");
        assert_eq!(store.cluster().expect("readable"), cluster);
        store.forget().expect("forgotten");
        store.forget().expect("forgotten twice");
        assert_eq!(store.cluster().expect("readable"), ClusterFile::default());
        assert!(store.init().expect("readable").is_none());
    }

    #[test]
    fn files_of_every_version_are_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden");
        let endpoint = ManagerEndpoint {
            listen: "0.0.0.0:4242".to_owned(),
            advertise: "10.0.0.1:4242".to_owned(),
        };
        let managers = vec!["10.0.0.1:4242".to_owned()];
        let cluster = ClusterFile { managers, manager: Some(endpoint), endpoint: None };
        check_golden::<ClusterFile>(&golden, &cluster);
        let done = InitFile::Done { request: "ab12".to_owned(), answer: "0a00".to_owned() };
        check_golden::<InitFile>(&golden, &done);
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("init.json"), "\"UnderWay\"").expect("write");
        let store = IdentityStore::new(dir.path().to_owned());
        assert_eq!(store.init().expect("version 0"), Some(InitFile::UnderWay));
        fs::write(dir.path().join("init.json"), "\"OnHoliday\"").expect("write");
        store.init().expect_err("nobody wrote that");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("cluster.json"), "{").expect("write");
        let error = IdentityStore::new(dir.path().to_owned()).cluster().expect_err("damaged");
        assert!(error.to_string().contains("cluster.json is damaged"), "{error}");
    }
}
