//! Chains of other programs that judge what the host forwards, as containers' packets are.
//!
//! Docker drops by default whatever is forwarded on a host that it found closed, and has a chain in which others
//! say what is to pass nevertheless (`DOCKER-USER`, <https://docs.docker.com/engine/network/packet-filtering-firewalls/>).
//! Where both are so, the agent's own interfaces are entered there: what may pass them is the agent's tables' to
//! say. What the host's owner has put into that chain comes first, and what containers send to bridges of others is
//! for Docker to judge. Anybody else who drops by default is the owner's firewall, and is told of, not changed.
//!
//! Rules that were made by the iptables program of old, not by nftables, are not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};

use super::guests::Guest;
use super::{Family, ingress};

/// The table of iptables for what passes.
const TABLE: &str = "filter";
/// Its chain of what is forwarded.
const FORWARD: &str = "FORWARD";
/// Docker's chain for others.
pub const USER_CHAIN: &str = "DOCKER-USER";

/// What one rule of the agent's says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Say {
    /// What comes from or goes to these interfaces passes.
    Pass(Key, By),
    /// What containers send to a bridge of somebody else is left to whoever judges it.
    Leave { bridge: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Bridges,
    Mesh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    From,
    To,
}

impl By {
    /// What interfaces are called; a star at the end stands for anything.
    fn interfaces(self, prefix: &str) -> String {
        match self {
            Self::Bridges => format!("{prefix}b*"),
            Self::Mesh => ingress::ifname(prefix),
        }
    }
}

impl Say {
    /// All that is said on a host with these bridges of others, in this order.
    fn all<'a>(guests: impl Iterator<Item = &'a str>) -> Vec<Self> {
        let leave = |bridge: &str| Self::Leave { bridge: bridge.to_owned() };
        let pass =
            [By::Bridges, By::Mesh].map(|by| [Self::Pass(Key::From, by), Self::Pass(Key::To, by)]);
        guests.map(leave).chain(pass.into_iter().flatten()).collect()
    }

    /// By which interfaces it knows packets, and its verdict. Nothing in it that iptables could not show as its
    /// own: it refuses the whole table then.
    fn parts(&self, prefix: &str) -> (Vec<(&'static str, String)>, &'static str) {
        match self {
            Self::Pass(Key::From, by) => (vec![("iifname", by.interfaces(prefix))], "accept"),
            Self::Pass(Key::To, by) => (vec![("oifname", by.interfaces(prefix))], "accept"),
            Self::Leave { bridge } => {
                let from = By::Bridges.interfaces(prefix);
                (vec![("iifname", from), ("oifname", bridge.clone())], "return")
            }
        }
    }

    /// As libnftables-json(5) has it.
    fn expressions(&self, prefix: &str) -> Vec<Value> {
        let (names, verdict) = self.parts(prefix);
        let compared = names.into_iter().map(|(key, right)| {
            json!({ "match": { "op": "==", "left": { "meta": { "key": key } }, "right": right } })
        });
        compared.chain([json!({ verdict: null })]).collect()
    }

    /// As nft(8) does.
    fn text(&self, prefix: &str) -> String {
        let (names, verdict) = self.parts(prefix);
        let names: String = names.iter().map(|(key, name)| format!("{key} \"{name}\" ")).collect();
        format!("{names}{verdict} comment \"{}\"", mark(prefix))
    }
}

/// What the marks of all agents begin with.
const MARKS: &str = "shoal ";

/// By which the agent with this prefix knows its rules.
fn mark(prefix: &str) -> String {
    format!("{MARKS}{prefix}")
}

/// One rule of Docker's chain for others.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    /// The agent's, with what it says.
    Ours { handle: u64, expressions: Vec<Value> },
    /// The rest is left to Docker.
    Return { handle: u64 },
    /// Of the host's owner.
    Other,
}

/// What others do with packets that are forwarded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gates {
    /// The rules of Docker's chains for others, where there are such, and whether what gets to their end is dropped.
    docker: BTreeMap<Family, (Vec<Rule>, bool)>,
    /// Chains of others that drop by default, by family, table and name. Docker's are not among them.
    pub closed: BTreeSet<String>,
}

/// A change of a chain of others, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateAction {
    family: Family,
    /// Rules of the agent's that go.
    remove: Vec<u64>,
    /// Those that come.
    add: Vec<Say>,
    /// The rule before which they come; `None`: at the end.
    before: Option<u64>,
}

impl fmt::Display for GateAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.add.is_empty() { "take back" } else { "say" };
        write!(f, "{verb} in {} {USER_CHAIN} that containers are let pass", name(self.family))
    }
}

impl GateAction {
    /// Whether something passes then.
    #[must_use]
    pub fn opens(&self) -> bool {
        !self.add.is_empty()
    }

