//! `--mount type=…,source=…,target=…`, as Docker has it.

use std::str::FromStr;

use shoal_types::spec::{BindOptions, Driver, Mount, MountKind, TmpfsOptions, VolumeMountOptions};

use super::pairs::{fields, flag, needed};
use crate::stack::scalar;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountFlag(pub(crate) Mount);

impl FromStr for MountFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut mount = Mount::new(MountKind::Volume, "", "");
        for (key, value) in fields(text) {
            field(&mut mount, key, value)?;
        }
        if mount.target.is_empty() {
            return Err("target is missing: the path in the container".to_owned());
        }
        Ok(Self(mount))
    }
}

fn field(mount: &mut Mount, key: &str, value: Option<&str>) -> Result<(), String> {
    match key {
        "type" => {
            mount.kind = match needed(key, value)? {
                "bind" => MountKind::Bind,
                "volume" => MountKind::Volume,
                "tmpfs" => MountKind::Tmpfs,
                other => return Err(format!("type={other}: expected bind, volume or tmpfs")),
            }
        }
        "source" | "src" => needed(key, value)?.clone_into(&mut mount.source),
        "target" | "dst" | "destination" => needed(key, value)?.clone_into(&mut mount.target),
        "readonly" | "ro" => mount.read_only = flag(key, value)?,
        "bind-propagation" => {
            needed(key, value)?.clone_into(&mut bind(mount).propagation);
        }
        "bind-nonrecursive" => bind(mount).non_recursive = flag(key, value)?,
        "bind-create-src" => bind(mount).create_mountpoint = flag(key, value)?,
        "volume-nocopy" => volume(mount).no_copy = flag(key, value)?,
        "volume-driver" => needed(key, value)?.clone_into(&mut driver(mount).name),
        "volume-opt" => {
            let (name, value) = pair(key, value)?;
            driver(mount).options.insert(name, value);
        }
        "volume-label" => {
            let (name, value) = pair(key, value)?;
            volume(mount).labels.insert(name, value);
        }
        "tmpfs-size" => tmpfs(mount).size_bytes = scalar::bytes(needed(key, value)?)?,
        "tmpfs-mode" => tmpfs(mount).mode = scalar::file_mode(needed(key, value)?)?,
        _ => {
            return Err(format!(
                "{key} is unknown: expected type, source, target, readonly, bind-propagation, \
                 bind-nonrecursive, bind-create-src, volume-nocopy, volume-driver, volume-opt, \
                 volume-label, tmpfs-size, tmpfs-mode"
            ));
        }
    }
    Ok(())
}

fn pair(key: &str, value: Option<&str>) -> Result<(String, String), String> {
    let (name, value) =
        needed(key, value)?.split_once('=').ok_or_else(|| format!("{key}: expected NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn bind(mount: &mut Mount) -> &mut BindOptions {
    mount.bind_options.get_or_insert_default()
}

fn volume(mount: &mut Mount) -> &mut VolumeMountOptions {
    mount.volume_options.get_or_insert_default()
}

fn driver(mount: &mut Mount) -> &mut Driver {
    volume(mount).driver_config.get_or_insert_default()
}

fn tmpfs(mount: &mut Mount) -> &mut TmpfsOptions {
    mount.tmpfs_options.get_or_insert_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_mounts() {
        let MountFlag(m) = "type=bind,src=/a,dst=/b,ro,bind-propagation=rslave".parse().unwrap();
        assert_eq!((m.kind, m.source.as_str(), m.target.as_str()), (MountKind::Bind, "/a", "/b"));
        assert!(m.read_only);
        assert_eq!(m.bind_options.unwrap().propagation, "rslave");
        let text = "source=v,target=/v,volume-nocopy,volume-opt=type=nfs,volume-label=a=b";
        let MountFlag(m) = text.parse().unwrap();
        let options = m.volume_options.unwrap();
        assert!(options.no_copy);
        assert_eq!(options.labels["a"], "b");
        assert_eq!(options.driver_config.unwrap().options["type"], "nfs");
        let MountFlag(m) = "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700".parse().unwrap();
        let options = m.tmpfs_options.unwrap();
        assert_eq!((options.size_bytes, options.mode), (1 << 20, 0o700));
        for text in ["", "type=bind", "target=/x,type=nfs", "target=/x,foo=1", "target=/x,ro=maybe"]
        {
            assert!(text.parse::<MountFlag>().is_err(), "{text}");
        }
    }
}
