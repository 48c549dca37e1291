//! What is done to the settings of the whole host, and what is remembered of them before.

use std::collections::BTreeMap;

use super::{Action, Observed, Wishes};
use crate::network::leases::Leases;
use crate::network::settings::{IP_FORWARD, Remembered, SRC_VALID_MARK};
use crate::network::{NetworkState, names};

/// Whether a setting is one of the agent's own interfaces.
fn is_of_agent(setting: &str, prefix: &str) -> bool {
    names::is_of_agent(prefix, setting.split('/').nth(2).unwrap_or_default())
}

/// What is done to the settings of the whole host.
#[derive(Default)]
pub(super) struct Memory {
    /// First: remembering, or putting back.
    pub(super) before: Vec<Action>,
    /// Last: what lets packets through.
    pub(super) switch_on: Vec<Action>,
    /// What is remembered then.
    pub(super) after: Option<Remembered>,
}

pub(super) fn memory(
    leases: &Leases,
    wishes: &Wishes,
    observed: &Observed,
    (meshed, v6): (bool, bool),
) -> Memory {
    let Observed { boot, remembered, .. } = observed;
    let Some(now) = &observed.settings else {
        return Memory { after: remembered.clone(), ..Memory::default() };
    };
    let set = |(name, value): (String, String)| Action::Set { name, value };
    // Of a network that spans hosts everything goes by the host, also what stays inside of it.
    let open = || leases.networks().filter(|network| !network.internal || network.routed);
    let guests = |v6: bool| {
        let subnets = observed.guests.iter().flat_map(|guest| &guest.subnets);
        wishes.forwards_for_others || subnets.into_iter().any(|net| net.addr().is_ipv6() == v6)
    };
    let back_v6 = |remembered: &Remembered| remembered.restore_v6(boot, now, guests(true));
    if !meshed && open().next().is_none() {
        let Some(remembered) = remembered else { return Memory::default() };
        let back = remembered.restore(boot, now, guests(false));
        let back = back_v6(remembered).into_iter().chain(back).map(set);
        return Memory { before: back.chain([Action::Forget]).collect(), ..Memory::default() };
    }
    // What the agent has made has nothing to be put back, whenever it was cut off before.
    let of_host: BTreeMap<String, String> = now
        .iter()
        .filter(|(name, _)| !is_of_agent(name, &wishes.prefix))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let known = Remembered::from(&of_host, boot, remembered.as_ref());
    let mut before: Vec<Action> = Vec::new();
    let needs_v6 = v6 && (meshed || open().any(NetworkState::has_v6));
    let after = if needs_v6 {
        known.with_v6(&of_host)
    } else {
        before.extend(back_v6(&known).into_iter().map(set));
        known.without_v6()
    };
    let new = remembered.as_ref() != Some(&after);
    before.extend(new.then(|| Action::Remember(after.clone())));
    let switches = [SRC_VALID_MARK, IP_FORWARD].into_iter();
    let off = switches.filter(|name| now.get(*name).is_some_and(|value| value != "1"));
    let on = off.map(|name| set((name.to_owned(), "1".to_owned())));
    let on_v6 = if needs_v6 { after.steps_v6(now) } else { Vec::new() };
    let on = on.chain(on_v6.into_iter().map(set));
    Memory { before, switch_on: on.collect(), after: Some(after) }
}
