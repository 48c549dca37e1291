//! What leads where, remembered over a restart of the agent: until managers have said everything again, packets go
//! on as before.
//!
//! It is gone with a reboot, as what it describes is. Not synced: a page that was torn is as good as none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shoal_agent_planning::network::ingress::{Backend, Ingress, Numbers};
use shoal_agent_planning::network::ruleset::Vips;
use shoal_agent_planning::node::host::Wishes;
use shoal_durable::{Format, Lasting};
use shoal_types::error_chain::chain;

use super::{NetworkError, Protocol, book};

const FILE: &str = "network-ways.json";

enum WaysFile {}

impl Format for WaysFile {
    type Content = Ways;
    const NAME: &'static str = "network-ways";
    const VERSION: u32 = 2;

    fn upgrade(from: u32, fields: shoal_durable::Fields) -> Option<shoal_durable::Fields> {
        // Nothing was led by IPv6.
        (from == 1).then_some(fields)
    }
}

/// As it is written.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Ways {
    remote: BTreeSet<IpAddr>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    narrow: BTreeMap<IpAddr, u32>,
    vips: Vips,
    home: Option<Ipv4Addr>,
    peers: BTreeMap<Ipv4Addr, Option<IpAddr>>,
    numbers: Numbers,
    ports: Vec<PortWays>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct PortWays {
    protocol: Protocol,
    port: u16,
    backends: Vec<Backend>,
}

impl Ways {
    fn of(wishes: &Wishes) -> Self {
        let Ingress { home, peers, ports } = &*wishes.ingress;
        let ports = ports.iter().map(|((protocol, port), backends)| PortWays {
            protocol: *protocol,
            port: *port,
            backends: backends.clone(),
        });
        Self {
            remote: (*wishes.remote).clone(),
            narrow: (*wishes.narrow).clone(),
            vips: (*wishes.vips).clone(),
            home: *home,
            peers: peers.clone(),
            numbers: (*wishes.numbers).clone(),
            ports: ports.collect(),
        }
    }

    fn into_wishes(self, wishes: Wishes) -> Wishes {
        let Self { remote, narrow, vips, home, peers, numbers, ports } = self;
        let ports = ports.into_iter().map(|one| ((one.protocol, one.port), one.backends)).collect();
        Wishes {
            remote: Arc::new(remote),
            narrow: Arc::new(narrow),
            vips: Arc::new(vips),
            ingress: Arc::new(Ingress { home, peers, ports }),
            numbers: Arc::new(numbers),
            ..wishes
        }
    }
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join(FILE)
}

/// These wishes with what an earlier agent led where. Managers say it again, so a page that cannot be read, torn
/// or of a newer agent, costs a pause and is told.
pub(super) fn restore(run_dir: &Path, wishes: Wishes) -> Wishes {
    match shoal_durable::read::<WaysFile>(&path(run_dir)) {
        Ok(ways) => ways.unwrap_or_default().into_wishes(wishes),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "go on without what was written down of what leads where");
            wishes
        }
    }
}

/// Writes down what leads where; nothing is remembered where nothing is led. A failure costs a pause at the next
/// restart, and is told. Blocks.
pub(super) fn remember(run_dir: &Path, wishes: &Wishes) {
    let (path, ways) = (path(run_dir), Ways::of(wishes));
    let written = if ways == Ways::default() {
        book::remove(&path).map_err(|source| NetworkError::WriteBook { path, source })
    } else {
        let written = shoal_durable::write::<WaysFile>(&path, &ways, book::MODE, Lasting::Crash);
        written.map_err(NetworkError::from)
    };
    if let Err(error) = written {
        tracing::warn!(error = %chain(&error), "cannot write down what leads where");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 0, last)
    }

    fn ways() -> Ways {
        let backends = vec![Backend::Here("c1".to_owned()), Backend::Far(at(2))];
        Ways {
            remote: [at(2).into(), [10, 0, 5, 9].into()].into(),
            narrow: BTreeMap::new(),
            vips: [([10, 0, 5, 50].into(), vec![[10, 0, 5, 9].into()])].into(),
            home: Some(at(1)),
            peers: [(at(2), Some([192, 0, 2, 2].into())), (at(3), None)].into(),
            numbers: [(at(2), 2), (at(3), 3)].into(),
            ports: vec![PortWays { protocol: Protocol::Tcp, port: 8080, backends }],
        }
    }

    #[test]
    fn ways_of_every_version_are_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden");
        shoal_durable::testing::check_golden::<WaysFile>(&golden, &ways());
    }

    #[test]
    fn what_was_led_is_led_until_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        let wishes = Wishes { prefix: "sh".to_owned(), ..Wishes::default() };
        assert_eq!(restore(dir.path(), wishes.clone()), wishes);
        // With IPv6, as it is with what is written today.
        let mut both = ways();
        both.remote.insert("fd00:5::9".parse().unwrap());
        both.narrow.insert([10, 0, 5, 9].into(), 1300);
        both.vips.insert("fd00:5::50".parse().unwrap(), vec!["fd00:5::9".parse().unwrap()]);
        both.ports[0].backends.push(Backend::Both(at(3)));
        let led = both.into_wishes(wishes.clone());
        remember(dir.path(), &led);
        assert_eq!(restore(dir.path(), wishes.clone()), led);
        // Torn, and of an agent to come.
        let newer = r#"{"version": 9}"#;
        for page in ["{", newer] {
            std::fs::write(path(dir.path()), page).unwrap();
            assert_eq!(restore(dir.path(), wishes.clone()), wishes, "{page}");
        }
        remember(dir.path(), &wishes);
        assert!(!path(dir.path()).exists());
        // What cannot be read at all.
        std::fs::create_dir(path(dir.path())).unwrap();
        assert_eq!(restore(dir.path(), wishes.clone()), wishes);
    }
}
