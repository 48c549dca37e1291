//! What runs: command, environment, working directory. Docker's rules of what replaces what.

use std::path::PathBuf;

use shoal_types::spec::ContainerSpec;

use super::{ImageDefaults, LowerError, invalid};
use crate::oci::{ContainerConfig, defaults};

pub(super) fn process(
    spec: &ContainerSpec,
    image: &ImageDefaults,
    hostname: &str,
) -> Result<ContainerConfig, LowerError> {
    let cwd = [&spec.dir, &image.workdir].into_iter().find(|dir| !dir.is_empty());
    let cwd = cwd.map_or("/", String::as_str);
    let field = if spec.dir.is_empty() { "working directory of the image" } else { "dir" };
    if !cwd.starts_with('/') {
        return Err(invalid(field, cwd, "is not an absolute path"));
    }
    Ok(ContainerConfig {
        argv: argv(spec, image),
        env: env(spec, image, hostname),
        cwd: PathBuf::from(cwd),
        tty: spec.tty,
        ..ContainerConfig::default()
    })
}

/// A command replaces the image's entrypoint and drops its command; arguments replace its command.
/// What is empty replaces, too: it leaves none (compose-spec, `command` and `entrypoint`).
pub(super) fn argv(spec: &ContainerSpec, image: &ImageDefaults) -> Vec<String> {
    let (entrypoint, cmd): (&[String], &[String]) = match (&spec.command, &spec.args) {
        (None, None) => (&image.entrypoint, &image.cmd),
        (None, Some(args)) => (&image.entrypoint, args),
        (Some(command), args) => (command, args.as_deref().unwrap_or_default()),
    };
    // An entrypoint of nothing but an empty text is none: that is how Docker's own commands and files
    // clear it.
    let entrypoint = if matches!(entrypoint, [only] if only.is_empty()) { &[] } else { entrypoint };
    entrypoint.iter().chain(cmd).cloned().collect()
}

/// The search path and the host's name, then the image's variables, then the user's. A later one
/// replaces an earlier one at its place; a bare name takes it away.
pub(super) fn env(spec: &ContainerSpec, image: &ImageDefaults, hostname: &str) -> Vec<String> {
    let mut env = vec![defaults::PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if spec.tty {
        env.push("TERM=xterm".to_owned());
    }
    for entry in image.env.iter().chain(&spec.env) {
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
        let same = |known: &String| known.split_once('=').is_some_and(|(n, _)| n == name);
        let place = env.iter().position(same);
        match (place, entry.contains('=')) {
            (Some(place), true) => env[place].clone_from(entry),
            (Some(place), false) => {
                env.remove(place);
            }
            (None, true) => env.push(entry.clone()),
            (None, false) => {}
        }
    }
    env
}
