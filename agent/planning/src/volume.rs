//! What a volume of the `local` driver is, decided from its options without touching the host.
//!
//! The options are those of Docker's local driver: `type`, `o` and `device`, as mount(8) takes
//! them. Without any, a volume is a directory that the agent keeps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shoal_types::spec::{VolumeMountOptions, VolumeSpec};
use thiserror::Error;

/// Name of the only driver there is.
pub const LOCAL: &str = "local";
/// Longest name of a volume, in bytes: it is the name of a directory.
pub const NAME_MAX: usize = 200;

/// A volume as the user wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeConfig {
    /// Unique on this node.
    pub name: String,
    /// Empty is [`LOCAL`].
    pub driver: String,
    /// For the driver.
    pub options: BTreeMap<String, String>,
    /// Labels, kept for people.
    pub labels: BTreeMap<String, String>,
}

/// What a local volume is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalVolume {
    /// A directory that the agent keeps.
    Directory,
    /// A path of the host.
    Bind {
        /// Absolute.
        source: String,
        /// Cannot be written through this volume.
        read_only: bool,
    },
    /// Memory, from when the first container uses it until the last one does not.
    Tmpfs {
        /// How it is mounted.
        flags: MountFlags,
        /// What the file system is told (tmpfs(5)): `size=…,mode=…`.
        data: String,
    },
}

/// Flags of a mount (mount(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in mount(8)")]
pub struct MountFlags {
    pub read_only: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub noatime: bool,
}

/// Why a volume cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum InvalidVolume {
    #[error(
        "`{name}` is no name of a volume: expected a letter or digit, then up to {NAME_MAX} \
         letters, digits, `_`, `.` or `-`"
    )]
    Name { name: String },
    #[error("volume `{name}`: unknown driver `{driver}`, expected `{LOCAL}`")]
    Driver { name: String, driver: String },
    #[error("volume `{name}`: unknown option `{option}`, expected `type`, `o` or `device`")]
    Option { name: String, option: String },
    #[error("volume `{name}`: type `{kind}` is not supported, expected `none` or `tmpfs`")]
    Kind { name: String, kind: String },
    #[error("volume `{name}`: type `none` needs `bind` or `rbind` in option `o`")]
    BindMissing { name: String },
    #[error("volume `{name}`: option `device` must be an absolute path, not `{device}`")]
    Device { name: String, device: String },
    #[error("volume `{name}`: `{word}` in option `o` is not supported for type `{kind}`")]
    MountOption { name: String, word: String, kind: String },
    #[error("volume `{name}`: option `{option}` means nothing without `type`")]
    TypeMissing { name: String, option: String },
    #[error("volume `{name}`: `{word}` in option `o` has no valid number")]
    Number { name: String, word: String },
}

impl VolumeConfig {
    /// What a spec of a volume asks for.
    #[must_use]
    pub fn of_spec(spec: &VolumeSpec) -> Self {
        Self {
            name: spec.name.clone(),
            driver: spec.driver.name.clone(),
            options: spec.driver.options.clone(),
            labels: spec.labels.clone(),
        }
    }

    /// What a mount asks for that makes its volume if there is none of that name.
    #[must_use]
    pub fn of_mount(name: impl Into<String>, options: Option<&VolumeMountOptions>) -> Self {
        let driver = options.and_then(|options| options.driver_config.clone()).unwrap_or_default();
        Self {
            name: name.into(),
            driver: driver.name,
            options: driver.options,
            labels: options.map(|options| options.labels.clone()).unwrap_or_default(),
        }
    }

