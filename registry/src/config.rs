//! How registries are spoken to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How registries are spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Registries, as `host` or `host:port`, that are spoken to without encryption. Loopback
    /// addresses always are, unless `root_certificates` names them.
    pub plain_http: Vec<String>,
    /// PEM files with certificates to trust for one registry (`host` or `host:port`) besides those
    /// of the system.
    pub root_certificates: BTreeMap<String, PathBuf>,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long a registry may be silent within an answer.
    pub read_timeout: Duration,
    /// Bytes a second that have to come of a transfer while it is waited for, over `rate_window`.
    pub rate_min: u64,
    /// How long a transfer may be slower than `rate_min`, all in all.
    pub rate_window: Duration,
    /// How long one transfer may take in any case.
    pub transfer_timeout: Duration,
    /// How often a request is made before its failure is final.
    pub attempts: u32,
    /// Wait before the second attempt; it doubles from then on.
    pub first_retry: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            root_certificates: BTreeMap::new(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            rate_min: 10 * 1024,
            rate_window: Duration::from_secs(60),
            transfer_timeout: Duration::from_secs(24 * 60 * 60),
            attempts: 4,
            first_retry: Duration::from_millis(250),
        }
    }
}

impl RegistryConfig {
    /// Whether this registry (`host[:port]`) is spoken to without encryption.
    #[must_use]
    pub fn is_plain(&self, registry: &str) -> bool {
        self.root_certificate(registry).is_none()
            && (is_loopback(registry) || self.is_listed(registry))
    }

    /// Whether `plain_http` names this registry.
    pub(super) fn is_listed(&self, registry: &str) -> bool {
        self.plain_http.iter().any(|listed| names(listed, registry))
    }

    /// The PEM file configured for this registry.
    #[must_use]
    pub fn root_certificate(&self, registry: &str) -> Option<&PathBuf> {
        self.root_certificates
            .iter()
            .find(|(listed, _)| names(listed, registry))
            .map(|(_, path)| path)
    }
}

/// Whether a configured `host` or `host:port` means this registry.
fn names(listed: &str, registry: &str) -> bool {
    listed.eq_ignore_ascii_case(registry) || listed.eq_ignore_ascii_case(host_of(registry))
}

fn host_of(registry: &str) -> &str {
    if let Some((address, _)) = registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    registry.split_once(':').map_or(registry, |(host, _)| host)
}

/// Whether `host[:port]` is this host: `localhost` and names below it never leave it (RFC 6761,
/// section 6.3).
pub(super) fn is_loopback(registry: &str) -> bool {
    let host = host_of(registry);
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_and_what_is_listed() {
        let config = RegistryConfig {
            plain_http: vec!["mirror.lan".into(), "10.0.0.1:5000".into()],
            root_certificates: BTreeMap::from([("localhost:443".into(), "/ca.pem".into())]),
            ..RegistryConfig::default()
        };
        for (registry, plain) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("a.localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("localhost:443", false),
            ("mirror.lan", true),
            ("MIRROR.lan:5000", true),
            ("10.0.0.1:5000", true),
            ("10.0.0.1:5001", false),
            ("10.0.0.1", false),
            ("docker.io", false),
            ("localhost.evil.io", false),
            ("127.0.0.1.evil.io", false),
            ("[2001:db8::1]:5000", false),
        ] {
            assert_eq!(config.is_plain(registry), plain, "{registry}");
        }
    }
}
