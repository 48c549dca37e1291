//! What happens to hosts.

use super::*;

/// What people and other programs do to a host.
#[derive(Debug, Clone)]
pub(super) enum Harm {
    Flush,
    OtherTables,
    Rule(usize),
    Link(usize),
    Down(usize),
    Address(usize),
    Route(usize),
    Setting(usize),
    Guest,
    Foreign,
    NoTunnel,
    Tunnel,
    Remote(u8),
    Fit(Option<u32>),
    Device(u8),
}

pub(super) fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        Just(Harm::Flush),
        Just(Harm::OtherTables),
        (0..18usize).prop_map(Harm::Rule),
        (0..9usize).prop_map(Harm::Link),
        (0..9usize).prop_map(Harm::Down),
        (0..9usize).prop_map(Harm::Address),
        (0..9usize).prop_map(Harm::Route),
        (0..9usize).prop_map(Harm::Setting),
        Just(Harm::Guest),
        Just(Harm::Foreign),
        Just(Harm::NoTunnel),
        Just(Harm::Tunnel),
        (0..12u8).prop_map(Harm::Remote),
        prop_oneof![Just(None), Just(Some(1400)), Just(Some(1300))].prop_map(Harm::Fit),
        (0..9u8).prop_map(Harm::Device),
    ]
}

pub(super) fn do_harm(host: &mut Host, harm: &Harm) {
    let nth = |host: &Host, n: usize| {
        let ours: Vec<String> =
            host.links.keys().filter(|name| name.starts_with("sh")).cloned().collect();
        ours.get(n % ours.len().max(1)).cloned()
    };
    match harm {
        Harm::Flush => host.tables = Tables::Absent,
        Harm::OtherTables => host.tables = Tables::Differ,
        Harm::Rule(n) => {
            let family = if n % 2 == 0 { Family::V4 } else { Family::V6 };
            let rules = host.rules_of(family);
            let rule = rules.iter().nth(n % rules.len().max(1)).cloned();
            rule.map(|rule| rules.remove(&rule));
        }
        Harm::Link(n) => {
            if let Some(name) = nth(host, *n) {
                host.perform_on_link(&links::Action::Remove { ifname: name });
            }
        }
        Harm::Down(n) => {
            if let Some(name) = nth(host, *n) {
                host.at(&name).up = false;
                host.routes.retain(|route| route.bridge != name);
            }
        }
        Harm::Address(n) => {
            if let Some(name) = nth(host, *n) {
                host.at(&name).addresses.clear();
                host.routes.retain(|route| route.bridge != name);
            }
        }
        Harm::Route(n) => {
            let route = host.routes.iter().nth(n % host.routes.len().max(1)).cloned();
            route.map(|route| host.routes.remove(&route));
        }
        Harm::Setting(n) => {
            let names: Vec<String> = host.settings.keys().cloned().collect();
            let name = &names[n % names.len()];
            // Turning an interface's forwarding is the host's own affair.
            if !name.ends_with("/forwarding") || name == FORWARD_V6 {
                let turned = if host.settings[name] == "0" { "1" } else { "0" };
                host.set(name, turned);
            }
        }
        Harm::Guest => {
            let mut bridge = link(LinkKind::Bridge, true);
            bridge.addresses.insert("172.17.0.1/16".parse().unwrap());
            host.links.insert("docker0".to_owned(), bridge);
        }
        Harm::NoTunnel => {
            host.remote = None;
        }
        Harm::Device(n) => harm_device(host, *n),
        Harm::Tunnel => host.remote = Some(Remotes::new()),
        Harm::Remote(n) => {
            let address = [10, 0, 5, *n].into();
            if let Some(remote) = &mut host.remote
                && remote.remove(&address).is_none()
            {
                remote.insert(address, Way::default());
            }
        }
        Harm::Fit(bytes) => {
            let way = Way { by: Side::First, largest: *bytes };
            let all = |remote: &mut Remotes| remote.keys().map(|one| (*one, way)).collect();
            host.remote = host.remote.as_mut().map(all);
        }
        Harm::Foreign => {
            host.links.insert("shb0123456789".to_owned(), link(LinkKind::Bridge, true));
        }
    }
}

fn harm_device(host: &mut Host, n: u8) {
    let Some(device) = &mut host.device else { return };
    match n {
        0 => host.remove_device(),
        1 => device.vxlan = None,
        2 => device.mtu = 1500,
        3 => device.mac = Some(ingress::mac(far(9))),
        4 => device.addresses = ["198.51.100.9/24".parse().unwrap()].into(),
        5 => device.far.clear(),
        6 => {
            // One that leads astray, and one for nobody.
            device.far.insert(
                ingress::mac(far(2)),
                [Some((far(2), Side::First)), Some((far(3), Side::First))].into(),
            );
            device.far.insert(ingress::mac(far(77)), [None].into());
        }
        7 => (device.up, device.default_routes) = (false, BTreeSet::new()),
        _ => device.default_routes.clear(),
    }
}
