//! Networks that span nodes, as users meet them.

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
    assert_eq!(made.network.unwrap().subnets, ["10.0.0.0/24"]);

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
        ("10.0.0.128/25", Code::FailedPrecondition, "network \"back\" has 10.0.0.0/24"),
        ("10.1.0.0/31", Code::InvalidArgument, "expected a length of 8 to 30"),
        ("10.1.0.1/24", Code::InvalidArgument, "has host bits set: expected 10.1.0.0/24"),
    ] {
        let refused = control.create_network(overlay("front", subnet)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(said), "{refused}");
    }
    manager.stop().await;
}
