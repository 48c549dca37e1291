//! Bugs planted in what an agent does about its host's networks, and in whom it obeys.

use shoal_agent_planning::network::leases::Leases;
use shoal_agent_planning::network::links;
use shoal_agent_planning::network::settings::IP_FORWARD;
use shoal_agent_planning::node::host::{self, Action, Observed, Plan, Wishes};

use super::{Mind, noticed};

type Kind = fn(&Action) -> bool;

/// A planner that leaves some of what is to be done undone.
struct Without(Kind);

impl Mind for Without {
    fn keep_host(&mut self, book: &Leases, wishes: &Wishes, observed: &Observed) -> Plan {
        let mut plan = host::plan(book, wishes, observed);
        plan.actions.retain(|action| !self.0(action));
        plan
    }
}

#[test]
fn what_of_a_host_is_not_put_back_is_noticed() {
    let undone: [(Kind, &str); 6] = [
        (|action| *action == Action::PutTables, "has lost its tables"),
        (|action| matches!(action, Action::AddRule(..)), "has lost routing rules"),
        (|action| matches!(action, Action::AddRoute(_)), "has lost a route"),
        (|action| matches!(action, Action::RemoveRule(..)), "has routing rules for no network"),
        (|action| matches!(action, Action::Set { name, .. } if name == IP_FORWARD), "ip_forward"),
        (
            |action| matches!(action, Action::Set { name, .. } if name != IP_FORWARD),
            "has ipv4/conf",
        ),
    ];
    for (bug, said) in undone {
        noticed(|| Without(bug), &[said]);
    }
}

#[test]
fn links_that_are_not_put_right_are_noticed() {
    fn port(action: &Action) -> bool {
        matches!(action, Action::Link(links::Action::SetBridge { .. }))
    }
    fn stray(action: &Action) -> bool {
        matches!(action, Action::Link(links::Action::Remove { .. }))
    }
    noticed(|| Without(port), &["has a port shv"]);
    noticed(|| Without(stray), &["which is nobody's"]);
}

/// A planner that sees to what lets packets through first, and to what keeps them out another time.
struct Hurried;

impl Mind for Hurried {
    fn keep_host(&mut self, book: &Leases, wishes: &Wishes, observed: &Observed) -> Plan {
        let mut plan = host::plan(book, wishes, observed);
        if plan.actions.iter().any(Action::opens) {
            let keeps_out =
                |action: &Action| matches!(action, Action::AddRule(..) | Action::PutTables);
            plan.actions.retain(|action| !keeps_out(action));
        }
        plan
    }
}

#[test]
fn a_host_that_is_open_before_it_is_closed_is_noticed() {
    noticed(|| Hurried, &["opens what was closed"]);
}

/// A planner that takes all bridges for the agent's own.
struct Greedy;

impl Mind for Greedy {
    fn keep_host(&mut self, book: &Leases, wishes: &Wishes, observed: &Observed) -> Plan {
        let mut plan = host::plan(book, wishes, observed);
        let found = observed.links.iter().flat_map(|links| links.found.keys());
        let others = found.filter(|ifname| ifname.starts_with("docker"));
        let removed = others.map(|ifname| links::Action::Remove { ifname: ifname.clone() });
        plan.actions.extend(removed.map(Action::Link));
        plan
    }
}

#[test]
fn whoever_touches_what_others_have_is_noticed() {
    noticed(|| Greedy, &["has touched docker0, of others"]);
}

/// An agent that listens to whoever says that he leads.
struct Credulous;

impl Mind for Credulous {
    fn listens(&mut self, _obeyed: u64, _term: u64) -> bool {
        true
    }
}

#[test]
fn a_node_that_obeys_a_leader_who_was_replaced_is_noticed() {
    noticed(|| Credulous, &["obeys the leader of term"]);
}
