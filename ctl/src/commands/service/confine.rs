//! Flags about what confines containers and what they know of their surroundings, by Docker's
//! names.

use std::collections::BTreeSet;
use std::net::IpAddr;

use clap::Args;
use shoal_types::capability::{self, full_name};
use shoal_types::spec::{ContainerSpec, Ulimit};

use super::pairs::KeyValue;
use super::update::remove;
use crate::commands::Result;
use crate::error::CommandError;
use crate::stack::confine::{host, host_line, ulimit};

/// Takes back all earlier additions, or drops.
const RESET: &str = "RESET";

type Host = (String, IpAddr);

/// Flags of `service create` and `service update`.
#[derive(Debug, Default, Args)]
pub(super) struct Confinement {
    /// Add a capability; ALL for every one, RESET for no addition
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Drop a capability; ALL for every one, RESET for no drop
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// How gladly the kernel kills it for memory, -1000 to 1000 [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    oom_score_adj: Option<i64>,
}

/// Flags of `service create` alone.
#[derive(Debug, Default, Args)]
pub(super) struct Surroundings {
    /// A kernel parameter
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl: Vec<KeyValue>,
    /// A limit of processes: NAME=SOFT[:HARD], -1 for none
    #[arg(long, value_name = "ULIMIT", value_parser = ulimit)]
    ulimit: Vec<Ulimit>,
    /// A host that containers know: HOST:ADDRESS
    #[arg(long, value_name = "HOST", value_parser = host)]
    host: Vec<Host>,
    /// A name server
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
    /// A resolver option
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
    /// A domain to search
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
}

/// Flags of `service update` alone.
#[derive(Debug, Default, Args)]
pub(super) struct NewSurroundings {
    /// Add or replace a kernel parameter
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl_add: Vec<KeyValue>,
    /// Leave a kernel parameter alone
    #[arg(long, value_name = "NAME")]
    sysctl_rm: Vec<String>,
    /// Add or replace a limit of processes: NAME=SOFT[:HARD], -1 for none
    #[arg(long, value_name = "ULIMIT", value_parser = ulimit)]
    ulimit_add: Vec<Ulimit>,
    /// Remove a limit of processes
    #[arg(long, value_name = "NAME")]
    ulimit_rm: Vec<String>,
    /// Add a host that containers know: HOST:ADDRESS
    #[arg(long, value_name = "HOST", value_parser = host)]
    host_add: Vec<Host>,
    /// Remove a host: HOST:ADDRESS
    #[arg(long, value_name = "HOST", value_parser = host)]
    host_rm: Vec<Host>,
    /// Add a name server
    #[arg(long, value_name = "ADDRESS")]
    dns_add: Vec<IpAddr>,
    /// Remove a name server
    #[arg(long, value_name = "ADDRESS")]
    dns_rm: Vec<IpAddr>,
    /// Add a resolver option
    #[arg(long, value_name = "OPTION")]
    dns_option_add: Vec<String>,
    /// Remove a resolver option
    #[arg(long, value_name = "OPTION")]
    dns_option_rm: Vec<String>,
    /// Add a domain to search
    #[arg(long, value_name = "DOMAIN")]
    dns_search_add: Vec<String>,
    /// Remove a domain to search
    #[arg(long, value_name = "DOMAIN")]
    dns_search_rm: Vec<String>,
}

impl Confinement {
    pub(super) fn apply(self, container: &mut ContainerSpec) {
        if !self.cap_add.is_empty() || !self.cap_drop.is_empty() {
            let (add, drop) = capabilities(container, &self.cap_add, &self.cap_drop);
            (container.capability_add, container.capability_drop) = (add, drop);
        }
        if self.oom_score_adj.is_some() {
            container.oom_score_adj = self.oom_score_adj;
        }
    }
}

impl Surroundings {
    pub(super) fn apply(self, container: &mut ContainerSpec) -> Result {
        let Self { sysctl, ulimit, host, dns, dns_option, dns_search } = self;
        let added = NewSurroundings {
            sysctl_add: sysctl,
            ulimit_add: ulimit,
            host_add: host,
            dns_add: dns,
            dns_option_add: dns_option,
            dns_search_add: dns_search,
            ..NewSurroundings::default()
        };
        added.apply(container)
    }
}

