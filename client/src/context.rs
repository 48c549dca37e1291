//! Contexts: which cluster is meant, where it answers, and who is asking.
//!
//! `contexts.yaml` lies in `$SHOAL_CONFIG`, else `$XDG_CONFIG_HOME/shoal`, else
//! `~/.config/shoal`. Keys and certificates lie beside it, below `credentials/NAME`, readable by
//! their owner alone.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_durable::{Fields, FileError, Format, write_file};
use shoal_transport::{Credentials, CredentialsError, InvalidAddress, ManagerAddress};

const FILE: &str = "contexts.yaml";

/// Managers of a context that are kept.
const MANAGERS_MAX: usize = 16;

/// All contexts of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The one that is meant when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

impl Format for Contexts {
    type Content = Self;
    const NAME: &'static str = "contexts";
    const VERSION: u32 = 2;

    /// Version 0 had no version and the fields of version 1, which had no managers that were learned.
    fn upgrade(from: u32, fields: Fields) -> Option<Fields> {
        (from <= 1).then_some(fields)
    }
}

/// One cluster as one user sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Id of the cluster.
    pub cluster: String,
    /// `host:port` of managers, as people have given them.
    pub endpoints: Vec<String>,
    /// `host:port` of managers, as the cluster has told them when it was asked last; the first one is that
    /// which has answered. They are tried before those above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub managers: Vec<String>,
}

/// Why contexts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// Neither `SHOAL_CONFIG` nor `XDG_CONFIG_HOME` nor `HOME`.
    #[error("there is no home directory to keep contexts in: HOME is not set")]
    NoHome,
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file or directory cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is not what was written, or a newer version wrote it.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is no YAML.
    #[error("cannot understand {path}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_yaml::Error,
    },
    /// There is no such context.
    #[error("there is no context {name:?}: known are {known}")]
    Unknown {
        /// The one that was asked for.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// A name that is not safe as a file name.
    #[error("{0:?} is not a context name: expected {rule}", rule = shoal_types::name::NAME_RULE)]
    Name(String),
    /// The credentials are gone or damaged.
    #[error("cannot use the credentials of context {name:?}")]
    Credentials {
        /// Of which context.
        name: String,
        /// What is wrong with them.
        #[source]
        source: CredentialsError,
    },
    /// A name that means another cluster already.
    #[error("context {name:?} is of cluster {theirs}, not of {ours}")]
    Taken {
        /// The name.
        name: String,
        /// The cluster that it means.
        theirs: String,
        /// The cluster that it was to mean.
        ours: String,
    },
    /// A name that has a context of the same cluster already.
    #[error("there is a context {0:?} of this cluster already")]
    Exists(String),
    /// The selected context is not removed by the way.
    #[error("context {0:?} is selected")]
    Selected(String),
    /// The credentials are not there.
    #[error("context {name:?} has no credentials below {path}")]
    NoCredentials {
        /// Of which context.
        name: String,
        /// Where they should be.
        path: PathBuf,
    },
}

