//! What leads where, remembered over a restart of the agent: until managers have said everything again, packets go
//! on as before.
//!
//! It is gone with a reboot, as what it describes is. Not synced: a page that was torn is as good as none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use imbl::{ordmap, ordset};
use serde::{Deserialize, Serialize};
use shoal_agent_planning::network::ingress::{Backend, Ingress, Numbers};
use shoal_agent_planning::network::ruleset::Vip;
use shoal_agent_planning::node::host::Wishes;
use shoal_durable::{Format, Lasting};
use shoal_types::error_chain::chain;

use super::{NetworkError, Protocol, book};

const FILE: &str = "network-ways.json";

/// Where the other pages are.
const PAGES: &str = "network-ways";
const SUFFIX: &str = ".json";

enum WaysFile {}

impl Format for WaysFile {
    type Content = Ways;
    const NAME: &'static str = "network-ways";
    const VERSION: u32 = 4;

    fn upgrade(from: u32, fields: shoal_durable::Fields) -> Option<shoal_durable::Fields> {
        // Up to version 3 the tunnel had one interface, and up to 2 there was one page; of version 1 nothing was led by
        // IPv6.
        matches!(from, 1..=3).then_some(fields)
    }
}

/// A page, as it is written. Each address is on one page, and all that is not about addresses on another, so that a
/// change costs no more than its neighbours.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Ways {
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    remote: BTreeSet<IpAddr>,
    /// Those to which packets go by the tunnel's second interface.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    second: BTreeSet<IpAddr>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    narrow: BTreeMap<IpAddr, u32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    vips: BTreeMap<IpAddr, Vec<IpAddr>>,
    /// Those of them whose clients are led to the same one each time.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    sticky: BTreeSet<IpAddr>,
    #[serde(default)]
    home: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    peers: BTreeMap<Ipv4Addr, Option<IpAddr>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    numbers: Numbers,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<PortWays>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct PortWays {
    protocol: Protocol,
    port: u16,
    backends: Vec<Backend>,
    /// The name of each, where clients are led to the same one each time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
}

/// One of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Page {
    /// Nodes and ports.
    First,
    /// Addresses that have all bytes but the last one in common with this one, whose last one is zero.
    From(IpAddr),
}

impl Page {
    fn of(address: IpAddr) -> Self {
        Self::From(match address {
            IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & !0xff).into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !0xff).into(),
        })
    }

    fn path(self, run_dir: &Path) -> PathBuf {
        match self {
            Self::First => run_dir.join(FILE),
            Self::From(first) => {
                let name = match first {
                    IpAddr::V4(address) => format!("{:08x}{SUFFIX}", address.to_bits()),
                    IpAddr::V6(address) => format!("{:032x}{SUFFIX}", address.to_bits()),
                };
                run_dir.join(PAGES).join(name)
            }
        }
    }

    fn ways(self, wishes: &Wishes) -> Ways {
        let first = match self {
            Self::First => return Ways::first(wishes),
            Self::From(first) => first,
        };
        let last = match first {
            IpAddr::V4(address) => IpAddr::from(Ipv4Addr::from_bits(address.to_bits() | 0xff)),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() | 0xff).into(),
        };
        let vips = || wishes.vips.range(first..=last);
        Ways {
            remote: wishes.remote.range(first..=last).copied().collect(),
            second: wishes.second.range(first..=last).copied().collect(),
            vips: vips().map(|(vip, of)| (*vip, of.backends.to_vec())).collect(),
            sticky: vips().filter(|(_, of)| of.sticky).map(|(vip, _)| *vip).collect(),
            ..Ways::default()
        }
    }

    /// Those that are not as they were; all where it is not known how they were.
    fn changed(before: Option<&Wishes>, now: &Wishes) -> BTreeSet<Self> {
        let Some(before) = before else {
            let vips = now.vips.keys().chain(now.remote.iter()).chain(now.second.iter());
            return vips.map(|one| Self::of(*one)).chain([Self::First]).collect();
        };
        let vip = |difference| match difference {
            ordmap::DiffItem::Add(vip, _)
            | ordmap::DiffItem::Remove(vip, _)
            | ordmap::DiffItem::Update { new: (vip, _), .. } => Self::of(*vip),
        };
        let remote = |difference| match difference {
            ordset::DiffItem::Add(address) | ordset::DiffItem::Remove(address) => {
                Self::of(*address)
            }
        };
        let mut pages: BTreeSet<Self> = before.vips.diff(&now.vips).map(vip).collect();
        pages.extend(before.remote.diff(&now.remote).map(remote));
        pages.extend(before.second.diff(&now.second).map(remote));
        let same = before.ingress == now.ingress
            && before.numbers == now.numbers
            && before.narrow == now.narrow;
        pages.extend((!same).then_some(Self::First));
        pages
    }
}

