//! Connections to backends that are not there any more.

use std::io;

use super::*;
use crate::root_tests::lab::{Line, serve_lines};

/// Connections to each of two backends, that on another host the first.
fn connections(client: &Space, address: IpAddr, port: u16) -> [Line; 2] {
    let connect = || {
        let mut line = Line::to(client, address, port);
        (line.ask().unwrap(), line)
    };
    let to = |name: &str| (0..200).map(|_| connect()).find(|(who, _)| who == name).unwrap().1;
    [to("far"), to("near")]
}

#[test]
fn who_is_connected_to_a_backend_that_is_gone_hears_of_it() {
    if skip_without_root() {
        return;
    }
    for loose in ["1", "0"] {
        backend_goes(loose);
    }
}

/// Whether connection tracking takes up what it has not seen the beginning of.
fn backend_goes(loose: &str) {
    let Pair { here, there } = Pair::new();
    let setting = format!("net.netfilter.nf_conntrack_tcp_loose={loose}");
    here.host.run("sysctl", &["-qw", &setting]);
    let (far_at, near_at) = (["10.0.5.9", "fd00:5::9"], ["10.0.5.3", "fd00:5::3"]);
    let (_far, far_driver) = there.block_on(async || {
        let driver = there.driver();
        driver.ensure_network(six::both("w", six::BOTH)).await.unwrap();
        let remote = set(&["10.0.5.2", "fd00:5::2", near_at[0], near_at[1]]);
        driver.lead(remote, Vips::new(), Ingress::default()).await.unwrap();
        let far = six::enter(&driver, "far", "w", far_at[0], far_at[1]).await;
        serve_lines(&far, 81, "far");
        (far, driver)
    });
    here.block_on(async || {
        let driver = here.driver();
        driver.ensure_network(six::both("w", six::BOTH)).await.unwrap();
        let all: [IpAddr; 2] = ["10.0.5.50", "fd00:5::50"].map(|text| text.parse().unwrap());
        let vips = |serving: &[[&str; 2]]| {
            let of = |family: usize| {
                let backends = serving.iter().map(|both| both[family].parse().unwrap());
                (all[family], backends.collect::<Vec<IpAddr>>())
            };
            Vips::from(vec![of(0), of(1)])
        };
        let remote = || set(&far_at);
        driver.lead(remote(), vips(&[far_at, near_at]), Ingress::default()).await.unwrap();
        let client = six::enter(&driver, "client", "w", "10.0.5.2", "fd00:5::2").await;
        let near = six::enter(&driver, "near", "w", near_at[0], near_at[1]).await;
        serve_lines(&near, 81, "near");
        let open = all.map(|vip| connections(&client, vip, 81));
        // Withdrawn, but still there: it is to end what it has begun.
        driver.lead(remote(), vips(&[near_at]), Ingress::default()).await.unwrap();
        let [mut v4, mut v6] = open;
        for [far, near] in [&mut v4, &mut v6] {
            assert_eq!(far.ask().unwrap(), "far");
            assert_eq!(near.ask().unwrap(), "near");
        }
        // Gone.
        driver.lead(set(&[]), vips(&[near_at]), Ingress::default()).await.unwrap();
        for [far, near] in [&mut v4, &mut v6] {
            let error = far.ask().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "loose {loose}");
            assert_eq!(near.ask().unwrap(), "near");
        }
        // The last one, on this host.
        driver.lead(set(&[]), vips(&[]), Ingress::default()).await.unwrap();
        for [_, near] in [&mut v4, &mut v6] {
            assert_eq!(near.ask().unwrap(), "near");
        }
        driver.release("near".to_owned()).await.unwrap();
        for [_, near] in [&mut v4, &mut v6] {
            let error = near.ask().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "loose {loose}");
        }
    });
    there.block_on(async || drop(far_driver));
}
