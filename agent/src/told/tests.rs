use imbl::OrdMap;
use shoal_agent_planning::overlay::OverlayView;
use shoal_types::assignment::{
    EndpointNetwork, Peer, PeerKeys, ServiceVips, TaskEndpoint, VipNetwork,
};
use shoal_types::id::TaskId;
use shoal_types::object::{Slot, TunnelKey};
use shoal_types::spec::{Affinity, Locality};

use super::*;
use crate::testing::assigner;

fn endpoint(task: u128, serving: bool) -> Arc<TaskEndpoint> {
    let [_, a, b, c] = u32::try_from(task).unwrap().to_be_bytes();
    let addresses = vec![format!("10.{a}.{b}.{c}/8").parse().unwrap()];
    let network = EndpointNetwork { network_id: 9.into(), addresses, aliases: Vec::new() };
    Arc::new(TaskEndpoint {
        task_id: task.into(),
        service_id: 7.into(),
        service_name: "web".to_owned(),
        slot: Slot::Replica(1),
        node_id: 2.into(),
        networks: vec![network],
        ports: Vec::new(),
        affinity: Some(Affinity::ClientIp),
        locality: Some(Locality::PreferLocal),
        serving,
    })
}

fn view(endpoints: u128) -> OverlayView {
    let vip =
        VipNetwork { network_id: 9.into(), vip: "10.0.0.2/8".parse().unwrap(), aliases: vec![] };
    let vips = ServiceVips {
        service_id: 7.into(),
        service_name: "web".to_owned(),
        networks: vec![vip],
        affinity: Some(Affinity::ClientIp),
        locality: None,
    };
    let peer = Peer {
        node_id: 2.into(),
        public_key: TunnelKey([2; 32]),
        addr: [192, 0, 2, 2].into(),
        port: 51820,
        tunnel_address: Some([10, 9, 0, 2].into()),
        keys: PeerKeys::default(),
    };
    OverlayView {
        revision: 0,
        node_id: Some(1.into()),
        networks: OrdMap::new(),
        endpoints: (1..=endpoints).map(|n| (TaskId::from(n), endpoint(n, true))).collect(),
        vips: std::iter::once((vips.service_id, Arc::new(vips))).collect(),
        peers: std::iter::once((peer.node_id, Arc::new(peer))).collect(),
    }
}

fn source(sequence: u64, boot: &str) -> Source {
    Source { cluster: ClusterId::from(5), term: 3, sequence, boot: Boot::new(boot) }
}

/// What is there, as the next agent finds it.
fn found(dir: &Path) -> Option<Kept> {
    Told::open(dir).unwrap().1
}

/// If this fails, an agent of today cannot read what an earlier one has kept: it is the code that has to change, not
/// the file. The other records are those that are sent, whose bytes are kept beside them.
#[test]
fn what_the_first_version_has_written_is_still_read() {
    let source = Source { cluster: 8.into(), term: 7, sequence: 9, boot: Boot::new("one") };
    let today = hex::encode(source.of_node(1.into()).encode_to_vec());
    assert_eq!(include_str!("../golden/ledger_told.v1.hex").trim(), today);
}

#[test]
fn what_was_told_last_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("told");
    assert_eq!(found(&path), None);
    let (told, _) = Told::open(&path).unwrap();
    told.keep(source(1, "one"), &view(3));
    let mut now = view(5);
    now.endpoints.remove(&TaskId::from(2));
    now.peers.clear();
    told.keep(source(2, "one"), &now);
    drop(told);
    assert_eq!(found(&path), Some(Kept { source: source(2, "one"), view: now }));
    // Whole, and less than before.
    let (told, _) = Told::open(&path).unwrap();
    told.keep(source(1, "two"), &view(1));
    drop(told);
    assert_eq!(found(&path), Some(Kept { source: source(1, "two"), view: view(1) }));
    let (told, _) = Told::open(&path).unwrap();
    told.forget();
    drop(told);
    assert_eq!(found(&path), None);
}

/// Only what is written is counted, not how much there is: one record for each change, beside the one that says from
/// whom.
#[test]
fn a_change_is_written_alone_however_much_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::new(dir.path());
    let mut now = view(10_000);
    assert_eq!(store.write(&source(1, "one"), &now).unwrap(), 10_002);
    for n in 1..=100 {
        let task = TaskId::from(n * 97);
        now.endpoints.insert(task, endpoint(n * 97, false));
        assert_eq!(store.write(&source(1 + n as u64, "one"), &now).unwrap(), 1);
    }
    // Told anew, it is compared, and nothing has to be written.
    let whole = OverlayView {
        endpoints: now
            .endpoints
            .iter()
            .map(|(id, one)| (*id, Arc::new(TaskEndpoint::clone(one))))
            .collect(),
        ..now.clone()
    };
    assert_eq!(store.write(&source(200, "two"), &whole).unwrap(), 0);
    drop(store);
    let kept = found(dir.path()).unwrap();
    assert_eq!((kept.source, kept.view == now), (source(200, "two"), true));
}

