//! What containers do not publish is not reached by anybody whom the tables have not seen.

use shoal_agent_planning::network::fence::FenceRule;
use shoal_agent_planning::network::links::{LinkKind, ObservedLink};
use shoal_agent_planning::network::names;
use shoal_agent_planning::network::settings::IP_FORWARD;
use shoal_agent_planning::node::host::{Observed, Tables};

/// Whether nothing is forwarded to or from a bridge of the agent but what the tables let through: they
/// are there, or routing rules close the bridge, or nothing is forwarded at all.
#[must_use]
pub fn is_closed(observed: &Observed, prefix: &str) -> bool {
    let settings = observed.settings.as_ref();
    if settings.and_then(|all| all.get(IP_FORWARD)).is_none_or(|value| value != "1") {
        return true;
    }
    if matches!(observed.tables, Some(Tables::Hold(_))) {
        return true;
    }
    let rules = observed.fence.as_ref().map(|fence| &fence.present);
    let has = |rule: &FenceRule| rules.is_some_and(|rules| rules.contains(rule));
    if has(&FenceRule::CloseAll) {
        return true;
    }
    let Some(links) = &observed.links else { return false };
    let ways = links.found.iter().filter(|(ifname, link)| {
        let is_way = link.kind == LinkKind::Bridge && link.up && !link.addresses.is_empty();
        is_way && names::is_ours(prefix, ifname)
    });
    let closed = |(ifname, link): (&String, &ObservedLink)| {
        let mut subnets = link.addresses.iter();
        has(&FenceRule::CloseBridge(ifname.clone()))
            && subnets.all(|subnet| has(&FenceRule::CloseSubnet(subnet.trunc())))
    };
    { ways }.all(closed)
}
