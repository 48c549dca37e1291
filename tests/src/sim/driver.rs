//! What an agent does about its host's networks: the real book, the real planner of the host, and a fake
//! kernel, on which a plan is carried out step by step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use shoal_agent_planning::network::fence::FenceRule;
use shoal_agent_planning::network::guests::Guest;
use shoal_agent_planning::network::leases::{Leases, Rules};
use shoal_agent_planning::network::links;
use shoal_agent_planning::network::names;
use shoal_agent_planning::network::ruleset::{HostFacts, Ruleset};
use shoal_agent_planning::network::settings::Remembered;
use shoal_agent_planning::network::{AttachRequest, NetworkConfig, NetworkState};
use shoal_agent_planning::node::host::{self, Action, Observed, Plan, Tables, Wishes};
use shoal_agent_planning::node::look::Look;
use shoal_types::id::NodeId;

use super::agent::Agent;
use super::context::Context;
use super::kernel::{Kernel, PREFIX};
use super::mind::Mind;
use super::queue::Event;
use crate::invariants::{host_in_order, nothing_passes_unseen};

/// How often settings are looked at.
const GLANCE: Duration = Duration::from_secs(1);

/// The networks of a host. What an agent process only remembers is [`Mindful`].
#[derive(Debug)]
pub(crate) struct Networks {
    pub(crate) kernel: Kernel,
    book: Leases,
    remembered: Option<Remembered>,
    mindful: Mindful,
}

/// What is lost with the process.
#[derive(Debug, Default)]
struct Mindful {
    facts: HostFacts,
    guests: BTreeSet<Guest>,
    tables: Option<Tables>,
    /// What is to be looked at.
    look: Look,
    /// A plan is carried out.
    busy: bool,
    /// Somebody has taken away both tables and rules since it was looked at them for that plan, and none of
    /// them is back: no plan can know of it.
    stripped: bool,
    /// How the kernel was when there was nothing to do about its settings.
    quiet: Option<u64>,
}

impl Networks {
    pub(crate) fn new(node: NodeId) -> Self {
        // Some hosts are routers.
        let forwards = node.to_string().bytes().map(u32::from).sum::<u32>().is_multiple_of(3);
        let (book, remembered, mindful) = Default::default();
        Self { kernel: Kernel::new(forwards), book, remembered, mindful }
    }

    /// A process begins.
    pub(crate) fn begin(&mut self) {
        self.mindful = Mindful { look: Look::everything(), ..Mindful::default() };
    }

    /// Whether whoever changes networks or connects to them has to wait.
    pub(crate) fn is_busy(&self) -> bool {
        self.mindful.busy || !self.mindful.look.is_empty()
    }

    /// Whether the bridge of a network is there.
    pub(crate) fn has(&self, network: &str) -> bool {
        self.kernel.has(&names::bridge(PREFIX, network))
    }

    /// Brings the book to what there is of networks and leases, and the links of containers with it.
    pub(crate) fn follow(
        &mut self,
        networks: &BTreeSet<String>,
        leases: &BTreeMap<String, BTreeSet<String>>,
        lost: &BTreeSet<(String, String)>,
    ) {
        let gone: Vec<_> = self
            .book
            .ports()
            .filter(|p| !leases.get(&p.container).is_some_and(|has| has.contains(&p.network)))
            .map(|p| (p.container.clone(), p.network.clone(), p.host_ifname.clone()))
            .collect();
        for (container, network, ifname) in gone {
            self.kernel.remove(&ifname);
            self.book.detach(&container, &network);
            self.look_at(Look { tables: true, ..Look::default() });
        }
        let known: BTreeSet<String> = self.book.networks().map(|n| n.id.clone()).collect();
        for network in known.symmetric_difference(networks) {
            if known.contains(network) {
                let _ = self.book.remove_network(network);
            } else {
                // Both kinds.
                let internal = network.bytes().map(u32::from).sum::<u32>().is_multiple_of(4);
                let id = network.clone();
                let config = NetworkConfig { id, internal, ..NetworkConfig::default() };
                let _ = self.book.ensure_network(&config, &Rules::default(), &[]);
            }
            let bridge = names::bridge(PREFIX, network);
            self.look_at(Look { settings: true, rules: true, ..Look::link(bridge) });
        }
        for (container, networks) in leases {
            for network in networks {
                let is_lost = lost.contains(&(container.clone(), network.clone()));
                self.connect(container, network, is_lost);
            }
        }
    }

