//! Chains of other programs that judge what the host forwards, as containers' packets are.
//!
//! Docker drops by default whatever is forwarded on a host that it found closed, and has a chain in which others
//! say what is to pass nevertheless (`DOCKER-USER`, <https://docs.docker.com/engine/network/packet-filtering-firewalls/>).
//! Where both are so, the agent's own interfaces are entered there: what may pass them is the agent's tables' to
//! say. What the host's owner has put into that chain comes first. Anybody else who drops by default is the owner's
//! firewall, and is told of, not changed.
//!
//! Rules that were made by the iptables program of old, not by nftables, are not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};

use super::{Family, ingress};

/// The table of iptables for what passes.
const TABLE: &str = "filter";
/// Its chain of what is forwarded.
const FORWARD: &str = "FORWARD";
/// Docker's chain for others.
pub const USER_CHAIN: &str = "DOCKER-USER";

/// Which packets a rule lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    by: By,
    direction: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Bridges,
    Mesh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    In,
    Out,
}

impl Way {
    const ALL: [Self; 4] = [
        Self { by: By::Bridges, direction: Direction::In },
        Self { by: By::Bridges, direction: Direction::Out },
        Self { by: By::Mesh, direction: Direction::In },
        Self { by: By::Mesh, direction: Direction::Out },
    ];

    const fn key(self) -> &'static str {
        match self.direction {
            Direction::In => "iifname",
            Direction::Out => "oifname",
        }
    }

    /// What interfaces are called; a star at the end stands for anything.
    fn interfaces(self, prefix: &str) -> String {
        match self.by {
            By::Bridges => format!("{prefix}b*"),
            By::Mesh => ingress::ifname(prefix),
        }
    }

    /// The rule as libnftables-json(5) has it. Nothing in it that iptables could not show as its own: it refuses
    /// the whole table then.
    fn expressions(self, prefix: &str) -> Value {
        let left = json!({ "meta": { "key": self.key() } });
        let right = self.interfaces(prefix);
        json!([{ "match": { "op": "==", "left": left, "right": right } }, { "accept": null }])
    }
}

/// By which the agent with this prefix knows its rules.
fn mark(prefix: &str) -> String {
    format!("shoal {prefix}")
}

/// One rule of Docker's chain for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The agent's; `None` lets something else pass than the agent wants to.
    Ours { handle: u64, way: Option<Way> },
    /// The rest is left to Docker.
    Return { handle: u64 },
    /// Of the host's owner.
    Other,
}

/// What others do with packets that are forwarded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gates {
    /// Docker's chains for others, where there are such, and whether what gets to their end is dropped.
    docker: BTreeMap<Family, (Vec<Rule>, bool)>,
    /// Chains of others that drop by default, by family, table and name. Docker's are not among them.
    pub closed: BTreeSet<String>,
}

/// A change of a chain of others.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named by what they are")]
pub enum GateAction {
    /// Let packets pass, by a rule before this one, or at the end.
    Admit { family: Family, way: Way, before: Option<u64> },
    /// Remove a rule of the agent's.
    Withdraw { family: Family, handle: u64 },
}

impl fmt::Display for GateAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admit { family, way, .. } => {
                let Way { by, direction } = way;
                let from = if *direction == Direction::In { "from" } else { "to" };
                let who = if *by == By::Bridges { "containers" } else { "other nodes" };
                write!(f, "let packets {from} {who} pass in {} {USER_CHAIN}", name(*family))
            }
            Self::Withdraw { family, handle } => {
                write!(f, "remove rule {handle} from {} {USER_CHAIN}", name(*family))
            }
        }
    }
}

impl GateAction {
    /// As nft(8) understands it.
    #[must_use]
    pub fn text(&self, prefix: &str) -> String {
        match self {
            Self::Admit { family, way, before } => {
                let place = before.map_or_else(String::new, |handle| format!(" handle {handle}"));
                let verb = if before.is_some() { "insert" } else { "add" };
                format!(
                    "{verb} rule {} {TABLE} {USER_CHAIN}{place} {} \"{}\" accept comment \"{}\"\n",
                    name(*family),
                    way.key(),
                    way.interfaces(prefix),
                    mark(prefix)
                )
            }
            Self::Withdraw { family, handle } => {
                format!("delete rule {} {TABLE} {USER_CHAIN} handle {handle}\n", name(*family))
            }
        }
    }
}

/// As nftables calls it.
#[must_use]
pub const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