    /// As nft(8) understands it.
    #[must_use]
    pub fn text(&self, prefix: &str) -> String {
        let chain = format!("{} {TABLE} {USER_CHAIN}", name(self.family));
        let remove =
            self.remove.iter().map(|handle| format!("delete rule {chain} handle {handle}\n"));
        let add = self.add.iter().map(|say| match self.before {
            Some(handle) => format!("insert rule {chain} handle {handle} {}\n", say.text(prefix)),
            None => format!("add rule {chain} {}\n", say.text(prefix)),
        });
        remove.chain(add).collect()
    }
}

/// As nftables calls it.
#[must_use]
const fn name(family: Family) -> &'static str {
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
            let rules = rules.filter(|rule| is_here(rule));
            let rules = rules.filter_map(|rule| Rule::read(rule, prefix));
            let dropped = drops.remove(&(name(family), TABLE, FORWARD));
            gates.docker.insert(family, (rules.collect(), dropped));
        }
        let closed =
            drops.into_iter().map(|(family, table, name)| format!("{family} {table} {name}"));
        gates.closed = closed.collect();
        gates
    }

    /// What is to be done so that packets pass where there are `networks`, but for those to bridges of others.
    #[must_use]
    pub fn steps(&self, networks: bool, guests: &BTreeSet<Guest>, prefix: &str) -> Vec<GateAction> {
        let step = |(family, (rules, dropped)): (&Family, &(Vec<Rule>, bool))| {
            let bridges = guests.iter().map(|guest| guest.bridge.as_str());
            let all = if networks && *dropped { Say::all(bridges) } else { Vec::new() };
            let end = |rule: &Rule| matches!(rule, Rule::Return { .. });
            let reached = rules.iter().take_while(|rule| !end(rule));
            // Behind what the owner says, also where he has said it later.
            let last = reached.skip_while(|rule| rule.ours().is_none());
            let last = last.map(|rule| rule.ours().map(|(_, said)| said.to_vec()));
            let wanted = all.iter().map(|say| Some(say.expressions(prefix)));
            let ours: Vec<u64> =
                rules.iter().filter_map(Rule::ours).map(|(handle, _)| handle).collect();
            if ours.len() == all.len() && last.eq(wanted) {
                return None;
            }
            let before = rules.iter().find_map(|rule| match rule {
                Rule::Return { handle } => Some(*handle),
                Rule::Ours { .. } | Rule::Other => None,
            });
            Some(GateAction { family: *family, remove: ours, add: all, before })
        };
        self.docker.iter().filter_map(step).collect()
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

    pub(crate) fn perform(&mut self, action: &GateAction, prefix: &str) {
        let GateAction { family, remove, add, before } = action;
        let (rules, _) = self.docker.get_mut(family).unwrap();
        rules.retain(|rule| rule.ours().is_none_or(|(handle, _)| !remove.contains(&handle)));
        assert_eq!((rules.len(), *before), (1, Some(1)));
        for (n, say) in add.iter().enumerate() {
            let expressions = say.expressions(prefix);
            rules.insert(n, Rule::Ours { handle: 2 + n as u64, expressions });
        }
    }
}

impl Rule {
    /// Not that of another agent on this host, beside which it does not matter who is first.
    fn read(rule: &Value, prefix: &str) -> Option<Self> {
        let handle = rule["handle"].as_u64().unwrap_or_default();
        let counts = |expression: &&Value| expression.get("counter").is_some();
        let all = rule["expr"].as_array().into_iter().flatten();
        let expressions: Vec<Value> = all.filter(|one| !counts(one)).cloned().collect();
        let is_marked = rule["comment"].as_str().is_some_and(|text| text.starts_with(MARKS));
        match &expressions[..] {
            _ if rule["comment"] == mark(prefix) => Some(Self::Ours { handle, expressions }),
            _ if is_marked => None,
            [only] if only.get("return").is_some() => Some(Self::Return { handle }),
            _ => Some(Self::Other),
        }
    }