impl NewSurroundings {
    /// Changes what is said; whatever is to be removed must be there.
    pub(super) fn apply(self, container: &mut ContainerSpec) -> Result {
        for name in &self.sysctl_rm {
            if container.sysctls.remove(name).is_none() {
                return Err(CommandError::failed(format!("the service has no sysctl {name:?}")));
            }
        }
        container.sysctls.extend(self.sysctl_add.into_iter().map(|s| (s.key, s.value)));
        for name in &self.ulimit_rm {
            remove("ulimit", name, &mut container.ulimits, |u| u.name == *name)?;
        }
        for ulimit in self.ulimit_add {
            container.ulimits.retain(|u| u.name != ulimit.name);
            container.ulimits.push(ulimit);
        }
        let line = |(name, address): &Host| host_line(name, *address);
        let (add, rm) = (self.host_add.iter().map(line), self.host_rm.iter().map(line));
        change("host", &mut container.hosts, add.collect(), rm.collect())?;

        let text = |list: Vec<IpAddr>| list.iter().map(ToString::to_string).collect();
        let mut dns = container.dns_config.take().unwrap_or_default();
        change("name server", &mut dns.nameservers, text(self.dns_add), text(self.dns_rm))?;
        change("DNS option", &mut dns.options, self.dns_option_add, self.dns_option_rm)?;
        change("search domain", &mut dns.search, self.dns_search_add, self.dns_search_rm)?;
        let is_empty =
            dns.nameservers.is_empty() && dns.options.is_empty() && dns.search.is_empty();
        container.dns_config = (!is_empty).then_some(dns);
        Ok(())
    }
}

/// Takes texts out of a list, then puts others in that are not there yet.
fn change(what: &str, list: &mut Vec<String>, add: Vec<String>, rm: Vec<String>) -> Result {
    for text in rm {
        remove(what, &text, list, |item| *item == text)?;
    }
    for text in add {
        if !list.contains(&text) {
            list.push(text);
        }
    }
    Ok(())
}

/// Added and dropped capabilities after a change, by Docker's rules: adding wins over dropping the
/// same one; to add what was dropped only takes it off that list, and the other way round; ALL
/// stands for the others of its list; RESET empties it first.
fn capabilities(
    now: &ContainerSpec,
    add: &[String],
    drop: &[String],
) -> (Vec<String>, Vec<String>) {
    type Set = BTreeSet<String>;
    let set = |names: &[String]| names.iter().map(|name| full_name(name)).collect::<Set>();
    let asked = |names: &[String], now: &[String]| -> (Set, Set) {
        let is_reset = |name: &&String| name.eq_ignore_ascii_case(RESET);
        let reset = names.iter().any(|name| is_reset(&name));
        let names: Vec<String> = names.iter().filter(|n| !is_reset(n)).cloned().collect();
        (set(&names), if reset { Set::new() } else { set(now) })
    };
    let (add, mut added) = asked(add, &now.capability_add);
    let (drop, mut dropped) = asked(drop, &now.capability_drop);
    for name in drop.difference(&add) {
        if !added.remove(name) {
            dropped.insert(name.clone());
        }
    }
    for name in &add {
        if !dropped.remove(name) {
            added.insert(name.clone());
        }
    }
    let list = |names: Set| match names.contains(capability::ALL) {
        true => vec![capability::ALL.to_owned()],
        false => names.into_iter().collect(),
    };
    (list(added), list(dropped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_change_as_docker_changes_them() {
        let own = |names: &str| names.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        // Added and dropped before, flags, added and dropped after.
        let table = [
            (("", ""), ("net_admin", "chown"), ("CAP_NET_ADMIN", "CAP_CHOWN")),
            (("", ""), ("KILL", "KILL"), ("CAP_KILL", "")),
            (("", "CAP_CHOWN"), ("CHOWN", ""), ("", "")),
            (("CAP_KILL", ""), ("", "KILL"), ("", "")),
            (("CAP_KILL", ""), ("", ""), ("CAP_KILL", "")),
            (("CAP_KILL", "CAP_CHOWN"), ("RESET", ""), ("", "CAP_CHOWN")),
            (("CAP_KILL", "CAP_CHOWN"), ("RESET CHOWN", "reset"), ("CAP_CHOWN", "")),
            (("", ""), ("NET_RAW ALL", ""), ("ALL", "")),
            (("", ""), ("NET_RAW", "all"), ("CAP_NET_RAW", "ALL")),
        ];
        for ((added, dropped), (add, drop), after) in table {
            let now = ContainerSpec {
                capability_add: own(added),
                capability_drop: own(dropped),
                ..ContainerSpec::default()
            };
            let found = capabilities(&now, &own(add), &own(drop));
            assert_eq!(found, (own(after.0), own(after.1)), "--cap-add {add} --cap-drop {drop}");
        }
    }
}
