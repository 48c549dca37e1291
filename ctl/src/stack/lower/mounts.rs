//! Mounts of services, and the volumes that they name.

use std::collections::BTreeMap;

use shoal_types::spec::{
    BindOptions, Driver, Mount, MountKind, TmpfsOptions, VolumeMountOptions, VolumeSpec,
};

use super::{Lower, flag, size, text, text_map};
use crate::stack::node::{Entry, Node};
use crate::stack::{refused, scalar, schema};

impl Lower<'_> {
    pub(super) fn mounts(&mut self, service: &Node, path: &str) -> Vec<Mount> {
        let mut mounts = Vec::new();
        for (i, node) in service.get("volumes").map_or(&[][..], Node::items).iter().enumerate() {
            mounts.extend(self.mount(node, &format!("{path}.volumes[{i}]")));
        }
        for (i, node) in service.get("tmpfs").map_or(&[][..], Node::items).iter().enumerate() {
            mounts.extend(self.tmpfs(node, &format!("{path}.tmpfs[{i}]")));
        }
        mounts
    }

    fn mount(&mut self, node: &Node, path: &str) -> Option<Mount> {
        let base = Mount {
            read_only: flag(node, "read_only"),
            ..Mount::new(MountKind::Tmpfs, "", text(node, "target"))
        };
        match text(node, "type").as_str() {
            "bind" => Some(Mount {
                kind: MountKind::Bind,
                source: text(node, "source"),
                bind_options: node.get("bind").map(|options| BindOptions {
                    propagation: text(options, "propagation"),
                    create_mountpoint: flag(options, "create_host_path"),
                    ..BindOptions::default()
                }),
                ..base
            }),
            "volume" => self.volume_mount(node, path, base),
            _ => {
                if let Some(source) = node.get("source") {
                    self.wrong(source.at, path, "a tmpfs has no source");
                }
                let options = node.get("tmpfs").map(|options| TmpfsOptions {
                    size_bytes: size(options, "size").unwrap_or(0),
                    mode: scalar::file_mode(&text(options, "mode")).unwrap_or(0),
                    options: Vec::new(),
                });
                Some(Mount { tmpfs_options: options, ..base })
            }
        }
    }

    /// A mount of a volume carries what is needed to make it, because that happens on the node.
    fn volume_mount(&mut self, node: &Node, path: &str, base: Mount) -> Option<Mount> {
        let base = Mount { kind: MountKind::Volume, ..base };
        let own = node.get("volume");
        let mut options = VolumeMountOptions {
            no_copy: own.is_some_and(|o| flag(o, "nocopy")),
            labels: text_map(own.and_then(|o| o.get("labels"))),
            ..VolumeMountOptions::default()
        };
        let Some(source) = node.get("source") else {
            options.labels.extend(self.labels(None));
            return Some(Mount { volume_options: Some(options), ..base });
        };
        let key = source.as_text().unwrap_or_default();
        let declared = self.root.get("volumes").map_or(&[][..], Node::entries);
        let Some(volume) = declared.iter().find(|v| v.key == key) else {
            if self.findings.is_full() {
                return None;
            }
            let near = schema::nearest_of(declared.iter().map(|v| v.key.as_str()), key);
            let near = match near {
                Some(near) => format!("did you mean {near:?}?"),
                None => "declare it under volumes: at the top, or begin a path with ./".to_owned(),
            };
            self.wrong(source.at, path, format!("volume {key:?} is not declared: {near}"));
            return None;
        };
        let source = self.member_name(&volume.key, &volume.value);
        if is_external(&volume.value) {
            let said = own.is_some().then_some(options);
            return Some(Mount { source, volume_options: said, ..base });
        }
        let spec = self.volume(volume);
        options.labels.extend(spec.labels);
        let said = spec.driver != Driver::default();
        options.driver_config = said.then_some(spec.driver);
        Some(Mount { source, volume_options: Some(options), ..base })
    }

    /// `PATH` or `PATH:OPTION,…` of the service's own `tmpfs` key.
    fn tmpfs(&mut self, node: &Node, path: &str) -> Option<Mount> {
        let text = node.as_text().unwrap_or_default();
        let (target, said) = text.split_once(':').unwrap_or((text, ""));
        let mut options = TmpfsOptions::default();
        for option in said.split(',').filter(|o| !o.is_empty()) {
            let read = match option.split_once('=') {
                Some(("size", size)) => scalar::bytes(size).map(|n| options.size_bytes = n),
                Some(("mode", mode)) => scalar::file_mode(mode).map(|m| options.mode = m),
                _ => Err(refused::TMPFS_OPTION.said(&format!("option {option:?}"))),
            };
            if let Err(problem) = read {
                self.wrong(node.at, path, problem);
                return None;
            }
        }
        Some(Mount {
            tmpfs_options: (options != TmpfsOptions::default()).then_some(options),
            ..Mount::new(MountKind::Tmpfs, "", target)
        })
    }

    /// All volumes that the stack makes.
    pub(super) fn volumes(&mut self) -> BTreeMap<String, VolumeSpec> {
        let entries = self.root.get("volumes").map_or(&[][..], Node::entries);
        let mut volumes = BTreeMap::new();
        for entry in entries {
            let path = format!("volumes.{}", entry.key);
            if let Some(driver) = entry.value.get("driver")
                && driver.as_text() != Some("local")
            {
                let text = refused::VOLUME_DRIVER.said(&driver.kind());
                self.wrong(driver.at, &format!("{path}.driver"), text);
            }
            if is_external(&entry.value) {
                self.only_name(entry, &path);
            } else {
                volumes.insert(entry.key.clone(), self.volume(entry));
            }
        }
        volumes
    }

    fn volume(&self, entry: &Entry) -> VolumeSpec {
        let node = &entry.value;
        VolumeSpec {
            name: self.member_name(&entry.key, node),
            labels: self.labels(node.get("labels")),
            driver: Driver {
                name: text(node, "driver"),
                options: text_map(node.get("driver_opts")),
            },
        }
    }
}

/// Whether a network or volume exists without the stack.
pub(super) fn is_external(node: &Node) -> bool {
    match node.get("external") {
        Some(external) => external.as_text().is_none_or(|t| t == "true"),
        None => false,
    }
}
