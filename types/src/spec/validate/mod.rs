//! Validation of specs: every violation at once, each with its path.

mod cluster;
mod container;
mod mount;
mod network;
mod payload;
mod service;
mod sharing;
#[cfg(test)]
mod tests;
mod user;

use std::fmt;

use super::{
    ClusterSpec, ConfigSpec, NetworkAttachmentConfig, NetworkSpec, NodeSpec, SecretSpec,
    ServiceSpec, StackSpec, UserSpec,
};
use crate::name;

/// One thing that is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Violation {
    /// Where, such as `task_template.container.env[2]`.
    pub path: String,
    /// The refused value, as text.
    pub value: String,
    /// What is wrong with it and what would be accepted.
    pub problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value.is_empty() {
            write!(f, "{}: {}", self.path, self.problem)
        } else {
            write!(f, "{}: {:?} {}", self.path, self.value, self.problem)
        }
    }
}

/// Everything that is wrong with a spec; never empty when returned as an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Violations(pub Vec<Violation>);

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, violation) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            violation.fmt(f)?;
        }
        Ok(())
    }
}

/// Collects violations below a path.
#[derive(Debug, Default)]
pub(crate) struct Check {
    path: String,
    found: Vec<Violation>,
}

impl Check {
    /// Checks a part under `.name` (or `[index]`, if that is what `name` is).
    pub(crate) fn at(&mut self, name: impl AsRef<str>, part: impl FnOnce(&mut Self)) {
        let name = name.as_ref();
        let len = self.path.len();
        if len > 0 && !name.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(name);
        part(self);
        self.path.truncate(len);
    }

    /// Checks each element of a list under `name[index]`.
    pub(crate) fn each<T>(&mut self, name: &str, list: &[T], mut part: impl FnMut(&mut Self, &T)) {
        self.at(name, |c| {
            for (i, item) in list.iter().enumerate() {
                c.at(format!("[{i}]"), |c| part(c, item));
            }
        });
    }

    /// Notes a violation of the present path.
    pub(crate) fn wrong(&mut self, value: impl fmt::Display, problem: impl Into<String>) {
        self.found.push(Violation {
            path: self.path.clone(),
            value: value.to_string(),
            problem: problem.into(),
        });
    }

    /// Notes a violation unless `ok`.
    pub(crate) fn that(&mut self, ok: bool, value: impl fmt::Display, problem: &str) {
        if !ok {
            self.wrong(value, problem);
        }
    }

    /// Checks a name.
    pub(crate) fn name(&mut self, value: &str) {
        self.at("name", |c| {
            c.that(
                name::is_valid(value),
                value,
                &format!("is not a name: expected {}", name::NAME_RULE),
            );
        });
    }

    pub(crate) fn finish(self) -> Result<(), Violations> {
        if self.found.is_empty() { Ok(()) } else { Err(Violations(self.found)) }
    }
}

fn run(checks: impl FnOnce(&mut Check)) -> Result<(), Violations> {
    let mut check = Check::default();
    checks(&mut check);
    check.finish()
}

/// All rules of a service, alone and in a stack.
fn whole_service(c: &mut Check, spec: &ServiceSpec) {
    service::service(c, spec);
    sharing::sharing(c, spec);
    super::unsupported::service(c, spec);
}

impl ServiceSpec {
    /// Checks everything that can be checked without the cluster, including that nothing is asked
    /// for that shoal cannot do yet.
    ///
    /// # Errors
    /// All violations.
    pub fn validate(&self) -> Result<(), Violations> {
        run(|c| whole_service(c, self))
    }
}

impl NetworkAttachmentConfig {
    /// Checks how one task is connected to a network, as far as that can be checked without the cluster.
    ///
    /// # Errors
    /// All violations.
    pub fn validate(&self) -> Result<(), Violations> {
        run(|c| service::attachment(c, self))
    }
}

impl ClusterSpec {
    /// As [`ServiceSpec::validate`].
    ///
    /// # Errors
    /// All violations.
    pub fn validate(&self) -> Result<(), Violations> {
        run(|c| cluster::cluster(c, self))
    }
}

impl NetworkSpec {
    /// As [`ServiceSpec::validate`].
    ///
    /// # Errors
    /// All violations.
    pub fn validate(&self) -> Result<(), Violations> {
        run(|c| {
            network::network(c, self);
            super::unsupported::network(c, self);
        })
    }
}

impl SecretSpec {
    /// As [`ServiceSpec::validate`]. No violation has a byte of it.
    ///
    /// # Errors
    /// All violations.
    pub fn validate(&self) -> Result<(), Violations> {
        run(|c| {
            payload::secret(c, self);
            super::unsupported::secret(c, self);
        })
    }
}

impl ConfigSpec {
    /// As [`ServiceSpec::validate`].
    ///
    /// # Errors
    /// All violations.
    pub fn validate(&self) -> Result<(), Violations> {
        run(|c| {
            payload::config(c, self);
            super::unsupported::config(c, self);
        })
    }
}

impl NodeSpec {
    /// As [`ServiceSpec::validate`].
    ///
    /// # Errors
    /// All violations.
    pub fn validate(&self) -> Result<(), Violations> {
        run(|c| {
            if !self.name.is_empty() {
                c.name(&self.name);
            }
            service::labels(c, &self.labels);
        })
    }
}

impl UserSpec {
    /// As [`ServiceSpec::validate`].
    ///
    /// # Errors
    /// All violations.
    pub fn validate(&self) -> Result<(), Violations> {
        run(|c| user::user(c, self))
    }
}

impl StackSpec {
    /// As [`ServiceSpec::validate`], for all parts.
    ///
    /// # Errors
    /// All violations.
    pub fn validate(&self) -> Result<(), Violations> {
        run(|c| {
            c.name(&self.name);
            for (key, spec) in &self.services {
                c.at(format!("services.{key}"), |c| whole_service(c, spec));
            }
            for (key, spec) in &self.networks {
                c.at(format!("networks.{key}"), |c| {
                    network::network(c, spec);
                    super::unsupported::network(c, spec);
                });
            }
            for (kind, names) in [("secrets", &self.secrets), ("configs", &self.configs)] {
                for (key, name) in names {
                    c.at(format!("{kind}.{key}"), |c| c.name(name));
                }
            }
        })
    }
}
