//! What becomes of a tunnel by an action, for drivers that only remember and for properties.

use std::time::Duration;

use shoal_types::object::TunnelKey;

use super::{
    Action, AllowedChange, Change, Desired, Device, Link, LinkKind, MTU, Observed, PeerChange,
    SeenPeer, Told,
};

impl Observed {
    /// Carries out one action on the host with the public key `own`.
    pub fn perform(&mut self, own: TunnelKey, action: &Action) {
        match action {
            Action::EndProcess => {
                self.process = false;
                self.device = None;
            }
            Action::RemoveLink => {
                self.link = None;
                self.addresses.clear();
                self.device = None;
            }
            Action::CreateLink => {
                self.link = Some(Link { kind: LinkKind::Wireguard, up: false, mtu: MTU });
                self.addresses.clear();
                self.device = Some(Device::default());
            }
            Action::StartProcess => {
                self.process = true;
                let made = Link { kind: LinkKind::Tun, up: false, mtu: 1500 };
                if self.link.is_none() {
                    self.link = Some(made);
                    self.addresses.clear();
                }
                self.device = Some(Device::default());
            }
            Action::Configure(change) => {
                if let Some(device) = &mut self.device {
                    device.configure(own, change);
                }
            }
            Action::SetMtu(mtu) => {
                if let Some(link) = &mut self.link {
                    link.mtu = *mtu;
                }
            }
            Action::Loosen => self.strict = false,
            Action::SetUp => {
                if let Some(link) = &mut self.link {
                    link.up = true;
                }
            }
            Action::AddAddress(address) => {
                self.addresses.insert((*address).into());
            }
            Action::RemoveAddress(address) => {
                self.addresses.remove(address);
            }
        }
    }
}

impl Device {
    fn configure(&mut self, own: TunnelKey, change: &Change) {
        if change.key {
            self.key = Some(own);
        }
        self.listen_port = change.listen_port.or(self.listen_port);
        self.peers.retain(|key, _| !change.remove.contains(key));
        for (key, change) in &change.peers {
            let (replaces, nets) = match &change.allowed {
                AllowedChange::Same => (false, Default::default()),
                AllowedChange::Add(nets) => (false, nets.clone()),
                AllowedChange::Replace(nets) => (true, nets.clone()),
            };
            // An address is one peer's: who gets it takes it from whoever had it.
            for other in self.peers.values_mut() {
                other.allowed.retain(|net| !nets.contains(net));
            }
            let peer = self.peers.entry(*key).or_default();
            if replaces {
                peer.allowed.clear();
            }
            peer.allowed.extend(nets);
            peer.configure(change);
        }
    }
}

impl SeenPeer {
    fn configure(&mut self, change: &PeerChange) {
        self.endpoint = change.endpoint.or(self.endpoint);
        if let Some(seconds) = change.keepalive_s {
            self.keepalive = (seconds != 0).then(|| Duration::from_secs(u64::from(seconds)));
        }
    }
}

impl Desired {
    /// Where each peer is said to be.
    #[must_use]
    pub fn told(&self) -> Told {
        self.peers.iter().map(|(key, peer)| (*key, peer.endpoint)).collect()
    }
}
