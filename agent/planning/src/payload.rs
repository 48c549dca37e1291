//! Secrets and configs on a node: what it was told of them, which is in memory alone, and what a container is
//! given of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use shoal_types::assignment::{AssignedTask, AssignmentChange, NodeAssignment};
use shoal_types::id::{ConfigId, SecretId};
use shoal_types::object::{Config, Payload, Secret};
use shoal_types::spec::{ContainerSpec, FileTarget, PayloadReference, PayloadTarget};

use crate::lower::{LowerError, invalid, unsupported};

/// What a node was told of secrets and configs. Nothing writes it down.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeldPayloads {
    secrets: BTreeMap<SecretId, Arc<Secret>>,
    configs: BTreeMap<ConfigId, Arc<Config>>,
}

/// Secrets, or configs, of a node.
trait Told: Payload {
    /// What one is called.
    const WORD: &str;
    /// The directory of files that have no absolute place.
    const BELOW: &str;

    fn all(held: &HeldPayloads) -> &BTreeMap<Self::Id, Arc<Self>>;
}

impl Told for Secret {
    const WORD: &str = "secret";
    const BELOW: &str = FileTarget::SECRETS;

    fn all(held: &HeldPayloads) -> &BTreeMap<SecretId, Arc<Self>> {
        &held.secrets
    }
}

impl Told for Config {
    const WORD: &str = "config";
    const BELOW: &str = FileTarget::CONFIGS;

    fn all(held: &HeldPayloads) -> &BTreeMap<ConfigId, Arc<Self>> {
        &held.configs
    }
}

impl HeldPayloads {
    /// Those of all that a node is to hold.
    #[must_use]
    pub fn of(assignment: &NodeAssignment) -> Self {
        let NodeAssignment { secrets, configs, .. } = assignment;
        Self { secrets: secrets.clone(), configs: configs.clone() }
    }

    /// Carries out a change, if it is about one of them. Whether there is one more then.
    pub fn apply(&mut self, change: &AssignmentChange) -> bool {
        match change {
            AssignmentChange::UpdateSecret(secret) => {
                self.secrets.insert(secret.id, Arc::clone(secret)).is_none()
            }
            AssignmentChange::UpdateConfig(config) => {
                self.configs.insert(config.id, Arc::clone(config)).is_none()
            }
            AssignmentChange::RemoveSecret(id) => {
                self.secrets.remove(id);
                false
            }
            AssignmentChange::RemoveConfig(id) => {
                self.configs.remove(id);
                false
            }
            _ => false,
        }
    }

    /// Those that a task is given.
    #[must_use]
    pub fn for_task(&self, task: &AssignedTask) -> Self {
        fn some<T: Told>(held: &HeldPayloads, task: &AssignedTask) -> BTreeMap<T::Id, Arc<T>> {
            let ids = T::among(&task.payloads).iter();
            ids.filter_map(|id| Some((*id, Arc::clone(T::all(held).get(id)?)))).collect()
        }
        Self { secrets: some(self, task), configs: some(self, task) }
    }

    /// What a task waits for, if this node has not got all that it is given: it does not keep that over a
    /// restart.
    #[must_use]
    pub fn lacking(&self, task: &AssignedTask) -> Option<String> {
        let container = task.spec.container()?;
        self.missing::<Secret>(task, container).or_else(|| self.missing::<Config>(task, container))
    }

    fn missing<T: Told>(&self, task: &AssignedTask, container: &ContainerSpec) -> Option<String> {
        let mut all = T::references(container).iter().zip(T::among(&task.payloads));
        let (reference, _) = all.find(|(_, id)| !T::all(self).contains_key(id))?;
        let (word, name) = (T::WORD, &reference.name);
        Some(format!(
            "waits for a manager to send {word} {name:?}, which this node does not keep when it restarts"
        ))
    }
}

/// What a container is given.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Files.
    pub files: Vec<GivenFile>,
    /// Variables, `NAME=value`.
    pub env: Vec<String>,
}

/// Never shows what is in them.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").field("files", &self.files).finish_non_exhaustive()
    }
}

/// A file that a container is given.
#[derive(Clone, PartialEq, Eq)]
pub struct GivenFile {
    /// Absolute place in the container.
    pub target: PathBuf,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub data: Vec<u8>,
}

/// Never shows what is in it.
impl fmt::Debug for GivenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = format_args!("<{} bytes>", self.data.len());
        f.debug_struct("GivenFile")
            .field("target", &self.target)
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("mode", &self.mode)
            .field("data", &bytes)
            .finish()
    }
}

/// What the container of a task is given.
///
/// # Errors
/// The node has not got it, or it makes no sense; naming the field.
pub fn given(task: &AssignedTask, held: &HeldPayloads) -> Result<Given, LowerError> {
    let mut given = Given::default();
    let Some(container) = task.spec.container() else { return Ok(given) };
    give::<Secret>(task, container, held, &mut given)?;
    give::<Config>(task, container, held, &mut given)?;
    Ok(given)
}

fn give<T: Told>(
    task: &AssignedTask,
    container: &ContainerSpec,
    held: &HeldPayloads,
    given: &mut Given,
) -> Result<(), LowerError> {
    for (i, reference) in T::references(container).iter().enumerate() {
        let field = format!("{}s[{i}]", T::WORD);
        let id = T::among(&task.payloads).get(i);
        let one = id.and_then(|id| T::all(held).get(id));
        let one =
            one.ok_or_else(|| invalid(&field, &reference.name, "is not known to this node"))?;
        let data = one.data();
        match &reference.target {
            PayloadTarget::File(file) => {
                given.files.push(planned::<T>(&field, file, data.to_vec())?);
            }
            PayloadTarget::Env(name) => given.env.push(variable(&field, reference, name, data)?),
            PayloadTarget::Runtime => return Err(unsupported(field, "handing it to the runtime")),
        }
    }
    Ok(())
}

