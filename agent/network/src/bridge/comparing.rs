//! What is not as it should be, told and not put right.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use shoal_agent_planning::node::host::{Action, Observed, Plan};
use shoal_agent_planning::node::look::Look;
use shoal_agent_planning::verify::{Compared, Difference, of_host};
use shoal_types::error_chain::chain;
use shoal_types::time::Timestamp;
use tokio::task::spawn_blocking;

use super::reconcile::Seen;
use super::{BridgeNetworks, PublishedPort};
use crate::ports;

impl BridgeNetworks {
    pub(super) async fn do_compare(&self) -> Compared {
        let structure = self.structure.lock().await;
        // What is remembered of ways is what the next look compares with, and it is to say what somebody changed.
        let (led, mesh) = {
            let inner = self.lock();
            (inner.led.clone(), inner.mesh.clone())
        };
        // The tables are compared one by one, below.
        let look = Look { tables: false, ..Look::everything() };
        let Seen { observed, mut errors, .. } = self.observe(&look).await;
        let tables = match self.table.compare(|| self.desired_table()).await {
            Ok(differences) => differences,
            Err(error) => {
                errors.push(error.into());
                Vec::new()
            }
        };
        let (mut all, unheld) = {
            let mut inner = self.lock();
            (inner.led, inner.mesh) = (led, mesh);
            let plan = inner.plan(&observed);
            let of_under_way = |(container, network): &(String, String)| {
                let mut all = inner.leases.attached();
                let one = all.find(|p| p.container == *container && p.network == *network)?;
                Some(one.host_ifname.clone())
            };
            let under_way: BTreeSet<String> =
                inner.under_way.iter().filter_map(of_under_way).collect();
            let contested = inner.wishes.contested.iter().copied().map(ports::everywhere);
            let unheld: Vec<PublishedPort> =
                inner.held.unheld(&inner.leases).into_iter().chain(contested).collect();
            (of_host(&plan, &observed, tables, &under_way), unheld)
        };
        drop(structure);
        all.extend(held_by_others(unheld).await);
        let mut notes: Vec<String> = errors.iter().map(|error| chain(error).to_string()).collect();
        if observed.without_egress {
            notes.push(
                "this kernel cannot say to whom a packet goes by the mesh (Linux 5.16): published ports lead to \
                 tasks of this node alone"
                    .to_owned(),
            );
        }
        let closed = observed.gates.iter().flat_map(|gates| &gates.closed);
        notes.extend(closed.map(|chain| {
            format!(
                "the packet filter drops by default what this host forwards (chain {chain}, which is not the \
                 agent's): containers are reached as far as its rules let them"
            )
        }));
        Compared { findings: self.lock().known.findings(all, now()), notes }
    }

    /// Remembers since when is known what cannot be put right.
    pub(super) fn note_known(&self, action: &Action, observed: &Observed, is_right: bool) {
        let plan = Plan { actions: vec![action.clone()], ..Plan::default() };
        let differences = of_host(&plan, observed, Vec::new(), &BTreeSet::new());
        let known = &mut self.lock().known;
        for difference in differences {
            if is_right {
                known.put_right(&difference);
            } else {
                known.failed(&difference, now());
            }
        }
    }
}

/// Who has ports that the agent should hold.
async fn held_by_others(ports: Vec<PublishedPort>) -> Vec<Difference> {
    if ports.is_empty() {
        return Vec::new();
    }
    let name = |port: PublishedPort| {
        let PublishedPort { host_ip, host_port, protocol, .. } = port;
        let at = if host_ip.is_unspecified() { String::new() } else { format!("{host_ip}:") };
        let subject = format!("port {at}{host_port}/{}", protocol.as_str());
        Difference::new(
            subject,
            "held by the agent",
            format!("in use by {}", ports::holder_of(&port)),
        )
    };
    // Fails only when the agent ends.
    spawn_blocking(move || ports.into_iter().map(name).collect()).await.unwrap_or_default()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
