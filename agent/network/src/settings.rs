//! Settings of the whole host, changed with a memory on disk of what they were.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shoal_agent_planning::network::settings::{
    ACCEPT_REDIRECTS, DISABLE_V6, FORWARD_V6, IP_FORWARD, Remembered, SRC_VALID_MARK, accept_ra_of,
    forwarding_of, forwarding_v6_of, of_bridge, of_mesh,
};
use shoal_durable::{Fields, Format, Lasting};

use super::{NetworkError, book, sysctl};

const FILE: &str = "host-settings.json";
/// What settings of the host were.
enum SettingsFile {}

impl Format for SettingsFile {
    type Content = Remembered;
    const NAME: &'static str = "host-settings";
    const VERSION: u32 = 2;

    fn upgrade(from: u32, fields: Fields) -> Option<Fields> {
        if from == 1 { book::content(fields) } else { None }
    }
}

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
        let remembered = Mutex::new(shoal_durable::read::<SettingsFile>(&path)?);
        Ok(Self { path, remembered })
    }

    /// What is remembered.
    pub(super) fn remembered(&self) -> Option<Remembered> {
        self.lock().clone()
    }

    /// Remembers what settings were; it is on disk when this returns.
    pub(super) fn remember(&self, memory: Remembered) -> Result<(), NetworkError> {
        let mut known = self.lock();
        shoal_durable::write::<SettingsFile>(&self.path, &memory, book::MODE, Lasting::PowerCut)?;
        *known = Some(memory);
        Ok(())
    }

    /// Forgets: everything is as it was.
    pub(super) fn forget(&self) -> Result<(), NetworkError> {
        let mut known = self.lock();
        book::remove(&self.path)
            .map_err(|source| NetworkError::WriteBook { path: self.path.clone(), source })?;
        *known = None;
        Ok(())
    }

    /// The settings as they are: of the host, those that are `remembered`, those of bridges, by whether each has
    /// IPv6, and those of the mesh's device. What is the host's of IPv6 matters where somebody has it.
    pub(super) fn observe<'a>(
        &self,
        remembered: impl Iterator<Item = &'a str>,
        bridges: &BTreeMap<String, bool>,
        mesh: &str,
        v6: bool,
    ) -> BTreeMap<String, String> {
        let mut names: BTreeSet<String> = remembered.map(str::to_owned).collect();
        names.extend([IP_FORWARD, SRC_VALID_MARK].map(str::to_owned));
        // What else would be changed matters only as long as nothing is.
        if sysctl::get(IP_FORWARD).is_some_and(|value| value == "0") {
            names.insert(ACCEPT_REDIRECTS.to_owned());
            names.extend(sysctl::interfaces().iter().map(|ifname| forwarding_of(ifname)));
        }
        names.extend(v6.then(|| FORWARD_V6.to_owned()));
        if v6 && sysctl::get(FORWARD_V6).is_some_and(|value| value == "0") {
            let of = |ifname: &String| [accept_ra_of(ifname), forwarding_v6_of(ifname)];
            names.extend(sysctl::interfaces().iter().flat_map(of));
        }
        let of_bridges = bridges.iter().flat_map(|(bridge, v6)| of_bridge(bridge, *v6));
        names.extend(of_bridges.map(|(name, _)| name));
        names.extend(of_mesh(mesh, v6).into_iter().map(|(name, _)| name));
        let read = |name: String| sysctl::get(&name).map(|value| (name, value));
        names.into_iter().filter_map(read).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Remembered>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the host has no IPv6: its kernel knows nothing of it, or it is switched off for all interfaces.
pub(super) fn without_v6() -> bool {
    sysctl::get(DISABLE_V6).is_none_or(|value| value != "0")
}

/// Which boot of the host this is.
pub(super) fn boot_id() -> Result<String, NetworkError> {
    let text = fs::read_to_string(BOOT_ID);
    let text = text.map_err(|source| NetworkError::ReadBook { path: BOOT_ID.into(), source })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod golden {
    use super::*;

    #[test]
    fn settings_of_every_version_are_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden");
        let before = serde_json::json!({
            "boot": "3f0c", "before": { "net.ipv4.ip_forward": "0" },
        });
        let before = serde_json::from_value(before).unwrap();
        shoal_durable::testing::check_golden::<SettingsFile>(&golden, &before);
    }
}
