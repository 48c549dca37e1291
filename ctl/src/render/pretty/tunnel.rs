//! A node's end of the tunnels.

use shoal_types::object::{DescribedKeys, Node, TroubledLink, TroubledLinks};

use super::{Page, word};

/// A node's end of the tunnels to others, and which of these are not as they should be.
pub(super) fn show(page: &mut Page, node: &Node) {
    if let Some(tunnel) = &node.description.tunnel {
        page.title("Tunnel");
        page.entry(1, "Public Key", tunnel.public_key);
        let addr = tunnel.addr.or(node.status.addr);
        page.entry(1, "Address", addr.map(|ip| ip.to_string()).unwrap_or_default());
        page.entry(1, "Port", tunnel.port);
        page.entry(1, "Kind", word(tunnel.kind));
        if let Some(DescribedKeys { epoch, other, lagging, lacking }) = tunnel.keys {
            page.entry(1, "Key Epoch", epoch);
            if let Some(end) = other {
                page.entry(1, "Other Key", format!("{} of epoch {}", end.public_key, end.epoch));
                page.entry(
                    1,
                    "By Former Keys",
                    format!("{} nodes", lagging.saturating_add(lacking)),
                );
            }
        }
        let inner = node.tunnel_address.map(|address| address.to_string());
        page.entry(1, "Inner Address", inner.unwrap_or_default());
    }
    if let Some(TroubledLinks { count, links }) = &node.description.troubled_links {
        page.title("Troubled Links");
        page.entry(1, "Count", count);
        for link in links {
            let TroubledLink { node_id, endpoint, passes_bytes, full_bytes } = link;
            let passes = match passes_bytes {
                0 => "nothing passes".to_owned(),
                bytes => format!("{bytes} of {full_bytes} bytes pass"),
            };
            page.entry(1, "Link", format_args!("to {node_id} at {endpoint}: {passes}"));
        }
    }
}
