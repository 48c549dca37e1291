use std::sync::atomic::{AtomicU32, Ordering};

use shoal_agent_network::{FakeNetworks, Protocol};
use shoal_agent_planning::network::ingress::{Backend, Ingress};
use shoal_agent_planning::network::ruleset::Vips;
use shoal_agent_planning::overlay::Remote;
use shoal_agent_planning::tunnel::selftest::{Came, End};
use shoal_agent_planning::tunnel::{MTU, Side};
use shoal_agent_tunnel::FakeTunnel;
use shoal_types::assignment::{
    EndpointNetwork, IngressPort, Peer, PeerKeys, ServiceVips, TaskEndpoint, VipNetwork,
};
use shoal_types::id::TaskId;
use shoal_types::object::{Slot, TunnelEnd, TunnelEpochs, TunnelKey, TunnelKind};
use shoal_types::spec;

use super::*;

const OWN: u128 = 1;
const FAR: u128 = 2;
const PORT: u16 = 51820;

fn key(byte: u8) -> TunnelKey {
    TunnelKey([byte; 32])
}

/// One task here, one on another node, and their service.
fn view() -> OverlayView {
    let endpoint = |task: u128, node: u128, address: &str| TaskEndpoint {
        task_id: task.into(),
        service_id: 7.into(),
        service_name: "web".to_owned(),
        slot: Slot::Replica(1),
        node_id: node.into(),
        networks: vec![EndpointNetwork {
            network_id: 9.into(),
            addresses: vec![address.parse().unwrap()],
            aliases: Vec::new(),
        }],
        ports: vec![IngressPort { protocol: spec::Protocol::Tcp, published_port: 8080 }],
        affinity: None,
        locality: None,
        serving: true,
    };
    let endpoints = [endpoint(1, OWN, "10.0.0.2/24"), endpoint(2, FAR, "10.0.0.3/24")];
    let vip = VipNetwork {
        network_id: 9.into(),
        vip: "10.0.0.9/24".parse().unwrap(),
        aliases: Vec::new(),
    };
    let vips = ServiceVips {
        service_id: 7.into(),
        service_name: "web".to_owned(),
        networks: vec![vip],
        affinity: None,
        locality: None,
    };
    let peer = |node: u128, last: u8| Peer {
        node_id: node.into(),
        public_key: key(last),
        addr: [192, 0, 2, last].into(),
        port: PORT,
        tunnel_address: Some([10, 9, 0, last].into()),
        keys: PeerKeys::default(),
    };
    let peers = [peer(OWN, 1), peer(FAR, 2)];
    OverlayView {
        node_id: Some(OWN.into()),
        endpoints: endpoints.map(|one| (one.task_id, Arc::new(one))).into_iter().collect(),
        vips: std::iter::once((vips.service_id, Arc::new(vips))).collect(),
        peers: peers.map(|peer| (peer.node_id, Arc::new(peer))).into_iter().collect(),
        ..OverlayView::default()
    }
}

/// Where the port of that service leads.
fn ingress() -> Ingress {
    let own = Backend::Here(TaskId::from(1).to_string());
    let backends = vec![own, Backend::Far([10, 9, 0, 2].into())];
    Ingress {
        home: Some([10, 9, 0, 1].into()),
        peers: [([10, 9, 0, 2].into(), Some([192, 0, 2, 2].into()))].into(),
        ports: vec![((Protocol::Tcp, 8080), backends)].into(),
        ..Ingress::default()
    }
}

fn data_path() -> DataPath {
    DataPath { addr: Some([192, 0, 2, 1].into()), port: PORT }
}

/// All of every link passes.
fn whole() -> Try {
    Arc::new(|_, _| Box::pin(async { Some(Came { passes: MTU, way: None }) }))
}

fn start(tunnel: &Arc<FakeTunnel>, networks: &Arc<FakeNetworks>) -> OverlayHandle {
    Overlay::start(sides(tunnel), networks.clone(), networks.overlay(), data_path(), whole())
}

/// With a second interface that nobody looks at.
fn sides(tunnel: &Arc<FakeTunnel>) -> Sides<Arc<dyn Tunnel>> {
    let second = FakeTunnel::new(key(101), TunnelKind::Userspace, Side::Second);
    Sides { first: tunnel.clone(), second: Arc::new(second) }
}

