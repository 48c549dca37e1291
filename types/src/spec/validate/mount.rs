//! Rules for mounts.

use super::Check;
use crate::spec::{Mount, MountKind, refused_place};

pub(super) fn mounts(c: &mut Check, mounts: &[Mount]) {
    let mut targets = std::collections::BTreeSet::new();
    c.each("mounts", mounts, |c, mount| {
        one(c, mount);
        let fresh = targets.insert(mount.target.trim_end_matches('/').to_owned());
        c.at("target", |c| c.that(fresh, &mount.target, "is mounted twice"));
    });
}

fn one(c: &mut Check, mount: &Mount) {
    c.at("target", |c| {
        let inside = !mount.target.split('/').any(|part| part == "..");
        c.that(mount.target.starts_with('/'), &mount.target, "is not absolute: expected /PATH");
        c.that(inside, &mount.target, "contains '..'");
        c.that(!mount.target.trim_matches('/').is_empty(), &mount.target, "is the root directory");
        if let Some(why) = refused_place(mount.kind, &mount.source, &mount.target) {
            c.wrong(&mount.target, why);
        }
    });
    c.at("source", |c| match mount.kind {
        MountKind::Bind => {
            c.that(mount.source.starts_with('/'), &mount.source, "is not absolute: expected /PATH");
        }
        MountKind::Volume | MountKind::Cluster => {
            let ok = mount.source.is_empty() || is_volume_name(&mount.source);
            c.that(ok, &mount.source, VOLUME_RULE);
        }
        MountKind::Tmpfs => {
            c.that(mount.source.is_empty(), &mount.source, "is given, but tmpfs has no source");
        }
        MountKind::Image => c.that(!mount.source.is_empty(), "", "names no image"),
        MountKind::Npipe => {}
    });
    options(c, mount);
}

const VOLUME_RULE: &str = "is not a volume name: expected 1 to 255 letters, digits, '_', '.' and \
     '-', beginning with a letter or digit";

/// Docker's rule for volume names.
fn is_volume_name(name: &str) -> bool {
    name.len() <= 255
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn options(c: &mut Check, mount: &Mount) {
    let given = [
        ("bind_options", mount.bind_options.is_some(), MountKind::Bind),
        ("volume_options", mount.volume_options.is_some(), MountKind::Volume),
        ("image_options", mount.image_options.is_some(), MountKind::Image),
        ("tmpfs_options", mount.tmpfs_options.is_some(), MountKind::Tmpfs),
    ];
    for (field, given, kind) in given {
        if given && mount.kind != kind {
            c.at(field, |c| c.wrong("", format!("does not go with type {}", mount.kind.as_str())));
        }
    }
    if let Some(bind) = &mount.bind_options {
        const KNOWN: [&str; 7] =
            ["", "private", "rprivate", "shared", "rshared", "slave", "rslave"];
        c.at("bind_options.propagation", |c| {
            let ok = KNOWN.contains(&bind.propagation.as_str());
            c.that(ok, &bind.propagation, "is unknown: expected [r]private, [r]shared or [r]slave");
        });
    }
}
