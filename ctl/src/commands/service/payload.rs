//! `--secret` and `--config`, as Docker has them: `NAME`, or `source=…,target=…,uid=…,gid=…,mode=…`.

use std::str::FromStr;

use shoal_types::spec::{FileTarget, OnChange, PayloadReference, PayloadTarget};

use super::pairs::{fields, needed};
use super::update::remove;
use crate::commands::Result;
use crate::stack::scalar;

/// One secret or config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PayloadFlag(pub(crate) PayloadReference);

impl FromStr for PayloadFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains('=') {
            return Ok(Self(named(text)?));
        }
        let (mut source, mut file, mut env) = (None, FileTarget::default(), None);
        let mut on_change = OnChange::default();
        for (key, value) in fields(text) {
            let value = needed(key, value)?;
            match key {
                "source" | "src" => source = Some(named(value)?),
                "target" => value.clone_into(&mut file.name),
                "uid" => value.clone_into(&mut file.uid),
                "gid" => value.clone_into(&mut file.gid),
                "mode" => file.mode = scalar::file_mode(value)?,
                "env" => env = Some(value.to_owned()),
                "on-change" => on_change = self::on_change(value)?,
                _ => {
                    return Err(format!(
                        "{key} is unknown: expected source, target, uid, gid, mode, env, on-change"
                    ));
                }
            }
        }
        let mut reference = source.ok_or("source is missing: its name")?;
        reference.on_change = on_change;
        if file.name.is_empty() {
            file.name.clone_from(&reference.name);
        }
        reference.target = match env {
            None => PayloadTarget::File(file),
            Some(_) if file.name != reference.name => {
                return Err("target and env: expected one of them".to_owned());
            }
            Some(name) => PayloadTarget::Env(name),
        };
        Ok(Self(reference))
    }
}

/// `NAME` or `NAME@VERSION`.
fn named(text: &str) -> Result<PayloadReference, String> {
    let Some((name, version)) = text.rsplit_once('@') else {
        return Ok(PayloadReference::to(text));
    };
    let version = version.parse().map_err(|_| format!("{text}: expected NAME@VERSION"))?;
    Ok(PayloadReference { version: Some(version), ..PayloadReference::to(name) })
}

/// What becomes of tasks when there is a later version.
fn on_change(text: &str) -> Result<OnChange, String> {
    match text {
        "restart" => Ok(OnChange::Restart),
        "nothing" => Ok(OnChange::Nothing),
        other => Err(format!("{other:?}: expected restart or nothing")),
    }
}

/// Changes a list as the flags of `service update` say.
///
/// # Errors
/// What is to be removed is not there.
pub(super) fn change(
    what: &str,
    list: &mut Vec<PayloadReference>,
    add: Vec<PayloadFlag>,
    gone: &[String],
) -> Result {
    for name in gone {
        remove(what, name, list, |one| one.name == *name)?;
    }
    for PayloadFlag(new) in add {
        list.retain(|one| one.target_name() != new.target_name());
        list.push(new);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<PayloadReference, String> {
        text.parse().map(|PayloadFlag(one)| one)
    }

    #[test]
    fn as_docker_has_them_and_more() {
        assert_eq!(parsed("db"), Ok(PayloadReference::to("db")));
        assert_eq!(parsed("db@3").unwrap().version, Some(3));
        let one = parsed("source=db@2,target=/etc/db,uid=7,gid=8,mode=0400").unwrap();
        let file = FileTarget {
            name: "/etc/db".to_owned(),
            uid: "7".to_owned(),
            gid: "8".to_owned(),
            mode: 0o400,
        };
        assert_eq!((one.target, one.version), (PayloadTarget::File(file), Some(2)));
        let one = parsed("src=db,env=PASSWORD,on-change=nothing").unwrap();
        assert_eq!(one.target, PayloadTarget::Env("PASSWORD".to_owned()));
        assert_eq!(one.on_change, OnChange::Nothing);
        for (text, expected) in [
            ("target=x", "source is missing"),
            ("source=db,colour=red", "colour is unknown"),
            ("source=db,target=x,env=Y", "expected one of them"),
            ("db@latest", "expected NAME@VERSION"),
            ("source=db,mode=rw", "rw"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
