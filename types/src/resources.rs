//! Amounts that are counted: CPU, memory, processes, generic resources.

use std::fmt;

/// Billionths of one CPU, Docker's unit: 1 CPU = 1 000 000 000.
pub const NANO_CPUS_PER_CPU: u64 = 1_000_000_000;

/// An amount of CPU in billionths, shown as people write it: `0.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus(pub u64);

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / NANO_CPUS_PER_CPU, self.0 % NANO_CPUS_PER_CPU);
        let text = format!("{whole}.{rest:09}");
        f.pad(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// An amount of memory in bytes, shown in the largest unit that it is a whole number of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(pub u64);

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let whole = |(shift, _): &(u32, &str)| self.0 != 0 && self.0.is_multiple_of(1 << shift);
        match units.into_iter().find(whole) {
            Some((shift, unit)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// A resource of a kind the cluster's owner made up (Docker's generic resources).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum GenericResource {
    /// One named thing of a kind, such as `gpu=UUID1`.
    #[serde(rename = "NamedResourceSpec")]
    Named {
        /// What it is, such as `gpu`.
        #[serde(rename = "Kind")]
        kind: String,
        /// Which one.
        #[serde(rename = "Value")]
        value: String,
    },
    /// A number of interchangeable things of a kind, such as `ssd=3`.
    #[serde(rename = "DiscreteResourceSpec")]
    Discrete {
        /// What it is, such as `ssd`.
        #[serde(rename = "Kind")]
        kind: String,
        /// How many.
        #[serde(rename = "Value")]
        value: i64,
    },
}

/// What a node has, or what a task has reserved.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Resources {
    /// Billionths of a CPU.
    #[serde(rename = "NanoCPUs")]
    pub nano_cpus: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Made-up resources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub generic_resources: Vec<GenericResource>,
}

impl Resources {
    /// Adds what one more task reserves.
    pub fn add(&mut self, other: &Self) {
        self.nano_cpus = self.nano_cpus.saturating_add(other.nano_cpus);
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
    }

    /// What is left of `self` after `used`, never below zero.
    #[must_use]
    pub fn saturating_sub(&self, used: &Self) -> Self {
        Self {
            nano_cpus: self.nano_cpus.saturating_sub(used.nano_cpus),
            memory_bytes: self.memory_bytes.saturating_sub(used.memory_bytes),
            generic_resources: self.generic_resources.clone(),
        }
    }
}

/// The most a task may use; zero means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Limits {
    /// Billionths of a CPU.
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_zero")]
    pub nano_cpus: u64,
    /// Bytes of memory.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_bytes: u64,
    /// Processes and threads.
    #[serde(skip_serializing_if = "is_zero")]
    pub pids: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
pub(crate) fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Limits and reservations of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ResourceRequirements {
    /// The most it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What the scheduler sets aside for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservations: Option<Resources>,
    /// Swap in bytes beyond memory; -1 for unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<i64>,
    /// Tendency to swap, 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swappiness: Option<i64>,
}
