use std::sync::atomic::{AtomicU32, Ordering};

use shoal_agent_network::{FakeNetworks, Protocol};
use shoal_agent_planning::network::ingress::{Backend, Ingress};
use shoal_agent_planning::network::ruleset::Vips;
use shoal_agent_planning::overlay::Remote;
use shoal_agent_planning::tunnel::selftest::Came;
use shoal_agent_tunnel::FakeTunnel;
use shoal_types::assignment::{
    EndpointNetwork, IngressPort, Peer, ServiceVips, TaskEndpoint, VipNetwork,
};
use shoal_types::id::TaskId;
use shoal_types::object::{Slot, TunnelKey, TunnelKind};
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
    Overlay::start(tunnel.clone(), networks.clone(), networks.overlay(), data_path(), whole())
}

fn fakes() -> (Arc<FakeTunnel>, Arc<FakeNetworks>) {
    (Arc::new(FakeTunnel::new(key(1), TunnelKind::Userspace)), Arc::new(FakeNetworks::default()))
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
        Overlay::new(tunnel.clone(), networks.clone(), networks.overlay(), data_path(), whole());
    networks.tell(Arc::new(view()));
    tunnel.fail_with(Some("no device"));
    networks.set_broken(true);
    let errors = overlay.follow().await;
    assert!(
        matches!(errors[..], [OverlayError::Tunnel(_), OverlayError::Networks(_)]),
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
    let overlay = Overlay::start(tunnel.clone(), networks.clone(), networks.overlay(), path, tried);
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

/// A tunnel that is made before managers have spoken leads to nobody, which says nothing of those that there are.
#[tokio::test(start_paused = true)]
async fn what_an_earlier_agent_has_found_out_holds_until_links_were_tried() {
    let (tunnel, networks) = fakes();
    let earlier = BTreeMap::from([([10, 0, 0, 3].into(), 1300)]);
    networks.fit(earlier.clone()).await.unwrap();
    let under_way: Try = Arc::new(|_, _| Box::pin(std::future::pending()));
    let path = data_path();
    let overlay =
        Overlay::start(tunnel.clone(), networks.clone(), networks.overlay(), path, under_way);
    // The process that was the tunnel has ended with the earlier agent.
    overlay.describe().await.unwrap();
    tokio::time::sleep(LOOK).await;
    networks.tell(Arc::new(view()));
    until_peers(&tunnel, &[key(2)]).await;
    tokio::time::sleep(LOOK * 2).await;
    assert_eq!(*networks.narrow().borrow(), earlier);
}