impl Gates {
    /// Reads objects of libnftables-json(5): all chains of the host, and the rules of [`USER_CHAIN`]. `table` is the
    /// agent's own.
    #[must_use]
    pub fn read(objects: &[Value], table: &str, prefix: &str) -> Self {
        let mut gates = Self::default();
        let mut drops = BTreeSet::new();
        for chain in objects.iter().filter_map(|object| object.get("chain")) {
            let text = |key: &str| chain[key].as_str().unwrap_or_default();
            let forwards = text("hook") == "forward" && text("policy") == "drop";
            if forwards && text("table") != table && text("family") != "bridge" {
                drops.insert((text("family"), text("table"), text("name")));
            }
        }
        for family in Family::ALL {
            let is_here = |object: &Value| {
                object["family"] == name(family)
                    && object["table"] == TABLE
                    && (object["name"] == USER_CHAIN || object["chain"] == USER_CHAIN)
            };
            let chains = || objects.iter().filter_map(|object| object.get("chain"));
            if !chains().any(is_here) {
                continue;
            }
            let rules = objects.iter().filter_map(|object| object.get("rule"));
            let rules = rules.filter(|rule| is_here(rule)).map(|rule| Rule::read(rule, prefix));
            let dropped = drops.remove(&(name(family), TABLE, FORWARD));
            gates.docker.insert(family, (rules.collect(), dropped));
        }
        let closed =
            drops.into_iter().map(|(family, table, name)| format!("{family} {table} {name}"));
        gates.closed = closed.collect();
        gates
    }

    /// What is to be done so that packets pass where there are `networks`.
    #[must_use]
    pub fn steps(&self, networks: bool) -> Vec<GateAction> {
        let mut all = Vec::new();
        for (family, (rules, dropped)) in &self.docker {
            let (family, wanted) = (*family, networks && *dropped);
            let end = rules.iter().position(|rule| matches!(rule, Rule::Return { .. }));
            let before = end.and_then(|at| match rules.get(at) {
                Some(Rule::Return { handle }) => Some(*handle),
                _ => None,
            });
            let mut there = BTreeSet::new();
            for (at, rule) in rules.iter().enumerate() {
                let Rule::Ours { handle, way } = *rule else { continue };
                let reached = end.is_none_or(|end| at < end);
                let right = wanted && reached && way.is_some_and(|way| there.insert(way));
                if !right {
                    all.push(GateAction::Withdraw { family, handle });
                }
            }
            let missing = Way::ALL.into_iter().filter(|way| wanted && !there.contains(way));
            all.extend(missing.map(|way| GateAction::Admit { family, way, before }));
        }
        all
    }
}

#[cfg(test)]
impl Gates {
    /// What Docker makes of a host that did not forward.
    pub(crate) fn of_docker() -> Self {
        let chain = || (vec![Rule::Return { handle: 1 }], true);
        let docker = Family::ALL.map(|family| (family, chain())).into();
        Self { docker, closed: BTreeSet::new() }
    }

    pub(crate) fn perform(&mut self, action: &GateAction) {
        match action {
            GateAction::Admit { family, way, before } => {
                let (rules, _) = self.docker.get_mut(family).unwrap();
                assert_eq!(*before, Some(1));
                let known = rules.iter().filter_map(|rule| match rule {
                    Rule::Ours { handle, .. } => Some(*handle),
                    _ => None,
                });
                let handle = known.max().unwrap_or(1) + 1;
                rules.insert(rules.len() - 1, Rule::Ours { handle, way: Some(*way) });
            }
            GateAction::Withdraw { family, handle } => {
                let gone =
                    |rule: &Rule| matches!(rule, Rule::Ours { handle: n, .. } if n == handle);
                self.docker.get_mut(family).unwrap().0.retain(|rule| !gone(rule));
            }
        }
    }
}

