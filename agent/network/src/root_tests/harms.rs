//! What people and programs do to what the agent has on a host, thing by thing.

use super::lab::Space;

/// One thing that somebody does.
pub(super) struct Harm<'a> {
    pub(super) what: String,
    pub(super) act: Box<dyn Fn() + 'a>,
}

/// All of them, on a host with one network, of which one container has a port.
pub(super) fn harms<'a>(
    host: &'a Space,
    container: &'a Space,
    bridge: &str,
    port: &str,
) -> Vec<Harm<'a>> {
    let all = [tables(bridge), links(bridge, port), settings(bridge), routing_rules(host)].concat();
    let by_program = all.into_iter().map(|words| program(host, words));
    let inside = program(container, ["ip", "link", "del", "eth0"].map(str::to_owned).to_vec());
    let single = [("inet", "admit"), ("inet", "forward"), ("inet", "publish"), ("bridge", "speak")];
    let single = single.map(|(family, chain)| single_rule(host, family, chain));
    by_program.chain([inside]).chain(single).collect()
}

fn program(space: &Space, words: Vec<String>) -> Harm<'_> {
    let what = words.join(" ");
    let act = move || {
        let arguments: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        space.run(&words[0], &arguments);
    };
    Harm { what, act: Box::new(act) }
}

/// The first rule of a chain alone.
fn single_rule<'a>(host: &'a Space, family: &'static str, chain: &'static str) -> Harm<'a> {
    let act = move || {
        let listed = host.run("nft", &["-a", "list", "chain", family, "shoal", chain]);
        // The chain has a handle, too; and so has each rule, behind what it says.
        let rules = listed.lines().filter(|line| !line.contains('{') || line.contains(" }"));
        let handles = rules.filter_map(|line| line.rsplit_once("# handle "));
        let first = handles.map(|(_, handle)| handle.trim().to_owned()).next().unwrap();
        host.run("nft", &["delete", "rule", family, "shoal", chain, "handle", &first]);
    };
    Harm { what: format!("one rule of {family} {chain}"), act: Box::new(act) }
}

fn split(all: &[String]) -> Vec<Vec<String>> {
    all.iter().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// Tables, chains, rules, sets and maps.
fn tables(bridge: &str) -> Vec<Vec<String>> {
    let chains = ["guard", "prerouting", "admit", "output", "postrouting", "input", "forward"];
    let inet = chains.map(|chain| format!("nft delete chain inet shoal {chain}"));
    let frames = ["prerouting", "forward"];
    let frames = frames.map(|chain| format!("nft delete chain bridge shoal {chain}"));
    let others = [
        "nft delete table inet shoal",
        "nft delete table bridge shoal",
        "nft flush chain inet shoal forward",
        "nft flush chain inet shoal admit",
        "nft flush chain inet shoal prerouting",
        "nft flush chain inet shoal pass",
        "nft flush chain inet shoal publish",
        "nft flush chain bridge shoal speak",
        "nft flush map inet shoal published_any",
        "nft flush set inet shoal subnets",
        "nft add rule inet shoal forward accept",
        &format!("nft delete element inet shoal bridges {{ {bridge} }}"),
    ]
    .map(str::to_owned);
    split(&[&others[..], &inet[..], &frames[..]].concat())
}

/// Bridges and ports, with their addresses and routes.
fn links(bridge: &str, port: &str) -> Vec<Vec<String>> {
    split(&[
        format!("ip link del {port}"),
        format!("ip link set {port} down"),
        format!("ip link set {port} nomaster"),
        format!("ip link set {port} mtu 1300"),
        format!("bridge link set dev {port} hairpin off"),
        format!("ip link del {bridge}"),
        format!("ip link set {bridge} down"),
        format!("ip link set {bridge} mtu 1300"),
        format!("ip link set {bridge} address 02:00:00:00:00:09"),
        format!("ip address flush dev {bridge}"),
        format!("ip route flush dev {bridge}"),
        format!("ip route flush table local dev {bridge}"),
    ])
}

fn settings(bridge: &str) -> Vec<Vec<String>> {
    split(&[
        "sysctl -qw net.ipv4.ip_forward=0".to_owned(),
        "sysctl -qw net.ipv4.conf.all.src_valid_mark=0".to_owned(),
        format!("sysctl -qw net.ipv4.conf.{bridge}.route_localnet=0"),
        format!("sysctl -qw net.ipv6.conf.{bridge}.disable_ipv6=0"),
    ])
}

/// One of each kind that there is.
fn routing_rules(host: &Space) -> Vec<Vec<String>> {
    let rules = host.run("ip", &["rule"]);
    let priority = |text: &&str| {
        let rule = rules.lines().filter(|rule| rule.starts_with('6')).find(|r| r.contains(text))?;
        rule.split(':').next().map(|priority| format!("ip rule del pref {priority}"))
    };
    let all: Vec<String> = ["prohibit", "fwmark", "nop"].iter().filter_map(priority).collect();
    split(&all)
}
