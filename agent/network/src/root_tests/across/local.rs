//! Services whose clients are led to backends of their own host before others.

use std::net::TcpStream;
use std::sync::Arc;

use shoal_agent_planning::overlay::{Courses, OverlayView};
use shoal_types::assignment::{EndpointNetwork, ServiceVips, TaskEndpoint, VipNetwork};
use shoal_types::object::Slot;
use shoal_types::spec::Locality;

use super::*;
use crate::root_tests::lab::{Line, serve_lines};

const VIPS: [&str; 2] = ["10.0.5.50", "fd00:5::50"];
/// Of the second host, and of the first.
const FAR: [&str; 2] = ["10.0.5.9", "fd00:5::9"];
const NEAR: [&str; 2] = ["10.0.5.3", "fd00:5::3"];

/// What the first host is told, with these tasks: on which host, where, whether it serves.
fn view(tasks: &[(u128, [&str; 2], bool)]) -> OverlayView {
    let (network_id, service_id) = (9.into(), 7.into());
    let net = |text: &str| IpNet::from(text.parse::<IpAddr>().unwrap());
    let endpoint = |(node, at, serving): &(u128, [&str; 2], bool)| {
        let addresses = at.map(net).to_vec();
        let one = TaskEndpoint {
            task_id: (*node).into(),
            service_id,
            service_name: "web".to_owned(),
            slot: Slot::Replica(1),
            node_id: (*node).into(),
            networks: vec![EndpointNetwork { network_id, addresses, aliases: Vec::new() }],
            ports: Vec::new(),
            affinity: None,
            locality: Some(Locality::PreferLocal),
            serving: *serving,
        };
        (one.task_id, Arc::new(one))
    };
    let vip = |text: &str| VipNetwork { network_id, vip: net(text), aliases: Vec::new() };
    let vips = ServiceVips {
        service_id,
        service_name: "web".to_owned(),
        networks: VIPS.map(vip).to_vec(),
        affinity: None,
        locality: Some(Locality::PreferLocal),
    };
    OverlayView {
        node_id: Some(1.into()),
        endpoints: tasks.iter().map(endpoint).collect(),
        vips: std::iter::once((service_id, Arc::new(vips))).collect(),
        ..OverlayView::default()
    }
}

fn connect(client: &Space) -> [Line; 2] {
    VIPS.map(|vip| Line::to(client, vip.parse().unwrap(), 81))
}

/// Who answers by connections that are open.
fn ask(lines: &mut [Line; 2]) -> [String; 2] {
    lines.each_mut().map(|line| line.ask().unwrap())
}

#[test]
fn who_is_on_the_clients_host_serves_before_others_and_connections_go_on() {
    if skip_without_root() {
        return;
    }
    let Pair { here, there } = Pair::new();
    let serve = |space: &Space, name: &'static str| {
        space.serve_udp(53, name);
        serve_lines(space, 81, name);
    };
    let (_far, far_driver) = there.block_on(async || {
        let driver = there.driver();
        driver.ensure_network(six::both("w", six::BOTH)).await.unwrap();
        let remote = set(&["10.0.5.2", "fd00:5::2", NEAR[0], NEAR[1]]);
        driver.lead(remote, Vips::new(), Ingress::default()).await.unwrap();
        let far = six::enter(&driver, "far", "w", FAR[0], FAR[1]).await;
        serve(&far, "far");
        (far, driver)
    });
    here.block_on(async || {
        let driver = here.driver();
        driver.ensure_network(six::both("w", six::BOTH)).await.unwrap();
        let lead = async |near_serves: bool, far_serves: bool| {
            let view = view(&[(1, NEAR, near_serves), (2, FAR, far_serves)]);
            let vips = Courses::default().follow(&view).vips.clone();
            driver.lead(set(&FAR), vips, Ingress::default()).await.unwrap();
        };
        let client = six::enter(&driver, "client", "w", "10.0.5.2", "fd00:5::2").await;
        let near = six::enter(&driver, "near", "w", NEAR[0], NEAR[1]).await;
        serve(&near, "near");
        let answering = || -> BTreeSet<String> {
            let vips = VIPS.map(|vip| vip.parse::<IpAddr>().unwrap());
            let new = |n: usize| ask_with(&client.udp_client(vips[n % 2], 53)).unwrap();
            (0..24).map(new).collect()
        };
        let only = |name: &str| BTreeSet::from([name.to_owned()]);
        // While there is none on this host, others serve.
        lead(false, true).await;
        assert_eq!(answering(), only("far"));
        let mut to_far = connect(&client);
        assert_eq!(ask(&mut to_far), ["far"; 2]);
        // One comes: it serves alone, and who is connected stays.
        lead(true, true).await;
        assert_eq!(answering(), only("near"));
        let mut to_near = connect(&client);
        assert_eq!(ask(&mut to_near), ["near"; 2]);
        assert_eq!(ask(&mut to_far), ["far"; 2]);
        // It is withdrawn, and ends what it has begun.
        lead(false, true).await;
        assert_eq!(answering(), only("far"));
        assert_eq!(ask(&mut connect(&client)), ["far"; 2]);
        assert_eq!(ask(&mut to_near), ["near"; 2]);
        assert_eq!(ask(&mut to_far), ["far"; 2]);
        let repaired = driver.repair().await.unwrap();
        assert!(repaired.is_clean(), "{repaired:?}");
        // Nobody: not one that it had been told of before.
        lead(false, false).await;
        let refused = client.enter(|| TcpStream::connect((VIPS[0], 81)).unwrap_err());
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
    there.block_on(async || drop(far_driver));
}