#[test]
fn changes_that_come_together_are_written_together() {
    let dir = tempfile::tempdir().unwrap();
    let (told, _) = Told::open(dir.path()).unwrap();
    for n in 1..=500 {
        told.keep(source(n, "one"), &view(u128::from(n)));
    }
    let slot = Arc::clone(&told.slot);
    drop(told);
    let kept = found(dir.path()).unwrap();
    assert_eq!((kept.source.sequence, kept.view), (500, view(500)));
    assert!(slot.lock().written <= 2 * 502, "{}", slot.lock().written);
}

type Harm<'a> = &'a dyn Fn(&Path);

/// Each way in which it may be no good: the agent begins without, and what it is told next is kept.
#[test]
fn what_cannot_be_read_is_made_anew() {
    let write = |change: &Change, dir: &Path| {
        let database = builder().open(dir.join("overlay.redb")).unwrap();
        commit(&database, std::slice::from_ref(change)).unwrap();
    };
    let newer = pb::LedgerTold { version: VERSION + 1, ..Default::default() };
    let newer = (SOURCE.to_vec(), Some(newer.encode_to_vec()));
    let nonsense = (key(PEER, NodeId::from(2)), Some(vec![0xff]));
    let harms: [(&str, Harm<'_>); 5] = [
        ("newer", &|dir| write(&newer, dir)),
        ("no message", &|dir| write(&nonsense, dir)),
        ("no database", &|dir| fs::write(dir.join("overlay.redb"), "sh").unwrap()),
        ("empty", &|dir| fs::write(dir.join("overlay.redb"), "").unwrap()),
        ("rotten", &|dir| {
            let path = dir.join("overlay.redb");
            let mut bytes = fs::read(&path).unwrap();
            // A letter of a name, wherever the database has put it.
            let at: Vec<usize> =
                (0..bytes.len() - 3).filter(|at| bytes[*at..].starts_with(b"web")).collect();
            at.into_iter().for_each(|at| bytes[at] = b'W');
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (harm, act) in harms {
        let dir = tempfile::tempdir().unwrap();
        let (told, _) = Told::open(dir.path()).unwrap();
        told.keep(source(1, "one"), &view(3));
        drop(told);
        act(dir.path());
        let (told, kept) = Told::open(dir.path()).unwrap();
        assert_eq!(kept, None, "{harm}");
        told.keep(source(2, "one"), &view(2));
        drop(told);
        let kept = found(dir.path());
        assert_eq!(kept, Some(Kept { source: source(2, "one"), view: view(2) }), "{harm}");
    }
}

#[test]
fn what_is_too_much_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (told, _) = Told::open(dir.path()).unwrap();
    told.keep(source(1, "one"), &view(3));
    let mut large = view(3);
    let mut one = TaskEndpoint::clone(&large.endpoints[&TaskId::from(1)]);
    one.service_name = "w".repeat(RECORD_BYTES_MAX);
    large.endpoints.insert(one.task_id, Arc::new(one));
    told.keep(source(2, "one"), &large);
    drop(told);
    assert_eq!(found(dir.path()), None, "half of it would be misleading");
    let records = u128::try_from(RECORDS_MAX).unwrap();
    let error = Store::new(dir.path()).write(&source(1, "one"), &view(records)).unwrap_err();
    assert_eq!(error.to_string(), "131074 records: at most 131072 are kept, of 262144 bytes each");
}

/// It is of another boot of this host, in the same cluster; else what follows from it is there and newer, or it is
/// nobody's business.
#[test]
fn it_is_used_after_a_reboot_alone() {
    let (id, network) = assigner::network();
    let networks: BTreeMap<_, _> = [(id, network)].into();
    let kept = || Kept { source: source(1, "one"), view: view(3) };
    let after = |cluster: Option<u128>, boot: &str| {
        kept().after_reboot(cluster.map(Into::into), &Boot::new(boot), &networks)
    };
    assert_eq!(after(Some(5), "two"), Some(view(3)), "a bridge network spans nothing");
    assert_eq!(after(Some(5), "one"), None);
    assert_eq!(after(Some(5), ""), None, "nobody knows");
    assert_eq!(after(Some(6), "two"), None);
    assert_eq!(after(None, "two"), None);
}