impl Ways {
    fn first(wishes: &Wishes) -> Self {
        let Ingress { home, peers, ports, sticky } = &*wishes.ingress;
        let ports = ports.iter().map(|((protocol, port), backends)| PortWays {
            protocol: *protocol,
            port: *port,
            backends: backends.to_vec(),
            names: sticky.get(&(*protocol, *port)).map_or_else(Vec::new, |names| names.to_vec()),
        });
        Self {
            narrow: (*wishes.narrow).clone(),
            home: *home,
            peers: peers.clone(),
            numbers: (*wishes.numbers).clone(),
            ports: ports.collect(),
            ..Self::default()
        }
    }

    /// With what is on another page.
    fn merge(&mut self, other: Self) {
        let Self { remote, second, narrow, vips, sticky, home, peers, numbers, ports } = other;
        self.second.extend(second);
        self.sticky.extend(sticky);
        self.narrow.extend(narrow);
        self.remote.extend(remote);
        self.vips.extend(vips);
        self.home = self.home.or(home);
        self.peers.extend(peers);
        self.numbers.extend(numbers);
        self.ports.extend(ports);
    }

    fn into_wishes(self, wishes: Wishes) -> Wishes {
        let Self { remote, second, narrow, vips, sticky: sticky_vips, .. } = self;
        let (home, peers, numbers, ports) = (self.home, self.peers, self.numbers, self.ports);
        let sticky = ports.iter().filter(|one| !one.names.is_empty());
        let sticky = sticky.map(|one| ((one.protocol, one.port), one.names.clone().into()));
        let sticky = sticky.collect();
        let vip = |(vip, backends): (IpAddr, Vec<IpAddr>)| {
            (vip, Vip { sticky: sticky_vips.contains(&vip), ..backends.into() })
        };
        let port = |one: PortWays| ((one.protocol, one.port), Arc::from(one.backends));
        let ports = ports.into_iter().map(port).collect();
        Wishes {
            remote: remote.into(),
            second: second.into(),
            narrow: Arc::new(narrow),
            vips: vips.into_iter().map(vip).collect(),
            ingress: Arc::new(Ingress { home, peers, ports, sticky }),
            numbers: Arc::new(numbers),
            ..wishes
        }
    }
}

/// These wishes with what an earlier agent led where. Managers say it again, so a page that cannot be read, torn
/// or of a newer agent, costs a pause and is told.
pub(super) fn restore(run_dir: &Path, wishes: Wishes) -> Wishes {
    let mut all = Ways::default();
    let others = fs::read_dir(run_dir.join(PAGES)).into_iter().flatten();
    let others = others.filter_map(|entry| Some(entry.ok()?.path()));
    let others = others.filter(|path| path.to_string_lossy().ends_with(SUFFIX));
    for path in others.chain([Page::First.path(run_dir)]) {
        match shoal_durable::read::<WaysFile>(&path) {
            Ok(page) => all.merge(page.unwrap_or_default()),
            Err(error) => tracing::warn!(
                error = %chain(&error),
                "go on without a part of what was written down of what leads where"
            ),
        }
    }
    all.into_wishes(wishes)
}