    fn ours(&self) -> Option<(u64, &[Value])> {
        match self {
            Self::Ours { handle, expressions } => Some((*handle, expressions)),
            Self::Return { .. } | Self::Other => None,
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

    fn ours(handle: u64, say: &Say) -> Value {
        rule(handle, &json!(say.expressions("sh")), "shoal sh")
    }

    fn guests(names: &[&str]) -> BTreeSet<Guest> {
        let guest = |name: &&str| Guest { bridge: (*name).to_owned(), subnets: BTreeSet::new() };
        names.iter().map(guest).collect()
    }

    /// The agent's rules on a host with these bridges of others, and the end of the chain.
    fn all(bridges: &[&str]) -> Vec<Value> {
        let said = Say::all(bridges.iter().copied());
        let rules = said.iter().zip(10..).map(|(say, handle)| ours(handle, say));
        rules.chain([returns(20)]).collect()
    }

    /// A host with Docker, whose chain for others has these rules.
    fn docker(policy: &str, rules: Vec<Value>) -> Vec<Value> {
        let chains = [
            chain("ip", "filter", "FORWARD", Some(policy)),
            chain("ip", "filter", "DOCKER-USER", None),
        ];
        chains.into_iter().chain(rules).collect()
    }

    fn steps(objects: &[Value], networks: bool, bridges: &[&str]) -> Vec<String> {
        let gates = Gates::read(objects, "shoal", "sh");
        let steps = gates.steps(networks, &guests(bridges), "sh");
        let text: String = steps.iter().map(|step| step.text("sh")).collect();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_docker_drops_is_let_pass_before_its_end_and_behind_what_the_owner_says() {
        let owner = rule(3, &json!([{ "drop": null }]), "");
        let said = steps(&docker("drop", vec![owner, returns(7)]), true, &["docker0"]);
        let rules = [
            "iifname \"shb*\" oifname \"docker0\" return",
            "iifname \"shb*\" accept",
            "oifname \"shb*\" accept",
            "iifname \"shvx0\" accept",
            "oifname \"shvx0\" accept",
        ];
        let expected = rules.map(|rule| {
            format!("insert rule ip filter DOCKER-USER handle 7 {rule} comment \"shoal sh\"")
        });
        assert_eq!(said, expected);
        let said = steps(&docker("drop", Vec::new()), true, &[]);
        assert!(said.len() == 4 && said[0].starts_with("add rule ip filter DOCKER-USER iifname"));
        // A host of IPv6 has the same by another name.
        let six = docker("drop", Vec::new()).into_iter().map(|mut object| {
            object["chain"]["family"] = json!("ip6");
            object
        });
        let said = steps(&six.collect::<Vec<_>>(), true, &[]);
        assert!(said[0].starts_with("add rule ip6 filter DOCKER-USER"), "{said:?}");
    }

    #[test]
    fn nothing_is_done_where_nothing_is_dropped_or_nobody_is_there_to_pass() {
        assert!(steps(&docker("accept", vec![returns(7)]), true, &[]).is_empty());
        assert!(steps(&docker("drop", vec![returns(7)]), false, &[]).is_empty());
        assert!(steps(&[chain("ip", "filter", "FORWARD", Some("drop"))], true, &[]).is_empty());
        assert!(steps(&docker("drop", all(&["br1"])), true, &["br1"]).is_empty());
        let gone: Vec<String> =
            (10..14).map(|n| format!("delete rule ip filter DOCKER-USER handle {n}")).collect();
        assert_eq!(steps(&docker("drop", all(&[])), false, &[]), gone);
        assert_eq!(steps(&docker("accept", all(&[])), true, &[]), gone);
    }

    #[test]
    fn rules_that_are_not_reached_or_out_of_order_or_say_something_else_are_replaced() {
        let replaced = |rules: Vec<Value>, bridges: &[&str]| {
            let count = rules.len() - 1;
            let said = steps(&docker("drop", rules), true, bridges);
            let gone = said.iter().filter(|step| step.starts_with("delete")).count();
            assert_eq!((gone, said.len() - gone), (count, 4 + bridges.len()), "{said:?}");
        };
        let strange = rule(5, &json!([{ "accept": null }]), "shoal sh");
        replaced(vec![strange, returns(9)], &[]);
        replaced([vec![returns(1)], all(&[])[..4].to_vec()].concat(), &[]);
        let mut swapped = all(&["br1"]);
        swapped.swap(0, 1);
        replaced(swapped, &["br1"]);
        // Another bridge of somebody else.
        replaced(all(&[]), &["br1"]);
        replaced(all(&["br1"]), &[]);
    }

    #[test]
    fn what_the_owner_says_later_comes_first_as_well() {
        let others = |comment: &str| rule(6, &json!([{ "drop": null }]), comment);
        let ours = || all(&[])[..4].to_vec();
        let said = |rules: Vec<Value>| steps(&docker("drop", rules), true, &[]);
        for rules in [
            [vec![others("")], ours()].concat(),
            // Behind the end nothing is said.
            [all(&[]), vec![others("")]].concat(),
            // Of another agent on this host.
            [vec![others("shoal tt")], ours()].concat(),
            [ours(), vec![others("shoal tt")]].concat(),
        ] {
            assert_eq!(said(rules), [] as [&str; 0]);
        }
        let said = said([ours(), vec![others("")]].concat());
        assert!(said.len() == 8 && said[7].starts_with("add rule"), "{said:?}");
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
