//! Docker's `config.json`. What is not ours in it stays as it is.

use std::fs;
use std::io;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use shoal_durable::write_file;
use shoal_types::image_ref::DEFAULT_REGISTRY;
use shoal_types::registry_auth::{RegistryAuth, registry_of_server};

use super::{LoginError, Result};
use crate::files;

const FILE: &str = "config.json";
/// What Docker Hub is called in there.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What a registry is called in the file and by helpers.
pub(super) fn key_of(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { DOCKER_HUB } else { registry }
}

/// Whether a key, which older programs wrote with scheme and path, means a registry.
fn means(key: &str, registry: &str) -> bool {
    key == key_of(registry) || registry_of_server(key).as_deref() == Some(registry)
}

/// The file.
#[derive(Debug)]
pub(super) struct File {
    dir: PathBuf,
}

impl File {
    pub(super) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The file itself, past links that somebody's dotfiles consist of.
    pub(super) fn path(&self) -> PathBuf {
        let path = self.dir.join(FILE);
        fs::canonicalize(&path).unwrap_or(path)
    }

    pub(super) fn load(&self) -> Result<Document> {
        let path = self.path();
        let text = match files::text_of(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(LoginError::Read { path, source }),
        };
        Document::parse(&text, path)
    }

    /// Replaces the file as a whole; nobody else may read it.
    pub(super) fn save(&self, document: &Document) -> Result<()> {
        let path = self.path();
        let failed = |source| LoginError::Write { path: path.clone(), source };
        let mut text =
            serde_json::to_string_pretty(&document.root).map_err(|e| failed(e.into()))?;
        text.push('\n');
        write_file(&path, text.as_bytes(), 0o600).map_err(failed)
    }

    /// Keeps other processes of this program from writing here until it is dropped.
    pub(super) fn lock(&self) -> Result<fs::File> {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        let locked = made.and_then(|()| fs::File::open(&self.dir));
        let locked = locked.and_then(|dir| dir.lock().map(|()| dir));
        locked.map_err(|source| LoginError::Write { path: self.dir.clone(), source })
    }
}

/// What stands in the file.
#[derive(Debug)]
pub(super) struct Document {
    path: PathBuf,
    root: Map<String, Value>,
}

impl Document {
    /// `path` is what errors call it.
    pub(super) fn parse(text: &str, path: PathBuf) -> Result<Self> {
        if text.trim().is_empty() {
            return Ok(Self { path, root: Map::new() });
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(root)) => Ok(Self { path, root }),
            Ok(_) => {
                let field = "it".to_owned();
                Err(LoginError::Field { path, field, expected: "an object" })
            }
            Err(source) => Err(LoginError::Parse { path, source }),
        }
    }

    fn wrong(&self, field: &str, expected: &'static str) -> LoginError {
        LoginError::Field { path: self.path.clone(), field: field.to_owned(), expected }
    }

    fn map(&self, field: &str) -> Result<Option<&Map<String, Value>>> {
        match self.root.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(self.wrong(field, "an object")),
        }
    }

    /// The helper that keeps the logins of a registry; none if the file does.
    pub(super) fn helper(&self, registry: &str) -> Result<Option<&str>> {
        let own = self.map("credHelpers")?.into_iter().flatten();
        let own = own.filter(|(key, _)| means(key, registry)).map(|(_, helper)| helper).next();
        let (field, helper) = match own {
            Some(helper) => ("credHelpers", Some(helper)),
            None => ("credsStore", self.root.get("credsStore")),
        };
        match helper {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(name)) => Ok(Some(name.as_str()).filter(|name| !name.is_empty())),
            Some(_) => Err(self.wrong(field, "the name of a helper")),
        }
    }

    pub(super) fn get(&self, registry: &str) -> Result<Option<RegistryAuth>> {
        let Some(auths) = self.map("auths")? else { return Ok(None) };
        let found = auths.get_key_value(key_of(registry));
        let found = found.or_else(|| auths.iter().find(|(key, _)| means(key, registry)));
        let Some((key, entry)) = found else { return Ok(None) };
        let text = |field| entry.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(RegistryAuth::Identity(token.to_owned())));
        }
        if let Some(token) = text("registrytoken") {
            return Ok(Some(RegistryAuth::Token(token.to_owned())));
        }
        if let Some(auth) = text("auth") {
            let unreadable =
                || self.wrong(&format!("auths[{key:?}].auth"), "base64 of user:password");
            return decode(auth).map(Some).ok_or_else(unreadable);
        }
        Ok(text("username").zip(text("password")).map(|(username, password)| RegistryAuth::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        }))
    }

    fn auths_mut(&mut self) -> Result<&mut Map<String, Value>> {
        let auths = self.root.entry("auths").or_insert(Value::Null);
        if auths.is_null() {
            *auths = Value::Object(Map::new());
        }
        let wrong = LoginError::Field {
            path: self.path.clone(),
            field: "auths".to_owned(),
            expected: "an object",
        };
        auths.as_object_mut().ok_or(wrong)
    }

    pub(super) fn put(
        &mut self,
        registry: &str,
        username: &str,
        auth: &RegistryAuth,
    ) -> Result<()> {
        let mut entry = Map::new();
        let user = |password: &str| STANDARD.encode(format!("{username}:{password}")).into();
        match auth {
            RegistryAuth::Basic { password, .. } => {
                entry.insert("auth".to_owned(), user(password));
            }
            RegistryAuth::Identity(token) => {
                entry.insert("auth".to_owned(), user(""));
                entry.insert("identitytoken".to_owned(), token.clone().into());
            }
            RegistryAuth::Token(token) => {
                entry.insert("registrytoken".to_owned(), token.clone().into());
            }
        }
        self.remove(registry)?;
        self.auths_mut()?.insert(key_of(registry).to_owned(), Value::Object(entry));
        Ok(())
    }

    /// As Docker does: people see in the file where there are logins, although a helper keeps them.
    pub(super) fn mention(&mut self, registry: &str) -> Result<()> {
        self.remove(registry)?;
        let nothing = Value::Object(Map::new());
        self.auths_mut()?.insert(key_of(registry).to_owned(), nothing);
        Ok(())
    }

    /// Takes every entry of a registry out. Says whether there was one.
    pub(super) fn remove(&mut self, registry: &str) -> Result<bool> {
        if self.map("auths")?.is_none() {
            return Ok(false);
        }
        let auths = self.auths_mut()?;
        let before = auths.len();
        auths.retain(|key, _| !means(key, registry));
        Ok(auths.len() < before)
    }
}

/// `user:password` in base64; what other programs write may end with zero bytes.
fn decode(auth: &str) -> Option<RegistryAuth> {
    let text = String::from_utf8(STANDARD.decode(auth).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    let password = password.trim_end_matches('\0').to_owned();
    Some(RegistryAuth::Basic { username: username.to_owned(), password })
}
