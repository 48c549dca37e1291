//! Other hosts ask by echoes of ICMP what reaches a host, and nobody else does.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Timeout, set_ip_mtu_discover, set_socket_timeout,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, ipproto, recvfrom, sendto,
    socket_with,
};
use shoal_agent_planning::verify::{echo, echoed};

use super::*;

/// Whether an echo of this size from one address to another one is answered.
fn is_answered(space: &Space, from: Ipv4Addr, to: Ipv4Addr, size: u32) -> bool {
    let flags = SocketFlags::CLOEXEC;
    space.enter(|| {
        let icmp = Some(ipproto::ICMP);
        let socket = socket_with(AddressFamily::INET, SocketType::RAW, flags, icmp).unwrap();
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE).unwrap();
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(100))).unwrap();
        bind(&socket, &SocketAddrV4::new(from, 0)).unwrap();
        let (token, mut buffer) = ([5; 16], [0; 4096]);
        for sequence in 0..3 {
            let packet = echo(size, 9, sequence, token);
            // Where there is no way, nothing comes back either.
            let _ = sendto(&socket, &packet, SendFlags::empty(), &SocketAddrV4::new(to, 0));
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(400) {
                let Ok((length, _, _)) = recvfrom(&socket, &mut buffer[..], RecvFlags::empty())
                else {
                    continue;
                };
                let heard = echoed(&buffer[..length], 9, token);
                if heard.is_some_and(|(of, _, bytes)| of == to && bytes == size) {
                    return true;
                }
            }
        }
        false
    })
}

#[test]
fn hosts_find_out_what_reaches_each_other_and_nobody_else_does() {
    if skip_without_root() {
        return;
    }
    let (cluster, web) = cluster_with_web(3);
    let container: Ipv4Addr = "172.20.0.2".parse().unwrap();
    // As tunnels have it, also where there is no mesh; that is as it should be.
    for host in 0..3 {
        let (own, by) = (format!("{}/32", home(host)), tunnel::ifname("sh"));
        cluster.host(host).run("ip", &["address", "add", &own, "dev", &by]);
    }
    cluster.with(1, &WEB, async |driver| {
        driver.repair().await.unwrap();
        let compared = driver.compare().await;
        assert!(compared.findings.is_empty(), "{compared:?}");
    });
    let ask = |host: u8, to: Ipv4Addr, size| is_answered(cluster.host(host), home(host), to, size);
    for (from, to) in [(0, 1), (1, 0), (2, 1)] {
        for size in [128, 1280, tunnel::MTU] {
            assert!(ask(from, home(to), size), "{from} to {to}: {size}");
        }
    }
    // A container is answered by neither its own host's address in the tunnel nor another one's.
    let (on, other) = (1, 0);
    assert!(is_answered(cluster.host(on), [172, 20, 0, 1].into(), container, 128), "it is there");
    for host in [on, other] {
        assert!(!is_answered(&web, container, home(host), 128), "{host}");
    }
    // By the tunnel nobody reaches a container or another address of the host that way.
    let by = tunnel::ifname("sh");
    for at in [container, outside(1)] {
        let to = format!("{at}/32");
        cluster.host(0).run(
            "ip",
            &["route", "replace", &to, "via", &home(1).to_string(), "dev", &by, "onlink"],
        );
        assert!(!ask(0, at, 128), "{at}");
        cluster.host(0).run("ip", &["route", "del", &to, "dev", &by]);
    }
    // Nor does who is no node, from wherever: outside, or on the tunnel with an address of his own.
    let at = format!("{}/32", home(1));
    cluster.client.run("ip", &["route", "add", &at, "via", &outside(1).to_string()]);
    assert!(!is_answered(&cluster.client, OUTSIDE, home(1), 128));
    cluster.host(2).run("ip", &["address", "add", "10.9.0.77/32", "dev", "lo"]);
    assert!(!is_answered(cluster.host(2), "10.9.0.77".parse().unwrap(), home(1), 128));
    cluster.host(2).run("ip", &["address", "del", "10.9.0.77/32", "dev", "lo"]);
    // And no other service of a host is reached for it.
    cluster.host(1).serve(22);
    assert!(!cluster.host(0).answers(home(1), 22));
    cluster.cleanup();
}