/// Writes down what leads where, as far as it is not as it was written `before`, which is not known after a start or a
/// failure; nothing is remembered where nothing is led. A failure costs a pause at the next restart, and is told. Says
/// whether all is written. Blocks.
pub(super) fn remember(run_dir: &Path, before: Option<&Wishes>, now: &Wishes) -> bool {
    let written = pages(run_dir, before, now);
    if let Err(error) = &written {
        tracing::warn!(error = %chain(error), "cannot write down what leads where");
    }
    written.is_ok()
}

fn pages(run_dir: &Path, before: Option<&Wishes>, now: &Wishes) -> Result<(), NetworkError> {
    let dir = run_dir.join(PAGES);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| NetworkError::WriteBook { path, source }
    };
    if before.is_none() {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(failed(&dir))?,
        }
    }
    for page in Page::changed(before, now) {
        let (path, ways) = (page.path(run_dir), page.ways(now));
        if ways == Ways::default() {
            book::remove(&path).map_err(failed(&path))?;
            continue;
        }
        fs::create_dir_all(&dir).map_err(failed(&dir))?;
        shoal_durable::write::<WaysFile>(&path, &ways, book::MODE, Lasting::Crash)?;
    }
    Ok(())
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
            second: BTreeSet::new(),
            narrow: BTreeMap::new(),
            vips: [([10, 0, 5, 50].into(), vec![[10, 0, 5, 9].into()])].into(),
            home: Some(at(1)),
            peers: [(at(2), Some([192, 0, 2, 2].into())), (at(3), None)].into(),
            numbers: [(at(2), 2), (at(3), 3)].into(),
            sticky: BTreeSet::new(),
            ports: vec![PortWays { protocol: Protocol::Tcp, port: 8080, backends, names: vec![] }],
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
        both.second.extend([IpAddr::from(at(2)), "fd00:5::9".parse().unwrap()]);
        both.vips.insert("fd00:5::50".parse().unwrap(), vec!["fd00:5::9".parse().unwrap()]);
        both.ports[0].backends.push(Backend::Both(at(3)));
        both.ports[0].names = ["c1", "c2", "c3"].map(str::to_owned).to_vec();
        both.sticky.insert([10, 0, 5, 50].into());
        let led = both.into_wishes(wishes.clone());
        assert!(remember(dir.path(), None, &led));
        assert_eq!(restore(dir.path(), wishes.clone()), led);
        // Torn, and of an agent to come.
        let newer = r#"{"version": 9}"#;
        for page in ["{", newer] {
            let path = Page::First.path(dir.path());
            fs::write(path, page).unwrap();
            let left = restore(dir.path(), wishes.clone());
            let Wishes { ingress, numbers, narrow, .. } = wishes.clone();
            assert_eq!(left, Wishes { ingress, numbers, narrow, ..led.clone() }, "{page}");
        }
        // Each change writes the pages that it is on.
        let mut less = led.clone();
        less.vips.remove(&IpAddr::from([10, 0, 5, 50]));
        assert!(remember(dir.path(), Some(&led), &less));
        let of_others = less.remote.clone();
        less.ingress = led.ingress.clone();
        assert_eq!(restore(dir.path(), wishes.clone()).vips, less.vips);
        assert_eq!(restore(dir.path(), wishes.clone()).remote, of_others);
        assert!(remember(dir.path(), None, &less));
        assert_eq!(restore(dir.path(), wishes.clone()), less);
        assert!(remember(dir.path(), Some(&less), &wishes));
        assert_eq!(restore(dir.path(), wishes.clone()), wishes);
        let left = fs::read_dir(dir.path().join(PAGES)).unwrap().count();
        assert_eq!((left, Page::First.path(dir.path()).exists()), (0, false));
        // What cannot be read at all.
        fs::create_dir(Page::First.path(dir.path())).unwrap();
        assert_eq!(restore(dir.path(), wishes.clone()), wishes);
    }
}
