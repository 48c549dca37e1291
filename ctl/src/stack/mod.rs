//! Stack files: compose-style YAML in, a [`StackSpec`] out. Pure: text and variables are handed
//! in, files are read through [`Files`], nothing is printed.
//!
//! The stages, each in a file of its own: `yaml` (text to tree), `interpolate` (variables),
//! `normalise` (against the table of keys in `schema`; short forms to long ones), `merge` (several
//! files to one), `paths` (relative to absolute), `lower` (tree to specs). Findings are collected over all stages, so that a file
//! that is wrong in five places says so once.

pub(crate) mod confine;
mod dotenv;
mod interpolate;
mod lower;
mod merge;
mod mount;
mod node;
mod normalise;
mod number;
mod output;
mod paths;
mod payload;
mod port;
mod problem;
pub(crate) mod refused;
pub(crate) mod scalar;
pub(crate) mod schema;
#[cfg(test)]
mod tests;
mod yaml;

pub use dotenv::{EnvFile, InvalidLine, parse as parse_env_file, parse_raw as parse_raw_env_file};
pub use interpolate::Variables;
pub(crate) use port::{host_ip, short as short_port, unsaid_mode};
pub use problem::{Pos, Problem, Problems};

use std::collections::BTreeMap;

use shoal_types::spec::{ConfigSpec, SecretSpec, StackSpec};

use problem::Findings;

pub use shoal_types::spec::NAMESPACE_LABEL;

/// One stack file.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name in messages.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// Reads the files that a stack file refers to.
pub trait Files {
    /// The text of a file; `None` if there is none.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&self, path: &str) -> Result<Option<String>, String>;

    /// The bytes of a file, which need be no text; `None` if there is none.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn bytes(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        self.read(path).map(|text| text.map(String::into_bytes))
    }
}

/// What a stack is loaded from.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Name of the stack; the file's own `name` if absent.
    pub name: Option<&'a str>,
    /// Its name if the file has none either; without one that is an error.
    pub fallback_name: Option<&'a str>,
    /// The files, later ones winning over earlier ones.
    pub sources: &'a [Source],
    /// Variables for interpolation and for environment entries without a value.
    pub variables: &'a Variables,
    /// Absolute directory that relative paths start from.
    pub dir: &'a str,
    /// What `env_file` is read through.
    pub files: &'a dyn Files,
}

/// A stack that was loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What is to be applied.
    pub spec: StackSpec,
    /// What is in its secrets, by their keys.
    pub secrets: BTreeMap<String, SecretSpec>,
    /// What is in its configs, by their keys.
    pub configs: BTreeMap<String, ConfigSpec>,
    /// What people should know, each once.
    pub warnings: Vec<String>,
    /// Keys of services with ports that answer on the nodes of their tasks alone though nobody said so.
    pub narrow_ports: Vec<String>,
    /// Keys of networks that name no driver.
    pub unsaid_drivers: Vec<String>,
    /// The files as one, in long form, with all variables in place.
    pub config: serde_yaml::Value,
}

pub use output::yaml as to_yaml;

/// Loads a stack.
///
/// # Errors
/// Everything that is wrong with its files.
pub fn load(input: &Input<'_>) -> Result<Loaded, Problems> {
    let mut findings = Findings::default();
    let names: Vec<String> = input.sources.iter().map(|s| s.name.clone()).collect();
    let mut merged = None;
    for (i, source) in input.sources.iter().enumerate() {
        let Some(mut tree) = yaml::parse(i, &source.text, &mut findings) else { continue };
        interpolate::tree(&mut tree, input.variables, &mut findings);
        let Some(tree) = normalise::file(&tree, &mut findings) else { continue };
        merged = Some(match merged {
            Some(base) => merge::files(base, tree),
            None => tree,
        });
    }
    let Some(mut root) = merged else { return Err(findings.into_problems(names)) };
    paths::absolute(&mut root, input);
    // Lowering goes on after findings, so that all of them come at once.
    let lower::Lowered { spec, secrets, configs, narrow_ports, unsaid_drivers } =
        lower::stack(input, &root, &mut findings);
    if !findings.is_clean() {
        return Err(findings.into_problems(names));
    }
    let named = input.name.is_some() || root.get("name").is_some();
    let config = output::config(&root, named.then_some(spec.name.as_str()));
    let warnings = findings.take_warnings();
    Ok(Loaded { spec, secrets, configs, warnings, narrow_ports, unsaid_drivers, config })
}

impl Loaded {
    /// Leaves networks that name no driver what they are in the stack as it was deployed `before`: a network
    /// cannot become another one. Full names of those that would be something else in a new stack.
    pub fn keep_drivers(&mut self, before: &StackSpec) -> Vec<String> {
        let mut kept = Vec::new();
        for key in &self.unsaid_drivers {
            let Some(old) = before.networks.get(key) else { continue };
            let Some(new) = self.spec.networks.get_mut(key) else { continue };
            if old.name == new.name && old.driver != new.driver {
                new.driver = old.driver.clone();
                kept.push(new.name.clone());
            }
        }
        kept
    }
}