/// Where contexts are kept.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// At the place that the environment names.
    ///
    /// # Errors
    /// [`ContextError::NoHome`].
    pub fn from_env() -> Result<Self, ContextError> {
        let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let dir = set("SHOAL_CONFIG")
            .or_else(|| set("XDG_CONFIG_HOME").map(|d| d.join("shoal")))
            .or_else(|| set("HOME").map(|d| d.join(".config/shoal")))
            .ok_or(ContextError::NoHome)?;
        Ok(Self::at(dir))
    }

    /// At a directory, which need not exist yet.
    #[must_use]
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The file with all contexts.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Where the credentials of a context are.
    #[must_use]
    pub fn credentials_dir(&self, name: &str) -> PathBuf {
        self.dir.join("credentials").join(name)
    }

    /// Reads all contexts; none if there is no file yet.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn load(&self) -> Result<Contexts, ContextError> {
        let path = self.file();
        match fs::read_to_string(&path) {
            Ok(text) => {
                let parsed = serde_yaml::from_str(&text);
                let file =
                    parsed.map_err(|source| ContextError::Parse { path: path.clone(), source })?;
                Ok(shoal_durable::decode::<Contexts>(&path, file)?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Contexts::default()),
            Err(source) => Err(ContextError::Read { path, source }),
        }
    }

    /// Writes all contexts, as a whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, contexts: &Contexts) -> Result<(), ContextError> {
        self.make_dir(&self.dir)?;
        let path = self.file();
        let text = serde_yaml::to_string(&shoal_durable::envelope::<Contexts>(contexts))
            .map_err(|source| ContextError::Parse { path: path.clone(), source })?;
        write_file(&path, text.as_bytes(), 0o600)
            .map_err(|source| ContextError::Write { path, source })
    }

    /// The credentials of a context.
    ///
    /// # Errors
    /// When they are missing or damaged, or others may read them.
    pub fn credentials(&self, name: &str) -> Result<Credentials, ContextError> {
        let path = self.credentials_dir(name);
        match Credentials::load(&path) {
            Ok(Some(credentials)) => Ok(credentials),
            Ok(None) => Err(ContextError::NoCredentials { name: name.to_owned(), path }),
            Err(source) => Err(ContextError::Credentials { name: name.to_owned(), source }),
        }
    }

    /// Adds a context with its credentials and selects it. A context of that name for the same
    /// cluster is replaced; one for another cluster is not touched: the new one then carries a
    /// piece of its cluster's id in its name. Returns the name.
    ///
    /// # Errors
    /// When something cannot be written; the file of contexts is written last.
    pub fn add(
        &self,
        name: &str,
        context: Context,
        credentials: &Credentials,
    ) -> Result<String, ContextError> {
        self.add_beside(name, context, credentials, true)
    }

    fn add_beside(
        &self,
        name: &str,
        context: Context,
        credentials: &Credentials,
        select: bool,
    ) -> Result<String, ContextError> {
        let _alone = self.lock()?;
        let all = self.load()?;
        let mut name = name.to_owned();
        if all.contexts.get(&name).is_some_and(|old| old.cluster != context.cluster) {
            let piece: String = context.cluster.chars().take(8).collect();
            name = format!("{name}-{piece}");
        }
        self.put(all, &name, context, credentials, select)?;
        Ok(name)
    }

    /// As [`Store::add`], but selects it only where no other one is selected. Returns the name.
    ///
    /// # Errors
    /// As [`Store::add`].
    pub fn import(
        &self,
        name: &str,
        context: Context,
        credentials: &Credentials,
    ) -> Result<String, ContextError> {
        let _alone = self.lock()?;
        let all = self.load()?;
        if let Some(old) = all.contexts.get(name) {
            let (name, theirs) = (name.to_owned(), old.cluster.clone());
            return Err(match old.cluster == context.cluster {
                true => ContextError::Exists(name),
                false => ContextError::Taken { name, theirs, ours: context.cluster },
            });
        }
        self.put(all, name, context, credentials, false)?;
        Ok(name.to_owned())
    }

    /// Removes a context with its key. The selected one only with `force`; then none is selected.
    ///
    /// # Errors
    /// [`ContextError::Unknown`], [`ContextError::Selected`], and when something cannot be written.
    pub fn remove(&self, name: &str, force: bool) -> Result<(), ContextError> {
        let _alone = self.lock()?;
        let mut all = self.load()?;
        all.select(Some(name))?;
        if all.current.as_deref() == Some(name) {
            if !force {
                return Err(ContextError::Selected(name.to_owned()));
            }
            all.current = None;
        }
        all.contexts.remove(name);
        self.save(&all)?;
        let dir = self.credentials_dir(name);
        match fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(ContextError::Write { path: dir, source })
            }
            _ => Ok(()),
        }
    }

    /// Gives new credentials to the context of a cluster, and selects it only where none is
    /// selected. The context is the one that is named, else the one that this cluster has here, else a new one with the cluster's name.
    /// Other endpoints that it has are kept, after the given ones. Returns the name.
    ///
    /// # Errors
    /// [`ContextError::Taken`], and as [`Store::add`].
    pub fn recover(
        &self,
        named: Option<&str>,
        cluster_name: &str,
        mut context: Context,
        credentials: &Credentials,
    ) -> Result<String, ContextError> {
        let lock = self.lock()?;
        let all = self.load()?;
        let name = match named.or_else(|| all.of_cluster(&context.cluster)) {
            Some(name) => name.to_owned(),
            None => {
                drop(lock);
                return self.add_beside(cluster_name, context, credentials, false);
            }
        };
        if let Some(old) = all.contexts.get(&name) {
            if old.cluster != context.cluster {
                let (theirs, ours) = (old.cluster.clone(), context.cluster);
                return Err(ContextError::Taken { name, theirs, ours });
            }
            let others = old.endpoints.iter().filter(|e| !context.endpoints.contains(e));
            let others: Vec<String> = others.cloned().collect();
            context.endpoints.extend(others);
            context.managers.clone_from(&old.managers);
        }
        self.put(all, &name, context, credentials, false)?;
        Ok(name)
    }

    fn put(
        &self,
        mut all: Contexts,
        name: &str,
        context: Context,
        credentials: &Credentials,
        select: bool,
    ) -> Result<(), ContextError> {
        if !shoal_types::name::is_valid(name) {
            return Err(ContextError::Name(name.to_owned()));
        }
        let dir = self.credentials_dir(name);
        self.make_dir(&dir)?;
        self.save_credentials(name, credentials)?;
        all.contexts.insert(name.to_owned(), context);
        if select || all.current.is_none() {
            all.current = Some(name.to_owned());
        }
        self.save(&all)
    }

    /// Replaces the credentials of a context. The caller holds the lock.
    pub(crate) fn save_credentials(
        &self,
        name: &str,
        credentials: &Credentials,
    ) -> Result<(), ContextError> {
        credentials
            .save(&self.credentials_dir(name))
            .map_err(|source| ContextError::Credentials { name: name.to_owned(), source })
    }

    /// Keeps where the managers of a context are, if that is not known yet and nobody else writes here now.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub(crate) fn learn(&self, name: &str, managers: Vec<String>) -> Result<(), ContextError> {
        let Some(_alone) = self.try_lock()? else { return Ok(()) };
        let mut all = self.load()?;
        let Some(context) = all.contexts.get_mut(name) else { return Ok(()) };
        if context.managers == managers {
            return Ok(());
        }
        context.managers = managers;
        self.save(&all)
    }

    /// Selects a context.
    ///
    /// # Errors
    /// [`ContextError::Unknown`], and when the file cannot be read or written.
    pub fn select(&self, name: &str) -> Result<(), ContextError> {
        let _alone = self.lock()?;
        let mut all = self.load()?;
        all.select(Some(name))?;
        all.current = Some(name.to_owned());
        self.save(&all)
    }

    /// Keeps other processes from writing here until it is dropped; reading needs no lock, since
    /// every file is replaced as a whole.
    fn lock(&self) -> Result<File, ContextError> {
        self.make_dir(&self.dir)?;
        let locked = File::open(&self.dir).and_then(|dir| dir.lock().map(|()| dir));
        locked.map_err(|source| ContextError::Write { path: self.dir.clone(), source })
    }

    /// As [`Store::lock`]; `None` if somebody else writes here now.
    pub(crate) fn try_lock(&self) -> Result<Option<File>, ContextError> {
        let failed = |source| ContextError::Write { path: self.dir.clone(), source };
        let dir = File::open(&self.dir).map_err(failed)?;
        match dir.try_lock() {
            Ok(()) => Ok(Some(dir)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Makes a directory, and those above it, for the owner alone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn make_dir(&self, dir: &Path) -> Result<(), ContextError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| ContextError::Write { path: dir.to_owned(), source })
    }
}