fn fakes() -> (Arc<FakeTunnel>, Arc<FakeNetworks>) {
    (
        Arc::new(FakeTunnel::new(key(1), TunnelKind::Userspace, Side::First)),
        Arc::new(FakeNetworks::default()),
    )
}

/// The peers of the tunnel, once they are as wanted; panics after a while.
async fn until_peers(tunnel: &FakeTunnel, wanted: &[TunnelKey]) {
    let mut last = None;
    for _ in 0..600 {
        let seen = tunnel.observe().await.unwrap();
        let peers = seen.map(|seen| seen.device.peers.into_keys().collect::<Vec<_>>());
        if peers.as_deref() == Some(wanted) {
            return;
        }
        last = peers;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the peers are {last:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_told_is_done() {
    let (tunnel, networks) = fakes();
    let overlay = start(&tunnel, &networks);
    tokio::time::sleep(LOOK * 2).await;
    assert!(tunnel.observe().await.unwrap().is_none(), "nobody needs one yet");
    let description = overlay.describe().await.unwrap();
    assert_eq!((description.public_key, description.port), (key(1), PORT));
    assert_eq!(description.kind, TunnelKind::Userspace);
    until_peers(&tunnel, &[]).await;

    networks.tell(Arc::new(view()));
    until_peers(&tunnel, &[key(2)]).await;
    let mut led = networks.led();
    let far = [10, 0, 0, 3].into();
    let vip = IpAddr::from([10, 0, 0, 9]);
    let vips = Vips::from(vec![(vip, vec![[10, 0, 0, 2].into(), far])]);
    let remote = vec![far, [10, 9, 0, 2].into()].into();
    let wanted = (remote, vips, ingress());
    led.wait_for(|led| *led == wanted).await.unwrap();

    // Somebody deletes the interface.
    tunnel.break_with(|observed| *observed = Default::default());
    until_peers(&tunnel, &[key(2)]).await;

    // The host leaves.
    networks.tell(Arc::default());
    let nothing = <(Remote, Vips, Ingress)>::default();
    led.wait_for(|led| *led == nothing).await.unwrap();
    overlay.remove().await.unwrap();
    tokio::time::sleep(LOOK * 2).await;
    assert!(tunnel.observe().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_news_once() {
    let (tunnel, networks) = fakes();
    let overlay = start(&tunnel, &networks);
    let news = |told| {
        let overlay = overlay.clone();
        async move { tokio::time::timeout(LOOK * 2, overlay.news(told)).await.is_ok() }
    };
    assert!(!news(None).await, "there is none yet");
    tunnel.fail_with(Some("no device"));
    assert_eq!(overlay.describe().await, None);
    assert!(!news(None).await, "it cannot be had");
    tunnel.fail_with(None);
    overlay.news(None).await;
    let told = overlay.describe().await;
    assert!(told.is_some() && !news(told).await);
}

#[tokio::test(start_paused = true)]
async fn a_restart_leaves_the_tunnel_alone_until_managers_have_spoken() {
    let (tunnel, networks) = fakes();
    let former = start(&tunnel, &networks);
    former.describe().await.unwrap();
    networks.tell(Arc::new(view()));
    until_peers(&tunnel, &[key(2)]).await;

    // The next agent knows nothing yet.
    drop(former);
    let networks = Arc::new(FakeNetworks::default());
    let overlay = start(&tunnel, &networks);
    assert!(overlay.describe().await.is_some());
    tokio::time::sleep(LOOK * 5).await;
    until_peers(&tunnel, &[key(2)]).await;
    // Until it is told that there is nobody.
    let alone = OverlayView { node_id: Some(OWN.into()), ..OverlayView::default() };
    networks.tell(Arc::new(alone));
    until_peers(&tunnel, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_port_that_somebody_has_is_asked_for_until_it_is_free() {
    let (tunnel, networks) = fakes();
    networks.bind_host_port(8080);
    let _overlay = start(&tunnel, &networks);
    networks.tell(Arc::new(view()));
    let mut led = networks.led();
    led.wait_for(|(_, _, led)| *led == ingress()).await.unwrap();
    // Again and again, and the tunnel is looked after meanwhile.
    led.mark_unchanged();
    led.changed().await.unwrap();
    tunnel.break_with(|observed| *observed = Default::default());
    until_peers(&tunnel, &[key(2)]).await;
    networks.free_host_port(8080);
    led.mark_unchanged();
    led.changed().await.unwrap();
    // Then there is nothing to ask any more.
    led.mark_unchanged();
    tokio::time::sleep(LOOK * 10).await;
    assert!(!led.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_led_to_a_node_without_a_tunnel() {
    let (tunnel, networks) = fakes();
    let _overlay = start(&tunnel, &networks);
    let mut view = view();
    let far = NodeId::from(FAR);
    // It has this node's own key.
    let peer = Peer { public_key: key(1), ..*view.peers[&far] };
    view.peers.insert(far, Arc::new(peer));
    networks.tell(Arc::new(view));
    let mut led = networks.led();
    let alone = led.wait_for(|(_, _, led)| !led.ports.is_empty()).await.unwrap().2.clone();
    assert_eq!(alone.peers.len(), 0);
    assert_eq!(*alone.ports[&(Protocol::Tcp, 8080)], ingress().ports[&(Protocol::Tcp, 8080)][..1]);
}

#[tokio::test(start_paused = true)]
async fn each_half_that_fails_is_told() {
    let (tunnel, networks) = fakes();
    let (mut overlay, _handle) =
        Overlay::new(sides(&tunnel), networks.clone(), networks.overlay(), data_path(), whole());
    networks.tell(Arc::new(view()));
    tunnel.fail_with(Some("no device"));
    networks.set_broken(true);
    let errors = overlay.follow().await;
    assert!(
        matches!(
            errors[..],
            [OverlayError::Tunnel(_), OverlayError::Networks(_), OverlayError::Networks(_)]
        ),
        "{errors:?}"
    );
    networks.set_broken(false);
    assert!(matches!(overlay.follow().await[..], [OverlayError::Tunnel(_)]));
    tunnel.fail_with(None);
    assert_eq!(overlay.follow().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_away_after_leaving_is_tried_again() {
    for breaks_tunnel in [true, false] {
        let (tunnel, networks) = fakes();
        let _overlay = start(&tunnel, &networks);
        networks.tell(Arc::new(view()));
        until_peers(&tunnel, &[key(2)]).await;
        let mut led = networks.led();
        led.wait_for(|(_, _, led)| *led == ingress()).await.unwrap();
        tunnel.fail_with(breaks_tunnel.then_some("busy"));
        networks.set_broken(!breaks_tunnel);
        networks.tell(Arc::default());
        tokio::time::sleep(LOOK * 2).await;
        let is_there = tunnel.observe().await.unwrap().is_some();
        assert_eq!((is_there, led.borrow().2 == ingress()), (breaks_tunnel, !breaks_tunnel));
        tunnel.fail_with(None);
        networks.set_broken(false);
        tokio::time::sleep(PAUSES.last * 2).await;
        assert!(tunnel.observe().await.unwrap().is_none());
        assert_eq!(led.borrow().2, Ingress::default());
    }
}

/// What passes is found out, again and again, and packets are made to fit it.
#[tokio::test(start_paused = true)]
async fn packets_for_a_node_fit_what_passes_to_it() {
    let (tunnel, networks) = fakes();
    let passes = Arc::new(AtomicU32::new(1300));
    let tried = {
        let passes = passes.clone();
        let came = move |ways: &Ways, end: End| {
            assert_eq!(
                (ways.home, end.address),
                (Some([10, 9, 0, 1].into()), [10, 9, 0, 2].into())
            );
            Some(Came { passes: passes.load(Ordering::Relaxed), way: None })
        };
        let attempt: Try = Arc::new(move |ways, end| Box::pin(std::future::ready(came(ways, end))));
        attempt
    };
    let path = data_path();
    let overlay = Overlay::start(sides(&tunnel), networks.clone(), networks.overlay(), path, tried);
    networks.tell(Arc::new(view()));
    let mut narrow = networks.narrow();
    let fits = |bytes| BTreeMap::from([[10, 0, 0, 3], [10, 9, 0, 2]].map(|at| (at.into(), bytes)));
    assert_eq!(overlay.troubled_links(), TroubledLinks::default());
    narrow.wait_for(|narrow| *narrow == fits(1300)).await.unwrap();
    let troubled = overlay.troubled_links();
    assert_eq!((troubled.count, troubled.links[0].passes_bytes), (1, 1300));
    for (now, expected) in [(1400, fits(1400)), (MTU, BTreeMap::new())] {
        passes.store(now, Ordering::Relaxed);
        narrow.wait_for(|narrow| *narrow == expected).await.unwrap();
    }
    assert_eq!(overlay.troubled_links(), TroubledLinks::default());
}

/// Where the wires take more, so does the tunnel, and packets to a node are larger once they were seen to pass.
#[tokio::test(start_paused = true)]
async fn packets_for_a_node_are_as_large_as_the_wires_take_once_they_were_seen_to_pass() {
    let (tunnel, networks) = fakes();
    tunnel.set_wires([1500, 9000]);
    let passes = Arc::new(AtomicU32::new(0));
    let tried = {
        let passes = passes.clone();
        let attempt: Try = Arc::new(move |ways, _| {
            let passes = passes.load(Ordering::Relaxed).min(ways.full);
            Box::pin(std::future::ready((passes > 0).then_some(Came { passes, way: None })))
        });
        attempt
    };
    let path = data_path();
    let overlay = Overlay::start(sides(&tunnel), networks.clone(), networks.overlay(), path, tried);
    networks.tell(Arc::new(view()));
    let mut narrow = networks.narrow();
    let task = |bytes| BTreeMap::from([([10, 0, 0, 3].into(), bytes)]);
    // Before anything could be tried.
    narrow.wait_for(|narrow| *narrow == task(MTU)).await.unwrap();
    until_peers(&tunnel, &[key(2)]).await;
    assert_eq!(tunnel.mtu(), Some(8920));
    for (now, expected) in
        [(8920, BTreeMap::new()), (1440, task(1440)), (8920, BTreeMap::new()), (4000, task(4000))]
    {
        passes.store(now, Ordering::Relaxed);
        narrow.wait_for(|narrow| *narrow == expected).await.unwrap();
    }
    assert_eq!(overlay.troubled_links(), TroubledLinks::default());
    tunnel.set_wires([1500]);
    narrow.wait_for(BTreeMap::is_empty).await.unwrap();
    let mut looks = 0;
    while tunnel.mtu() != Some(MTU) {
        looks += 1;
        assert!(looks < 600, "{:?}", tunnel.mtu());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A tunnel that is made before managers have spoken leads to nobody, which says nothing of those that there are.
#[tokio::test(start_paused = true)]
async fn what_an_earlier_agent_has_found_out_holds_until_links_were_tried() {
    let (tunnel, networks) = fakes();
    let earlier = BTreeMap::from([([10, 0, 0, 3].into(), 1300)]);
    networks.fit(MTU, earlier.clone()).await.unwrap();
    let under_way: Try = Arc::new(|_, _| Box::pin(std::future::pending()));
    let path = data_path();
    let overlay =
        Overlay::start(sides(&tunnel), networks.clone(), networks.overlay(), path, under_way);
    // The process that was the tunnel has ended with the earlier agent.
    overlay.describe().await.unwrap();
    tokio::time::sleep(LOOK).await;
    networks.tell(Arc::new(view()));
    until_peers(&tunnel, &[key(2)]).await;
    tokio::time::sleep(LOOK * 2).await;
    assert_eq!(*networks.narrow().borrow(), earlier);
}

#[tokio::test(start_paused = true)]
async fn who_looks_is_told_that_it_cannot_be_said_in_time() {
    let (tunnel, networks) = fakes();
    // What is under way does not end.
    let (_busy, overlay) =
        Overlay::new(sides(&tunnel), networks.clone(), networks.overlay(), data_path(), whole());
    // One more than are kept for later.
    for _ in 0..=ASKS {
        let Overseen { compared, from } = overlay.compare().await;
        assert!(from.is_none() && compared.findings.is_empty());
        let [note] = compared.notes.as_slice() else { panic!("{:?}", compared.notes) };
        assert!(note.ends_with("could not be said within 5 seconds"), "{note}");
    }
}

/// The node itself and another one, as managers say them in these epochs; the other one has said keys of `said`.
fn in_epochs(epochs: TunnelEpochs, said: &[u64]) -> OverlayView {
    let mut view = view();
    let own = *view.peers[&NodeId::from(OWN)];
    let keys = PeerKeys { cluster: Some(epochs), ..own.keys };
    view.peers.insert(own.node_id, Arc::new(Peer { keys, ..own }));
    let far = *view.peers[&NodeId::from(FAR)];
    let end = |epoch: &u64| TunnelEnd { epoch: *epoch, public_key: far_key(*epoch), port: PORT };
    let keys =
        PeerKeys { epoch: said.first().copied(), other: said.get(1).map(end), cluster: None };
    let public_key = far_key(said[0]);
    view.peers.insert(far.node_id, Arc::new(Peer { public_key, keys, ..far }));
    view
}

fn far_key(epoch: u64) -> TunnelKey {
    key(u8::try_from(50 + epoch).unwrap())
}

/// Keys were agreed on with the other node so many seconds ago.
fn agreed(tunnel: &FakeTunnel, epoch: u64, seconds: u64) {
    tunnel.break_with(|observed| {
        let device = observed.device.as_mut().unwrap();
        device.peers.get_mut(&far_key(epoch)).unwrap().handshake_age =
            Some(Duration::from_secs(seconds));
    });
}

#[tokio::test(start_paused = true)]
async fn packets_go_by_other_keys_when_those_are_agreed_on() {
    let (first, networks) = fakes();
    let second = Arc::new(FakeTunnel::new(key(101), TunnelKind::Userspace, Side::Second));
    let sides = Sides { first: first.clone() as Arc<dyn Tunnel>, second: second.clone() };
    let path = data_path();
    let overlay = Overlay::start(sides, networks.clone(), networks.overlay(), path, whole());
    let said = |description: Option<TunnelDescription>| {
        let keys = description.unwrap().keys.unwrap();
        (keys.epoch, keys.other.map(|end| end.epoch), keys.lagging + keys.lacking)
    };
    assert_eq!(said(overlay.describe().await), (0, None, 0));
    let one = TunnelEpochs::default();
    networks.tell(Arc::new(in_epochs(one, &[0])));
    until_peers(&first, &[far_key(0)]).await;
    agreed(&first, 0, 9);

    // The next epoch begins; the other node has not said a key of it.
    let both = one.begun().unwrap();
    networks.tell(Arc::new(in_epochs(both, &[0])));
    let mut known = overlay.known();
    known.wait_for(|now| said(*now) == (1, Some(0), 1)).await.unwrap();
    assert_eq!(networks.second().borrow().len(), 0);
    assert_eq!(first.observe().await.unwrap().unwrap().device.listen_port, Some(PORT));
    assert_eq!(second.observe().await.unwrap().unwrap().device.listen_port, Some(PORT + 1));
    networks.tell(Arc::new(in_epochs(both, &[1, 0])));
    until_peers(&second, &[far_key(1)]).await;
    agreed(&second, 1, 6);
    known.wait_for(|now| said(*now) == (1, Some(0), 0)).await.unwrap();
    let by_second = [IpAddr::from([10, 0, 0, 3]), [10, 9, 0, 2].into()];
    assert_eq!(*networks.second().borrow(), by_second.to_vec().into());
    until_peers(&first, &[far_key(0)]).await;

    // It is over. What is on its way arrives before the interface goes.
    let ended = both.ended().unwrap();
    networks.tell(Arc::new(in_epochs(ended, &[1])));
    known.wait_for(|now| said(*now) == (1, None, 0)).await.unwrap();
    assert!(first.observe().await.unwrap().is_some());
    let began = Instant::now();
    while first.key().is_some() {
        assert!(began.elapsed() < LOOK * 10, "the former one stays");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(4), "it went too early");
    assert!(first.observe().await.unwrap().is_none());

    // And the first interface has its turn again.
    let third = ended.begun().unwrap();
    networks.tell(Arc::new(in_epochs(third, &[2, 1])));
    until_peers(&first, &[far_key(2)]).await;
    assert_eq!(first.key().unwrap().epoch, 2);
}

/// It says of two keys the elder one first, until managers have said which one is the present one.
#[tokio::test(start_paused = true)]
async fn an_agent_that_begins_anew_is_not_taken_for_through() {
    let (first, networks) = fakes();
    let second = Arc::new(FakeTunnel::new(key(101), TunnelKind::Userspace, Side::Second));
    first.turn(0).await.unwrap();
    second.turn(1).await.unwrap();
    let sides = Sides { first: first.clone() as Arc<dyn Tunnel>, second: second.clone() };
    let path = data_path();
    let overlay = Overlay::start(sides, networks.clone(), networks.overlay(), path, whole());
    let keys = overlay.describe().await.unwrap().keys.unwrap();
    assert_eq!((keys.epoch, keys.other.map(|end| end.epoch)), (0, Some(1)));
    let ended = TunnelEpochs { present: 1, former: None };
    networks.tell(Arc::new(in_epochs(ended, &[1])));
    until_peers(&second, &[far_key(1)]).await;
    let mut known = overlay.known();
    known.wait_for(|now| now.unwrap().keys.unwrap().epoch == 1).await.unwrap();
    // Nothing of this agent's was on its way by the other one.
    tokio::time::sleep(LOOK).await;
    assert_eq!(first.key(), None);
}

/// Two interfaces, and what leads packets there.
fn both() -> (Sides<Arc<FakeTunnel>>, Arc<FakeNetworks>) {
    let (first, networks) = fakes();
    let second = Arc::new(FakeTunnel::new(key(101), TunnelKind::Userspace, Side::Second));
    (Sides { first, second }, networks)
}

fn begin_with(tunnels: &Sides<Arc<FakeTunnel>>, networks: &Arc<FakeNetworks>) -> OverlayHandle {
    let Sides { first, second } = tunnels.clone();
    let sides = Sides { first: first as Arc<dyn Tunnel>, second };
    Overlay::start(sides, networks.clone(), networks.overlay(), data_path(), whole())
}

/// Before it was seen who is reached by the former keys, nobody is to be reached by others.
#[tokio::test(start_paused = true)]
async fn packets_go_as_they_did_while_an_interface_cannot_be_observed() {
    let (tunnels, networks) = both();
    let overlay = begin_with(&tunnels, &networks);
    overlay.describe().await.unwrap();
    let one = TunnelEpochs::default();
    networks.tell(Arc::new(in_epochs(one, &[0])));
    until_peers(&tunnels.first, &[far_key(0)]).await;
    agreed(&tunnels.first, 0, 9);
    tunnels.first.set_blind(true);
    networks.tell(Arc::new(in_epochs(one.begun().unwrap(), &[1, 0])));
    let mut known = overlay.known();
    let said = |now: &Option<TunnelDescription>| now.unwrap().keys.unwrap();
    let keys = said(&known.wait_for(|now| said(now).epoch == 1).await.unwrap());
    assert_eq!((keys.other.map(|end| end.epoch), keys.lagging), (Some(0), 1), "it is waited for");
    tokio::time::sleep(LOOK * 3).await;
    assert_eq!(networks.second().borrow().len(), 0);
    // Until it is seen that nothing is lost.
    agreed(&tunnels.second, 1, 6);
    tunnels.first.set_blind(false);
    networks.second().wait_for(|second| second.len() == 2).await.unwrap();
    known.wait_for(|now| said(now).lagging == 0).await.unwrap();
}

/// Others would else be told that the node has no tunnel at all.
#[tokio::test(start_paused = true)]
async fn one_interface_that_cannot_be_had_does_not_cost_a_node_the_other() {
    for lost in Side::ALL {
        let (tunnels, networks) = both();
        tunnels.first.turn(0).await.unwrap();
        tunnels.second.turn(1).await.unwrap();
        tunnels.of(lost).fail_with(Some("its port is somebody else's"));
        let overlay = begin_with(&tunnels, &networks);
        let keys = overlay.describe().await.unwrap().keys.unwrap();
        assert_eq!((Side::of(keys.epoch), keys.other), (lost.other(), None));
        assert_eq!(keys.lagging, 1, "nobody takes it for through");
    }
}

mod kills;
