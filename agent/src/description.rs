//! What this host says of itself when a session begins.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_agent_network::{Rules, host_subnets};
use shoal_types::error_chain::chain;
use shoal_types::level::Level;
use shoal_types::object::{EngineDescription, NodeDescription, PluginDescription};
use shoal_types::resources::{NANO_CPUS_PER_CPU, Resources};
use shoal_types::spec::{NetworkKind, Platform};

/// Looks at the host, for a session that begins.
pub type Describe = Arc<dyn Fn() -> BoxFuture<'static, NodeDescription> + Send + Sync>;

/// One that tells, beside what [`describe`] does, which addresses the host uses itself.
#[must_use]
pub fn describer(
    hostname: Option<String>,
    labels: BTreeMap<String, String>,
    drivers: Vec<NetworkKind>,
) -> Describe {
    let of_host = Arc::new(move || describe(hostname.as_deref(), &labels, &drivers));
    Arc::new(move || {
        let of_host = Arc::clone(&of_host);
        let described = async move {
            let found = host_subnets(&Rules::default().prefix).await;
            let host_subnets = found.unwrap_or_else(|error| {
                tracing::warn!(error = %chain(&error), "managers are not told which addresses this host uses itself");
                Vec::new()
            });
            NodeDescription { host_subnets, ..of_host() }
        };
        described.boxed()
    })
}

/// Looks at the host. `drivers` are those of networks on wires that its kernel has. Cheap enough for every session, so
/// that memory plugged in later is seen.
#[must_use]
pub fn describe(
    hostname: Option<&str>,
    labels: &BTreeMap<String, String>,
    drivers: &[NetworkKind],
) -> NodeDescription {
    let host = shoal_agent_image::Platform::host();
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    NodeDescription {
        hostname: hostname.map_or_else(host_name, ToOwned::to_owned),
        platform: Platform { architecture: host.architecture, os: host.os },
        resources: Resources {
            nano_cpus: cpus * NANO_CPUS_PER_CPU,
            memory_bytes: memory_total(&meminfo).unwrap_or(0),
            generic_resources: Vec::new(),
        },
        engine: EngineDescription {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: labels.clone(),
            plugins: drivers.iter().copied().map(PluginDescription::network).collect(),
        },
        level: Level::OWN,
        tunnel: None,
        troubled_links: None,
        host_subnets: Vec::new(),
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// `MemTotal` of proc(5)'s meminfo, in bytes.
fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use shoal_types::spec::Driver;

    use super::*;

    #[test]
    fn this_host_has_something_to_offer() {
        let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
        let node = describe(None, &labels, &[NetworkKind::Macvlan]);
        assert!(!node.hostname.is_empty());
        assert_eq!(node.platform.os, "linux");
        assert!(node.resources.nano_cpus >= NANO_CPUS_PER_CPU);
        assert!(node.resources.memory_bytes > 1 << 20);
        assert_eq!(node.engine.labels, labels);
        let has = |kind: NetworkKind| {
            let name = kind.as_str().to_owned();
            node.engine.has_driver(&Driver { name, ..Driver::default() })
        };
        assert!(has(NetworkKind::Macvlan) && !has(NetworkKind::Ipvlan) && has(NetworkKind::Bridge));
        assert_eq!(describe(Some("other"), &labels, &[]).hostname, "other");
    }

    #[test]
    fn meminfo_is_read_as_proc_writes_it() {
        let table = [
            ("MemTotal:       24683528 kB\nMemFree: 1 kB\n", Some(24_683_528 * 1024)),
            ("MemFree: 1 kB\n", None),
            ("MemTotal: much kB\n", None),
        ];
        for (text, expected) in table {
            assert_eq!(memory_total(text), expected, "{text:?}");
        }
    }
}
