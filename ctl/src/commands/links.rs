//! Which packets pass between a host that has just joined and the others.

use serde_json::{Value, json};
use shoal_types::object::{TroubledLink, TroubledLinks};

use super::{Result, Shell};
use crate::render::note;

/// Where to look when a link is not as it should be.
const HINT: &str = "hint: UDP to the port of --data-path-port has to pass in both directions, in packets that are not \
                    cut smaller on the way; shoalctl node inspect --pretty self shows what is found out later";

/// Has the links tried, and says what came of it. That something is wrong with them is no reason to take the join
/// back: what the host does alone, it does.
pub(super) async fn tried(shell: &Shell) -> Result<Value> {
    if !shell.is_json() {
        note("trying the links to other nodes");
    }
    let Some((tried, troubled)) = shell.agent()?.await_links().await? else {
        return Ok(Value::Null);
    };
    said(tried, &troubled).iter().for_each(|line| note(line));
    Ok(json!({ "Tried": tried, "Troubled": troubled }))
}

fn said(tried: Option<u32>, troubled: &TroubledLinks) -> Vec<String> {
    let mut lines: Vec<String> = troubled.links.iter().map(trouble).collect();
    let more = (troubled.count as usize).saturating_sub(lines.len());
    if more > 0 {
        lines.push(format!("warning: and {more} more"));
    }
    match tried {
        None => lines
            .push("warning: the links to other nodes have not all been tried in time".to_owned()),
        Some(0) => lines.push("there are no links to other nodes yet".to_owned()),
        Some(count) if lines.is_empty() => {
            let nodes = if count == 1 { "node" } else { "nodes" };
            return vec![format!("packets of every size pass to {count} other {nodes} and back")];
        }
        Some(_) => {}
    }
    if tried != Some(0) {
        lines.push(HINT.to_owned());
    }
    lines
}

fn trouble(link: &TroubledLink) -> String {
    let TroubledLink { node_id, endpoint, passes_bytes, full_bytes } = link;
    match passes_bytes {
        0 => format!("warning: no packet passes to node {node_id} at {endpoint} and back"),
        bytes => format!(
            "warning: only packets of up to {bytes} bytes pass to node {node_id} at {endpoint}, expected {full_bytes}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use shoal_types::id::NodeId;

    use super::*;

    fn link(n: u128, passes_bytes: u32) -> TroubledLink {
        let endpoint = ([192, 0, 2, 1], 51820).into();
        TroubledLink { node_id: NodeId::from(n), endpoint, passes_bytes, full_bytes: 1420 }
    }

    #[test]
    fn what_came_of_it_is_said() {
        let none = TroubledLinks::default();
        assert_eq!(said(Some(0), &none), ["there are no links to other nodes yet"]);
        assert_eq!(said(Some(1), &none), ["packets of every size pass to 1 other node and back"]);
        assert_eq!(said(None, &none).len(), 2, "{:?}", said(None, &none));
        let some = TroubledLinks { count: 3, links: vec![link(1, 0), link(2, 1216)] };
        let lines = said(Some(9), &some);
        assert!(lines[0].contains("no packet passes to node"), "{lines:?}");
        assert!(lines[1].contains("up to 1216 bytes pass to node"), "{lines:?}");
        assert_eq!(lines[2], "warning: and 1 more");
        assert_eq!(lines[3..], [HINT]);
    }
}
