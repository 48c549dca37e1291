//! What can go wrong with control groups.

use std::io;
use std::path::PathBuf;

/// Why a control group is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The mount table cannot be read.
    #[error("reading the mount table")]
    MountTable(#[source] io::Error),
    /// Neither version offers what limits need.
    #[error(
        "control groups: no {missing} controller is mounted (looked for version 2 at \
         /sys/fs/cgroup and for the older hierarchies)"
    )]
    Missing {
        /// The controllers that are not there.
        missing: String,
    },
    /// A group cannot be made.
    #[error("making control group {}", .path.display())]
    Make {
        /// Its directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A group cannot be opened.
    #[error("opening control group {}", .path.display())]
    Open {
        /// Its directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file of a group does not take a value.
    #[error("writing {value:?} to {file} of control group {group}")]
    Write {
        /// The group.
        group: String,
        /// The file.
        file: String,
        /// The refused value.
        value: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Device rules that version 2 cannot express.
    #[error("device rules must deny everything first and only allow after that")]
    DeviceRules,
    /// Version 2 does not take the program that restricts devices.
    #[error("restricting devices of control group {group}")]
    Devices {
        /// The group.
        group: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// What is in a group cannot be listed.
    #[error("listing the processes of control group {group}")]
    List {
        /// The group.
        group: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Processes that do not die.
    #[error("control group still has processes {processes:?}")]
    NotEmpty {
        /// Their ids.
        processes: Vec<i32>,
    },
    /// A group cannot be removed.
    #[error("removing control group {group}")]
    Remove {
        /// The group.
        group: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}