    /// Checks everything and says what the volume is made of.
    ///
    /// # Errors
    /// The name, the driver or an option is not one that works.
    pub fn local(&self) -> Result<LocalVolume, InvalidVolume> {
        check_name(&self.name)?;
        let name = || self.name.clone();
        if !self.driver.is_empty() && self.driver != LOCAL {
            return Err(InvalidVolume::Driver { name: name(), driver: self.driver.clone() });
        }
        let known = |option: &str| matches!(option, "type" | "o" | "device");
        if let Some(option) = self.options.keys().find(|option| !known(option)) {
            return Err(InvalidVolume::Option { name: name(), option: option.clone() });
        }
        let words: Vec<&str> =
            self.get("o").split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
        let is_bind = words.iter().any(|word| matches!(*word, "bind" | "rbind"));
        match self.get("type") {
            // As mount(8), a bind needs no type.
            "none" | "bind" | "" if is_bind => self.bind(&words),
            "none" => Err(InvalidVolume::BindMissing { name: name() }),
            "tmpfs" => self.tmpfs(&words),
            "" => match self.options.iter().find(|(_, value)| !value.is_empty()) {
                None => Ok(LocalVolume::Directory),
                Some((option, _)) => {
                    Err(InvalidVolume::TypeMissing { name: name(), option: option.clone() })
                }
            },
            kind => Err(InvalidVolume::Kind { name: name(), kind: kind.to_owned() }),
        }
    }

    fn get(&self, option: &str) -> &str {
        self.options.get(option).map_or("", String::as_str)
    }

    fn bind(&self, words: &[&str]) -> Result<LocalVolume, InvalidVolume> {
        let source = self.get("device");
        if !source.starts_with('/') {
            let (name, device) = (self.name.clone(), source.to_owned());
            return Err(InvalidVolume::Device { name, device });
        }
        let mut read_only = false;
        for word in words {
            match *word {
                "bind" | "rbind" => {}
                "ro" => read_only = true,
                "rw" => read_only = false,
                other => return Err(self.refuse(other, "none")),
            }
        }
        Ok(LocalVolume::Bind { source: source.to_owned(), read_only })
    }

    fn tmpfs(&self, words: &[&str]) -> Result<LocalVolume, InvalidVolume> {
        let mut flags = MountFlags::default();
        let mut data: Vec<&str> = Vec::new();
        for word in words {
            match *word {
                "ro" => flags.read_only = true,
                "rw" => flags.read_only = false,
                "nosuid" => flags.nosuid = true,
                "nodev" => flags.nodev = true,
                "noexec" => flags.noexec = true,
                "noatime" => flags.noatime = true,
                "suid" => flags.nosuid = false,
                "dev" => flags.nodev = false,
                "exec" => flags.noexec = false,
                other => match other.split_once('=') {
                    Some((key @ ("size" | "nr_inodes" | "mode" | "uid" | "gid"), value)) => {
                        if !is_number(key, value) {
                            let (name, word) = (self.name.clone(), other.to_owned());
                            return Err(InvalidVolume::Number { name, word });
                        }
                        data.push(other);
                    }
                    _ => return Err(self.refuse(other, "tmpfs")),
                },
            }
        }
        Ok(LocalVolume::Tmpfs { flags, data: data.join(",") })
    }

    fn refuse(&self, word: &str, kind: &str) -> InvalidVolume {
        let name = self.name.clone();
        InvalidVolume::MountOption { name, word: word.to_owned(), kind: kind.to_owned() }
    }

    /// Whether an existing volume can stand for this one: nothing but labels differs.
    #[must_use]
    pub fn is_same_as(&self, existing: &Self) -> bool {
        let driver = |config: &Self| match config.driver.as_str() {
            "" => LOCAL.to_owned(),
            other => other.to_owned(),
        };
        self.name == existing.name
            && driver(self) == driver(existing)
            && self.options == existing.options
    }
}

/// Whether a text can name a volume.
///
/// # Errors
/// It cannot: the name becomes that of a directory.
pub fn check_name(name: &str) -> Result<(), InvalidVolume> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let good = name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() <= NAME_MAX
        && name.bytes().all(valid);
    if good { Ok(()) } else { Err(InvalidVolume::Name { name: name.to_owned() }) }
}

