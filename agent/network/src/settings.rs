//! Settings of the whole host, changed with a memory on disk of what they were.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shoal_agent_planning::network::settings::{
    ACCEPT_REDIRECTS, IP_FORWARD, Remembered, SRC_VALID_MARK, forwarding_of,
};

use super::{NetworkError, book, sysctl};

const FILE: &str = "host-settings.json";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The settings of this host.
#[derive(Debug)]
pub(super) struct HostSettings {
    path: PathBuf,
    remembered: Mutex<Option<Remembered>>,
}

impl HostSettings {
    /// Opens the memory of an earlier agent, or an empty one.
    pub(super) fn open(state_dir: &Path) -> Result<Self, NetworkError> {
        let path = state_dir.join(FILE);
        let remembered = Mutex::new(book::read(&path)?);
        Ok(Self { path, remembered })
    }

    /// Whether the host forwards only because we switched that on in this boot.
    pub(super) fn forwards_for_us(&self) -> bool {
        self.lock().as_ref().is_some_and(Remembered::forwards_for_us)
    }

    /// Remembers what the settings are, before [`switch_on`](Self::switch_on): what is remembered
    /// is on disk when this returns.
    pub(super) fn remember(&self) -> Result<(), NetworkError> {
        let boot = boot_id()?;
        let mut known = self.lock();
        let remembered = Remembered::from(&observe(), &boot, known.as_ref());
        if known.as_ref() != Some(&remembered) {
            book::write(&self.path, &remembered, true)
                .map_err(|source| NetworkError::WriteBook { path: self.path.clone(), source })?;
            *known = Some(remembered);
        }
        Ok(())
    }

    /// Lets the host forward packets: without it neither masquerading nor published ports work.
    pub(super) fn switch_on(&self) -> Result<(), NetworkError> {
        if sysctl::get(SRC_VALID_MARK).is_some() {
            sysctl::set(SRC_VALID_MARK, "1")?;
        }
        sysctl::set(IP_FORWARD, "1")
    }

    /// Makes every setting what it was, and forgets.
    pub(super) fn restore(&self) -> Result<(), NetworkError> {
        let mut known = self.lock();
        let Some(remembered) = known.as_ref() else { return Ok(()) };
        let mut result = Ok(());
        for (name, value) in remembered.restore(&boot_id()?) {
            // An interface may be gone.
            if sysctl::get(name).is_some() {
                result = result.and(sysctl::set(name, value));
            }
        }
        // Remembered on, so that the next attempt restores the rest.
        result?;
        book::remove(&self.path)
            .map_err(|source| NetworkError::WriteBook { path: self.path.clone(), source })?;
        *known = None;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Remembered>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn boot_id() -> Result<String, NetworkError> {
    let text = fs::read_to_string(BOOT_ID);
    let text = text.map_err(|source| NetworkError::ReadBook { path: BOOT_ID.into(), source })?;
    Ok(text.trim().to_owned())
}

fn observe() -> BTreeMap<String, String> {
    let mut names = vec![IP_FORWARD.to_owned(), SRC_VALID_MARK.to_owned()];
    // What else would be changed matters only as long as nothing is.
    if sysctl::get(IP_FORWARD).is_some_and(|value| value == "0") {
        names.push(ACCEPT_REDIRECTS.to_owned());
        names.extend(sysctl::interfaces().iter().map(|ifname| forwarding_of(ifname)));
    }
    names.into_iter().filter_map(|name| sysctl::get(&name).map(|value| (name, value))).collect()
}