    fn connect(&mut self, container: &str, network: &str, is_lost: bool) {
        let (container, network) = (container.to_owned(), network.to_owned());
        let request = AttachRequest { container, network, ..AttachRequest::default() };
        let ports = self.book.ports().count();
        let Ok(attached) = self.book.attach(&request, &Rules::default()) else { return };
        if self.book.ports().count() != ports {
            self.look_at(Look { tables: true, ..Look::default() });
        }
        let there = self.kernel.has(&attached.host_ifname);
        if is_lost && there {
            self.kernel.remove(&attached.host_ifname);
        } else if !is_lost && !there {
            let bridge = names::bridge(PREFIX, &attached.network);
            self.kernel.add_port(&attached.host_ifname, &bridge);
        }
    }

    fn look_at(&mut self, look: Look) {
        if !look.is_empty() {
            self.mindful.quiet = None;
        }
        self.mindful.look.merge(look);
    }

    fn observe(&self, look: &Look) -> Observed {
        let mut observed = self.kernel.observe(look);
        observed.remembered.clone_from(&self.remembered);
        observed.guests.clone_from(&self.mindful.guests);
        if !look.tables {
            observed.tables.clone_from(&self.mindful.tables);
        }
        observed
    }

    fn plan<M: Mind>(&mut self, boot: &str, look: &Look, mind: &mut M) -> Plan {
        let mut look = look.clone();
        let plan = loop {
            if look.addresses {
                self.mindful.guests = self.kernel.guests();
            }
            if look.tables {
                self.mindful.tables = self.kernel.observe(&look).tables;
            }
            let observed = Observed { boot: boot.to_owned(), ..self.observe(&look) };
            let plan = mind.keep_host(&self.book, &wishes(), &observed);
            let lacks = host::lacks(&look, &plan, &self.mindful.facts);
            if lacks.is_empty() {
                break plan;
            }
            look.merge(lacks);
        };
        self.mindful.facts = plan.facts.clone();
        plan
    }

    fn perform(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Remember(memory) => self.remembered = Some(memory.clone()),
            Action::Forget => self.remembered = None,
            Action::PutTables | Action::DropTables => {
                let wanted = Ruleset::of(&self.book, &self.mindful.facts);
                let empty = wanted.is_empty();
                let tables = if empty { Tables::Absent } else { Tables::Hold(Box::new(wanted)) };
                self.mindful.tables = Some(tables.clone());
                self.kernel.put_tables(tables);
            }
            // It was connected, or removed, meanwhile.
            Action::Link(links::Action::Remove { ifname })
                if self.book.ports().any(|port| port.host_ifname == *ifname) => {}
            _ => return self.kernel.perform(action),
        }
        Ok(())
    }

    fn is_closed(&self) -> bool {
        !self.kernel.is_exposed()
            || nothing_passes_unseen::is_closed(&self.kernel.observe(&Look::everything()), PREFIX)
    }

    /// Whether tables or rules keep every network closed, whatever becomes of its bridge.
    fn has_walls(&self) -> bool {
        let rules = self.kernel.fence().present;
        let closed = |network: &NetworkState| {
            rules.contains(&FenceRule::CloseBridge(network.bridge.clone()))
                && network
                    .subnets
                    .iter()
                    .all(|one| rules.contains(&FenceRule::CloseSubnet(one.subnet.trunc())))
        };
        self.kernel.has_tables()
            || rules.contains(&FenceRule::CloseAll)
            || self.book.networks().all(closed)
    }

    /// What is wrong with a host to which nothing happens any more.
    pub(crate) fn judge(&self, node: NodeId, lost: &BTreeSet<(String, String)>) -> Vec<String> {
        let (kernel, look) = (&self.kernel, Look::everything());
        let observed = Observed { remembered: self.remembered.clone(), ..kernel.observe(&look) };
        let mut wrong = self.strangers(node);
        if self.is_busy() {
            wrong.push(format!("node {node} is still changing its networks"));
        }
        let others = host_in_order::Others {
            settings: kernel.owner(),
            guests: kernel.guests(),
            had_guests: kernel.had_guests(),
        };
        wrong.extend(host_in_order::judge(
            &node.to_string(),
            &self.book,
            lost,
            &others,
            PREFIX,
            &observed,
        ));
        wrong
    }

    /// What others have is as they left it.
    fn strangers(&self, node: NodeId) -> Vec<String> {
        let touched = self.kernel.touched();
        touched.map(|ifname| format!("node {node} has touched {ifname}, of others")).collect()
    }
}