fn planned<T: Told>(
    field: &str,
    file: &FileTarget,
    data: Vec<u8>,
) -> Result<GivenFile, LowerError> {
    let number = |part: &str, text: &str| match text {
        "" => Ok(0),
        text => text.parse().map_err(|_| invalid(format!("{field}.{part}"), text, "is no number")),
    };
    let place = file.place(T::BELOW);
    let plain = place.starts_with('/') && !place.split('/').any(|part| part == "..");
    let target: PathBuf = PathBuf::from(&place).components().collect();
    if !plain || target.parent().is_none() {
        return Err(invalid(field, &place, "is not a path below the root without '..'"));
    }
    let (uid, gid) = (number("uid", &file.uid)?, number("gid", &file.gid)?);
    Ok(GivenFile { target, uid, gid, mode: file.mode & 0o777, data })
}

fn variable(
    field: &str,
    reference: &PayloadReference,
    name: &str,
    data: &[u8],
) -> Result<String, LowerError> {
    let why = "cannot be a variable: what is in it is no text, or has a NUL byte";
    let text = std::str::from_utf8(data).ok().filter(|text| !text.contains('\0'));
    let text = text.ok_or_else(|| invalid(field, &reference.name, why))?;
    Ok(format!("{name}={text}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use shoal_types::object::{Meta, Payloads};
    use shoal_types::spec::{ConfigSpec, SecretSpec};
    use shoal_types::time::Timestamp;

    use super::*;
    use crate::testing;

    fn secret(id: u128, name: &str, data: &[u8]) -> Arc<Secret> {
        let spec = SecretSpec { name: name.to_owned(), data: data.to_vec(), ..Default::default() };
        Arc::new(Secret::new(id.into(), Meta::created(1, Timestamp::ZERO), 1, None, spec))
    }

    fn config(id: u128, name: &str, data: &[u8]) -> Arc<Config> {
        let spec = ConfigSpec { name: name.to_owned(), data: data.to_vec(), ..Default::default() };
        Arc::new(Config::new(id.into(), Meta::created(1, Timestamp::ZERO), 1, None, spec))
    }

    fn task() -> AssignedTask {
        let env = |name: &str| PayloadTarget::Env(name.to_owned());
        let container = ContainerSpec {
            secrets: vec![
                PayloadReference::to("db"),
                PayloadReference { target: env("PASSWORD"), ..PayloadReference::to("db") },
            ],
            configs: vec![PayloadReference {
                target: PayloadTarget::File(FileTarget {
                    name: "/etc/app.conf".to_owned(),
                    uid: "7".to_owned(),
                    mode: 0o400,
                    ..FileTarget::default()
                }),
                ..PayloadReference::to("app")
            }],
            ..ContainerSpec::default()
        };
        let payloads = Payloads { secrets: vec![1.into(), 1.into()], configs: vec![2.into()] };
        AssignedTask { payloads: Arc::new(payloads), ..testing::task(container) }
    }

    #[test]
    fn a_container_is_given_what_its_task_names() {
        let mut held = HeldPayloads::default();
        assert!(held.lacking(&task()).unwrap().contains("send secret \"db\""));
        assert!(held.apply(&AssignmentChange::UpdateSecret(secret(1, "db", b"hunter2"))));
        assert!(held.lacking(&task()).unwrap().contains("send config \"app\""));
        assert!(given(&task(), &held).is_err());
        assert!(held.apply(&AssignmentChange::UpdateConfig(config(2, "app", b"a=b"))));
        held.apply(&AssignmentChange::UpdateSecret(secret(3, "other", b"not its own")));
        assert_eq!(held.lacking(&task()), None);
        let own = held.for_task(&task());
        let made = given(&task(), &own).unwrap();
        assert_eq!(made.env, ["PASSWORD=hunter2"]);
        let [db, app] = made.files.as_slice() else { panic!("{made:?}") };
        assert_eq!(db.target, Path::new("/run/secrets/db"));
        assert_eq!((db.uid, db.gid, db.mode, &*db.data), (0, 0, 0o444, &b"hunter2"[..]));
        assert_eq!(app.target, Path::new("/etc/app.conf"));
        assert_eq!((app.uid, app.gid, app.mode, &*app.data), (7, 0, 0o400, &b"a=b"[..]));
        assert!(!format!("{made:?} {own:?}").contains("hunter2"));
        assert_eq!(own.secrets.len(), 1, "only its own");
        held.apply(&AssignmentChange::RemoveSecret(1.into()));
        assert!(held.lacking(&task()).is_some());
    }

    #[test]
    fn bytes_that_are_no_text_are_no_variable() {
        let mut held = HeldPayloads::default();
        held.apply(&AssignmentChange::UpdateConfig(config(2, "app", b"")));
        for data in [&b"\xff"[..], b"a\0b"] {
            held.apply(&AssignmentChange::UpdateSecret(secret(1, "db", data)));
            let said = given(&task(), &held).unwrap_err().to_string();
            assert!(said.contains("secrets[1]: \"db\" cannot be a variable"), "{said}");
        }
    }
}