/// Whether tmpfs understands the value: sizes carry a unit or a percent sign, modes are octal.
fn is_number(key: &str, value: &str) -> bool {
    match key {
        "size" => is_digits(value.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G', '%'])),
        "nr_inodes" => is_digits(value.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G'])),
        "mode" => {
            is_digits(value) && u32::from_str_radix(value, 8).is_ok_and(|mode| mode <= 0o7777)
        }
        _ => is_digits(value) && value.parse::<u32>().is_ok(),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(options: &[(&str, &str)]) -> VolumeConfig {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        VolumeConfig {
            name: "v".to_owned(),
            options: options.iter().map(pair).collect(),
            ..VolumeConfig::default()
        }
    }

    #[test]
    fn what_options_make() {
        let check = |options: &[(&str, &str)], expect: LocalVolume| {
            assert_eq!(config(options).local(), Ok(expect), "{options:?}");
        };
        let bind = |read_only| LocalVolume::Bind { source: "/srv/data".to_owned(), read_only };
        check(&[], LocalVolume::Directory);
        check(&[("type", "")], LocalVolume::Directory);
        check(&[("type", "none"), ("o", "bind"), ("device", "/srv/data")], bind(false));
        check(&[("o", "rbind,ro"), ("device", "/srv/data")], bind(true));
        let flags = MountFlags { nosuid: true, noexec: true, ..MountFlags::default() };
        let data = "size=100m,mode=0770,uid=1000".to_owned();
        check(
            &[
                ("type", "tmpfs"),
                ("device", "tmpfs"),
                ("o", "size=100m,nosuid,mode=0770, uid=1000,noexec"),
            ],
            LocalVolume::Tmpfs { flags, data },
        );
    }

    #[test]
    fn what_is_refused() {
        let check = |options: &[(&str, &str)], expect: &str| {
            let error = config(options).local().unwrap_err();
            assert_eq!(error.to_string(), format!("volume `v`: {expect}"));
        };
        check(&[("size", "1g")], "unknown option `size`, expected `type`, `o` or `device`");
        check(
            &[("type", "nfs"), ("o", "addr=1.2.3.4"), ("device", ":/x")],
            "type `nfs` is not supported, expected `none` or `tmpfs`",
        );
        check(
            &[("type", "none"), ("device", "/x")],
            "type `none` needs `bind` or `rbind` in option `o`",
        );
        check(
            &[("o", "bind"), ("device", "x")],
            "option `device` must be an absolute path, not `x`",
        );
        check(
            &[("o", "bind,nosuid"), ("device", "/x")],
            "`nosuid` in option `o` is not supported for type `none`",
        );
        check(
            &[("type", "tmpfs"), ("o", "huge=always")],
            "`huge=always` in option `o` is not supported for type `tmpfs`",
        );
        check(
            &[("type", "tmpfs"), ("o", "mode=999")],
            "`mode=999` in option `o` has no valid number",
        );
        check(&[("device", "/x")], "option `device` means nothing without `type`");
        let other = VolumeConfig { driver: "nfs".to_owned(), ..config(&[]) };
        let text = "volume `v`: unknown driver `nfs`, expected `local`";
        assert_eq!(other.local().unwrap_err().to_string(), text);
    }

    #[test]
    fn names() {
        for good in ["a", "db_data", "0-1.x", &"x".repeat(NAME_MAX)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", ".new-x", "a/b", "-a", "ä", &"x".repeat(NAME_MAX + 1)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_do_not_make_another_volume() {
        let one = config(&[]);
        let mut other = VolumeConfig { driver: LOCAL.to_owned(), ..one.clone() };
        other.labels.insert("a".to_owned(), "b".to_owned());
        assert!(one.is_same_as(&other));
        assert!(!one.is_same_as(&config(&[("type", "tmpfs")])));
    }
}