impl Contexts {
    /// The context that a cluster has here: the current one if that is of it, else the first.
    fn of_cluster(&self, cluster: &str) -> Option<&str> {
        let of_it = |name: &&String| self.contexts.get(*name).is_some_and(|c| c.cluster == cluster);
        let current = self.current.as_ref().filter(of_it);
        current.or_else(|| self.contexts.keys().find(of_it)).map(String::as_str)
    }

    /// The context that is meant: the one that is named, else the current one. `None` if there is
    /// neither.
    ///
    /// # Errors
    /// [`ContextError::Unknown`].
    pub fn select(&self, named: Option<&str>) -> Result<Option<(&str, &Context)>, ContextError> {
        let Some(name) = named.or(self.current.as_deref()) else { return Ok(None) };
        match self.contexts.get_key_value(name) {
            Some((name, context)) => Ok(Some((name, context))),
            None => {
                let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(ContextError::Unknown { name: name.to_owned(), known })
            }
        }
    }
}

impl Context {
    /// All addresses of its managers, in the order in which they are tried.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        let mut all = self.managers.clone();
        all.extend(self.endpoints.iter().filter(|text| !self.managers.contains(text)).cloned());
        all
    }

    /// The same, read.
    ///
    /// # Errors
    /// The first one that is none.
    pub fn addresses(&self) -> Result<Vec<ManagerAddress>, InvalidAddress> {
        self.all().iter().map(|text| text.parse()).collect()
    }

    /// What is kept of the managers that a cluster has told, of which `answered` is the way to one: that comes
    /// first, as it leads there. Nothing that is no address; so many at most that a list stays short.
    #[must_use]
    pub(crate) fn learned(answered: &ManagerAddress, told: &[String]) -> Vec<String> {
        if told.is_empty() {
            return Vec::new();
        }
        let mut managers = vec![answered.to_string()];
        for address in told.iter().filter_map(|text| text.parse::<ManagerAddress>().ok()) {
            let text = address.to_string();
            if !managers.contains(&text) && managers.len() < MANAGERS_MAX {
                managers.push(text);
            }
        }
        managers
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use shoal_types::error_chain::chain;

    use super::*;

    fn context(cluster: &str) -> Context {
        let endpoints = vec!["10.0.0.1:4242".to_owned()];
        Context { cluster: cluster.to_owned(), endpoints, managers: Vec::new() }
    }

    #[test]
    fn files_of_every_version_are_read_and_a_newer_one_says_so() {
        let mut all = Contexts { current: Some("work".to_owned()), ..Contexts::default() };
        all.contexts.insert("work".to_owned(), context("0000000000000000000000001"));
        let written = serde_yaml::to_string(&shoal_durable::envelope::<Contexts>(&all)).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden");
        let parse = |text: &str| serde_yaml::from_str(text).unwrap();
        shoal_durable::testing::check_golden_text::<Contexts>(
            &golden, "yaml", &all, &written, parse,
        );

        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().to_owned());
        fs::write(store.file(), "version: 7\nclusters: {}\n").unwrap();
        let text = chain(&store.load().unwrap_err()).to_string();
        for part in ["contexts.yaml", "version 7", "versions up to 2", "move the file aside"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("deep/shoal"));
        assert_eq!(store.load().unwrap(), Contexts::default());
        let all = Contexts {
            current: Some("a".to_owned()),
            contexts: [("a".to_owned(), context("x")), ("b".to_owned(), context("y"))].into(),
        };
        store.save(&all).unwrap();
        assert_eq!(store.load().unwrap(), all);
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.file()), 0o600);
        assert_eq!(mode(&dir.path().join("deep/shoal")), 0o700);
    }

    #[test]
    fn a_damaged_file_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().to_owned());
        fs::write(store.file(), "contexts:\n  a:\n    clutser: x\n").unwrap();
        let report = chain(&store.load().unwrap_err()).to_string();
        assert!(report.contains("contexts.yaml") && report.contains("clutser"), "{report}");
    }

    #[test]
    fn credentials_that_cannot_be_used_say_all_of_why() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().to_owned());
        let place = store.credentials_dir("a");
        fs::create_dir_all(place.join("identity.pem")).unwrap();
        fs::set_permissions(place.join("identity.pem"), fs::Permissions::from_mode(0o700)).unwrap();
        let report = chain(&store.credentials("a").unwrap_err()).to_string();
        assert!(report.contains("identity.pem: ") && report.contains("directory"), "{report}");
    }

    #[test]
    fn managers_that_the_cluster_tells_come_before_those_that_people_gave() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().to_owned());
        let contexts = [("a".to_owned(), context("x"))].into();
        store.save(&Contexts { current: None, contexts }).unwrap();
        let answered = "lb.example.org:4242".parse().unwrap();
        let told = ["10.0.0.2:4242", "http://no", "10.0.0.3", "10.0.0.2:4242"].map(str::to_owned);
        let managers = Context::learned(&answered, &told);
        let expected = ["lb.example.org:4242", "10.0.0.2:4242", "10.0.0.3:4242"];
        assert_eq!(managers, expected);
        store.learn("a", managers).unwrap();
        store.learn("gone", vec![]).unwrap();
        let known = store.load().unwrap();
        let text = fs::read_to_string(store.file()).unwrap();
        assert!(text.contains("    managers:\n    - lb.example.org:4242\n"), "{text}");
        let all = known.contexts["a"].all();
        assert_eq!(all, [&expected[..], &["10.0.0.1:4242"]].concat());
        assert!(Context::learned(&answered, &[]).is_empty(), "an older manager tells nothing");
        let many: Vec<String> = (0..99).map(|n| format!("10.0.1.{n}:1")).collect();
        assert_eq!(Context::learned(&answered, &many).len(), MANAGERS_MAX);
    }

    #[test]
    fn selection() {
        let all = Contexts {
            current: Some("a".to_owned()),
            contexts: [("a".to_owned(), context("x")), ("b".to_owned(), context("y"))].into(),
        };
        assert_eq!(all.select(None).unwrap().unwrap().0, "a");
        assert_eq!(all.select(Some("b")).unwrap().unwrap().0, "b");
        let error = all.select(Some("c")).unwrap_err().to_string();
        assert_eq!(error, "there is no context \"c\": known are a, b");
        assert!(Contexts::default().select(None).unwrap().is_none());
    }
}
