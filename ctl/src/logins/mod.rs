//! Credentials for registries, kept where Docker and its relatives keep them, so that each finds what
//! the other has stored: in `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`, or with the
//! credential helper that is configured there. What the variable `DOCKER_AUTH_CONFIG` holds, which CI
//! systems set, comes before all of these and is never written.

mod file;
mod helper;

use std::env;
use std::io;
use std::path::PathBuf;

use shoal_types::image_ref::ImageReference;
use shoal_types::registry_auth::{InvalidRegistryAuth, RegistryAuth, RegistryAuths};

use file::{Document, File};
use helper::{Helper, HelperError};

/// Holds logins in the form of the file, for the programs that it is given to.
const GIVEN: &str = "DOCKER_AUTH_CONFIG";

/// Why credentials cannot be had or kept. No text here has a part of one in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    /// Neither `DOCKER_CONFIG` nor `HOME`.
    #[error("there is no directory to keep logins in: neither DOCKER_CONFIG nor HOME is set")]
    NoHome,
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// It is no JSON.
    #[error("cannot understand {}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    /// A part of it is something else than it should be.
    #[error("cannot understand {}: {field} is not {expected}", path.display())]
    Field { path: PathBuf, field: String, expected: &'static str },
    /// The helper does not do it.
    #[error("cannot ask the credential helper {name}")]
    Helper { name: String, source: HelperError },
    /// What is stored cannot be sent.
    #[error("the login for {registry} cannot be used")]
    Invalid { registry: String, source: InvalidRegistryAuth },
}

type Result<T, E = LoginError> = std::result::Result<T, E>;

/// Where a login is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    /// In this file, for everybody to read who may read it.
    File(PathBuf),
    /// By this helper.
    Helper(String),
}

/// All logins of a user.
#[derive(Debug)]
pub(crate) struct Logins {
    file: File,
    /// What the environment holds, if it holds any.
    given: Option<Document>,
}

impl Logins {
    pub(crate) fn from_env() -> Result<Self> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let dir = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")));
        let given = set(GIVEN).map(|text| Document::parse(&text.to_string_lossy(), GIVEN.into()));
        Ok(Self { given: given.transpose()?, ..Self::at(dir.ok_or(LoginError::NoHome)?) })
    }

    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { file: File::at(dir), given: None }
    }

    /// The login for a registry (as image references name it).
    pub(crate) async fn get(&self, registry: &str) -> Result<Option<RegistryAuth>> {
        let given = self.given.as_ref().map(|given| given.get(registry)).transpose()?.flatten();
        let auth = match given {
            Some(auth) => Some(auth),
            None => self.stored(registry).await?,
        };
        if let Some(auth) = &auth {
            let registry = registry.to_owned();
            auth.validate().map_err(|source| LoginError::Invalid { registry, source })?;
        }
        Ok(auth)
    }

    /// What is kept for a registry.
    async fn stored(&self, registry: &str) -> Result<Option<RegistryAuth>> {
        let document = self.file.load()?;
        match Helper::of(&document, registry)? {
            Some(helper) => helper.get(registry).await,
            None => document.get(registry),
        }
    }

    /// Keeps a login in place of an earlier one. `username` is for people.
    pub(crate) async fn store(
        &self,
        registry: &str,
        username: &str,
        auth: &RegistryAuth,
    ) -> Result<Kept> {
        let _alone = self.file.lock()?;
        let mut document = self.file.load()?;
        let kept = match Helper::of(&document, registry)? {
            Some(helper) => {
                helper.store(registry, auth).await?;
                document.mention(registry)?;
                Kept::Helper(helper.into_name())
            }
            None => {
                document.put(registry, username, auth)?;
                Kept::File(self.file.path())
            }
        };
        self.file.save(&document)?;
        Ok(kept)
    }

    /// Forgets a login. Says whether there was one.
    pub(crate) async fn erase(&self, registry: &str) -> Result<bool> {
        let _alone = self.file.lock()?;
        let mut document = self.file.load()?;
        let mut found = document.remove(registry)?;
        if let Some(helper) = Helper::of(&document, registry)? {
            found |= helper.get(registry).await?.is_some();
            helper.erase(registry).await?;
        }
        if found {
            self.file.save(&document)?;
        }
        Ok(found)
    }

    /// The logins for the registries of images, and the registries for which there is none.
    pub(crate) async fn of_images<'a>(
        &self,
        images: impl Iterator<Item = &'a str>,
    ) -> Result<(RegistryAuths, Vec<String>)> {
        let (mut auths, mut without) = (RegistryAuths::new(), Vec::new());
        // What is no reference is refused elsewhere, with its place.
        for reference in images.filter_map(|image| ImageReference::parse(image).ok()) {
            let registry = reference.registry().to_owned();
            if auths.contains_key(&registry) || without.contains(&registry) {
                continue;
            }
            match self.get(&registry).await? {
                Some(auth) => {
                    auths.insert(registry, auth);
                }
                None => without.push(registry),
            }
        }
        Ok((auths, without))
    }
}

#[cfg(test)]
mod tests;
