//! Rules for secrets and configs, and for how containers are given them.

use std::collections::BTreeSet;

use super::{Check, service};
use crate::name;
use crate::object::{Config, Payload, Secret};
use crate::spec::{
    ConfigSpec, ContainerSpec, FileTarget, Labels, MountKind, PayloadReference, PayloadTarget,
    SecretSpec, refused_place,
};

/// How many of each a container is given at the most.
const REFERENCES_MAX: usize = 1000;

pub(super) fn secret(c: &mut Check, spec: &SecretSpec) {
    payload(c, &spec.name, &spec.labels, spec.data.len(), SecretSpec::BYTES_MAX);
}

pub(super) fn config(c: &mut Check, spec: &ConfigSpec) {
    payload(c, &spec.name, &spec.labels, spec.data.len(), ConfigSpec::BYTES_MAX);
}

fn payload(c: &mut Check, name: &str, labels: &Labels, bytes: usize, most: usize) {
    c.name(name);
    service::labels(c, labels);
    c.at("data", |c| {
        c.that(bytes > 0, "", "is empty");
        c.that(bytes <= most, bytes, &format!("bytes are too many: expected at most {most}"));
    });
}

/// What a container is given: each in a place of its own.
pub(super) fn references(c: &mut Check, spec: &ContainerSpec) {
    let mounted = spec.mounts.iter().map(|m| m.target.trim_end_matches('/').to_owned());
    let mut places: BTreeSet<String> = mounted.collect();
    let named = spec.env.iter().map(|entry| entry.split('=').next().unwrap_or_default().to_owned());
    let mut variables: BTreeSet<String> = named.collect();
    let kinds = [
        ("secrets", Secret::references(spec), FileTarget::SECRETS),
        ("configs", Config::references(spec), FileTarget::CONFIGS),
    ];
    for (field, list, below) in kinds {
        let (count, most) = (list.len(), REFERENCES_MAX);
        c.at(field, |c| {
            c.that(count <= most, count, &format!("are too many: expected {most} at most"));
        });
        c.each(field, list, |c, one| {
            reference(c, one, below);
            let (at, fresh) = match &one.target {
                PayloadTarget::File(file) => ("file.name", places.insert(file.place(below))),
                PayloadTarget::Env(name) => ("env", variables.insert(name.clone())),
                PayloadTarget::Runtime => return,
            };
            c.at(at, |c| c.that(fresh, one.target_name(), "is given twice"));
        });
    }
}

fn reference(c: &mut Check, reference: &PayloadReference, below: &str) {
    c.at("name", |c| {
        let rule = format!("is not a name: expected {}", name::NAME_RULE);
        c.that(name::is_valid(&reference.name), &reference.name, &rule);
    });
    c.at("version", |c| {
        c.that(reference.version != Some(0), 0, "is no version: they are counted from 1");
    });
    match &reference.target {
        PayloadTarget::File(target) => c.at("file", |c| file(c, target, below)),
        PayloadTarget::Env(name) => c.at("env", |c| {
            let fine = !name.is_empty() && !name.contains(['=', '\0']);
            c.that(fine, name, "is no name of a variable");
        }),
        PayloadTarget::Runtime => {}
    }
}

