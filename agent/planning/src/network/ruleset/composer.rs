//! Rulesets one after the other, of which most is as it was.

use std::sync::Arc;

use super::element::{Collector, Elements};
use super::led::{Bridges, Led};
use super::mesh::Ports;
use super::{HostFacts, Ruleset, Shape, mesh, own};
use crate::network::ingress::Ingress;
use crate::network::leases::Leases;

/// Derives rulesets, and remembers of the last one what does not follow from services.
#[derive(Debug, Default)]
pub struct Composer {
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    edition: u64,
    host: HostFacts,
    own: Arc<Elements>,
    bridges: Arc<Bridges>,
    ports: Option<Arc<Ports>>,
}

impl Composer {
    /// Derives the tables from the book, whose `edition` is another one whenever it is not as it was.
    pub fn compose(&mut self, edition: u64, leases: &Leases, host: &HostFacts) -> Ruleset {
        let is_new = |last: &Last| last.edition != edition || !host.differs_in_services(&last.host);
        if self.last.as_ref().is_none_or(is_new) {
            let mut all = Collector::new(host.v6);
            own::add(&mut all, leases, host);
            let ports = mesh::add(&mut all, leases, host);
            if !all.found.is_empty() {
                own::add_host(&mut all, host);
            }
            self.last = Some(Last {
                edition,
                host: host.clone(),
                own: Arc::new(all.found),
                bridges: Arc::new(Bridges::of(leases.networks())),
                ports: ports.map(Arc::new),
            });
        }
        let Some(Last { own, bridges, ports, .. }) = &self.last else { return Ruleset::default() };
        let led = Led {
            vips: host.vips.clone(),
            bridges: Arc::clone(bridges),
            all_ports: host.ingress.ports.clone(),
            ports: ports.clone(),
        };
        Ruleset {
            own: Arc::clone(own),
            led,
            prefix: host.prefix.clone(),
            shape: Shape {
                closed: host.forwards_for_us,
                closed_v6: host.v6 && host.forwards_v6_for_us,
                mesh: host.mesh,
                v6: host.v6,
            },
            ..Ruleset::default()
        }
    }
}

impl HostFacts {
    /// Whether others differ from these in services alone, if in anything.
    fn differs_in_services(&self, other: &Self) -> bool {
        let Self {
            prefix,
            on_no_wire,
            forwards_for_us,
            forwards_v6_for_us,
            v6,
            guests,
            vips: _,
            ingress,
            numbers,
            contested,
            mesh,
        } = self;
        let Ingress { home, peers, ports: _, sticky } = &**ingress;
        *prefix == other.prefix
            && *on_no_wire == other.on_no_wire
            && *forwards_for_us == other.forwards_for_us
            && *forwards_v6_for_us == other.forwards_v6_for_us
            && *v6 == other.v6
            && *guests == other.guests
            && *numbers == other.numbers
            && *contested == other.contested
            && *mesh == other.mesh
            && *home == other.ingress.home
            && *peers == other.ingress.peers
            && *sticky == other.ingress.sticky
    }
}