impl Rule {
    fn read(rule: &Value, prefix: &str) -> Self {
        let handle = rule["handle"].as_u64().unwrap_or_default();
        let verdict = |expression: &Value| expression.get("counter").is_none();
        let expressions: Vec<&Value> =
            rule["expr"].as_array().into_iter().flatten().filter(|one| verdict(one)).collect();
        if rule["comment"] == mark(prefix) {
            let is = |way: &Way| {
                way.expressions(prefix)
                    .as_array()
                    .is_some_and(|all| all.iter().eq(expressions.iter().copied()))
            };
            return Self::Ours { handle, way: Way::ALL.into_iter().find(is) };
        }
        match expressions[..] {
            [only] if only.get("return").is_some() => Self::Return { handle },
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: &str, table: &str, name: &str, policy: Option<&str>) -> Value {
        let mut chain = json!({ "family": family, "table": table, "name": name, "handle": 1 });
        if let Some(policy) = policy {
            chain["hook"] = json!("forward");
            chain["policy"] = json!(policy);
        }
        json!({ "chain": chain })
    }

    fn rule(handle: u64, expressions: &Value, comment: &str) -> Value {
        json!({ "rule": {
            "family": "ip", "table": "filter", "chain": "DOCKER-USER", "handle": handle,
            "comment": comment, "expr": expressions
        }})
    }

    fn returns(handle: u64) -> Value {
        let counter = json!({ "packets": 1, "bytes": 60 });
        rule(handle, &json!([{ "counter": counter }, { "return": null }]), "")
    }

    fn ours(handle: u64, way: usize) -> Value {
        rule(handle, &Way::ALL[way].expressions("sh"), "shoal sh")
    }

    /// A host with Docker, whose chain for others has these rules.
    fn docker(policy: &str, rules: Vec<Value>) -> Vec<Value> {
        let chains = [
            chain("ip", "filter", "FORWARD", Some(policy)),
            chain("ip", "filter", "DOCKER-USER", None),
        ];
        chains.into_iter().chain(rules).collect()
    }

    fn steps(objects: &[Value], networks: bool) -> Vec<String> {
        let gates = Gates::read(objects, "shoal", "sh");
        gates.steps(networks).iter().map(|step| step.text("sh")).collect()
    }

    #[test]
    fn what_docker_drops_is_let_pass_before_its_end_and_behind_what_the_owner_says() {
        let owner = rule(3, &json!([{ "drop": null }]), "");
        let said = steps(&docker("drop", vec![owner, returns(7)]), true);
        assert_eq!(
            said,
            [
                "insert rule ip filter DOCKER-USER handle 7 iifname \"shb*\" accept comment \"shoal sh\"\n",
                "insert rule ip filter DOCKER-USER handle 7 oifname \"shb*\" accept comment \"shoal sh\"\n",
                "insert rule ip filter DOCKER-USER handle 7 iifname \"shvx0\" accept comment \"shoal sh\"\n",
                "insert rule ip filter DOCKER-USER handle 7 oifname \"shvx0\" accept comment \"shoal sh\"\n",
            ]
        );
        let said = steps(&docker("drop", Vec::new()), true);
        assert!(said.len() == 4 && said[0].starts_with("add rule ip filter DOCKER-USER iifname"));
        // A host of IPv6 has the same by another name.
        let six: Vec<Value> = docker("drop", Vec::new())
            .into_iter()
            .map(|mut object| {
                object["chain"]["family"] = json!("ip6");
                object
            })
            .collect();
        assert!(steps(&six, true)[0].starts_with("add rule ip6 filter DOCKER-USER"));
    }

    #[test]
    fn nothing_is_done_where_nothing_is_dropped_or_nobody_is_there_to_pass() {
        assert!(steps(&docker("accept", vec![returns(7)]), true).is_empty());
        assert!(steps(&docker("drop", vec![returns(7)]), false).is_empty());
        assert!(steps(&[chain("ip", "filter", "FORWARD", Some("drop"))], true).is_empty());
        let all = || (0..4).map(|way| ours(10 + way as u64, way)).chain([returns(20)]).collect();
        assert!(steps(&docker("drop", all()), true).is_empty());
        let gone: Vec<String> =
            (10..14).map(|n| format!("delete rule ip filter DOCKER-USER handle {n}\n")).collect();
        assert_eq!(steps(&docker("drop", all()), false), gone);
        assert_eq!(steps(&docker("accept", all()), true), gone);
    }

    #[test]
    fn rules_that_are_not_reached_or_are_there_twice_or_say_something_else_are_replaced() {
        let strange = rule(5, &json!([{ "accept": null }]), "shoal sh");
        let of_another = rule(6, &json!([{ "accept": null }]), "shoal tt");
        let rules =
            vec![ours(1, 0), ours(2, 0), strange, of_another, returns(9), ours(10, 1), ours(11, 2)];
        let said = steps(&docker("drop", rules), true);
        let (gone, new): (Vec<_>, Vec<_>) =
            said.iter().partition(|step| step.starts_with("delete"));
        let gone: Vec<&str> =
            gone.iter().filter_map(|step| step.trim_end().rsplit(' ').next()).collect();
        assert_eq!(gone, ["2", "5", "10", "11"]);
        assert_eq!(new.len(), 3, "{said:?}");
    }

    #[test]
    fn other_firewalls_are_named() {
        let mut objects = vec![
            chain("ip", "filter", "FORWARD", Some("drop")),
            chain("inet", "firewalld", "filter_FORWARD", Some("drop")),
            chain("inet", "shoal", "forward", Some("drop")),
            chain("inet", "other", "forward", Some("accept")),
            chain("bridge", "filter", "FORWARD", Some("drop")),
        ];
        let closed = |objects: &[Value]| Gates::read(objects, "shoal", "sh").closed;
        let named = ["inet firewalld filter_FORWARD", "ip filter FORWARD"];
        assert!(closed(&objects).iter().eq(named.iter()));
        objects.push(chain("ip", "filter", "DOCKER-USER", None));
        assert!(closed(&objects).iter().eq(named[..1].iter()));
    }
}