fn file(c: &mut Check, target: &FileTarget, below: &str) {
    c.at("name", |c| {
        let (name, place) = (&target.name, target.place(below));
        c.that(!name.trim_matches('/').is_empty(), name, "names no file");
        c.that(!name.ends_with('/'), name, "names a directory: expected a file");
        c.that(!name.split('/').any(|part| part == ".."), name, "contains '..'");
        c.that(!name.contains('\0'), name, "contains a NUL byte");
        if let Some(why) = refused_place(MountKind::Volume, "", &place) {
            c.wrong(name, why);
        }
    });
    for (field, value) in [("uid", &target.uid), ("gid", &target.gid)] {
        let number = value.is_empty() || value.parse::<u32>().is_ok_and(|id| id != u32::MAX);
        c.at(field, |c| c.that(number, value, "is not a number of a user or group"));
    }
    c.at("mode", |c| {
        let bits = target.mode;
        c.that(bits <= 0o777, format!("{bits:o}"), "is out of range: expected 0 to 0777");
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Driver, Mount};

    #[test]
    fn what_is_in_them_has_a_limit_and_is_not_repeated() {
        let secret = |bytes: usize| SecretSpec {
            name: "db".to_owned(),
            data: vec![b'x'; bytes],
            ..SecretSpec::default()
        };
        assert_eq!(secret(1).validate(), Ok(()));
        assert_eq!(secret(SecretSpec::BYTES_MAX).validate(), Ok(()));
        let said = secret(SecretSpec::BYTES_MAX + 1).validate().unwrap_err().to_string();
        assert_eq!(said, "data: \"512001\" bytes are too many: expected at most 512000");
        assert!(secret(0).validate().unwrap_err().to_string().contains("data: is empty"));
        let driver = Some(Driver::default());
        let said = SecretSpec { driver, ..secret(1) }.validate().unwrap_err().to_string();
        assert!(said.contains("driver: not supported"), "{said}");
        let config = ConfigSpec {
            name: "a b".to_owned(),
            data: vec![b'x'; ConfigSpec::BYTES_MAX + 1],
            ..ConfigSpec::default()
        };
        let said = config.validate().unwrap_err().to_string();
        assert!(said.contains("name: \"a b\" is not a name"), "{said}");
        assert!(said.contains("data: \"1024001\" bytes are too many: expected at most 1024000"));
        assert!(!said.contains("xx"));
    }

    #[test]
    fn each_has_a_place_of_its_own_below_the_root() {
        let file = |name: &str| FileTarget { name: name.to_owned(), ..FileTarget::default() };
        let to = |target| PayloadReference { target, ..PayloadReference::to("db") };
        let named = |name: &str| to(PayloadTarget::File(file(name)));
        let check = |secrets: Vec<PayloadReference>, configs: Vec<PayloadReference>| {
            let mounts = vec![Mount {
                target: "/etc/app/".to_owned(),
                ..Mount::new(MountKind::Tmpfs, "", "")
            }];
            let env = vec!["TAKEN=1".to_owned()];
            let spec = ContainerSpec { secrets, configs, mounts, env, ..ContainerSpec::default() };
            let mut c = Check::default();
            references(&mut c, &spec);
            c.finish().map_err(|e| e.to_string())
        };
        let fine = vec![
            named("db"),
            named("deep/er"),
            named("/abs"),
            to(PayloadTarget::Env("A".to_owned())),
        ];
        assert_eq!(check(fine, vec![named("db"), named("/etc/app/x")]), Ok(()));
        let refused = [
            (
                vec![named("db"), named("/run/secrets/db")],
                "secrets[1].file.name: \"/run/secrets/db\" is given twice",
            ),
            (vec![named("/etc/app")], "is given twice"),
            (vec![named("../x")], "contains '..'"),
            (vec![named("/proc/x")], "secrets[0].file.name"),
            (vec![named("")], "names no file"),
            (vec![named("a/")], "names a directory"),
            (
                vec![to(PayloadTarget::Env("TAKEN".to_owned()))],
                "secrets[0].env: \"TAKEN\" is given twice",
            ),
            (vec![to(PayloadTarget::Env("A=B".to_owned()))], "is no name of a variable"),
            (
                vec![to(PayloadTarget::File(FileTarget { uid: "root".to_owned(), ..file("a") }))],
                "secrets[0].file.uid: \"root\"",
            ),
            (
                vec![to(PayloadTarget::File(FileTarget { mode: 0o1777, ..file("a") }))],
                "mode: \"1777\"",
            ),
            (vec![PayloadReference { version: Some(0), ..named("a") }], "secrets[0].version"),
            (
                vec![PayloadReference { name: "a b".to_owned(), ..named("a") }],
                "secrets[0].name: \"a b\"",
            ),
        ];
        for (secrets, expected) in refused {
            let said = check(secrets, Vec::new()).unwrap_err();
            assert!(said.contains(expected), "{said} lacks {expected}");
        }
    }
}
