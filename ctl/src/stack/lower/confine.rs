//! What confines the containers of a service, and what they are told of their surroundings.

use shoal_types::capability;
use shoal_types::spec::{DnsConfig, Mount, MountKind, Privileges, TmpfsOptions, Ulimit};

use super::{Lower, size, texts};
use crate::stack::node::Node;
use crate::stack::{confine, refused};

impl Lower<'_> {
    /// Of `security_opt`, which names many things by one key.
    pub(super) fn privileges(&mut self, node: &Node, path: &str) -> Option<Privileges> {
        let mut privileges = None;
        for (i, option) in node.get("security_opt").map_or(&[][..], Node::items).iter().enumerate()
        {
            let no_new_privileges = match option.as_text().unwrap_or_default() {
                "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => true,
                "no-new-privileges:false" | "no-new-privileges=false" => false,
                _ => {
                    let text = refused::SECURITY_OPTION.said(&option.kind());
                    self.wrong(option.at, &format!("{path}.security_opt[{i}]"), text);
                    continue;
                }
            };
            privileges = Some(Privileges { no_new_privileges, ..Privileges::default() });
        }
        privileges.filter(|p| *p != Privileges::default())
    }
}

pub(super) fn capabilities(node: &Node, key: &str) -> Vec<String> {
    texts(node.get(key)).iter().map(|name| capability::full_name(name)).collect()
}

pub(super) fn ulimits(node: &Node) -> Vec<Ulimit> {
    let side = |limit: &Node, key: &str| {
        limit.get(key).and_then(Node::as_text).and_then(|text| confine::limit(text).ok())
    };
    let entries = node.get("ulimits").map_or(&[][..], Node::entries).iter();
    let ulimit = |name: &str, limit: &Node| {
        Some(Ulimit {
            name: name.to_owned(),
            soft: side(limit, "soft")?,
            hard: side(limit, "hard")?,
        })
    };
    entries.filter_map(|e| ulimit(&e.key, &e.value)).collect()
}

/// Lines of hosts(5).
pub(super) fn hosts(node: &Node) -> Vec<String> {
    let all = texts(node.get("extra_hosts"));
    let line = |text: &String| confine::host(text).ok().map(|(n, ip)| confine::host_line(&n, ip));
    all.iter().filter_map(line).collect()
}

pub(super) fn dns(node: &Node) -> Option<DnsConfig> {
    let config = DnsConfig {
        nameservers: texts(node.get("dns")),
        search: texts(node.get("dns_search")),
        options: texts(node.get("dns_opt")),
    };
    (config != DnsConfig::default()).then_some(config)
}

/// `/dev/shm` of another size than usual: a tmpfs in its place.
pub(super) fn shared_memory(node: &Node) -> Option<Mount> {
    let size_bytes = size(node, "shm_size")?;
    let options = TmpfsOptions { size_bytes, ..TmpfsOptions::default() };
    Some(Mount { tmpfs_options: Some(options), ..Mount::new(MountKind::Tmpfs, "", "/dev/shm") })
}
