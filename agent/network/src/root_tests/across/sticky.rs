//! Services whose clients are led to the same backend each time.

use shoal_agent_planning::network::ruleset::Vip;

use super::*;

/// Who answers a client, always.
fn answering(client: &Space, vip: IpAddr) -> String {
    let ask = |_| ask_once(&client.udp_client(vip, 53));
    let answers: BTreeSet<String> = (0..12).map(ask).collect();
    assert_eq!(answers.len(), 1, "{vip} is answered by {answers:?}");
    answers.into_iter().next().unwrap()
}

#[test]
fn a_client_has_the_same_backend_as_long_as_it_is_there() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(six::both("w", six::BOTH)).await.unwrap();
        let all: [IpAddr; 2] = ["10.0.5.50", "fd00:5::50"].map(|text| text.parse().unwrap());
        let at = |n: u8| [format!("10.0.5.{n}"), format!("fd00:5::{n}")];
        let names = ["a", "b", "c"];
        let lead = async |serving: &[u8]| {
            let of = |family: usize| {
                let backends = serving.iter().map(|n| at(*n)[family].parse().unwrap());
                let backends: Vec<IpAddr> = backends.collect();
                (all[family], Vip { sticky: true, ..Vip::from(backends) })
            };
            let vips = (0..2).map(of).collect();
            driver.lead(set(&[]), vips, Ingress::default()).await.unwrap();
        };
        lead(&[10, 11, 12]).await;
        let mut spaces = Vec::new();
        for (n, name) in (10..).zip(names) {
            let [v4, v6] = at(n);
            let space = six::enter(&driver, name, "w", &v4, &v6).await;
            space.serve_udp(53, name);
            spaces.push(space);
        }
        let mut clients = Vec::new();
        for n in 20..28 {
            let [v4, v6] = at(n);
            clients.push(six::enter(&driver, &format!("client{n}"), "w", &v4, &v6).await);
        }
        let ask = || -> Vec<String> {
            let of = |client: &Space| all.map(|vip| answering(client, vip));
            clients.iter().flat_map(of).collect()
        };
        let before = ask();
        let answering: BTreeSet<&String> = before.iter().collect();
        assert_eq!(answering.len(), 3, "{before:?}");
        // One goes: who had another one keeps it, but for a few.
        lead(&[10, 12]).await;
        let now = ask();
        let others = || before.iter().zip(&now).filter(|(before, _)| *before != "b");
        let moved = others().filter(|(before, now)| before != now).count();
        assert!(moved <= 3, "{moved} of {} moved: {before:?}, {now:?}", others().count());
        assert!(!now.contains(&"b".to_owned()));
        let repaired = driver.repair().await.unwrap();
        assert!(repaired.is_clean(), "{repaired:?}");
    });
}
