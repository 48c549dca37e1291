//! What both drivers promise.

use std::net::Ipv4Addr;

use shoal_agent_planning::network::Family;

use super::*;

/// Runs the suite on a driver that has nothing yet. `netns` stands for the containers `one` and
/// `two`.
pub(super) async fn honour(driver: &dyn NetworkDriver, netns: [Netns; 2]) {
    let network = |id: &str| NetworkConfig { id: id.to_owned(), ..NetworkConfig::default() };
    let request = |container: &str, network: &str| AttachRequest {
        container: container.to_owned(),
        network: network.to_owned(),
        aliases: ["web".to_owned()].into(),
        address: None,
        address_v6: None,
        link_index: None,
    };
    let port = |host_port: u16| PublishedPort {
        host_ip: Ipv4Addr::UNSPECIFIED.into(),
        host_port,
        protocol: Protocol::Tcp,
        target_port: 80,
    };
    let [one, two] = netns;
    let text = |error: NetworkError| {
        assert!(error.is_refusal());
        error.to_string()
    };

    let unknown = driver.attach(request("one", "n"), one.clone()).await.unwrap_err();
    assert_eq!(text(unknown), "unknown network `n`");
    let state = driver.ensure_network(network("n")).await.unwrap();
    assert_eq!(driver.ensure_network(network("n")).await.unwrap(), state);

    let first = driver.attach(request("one", "n"), one.clone()).await.unwrap();
    assert_eq!(driver.attach(request("one", "n"), one).await.unwrap(), first);
    let second = driver.attach(request("two", "n"), two).await.unwrap();
    assert_ne!(first.v4, second.v4);
    assert_eq!(driver.attachments("one"), std::slice::from_ref(&first));
    let both = [&first, &second].map(|one| one.address_of(Family::V4).unwrap()).into();
    assert_eq!(driver.names("n"), [("web".to_owned(), both)].into());

    let changed = NetworkConfig { internal: true, ..network("n") };
    let error = driver.ensure_network(changed).await.unwrap_err();
    let expect = "network `n` connects 2 container(s), its settings cannot change";
    assert_eq!(text(error), expect);

    let ports = driver.publish("one".to_owned(), vec![port(0), port(18_080)]).await.unwrap();
    assert_eq!(ports[1], port(18_080));
    let again = driver.publish("one".to_owned(), vec![port(0), port(18_080)]).await.unwrap();
    assert_eq!(again, ports);
    let error = driver.publish("two".to_owned(), vec![port(18_080)]).await.unwrap_err();
    let expect = "port already in use: 0.0.0.0:18080->80/tcp is published by container `one`";
    assert_eq!(text(error), expect);
    driver.unpublish("one".to_owned()).await.unwrap();
    driver.publish("two".to_owned(), vec![port(18_080)]).await.unwrap();
    assert!(driver.repair().await.unwrap().is_clean());

    honour_shared(driver).await;
    let error = driver.publish("one".to_owned(), vec![port(18_080)]).await.unwrap_err();
    assert!(text(error).ends_with("is published by container `two`"), "it is so still");

    let error = driver.remove_network("n".to_owned()).await.unwrap_err();
    assert_eq!(text(error), "network `n` still connects 2 container(s)");
    for _ in 0..2 {
        driver.release("one".to_owned()).await.unwrap();
    }
    assert_eq!(driver.held(), [("two".to_owned(), ["n".to_owned()].into())].into());
    assert_eq!(driver.networks(), ["n".to_owned()].into());
    assert_eq!(*driver.lost().borrow(), Lost::new());
    driver.release("two".to_owned()).await.unwrap();
    assert_eq!(driver.attachments("two"), []);
    for _ in 0..2 {
        driver.remove_network("n".to_owned()).await.unwrap();
        driver.cleanup_all().await.unwrap();
    }
}

/// With `one` and `two` attached.
async fn honour_shared(driver: &dyn NetworkDriver) {
    // What answers on every node is led to any number of containers, besides what they have published.
    let shared = |port: u16| SharedPort { protocol: Protocol::Tcp, port, target_port: 80 };
    for container in ["one", "two", "two"] {
        driver.share(container.to_owned(), vec![shared(18_081)]).await.unwrap();
    }
    let error = driver.share("one".to_owned(), vec![shared(0)]).await.unwrap_err();
    assert_eq!(error.to_string(), "port 0->80/tcp of container `one` needs a number at both ends");
    let error = driver.share("nobody".to_owned(), vec![shared(18_081)]).await.unwrap_err();
    let expect =
        "container `nobody` has no network that leads out, so its ports cannot be published";
    assert_eq!(error.to_string(), expect);
}

#[tokio::test]
async fn the_fake_driver() {
    honour(&FakeNetworks::new(), [1, 2].map(Netns::OfProcess)).await;
}
