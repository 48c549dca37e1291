//! Networks that span nodes, as users meet them.

use shoal_types::level::Level;
use shoal_types::object::{TunnelDescription, TunnelKey, TunnelKind};

use super::*;

fn overlay(name: &str, subnet: &str) -> pb::CreateNetworkRequest {
    let config = pb::IpamConfig { subnet: subnet.to_owned(), ..Default::default() };
    let spec = pb::NetworkSpec {
        name: name.to_owned(),
        driver: Some(pb::Driver { name: "overlay".to_owned(), ..Default::default() }),
        ipam: (!subnet.is_empty()).then(|| pb::Ipam { config: vec![config], ..Default::default() }),
        ..Default::default()
    };
    pb::CreateNetworkRequest { spec: Some(spec) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_see_which_addresses_a_network_has_and_how_many_are_left() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    let made = control.create_network(overlay("back", "")).await.unwrap().into_inner();
    // The first is the nodes' own.
    assert_eq!(made.network.unwrap().subnets, ["10.0.1.0/24"]);

    let mut web = spec("web", 0);
    let attachment =
        pb::NetworkAttachmentConfig { target: "back".to_owned(), ..Default::default() };
    web.task_template.as_mut().unwrap().networks = vec![attachment];
    let request = pb::CreateServiceRequest { spec: Some(web), ..Default::default() };
    let service = control.create_service(request).await.unwrap().into_inner().service.unwrap();
    assert_eq!(service.endpoint.unwrap().virtual_ips.len(), 1);

    let reference = "back".to_owned();
    let found =
        control.get_network(pb::GetNetworkRequest { reference }).await.unwrap().into_inner();
    let counts = found.addresses.unwrap();
    assert_eq!((counts.used, counts.free), (1, 252));
    let listed = whole(control.list_networks(pb::ListNetworksRequest {})).await.unwrap();
    assert_eq!((listed.networks.len(), listed.addresses), (4, vec![counts]), "of overlays alone");

    for (subnet, code, said) in [
        ("10.0.1.128/25", Code::FailedPrecondition, "network \"back\" has 10.0.1.0/24"),
        ("10.1.0.0/31", Code::InvalidArgument, "expected a length of 8 to 30"),
        ("10.1.0.1/24", Code::InvalidArgument, "has host bits set: expected 10.1.0.0/24"),
    ] {
        let refused = control.create_network(overlay("front", subnet)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(said), "{refused}");
    }
    manager.stop().await;
}

/// What a node says of itself that has a tunnel.
fn with_tunnel(hostname: &str, key: u8) -> pb::NodeDescription {
    let tunnel = TunnelDescription {
        public_key: TunnelKey([key; 32]),
        port: 51820,
        addr: Some([192, 0, 2, key].into()),
        kind: TunnelKind::Kernel,
        keys: None,
    };
    let level = Level::OWN;
    (&NodeDescription { tunnel: Some(tunnel), level, ..description(hostname) }).into()
}

/// Says that all that was sent is applied. More than that is refused, so the last message is found that way.
async fn acknowledge_all(agent: &mut Agent) {
    for applied in 1.. {
        let session_id = agent.session_id.clone();
        let said = agent.client.acknowledge(pb::AcknowledgeRequest { session_id, applied }).await;
        if said.is_err() {
            assert!(applied > 2, "{applied}");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_withdrawn_when_all_who_were_told_of_it_have_said_so() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, agent_token } = bootstrap(dir.path(), address).await;
    let joined = joined(address, &agent_token).await;
    control.create_network(overlay("back", "")).await.unwrap();

    let connect = async |credentials, hostname, n| {
        let opened = Agent::open(channel(address, credentials), with_tunnel(hostname, n)).await;
        opened.unwrap().beating()
    };
    let mut agents =
        [connect(node.current(), "first", 1).await, connect(joined, "second", 2).await];
    let mut web = spec("web", 2);
    let template = web.task_template.as_mut().unwrap();
    template.placement = Some(pb::Placement { max_replicas: 1, ..Default::default() });
    template.networks =
        vec![pb::NetworkAttachmentConfig { target: "back".to_owned(), ..Default::default() }];
    let request = pb::CreateServiceRequest { spec: Some(web.clone()), ..Default::default() };
    let service = control.create_service(request).await.unwrap().into_inner().service.unwrap();
    for agent in &mut agents {
        agent.receive_until("both tasks", |held| held.endpoints.len() == 2).await;
        agent.report(TaskState::Running).await;
    }
    for agent in &mut agents {
        let all = |held: &NodeAssignment| held.endpoints.values().all(|one| one.serving);
        agent.receive_until("both serve", all).await;
    }
    web.mode = spec("web", 1).mode;
    let request = pb::UpdateServiceRequest {
        reference: service.id,
        change: Some(pb::update_service_request::Change::Spec(web)),
        ..Default::default()
    };
    control.update_service(request).await.unwrap();
    for agent in &mut agents {
        let some = |held: &NodeAssignment| held.endpoints.values().any(|one| !one.serving);
        agent.receive_until("one that stops", some).await;
    }
    let stopping = |agent: &Agent| {
        let task = agent.held.tasks.values().find(|t| t.desired_state != DesiredState::Running);
        task.map(|task| task.id.to_string())
    };
    if stopping(&agents[0]).is_none() {
        agents.swap(0, 1);
    }
    let [stops, other] = &mut agents;
    let task_id = stopping(stops).unwrap();
    let ask = |agent: &Agent| {
        let (mut client, session_id) = (agent.client.clone(), agent.session_id.clone());
        let request = pb::AwaitWithdrawalRequest { session_id, task_id: task_id.clone() };
        tokio::spawn(async move { client.await_withdrawal(request).await })
    };
    assert_eq!(ask(other).await.unwrap().unwrap_err().code(), Code::NotFound, "not its task");

    // One that is waited for, and says it.
    let mut asked = ask(stops);
    let waits = tokio::time::timeout(Duration::from_millis(300), &mut asked).await;
    assert!(waits.is_err(), "the other has not said anything");
    acknowledge_all(other).await;
    let answer = tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.into_inner().missing, 0);
    // What has been said is not waited for.
    assert_eq!(ask(stops).await.unwrap().unwrap().into_inner().missing, 0);
    manager.stop().await;
}
