//! How the packet filter shows the agent's tables, remembered over a restart of the agent.
//!
//! It is gone with a reboot, as the tables are. Not synced: without it they are replaced, which may cost a packet.

use std::path::{Path, PathBuf};

use shoal_agent_planning::network::ruleset::Shown;
use shoal_durable::{Fields, Format, Lasting};
use shoal_types::error_chain::chain;

use crate::{NetworkError, book};

struct ShownFile;

impl Format for ShownFile {
    type Content = Shown;
    const NAME: &'static str = "network-tables";
    const VERSION: u32 = 1;

    fn upgrade(_: u32, _: Fields) -> Option<Fields> {
        None
    }
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("network-tables.json")
}

/// What an earlier agent has written. Blocks.
pub(super) fn read(run_dir: &Path) -> Option<Shown> {
    let shown = shoal_durable::read::<ShownFile>(&path(run_dir));
    shown.unwrap_or_else(|error| {
        tracing::warn!(
            error = %chain(&error),
            "go on without what was written down of how the nftables tables are shown"
        );
        None
    })
}

/// Writes it down, or that nothing is known. A failure costs a replacement of the tables at the next restart, and is told.
pub(super) fn write(run_dir: &Path, shown: Option<&Shown>) {
    let path = path(run_dir);
    let written = match shown {
        Some(shown) => shoal_durable::write::<ShownFile>(&path, shown, book::MODE, Lasting::Crash)
            .map_err(NetworkError::from),
        None => book::remove(&path).map_err(|source| NetworkError::WriteBook { path, source }),
    };
    if let Err(error) = written {
        tracing::warn!(
            error = %chain(&error),
            "cannot write down how the nftables tables are shown"
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shoal_agent_planning::network::leases::{Leases, Rules};
    use shoal_agent_planning::network::ruleset::{HostFacts, Mend, Ruleset};

    use super::*;

    #[test]
    fn tables_of_every_version_are_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden");
        let shown = json!({ "made_of": "table inet shoal {\n}\n", "frame":
            [{ "table": { "family": "inet", "name": "shoal" } }] });
        let shown: Shown = serde_json::from_value(shown).unwrap();
        shoal_durable::testing::check_golden::<ShownFile>(&golden, &shown);
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let mut leases = Leases::default();
        leases.ensure_network(&Default::default(), &Rules::default(), &[]).unwrap();
        let ruleset = Ruleset::of(&leases, &HostFacts::default());
        let listed = json!({ "nftables": [{ "table": { "family": "inet", "name": "t" } }] });
        assert_eq!(read(dir.path()), None);
        write(dir.path(), Some(&ruleset.shown("t", &listed)));
        let shown = read(dir.path());
        assert!(matches!(ruleset.mend("t", Some(&listed), shown.as_ref()), Mend::Parts(_)));
        // Torn, and of an agent to come.
        for page in ["{", r#"{"version": 9}"#] {
            std::fs::write(path(dir.path()), page).unwrap();
            assert_eq!(read(dir.path()), None, "{page}");
        }
        write(dir.path(), None);
        assert!(!path(dir.path()).exists());
    }
}
