//! A port that answers on every node, through the tunnel itself.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread;

use shoal_agent_network::{
    AttachRequest, BridgeConfig, BridgeNetworks, Netns, NetworkConfig, NetworkDriver as _,
    Protocol, SharedPort,
};
use shoal_agent_planning::network::ingress::{Backend, Ingress, Port};
use shoal_agent_planning::network::ruleset::Vips;
use shoal_agent_planning::overlay::Remote;
use shoal_agent_tunnel::contract::Harm as _;

use crate::lab::{Host, PATIENCE, Space, able, wire};

const PORTS: [Port; 2] = [(Protocol::Tcp, 8080), (Protocol::Udp, 8080)];
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const ASKED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Does something with the agent's driver on a host.
fn with_networks(host: &Host, act: impl AsyncFnOnce(&BridgeNetworks) + Send) {
    let dir = host.config.state_dir.clone();
    host.space.enter(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = BridgeConfig::new(dir.join("networks"), dir.join("attachments"));
            let driver = BridgeNetworks::open(config).unwrap();
            act(&driver).await;
        });
    });
}

/// Takes all that is sent by TCP, says who sent it and how much; by UDP says who asks.
fn serve(space: &Space, port: u16) {
    let any = (Ipv4Addr::UNSPECIFIED, port);
    let (tcp, udp) =
        space.enter(|| (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap()));
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let answer = |mut stream: TcpStream| {
                let mut all = Vec::new();
                stream.read_to_end(&mut all)?;
                write!(stream, "{} {}", stream.peer_addr()?.ip(), all.len())
            };
            let _ = stream.and_then(answer);
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{} {len}", peer.ip()).as_bytes(), peer);
        }
    });
}

fn ask(space: &Space, much: usize) -> [String; 2] {
    space.enter(|| {
        let mut stream = TcpStream::connect((ASKED, 8080)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&vec![7; much]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut tcp = String::new();
        stream.read_to_string(&mut tcp).unwrap();
        let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&[7; 1200], (ASKED, 8080)).unwrap();
        let mut buffer = [0; 64];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, (ASKED, 8080).into());
        [tcp, String::from_utf8_lossy(&buffer[..len]).into_owned()]
    })
}

/// The host that has the task knows no way to the client: its answers go by the one that was asked.
#[test]
fn a_client_is_answered_through_the_tunnel_by_the_host_that_it_asked() {
    if !able() {
        return;
    }
    let (one, two) = (Host::new(1), Host::new(2));
    wire(&one, &two);
    one.ensure(&[&two]);
    two.ensure(&[&one]);
    let client = Space::new("client");
    let peer = client.path().file_name().unwrap().to_string_lossy().into_owned();
    let ends = ["link", "add", "cl0", "type", "veth", "peer", "name", "cl0", "netns", &peer];
    one.space.run("ip", &ends);
    for (space, address) in [(&one.space, ASKED), (&client, CLIENT)] {
        space.run("ip", &["address", "add", &format!("{address}/24"), "dev", "cl0"]);
        space.run("ip", &["link", "set", "cl0", "up"]);
    }
    let ingress = |own: &Host, other: &Host, backend: Backend| Ingress {
        home: Some(own.inner()),
        peers: [(other.inner(), Some(other.outer().into()))].into(),
        ports: PORTS.map(|port| (port, vec![backend.clone()])).to_vec().into(),
        ..Ingress::default()
    };
    let container = Space::new("web");
    let own = container.path();
    with_networks(&two, async |driver| {
        let config = NetworkConfig { id: "front".to_owned(), ..NetworkConfig::default() };
        driver.ensure_network(config).await.unwrap();
        let (container, network) = ("web".to_owned(), "front".to_owned());
        let request = AttachRequest { container, network, ..AttachRequest::default() };
        driver.attach(request, Netns::AtPath(own)).await.unwrap();
        let shared = |(protocol, port): Port| SharedPort { protocol, port, target_port: 80 };
        driver.share("web".to_owned(), PORTS.map(shared).to_vec()).await.unwrap();
        let here = ingress(&two, &one, Backend::Here("web".to_owned()));
        driver.lead(vec![one.inner().into()].into(), Vips::new(), here).await.unwrap();
    });
    serve(&container, 80);
    let there = ingress(&one, &two, Backend::Far(two.inner()));
    with_networks(&one, async |driver| {
        driver.lead(vec![two.inner().into()].into(), Vips::new(), there.clone()).await.unwrap();
    });
    let expected = [format!("{CLIENT} 3000000"), format!("{CLIENT} 1200")];
    assert_eq!(ask(&client, 3_000_000), expected);
    // What encrypts is made anew with its interface: so is the mesh.
    one.kill();
    one.space.try_run("ip", &["link", "del", &one.ifname]);
    one.ensure(&[&two]);
    with_networks(&one, async |driver| {
        driver.lead(vec![two.inner().into()].into(), Vips::new(), there).await.unwrap();
    });
    assert_eq!(ask(&client, 3_000_000), expected);
    for host in [&one, &two] {
        with_networks(host, async |driver| {
            driver.lead(Remote::new(), Vips::new(), Ingress::default()).await.unwrap();
            driver.cleanup_all().await.unwrap();
        });
        assert!(!host.links().iter().any(|link| link.starts_with("shv")), "{:?}", host.links());
    }
}
