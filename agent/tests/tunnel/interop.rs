//! With WireGuard as others have written it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use shoal_agent_planning::tunnel::{MTU, PORT};
use shoal_agent_tunnel::Tunnel as _;
use shoal_types::object::TunnelKey;

use crate::lab::{Host, able_with_process, block_on, until, wire};
use crate::large::stream;

/// Debian's wireguard-go on a host.
struct Other {
    child: Child,
    ifname: String,
    key: TunnelKey,
}

impl Other {
    /// Starts it, with one peer.
    fn start(host: &Host, peer: &Host) -> Self {
        // Sockets of all hosts of the machine are in one directory.
        let ifname = format!("wgo{}", std::process::id());
        let args = ["netns", "exec", host.space.name(), "wireguard-go", "-f", &ifname];
        let mut child = Command::new("ip");
        let child = child.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut other = Self { child, ifname, key: TunnelKey([0; 32]) };
        until("wireguard-go", || UnixStream::connect(other.socket()).ok());
        let private = host.config.run_dir.join("other.key");
        fs::create_dir_all(&host.config.run_dir).unwrap();
        fs::write(&private, host.space.run("wg", &["genkey"])).unwrap();
        let (theirs, port) = (peer.key().to_string(), PORT.to_string());
        let (endpoint, allowed) =
            (format!("{}:{PORT}", peer.outer()), format!("{}/32", peer.inner()));
        let own =
            ["set", &other.ifname, "private-key", private.to_str().unwrap(), "listen-port", &port];
        let of = ["peer", &theirs, "endpoint", &endpoint, "allowed-ips", &allowed];
        host.space.run("wg", &[&own[..], &of[..]].concat());
        other.key =
            host.space.run("wg", &["show", &other.ifname, "public-key"]).trim().parse().unwrap();
        let mtu = MTU.to_string();
        host.space.run("ip", &["link", "set", &other.ifname, "mtu", &mtu, "up"]);
        other
    }

    fn socket(&self) -> PathBuf {
        format!("/var/run/wireguard/{}.sock", self.ifname).into()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(self.socket());
    }
}

#[test]
fn streams_pass_both_ways_between_ours_and_wireguard_go_whoever_asks_for_keys() {
    if !able_with_process() {
        return;
    }
    for ours_first in [true, false] {
        let (one, mut two) = (Host::new(1), Host::new(2));
        wire(&one, &two);
        let other = Other::start(&two, &one);
        two.ifname.clone_from(&other.ifname);
        let mut desired = one.desired(&[&two]);
        let peer = desired.peers.remove(&two.key()).unwrap();
        desired.peers.insert(other.key, peer);
        block_on(one.tunnel.ensure(desired)).unwrap();
        one.address();
        two.address();
        if ours_first {
            stream(&one, &two, two.inner().into());
        } else {
            stream(&two, &one, one.inner().into());
        }
        let seen = block_on(one.tunnel.observe()).unwrap().unwrap().device;
        assert!(seen.peers[&other.key].handshake_age.is_some());
    }
}
