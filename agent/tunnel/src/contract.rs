//! What every driver promises.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use shoal_agent_planning::tunnel::{Action, Desired, Device, MTU, Side, TunnelPeer};
use shoal_types::object::{TunnelKey, TunnelKind};

use crate::{Tunnel, TunnelState};

/// What others do to a tunnel.
pub trait Harm {
    /// Deletes the interface.
    fn delete_interface(&self);
    /// Kills the process, if there is one.
    fn kill(&self);
}

fn key(number: u16) -> TunnelKey {
    let mut bytes = [9; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    TunnelKey(bytes)
}

fn peer(number: u16) -> (TunnelKey, TunnelPeer) {
    let [high, low] = number.to_be_bytes();
    let peer = TunnelPeer {
        endpoint: SocketAddr::from(([192, 0, high, low], 51820)),
        allowed: [format!("10.0.{high}.{low}/32").parse().unwrap()].into(),
        keepalive: (number == 1).then(|| Duration::from_secs(25)),
    };
    (key(number), peer)
}

/// What was done, without what it was done with.
fn names(state: &TunnelState) -> Vec<String> {
    let name = |action: &Action| format!("{action:?}").split('(').next().unwrap().to_owned();
    state.done.iter().map(name).collect()
}

fn like(device: &Device, desired: &Desired) {
    assert_eq!(device.listen_port, Some(desired.listen_port));
    let seen = device
        .peers
        .iter()
        .map(|(key, seen)| (*key, seen.endpoint, seen.allowed.clone(), seen.keepalive));
    let wanted = desired
        .peers
        .iter()
        .map(|(key, peer)| (*key, Some(peer.endpoint), peer.allowed.clone(), peer.keepalive));
    assert_eq!(seen.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
}

/// Runs the suite on a tunnel that is not there yet and has no key, on this side and port.
///
/// # Panics
/// When a promise is broken.
pub async fn honour(tunnel: &dyn Tunnel, harm: &dyn Harm, side: Side, listen_port: u16) {
    let first = match side {
        Side::First => 0,
        Side::Second => 1,
    };
    assert_eq!(tunnel.key(), None);
    let nothing =
        Desired { listen_port, mtu: MTU, address: None, peers: std::collections::BTreeMap::new() };
    assert!(tunnel.ensure(nothing).await.is_err(), "without a key");
    assert!(tunnel.turn(first + 1).await.is_err(), "an epoch of the other one");
    let own = tunnel.turn(first).await.unwrap();
    assert_eq!((own.epoch, tunnel.key()), (first, Some(own)));
    assert_eq!(tunnel.turn(first).await.unwrap(), own);
    let own = own.public_key;
    let desired = |peers: &[u16]| Desired {
        listen_port,
        mtu: MTU,
        address: Some([10, 9, 0, 1].into()),
        peers: peers.iter().map(|number| peer(*number)).collect(),
    };
    assert_eq!(tunnel.observe().await.unwrap(), None);

    let refused = Desired { mtu: 1, ..desired(&[]) };
    let error = tunnel.ensure(refused).await.unwrap_err();
    assert!(error.is_refusal(), "{error}");
    let mut refused = desired(&[1]);
    refused.peers.insert(own, peer(2).1);
    assert!(tunnel.ensure(refused).await.unwrap_err().is_refusal());
    assert_eq!(tunnel.observe().await.unwrap(), None);

    let state = tunnel.ensure(desired(&[1, 2])).await.unwrap();
    assert_eq!((state.public_key, state.port), (own, listen_port));
    let kind = state.kind;
    let seen = tunnel.observe().await.unwrap().unwrap();
    assert_eq!((seen.kind, seen.device.key), (kind, Some(own)));
    like(&seen.device, &desired(&[1, 2]));
    assert_eq!(tunnel.ensure(desired(&[1, 2])).await.unwrap().done, []);

    one_change(tunnel, &desired).await;
    let many: Vec<u16> = (1..=1000).collect();
    tunnel.ensure(desired(&many)).await.unwrap();
    assert_eq!(tunnel.ensure(desired(&many)).await.unwrap().done, []);
    let state = tunnel.ensure(desired(&many[1..])).await.unwrap();
    let [Action::Configure(change)] = &state.done[..] else { panic!("{:?}", state.done) };
    assert_eq!((change.remove.len(), change.peers.len()), (1, 0));

    recovers(tunnel, harm, kind, desired(&[1, 2])).await;

    tunnel.remove().await.unwrap();
    assert_eq!(tunnel.observe().await.unwrap(), None);
    tunnel.remove().await.unwrap();
    let state = tunnel.ensure(desired(&[])).await.unwrap();
    assert_eq!(state.public_key, own);
    keys_change(tunnel, first, desired(&[1, 2])).await;
}

/// The interface stays, with whom it knows, and has the key of the epoch.
async fn keys_change(tunnel: &dyn Tunnel, first: u64, desired: Desired) {
    let own = tunnel.key().unwrap().public_key;
    tunnel.ensure(desired.clone()).await.unwrap();
    let next = tunnel.turn(first + 2).await.unwrap();
    assert_ne!(next.public_key, own);
    let state = tunnel.ensure(desired.clone()).await.unwrap();
    assert_eq!(state.public_key, next.public_key);
    let Some(Action::Configure(change)) = state.done.last() else { panic!("{:?}", state.done) };
    assert!(change.key && change.remove.is_empty(), "{change:?}");
    let seen = tunnel.observe().await.unwrap().unwrap();
    assert_eq!(seen.device.key, Some(next.public_key));
    like(&seen.device, &desired);

    tunnel.forget().await.unwrap();
    assert_eq!((tunnel.observe().await.unwrap(), tunnel.key()), (None, None));
    tunnel.forget().await.unwrap();
    let anew = tunnel.turn(first + 2).await.unwrap();
    tunnel.ensure(desired.clone()).await.unwrap();
    assert_eq!(tunnel.observe().await.unwrap().unwrap().device.key, Some(anew.public_key));
    tunnel.remove().await.unwrap();
}

/// What is added, changed or removed is all that is told.
async fn one_change(tunnel: &dyn Tunnel, desired: &dyn Fn(&[u16]) -> Desired) {
    let state = tunnel.ensure(desired(&[1, 2, 3])).await.unwrap();
    let [Action::Configure(change)] = &state.done[..] else { panic!("{:?}", state.done) };
    assert!(change.peers.keys().eq([&key(3)]) && change.remove.is_empty(), "{change:?}");

    let mut more = desired(&[1, 2, 3]);
    let other = more.peers.get_mut(&key(1)).unwrap();
    other.allowed.insert("10.9.0.0/24".parse().unwrap());
    other.keepalive = None;
    let state = tunnel.ensure(more.clone()).await.unwrap();
    let [Action::Configure(change)] = &state.done[..] else { panic!("{:?}", state.done) };
    assert!(change.peers.keys().eq([&key(1)]), "{change:?}");
    like(&tunnel.observe().await.unwrap().unwrap().device, &more);
    assert_eq!(tunnel.ensure(more).await.unwrap().done, []);

    // An address that moves from one peer to another is the other's.
    let mut moved = desired(&[1, 2, 3]);
    let taken = std::mem::take(&mut moved.peers.get_mut(&key(1)).unwrap().allowed);
    moved.peers.get_mut(&key(2)).unwrap().allowed.extend(taken);
    tunnel.ensure(moved.clone()).await.unwrap();
    like(&tunnel.observe().await.unwrap().unwrap().device, &moved);
    assert_eq!(tunnel.ensure(moved).await.unwrap().done, []);

    let state = tunnel.ensure(desired(&[1, 2])).await.unwrap();
    let [Action::Configure(change)] = &state.done[..] else { panic!("{:?}", state.done) };
    assert!(change.remove.iter().eq([&key(3)]), "{change:?}");
}

/// What somebody has broken is whole after the next call, with the same key.
async fn recovers(tunnel: &dyn Tunnel, harm: &dyn Harm, kind: TunnelKind, desired: Desired) {
    let own = tunnel.key().unwrap().public_key;
    tunnel.ensure(desired.clone()).await.unwrap();
    let harms: [(&dyn Fn(), &[&str]); 3] = [
        (&|| harm.kill(), &["StartProcess", "Configure"]),
        (&|| harm.delete_interface(), &["Configure", "SetMtu", "SetUp", "AddAddress"]),
        (
            &|| {
                harm.kill();
                harm.delete_interface();
            },
            &["Configure", "SetMtu", "SetUp", "AddAddress"],
        ),
    ];
    for (number, (harm, steps)) in harms.iter().enumerate() {
        harm();
        let state = tunnel.ensure(desired.clone()).await.unwrap();
        let done = names(&state);
        if number > 0 || kind == TunnelKind::Userspace {
            assert!(done.ends_with(&steps.map_to_owned()), "{number}: {done:?}");
        }
        let seen = tunnel.observe().await.unwrap().unwrap();
        assert_eq!(seen.device.key, Some(own));
        like(&seen.device, &desired);
        assert_eq!(tunnel.ensure(desired.clone()).await.unwrap().done, []);
    }
}

trait MapToOwned {
    fn map_to_owned(&self) -> Vec<String>;
}

impl MapToOwned for [&str] {
    fn map_to_owned(&self) -> Vec<String> {
        self.iter().map(|text| (*text).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FakeTunnel;

    impl Harm for FakeTunnel {
        fn delete_interface(&self) {
            self.break_with(|observed| {
                observed.link = None;
                observed.process = false;
                observed.device = None;
            });
        }

        fn kill(&self) {
            self.break_with(|observed| {
                if observed.process {
                    observed.process = false;
                    observed.device = None;
                }
            });
        }
    }

    #[tokio::test]
    async fn the_fake_driver() {
        for kind in [TunnelKind::Kernel, TunnelKind::Userspace] {
            for side in Side::ALL {
                let fake = FakeTunnel::new(TunnelKey([1; 32]), kind, side);
                honour(&fake, &fake, side, 51820).await;
            }
        }
    }
}