fn wishes() -> Wishes {
    Wishes { prefix: PREFIX.to_owned(), forwards_for_others: false, ..Wishes::default() }
}

impl Agent {
    /// What the tasks have of networks has changed.
    pub(crate) fn follow(&mut self, ctx: &mut Context) {
        self.host.follow();
        if !self.host.net.mindful.look.is_empty() && !self.host.net.mindful.busy {
            self.hears_of_host(Look::default(), ctx);
        }
    }

    /// The kernel tells of a change, or it is time for a look.
    pub(crate) fn hears_of_host(&mut self, look: Look, ctx: &mut Context) {
        let delay = ctx.random.millis(1, 40) * u32::try_from(self.slowness).unwrap_or(1);
        ctx.queue.after(delay, Event::HostHeard(self.node, self.life, look));
    }

    pub(crate) fn glance(&mut self, ctx: &mut Context) {
        // Nobody changes any of them then.
        let pause = if ctx.calm { 10 * GLANCE } else { GLANCE };
        ctx.queue.after(pause, Event::Glance(self.node, self.life));
        // Nothing has changed since, so that the planner would say the same.
        let net = &self.host.net;
        if net.mindful.quiet == Some(net.kernel.changes()) {
            return;
        }
        self.hears_of_host(Look::settings(), ctx);
    }

    /// Looks at parts of the host, and plans for them, one plan at a time.
    pub(crate) fn look_at_host<M: Mind>(&mut self, look: Look, ctx: &mut Context, mind: &mut M) {
        let net = &mut self.host.net;
        net.look_at(look);
        if net.mindful.busy || net.mindful.look.is_empty() {
            return;
        }
        let look = std::mem::take(&mut net.mindful.look);
        let actions = net.plan(self.host.boot.as_str(), &look, mind).actions;
        if actions.is_empty() && look.settings {
            net.mindful.quiet = Some(net.kernel.changes());
        }
        if !actions.is_empty() {
            net.mindful.busy = true;
            self.go_on_with_host(actions.into(), false, ctx);
        }
    }

    fn go_on_with_host(&self, rest: VecDeque<Action>, failed: bool, ctx: &mut Context) {
        let delay = ctx.random.millis(1, 15) * u32::try_from(self.slowness).unwrap_or(1);
        ctx.queue.after(delay, Event::HostKept(self.node, self.life, rest, failed));
    }

    /// Does the next of what was planned. After a failure nothing is opened, and everything is looked at
    /// again. Says what is wrong with that.
    pub(crate) fn keep_host(
        &mut self,
        mut rest: VecDeque<Action>,
        mut failed: bool,
        ctx: &mut Context,
    ) -> Vec<String> {
        let (node, net) = (self.node, &mut self.host.net);
        let mut wrong = Vec::new();
        if let Some(action) = rest.pop_front() {
            let result = match !ctx.calm && ctx.random.chance(3) {
                true => Err("interrupted".to_owned()),
                false if failed && action.opens() => Ok(()),
                false => {
                    let was_closed = net.is_closed();
                    let result = net.perform(&action);
                    net.mindful.stripped &= !net.has_walls();
                    if was_closed && !net.mindful.stripped && !net.is_closed() {
                        wrong.push(format!("node {node} opens what was closed: {action}"));
                    }
                    wrong.extend(net.strangers(node));
                    result
                }
            };
            ctx.note(|| format!("node {node}: {action}: {result:?}"));
            failed |= result.is_err();
            self.go_on_with_host(rest, failed, ctx);
            return wrong;
        }
        (net.mindful.busy, net.mindful.stripped) = (false, false);
        if failed {
            let pause = ctx.random.millis(500, 1500);
            ctx.queue.after(pause, Event::HostHeard(node, self.life, Look::everything()));
        }
        self.hears_of_host(Look::default(), ctx);
        wrong
    }

    /// Somebody changes the host, and the kernel tells of it.
    pub(crate) fn harm_host(&mut self, ctx: &mut Context) {
        let net = &mut self.host.net;
        let had_walls = net.has_walls();
        let mut look = net.kernel.harm(&mut ctx.random);
        net.mindful.stripped |= net.mindful.busy && had_walls && !net.has_walls();
        let node = self.node;
        ctx.note(|| format!("node {node}: somebody changes {look:?}"));
        if !look.is_empty() && ctx.random.chance(10) {
            look = Look::everything();
        }
        if self.power && self.process {
            self.hears_of_host(look, ctx);
        }
    }
}
