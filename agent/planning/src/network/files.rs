//! The three files that tell a container who and where it is.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

/// Whom a host, or a container, asks for names (resolv.conf(5)).
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Contents of `/etc/hostname` (hostname(5)).
#[must_use]
pub fn hostname_file(hostname: &str) -> String {
    format!("{hostname}\n")
}

/// Contents of `/etc/hosts` (hosts(5)): loopback, the entries the user adds, then the container's
/// own addresses with its names, the first name first.
#[must_use]
pub fn hosts_file(own: &[IpAddr], names: &[String], extra: &[(IpAddr, String)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for (address, name) in extra {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{address}\t{name}");
    }
    let mut seen = BTreeSet::new();
    let names: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| seen.insert(*name)).collect();
    if !names.is_empty() {
        for address in own {
            let _ = writeln!(text, "{address}\t{}", names.join(" "));
        }
    }
    text
}

/// What the user says about name resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Name servers; empty takes those of the host.
    pub servers: Vec<IpAddr>,
    /// Search domains; empty takes those of the host, `.` alone means none.
    pub search: Vec<String>,
    /// Resolver options; empty takes those of the host.
    pub options: Vec<String>,
}

/// What a host says about name resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostResolver {
    /// Its `/etc/resolv.conf`.
    pub own: String,
    /// Where systemd-resolved writes down the servers that it asks itself; empty without it.
    pub resolved: String,
}

/// Where systemd-resolved answers on its host (systemd-resolved.service(8)).
const STUB: &str = "127.0.0.53";

/// Contents of `/etc/resolv.conf` (resolv.conf(5)) of a container, from the host's files and the
/// user's wishes.
///
/// Name servers on a loopback address are dropped, since the container's loopback is its own; so
/// are link-local ones with a scope, whose interface the container does not have. Where
/// systemd-resolved is all there is, the servers that it asks are taken, as Docker does it. With
/// `host_network` the container shares the host's loopback and everything stays. No public server is
/// put in the place of what was dropped: a host with nothing but another loopback resolver needs
/// [`DnsConfig::servers`], and [`ResolvConf::dropped_all`] says so.
#[must_use]
pub fn resolv_conf(host: &HostResolver, user: &DnsConfig, host_network: bool) -> ResolvConf {
    let own = parse(&host.own);
    let stub = !host_network && own.servers == [STUB] && !host.resolved.is_empty();
    let host = if stub { parse(&host.resolved) } else { own };
    let inherited: Vec<String> = host
        .servers
        .iter()
        .filter(|server| host_network || is_reachable(server))
        .cloned()
        .collect();
    let dropped_all = user.servers.is_empty() && inherited.is_empty() && !host.servers.is_empty();
    let servers = if user.servers.is_empty() {
        inherited
    } else {
        user.servers.iter().map(ToString::to_string).collect()
    };
    let search = if user.search.is_empty() { host.search } else { user.search.clone() };
    let options = if user.options.is_empty() { host.options } else { user.options.clone() };
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !search.is_empty() && search != ["."] {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    ResolvConf { text, dropped_all }
}

/// As [`resolv_conf`], for a container whose names are answered at `answers`: search domains and options as
/// there, but the host's `ndots` (resolv.conf(5)), by which each name of ours would first be asked for in
/// every search domain. The user's own stays.
///
/// The user's servers are asked by who answers.
#[must_use]
pub fn resolution(host: &HostResolver, user: &DnsConfig, answers: std::net::Ipv4Addr) -> String {
    let is_ndots = |option: &String| option.starts_with("ndots:");
    let mut options = user.options.clone();
    if options.is_empty() {
        options = parse(&host.own).options;
        options.retain(|option| !is_ndots(option));
    }
    if !options.iter().any(is_ndots) {
        options.push("ndots:0".to_owned());
    }
    let dns = DnsConfig { servers: vec![answers.into()], search: user.search.clone(), options };
    resolv_conf(host, &dns, false).text
}

/// The servers that a host asks, which the host itself can reach, its loopback ones among them.
#[must_use]
pub fn host_servers(host: &HostResolver) -> Vec<IpAddr> {
    let servers = parse(&host.own).servers;
    servers.iter().filter_map(|server| server.parse().ok()).collect()
}

/// A container's resolver configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvConf {
    /// The contents of the file.
    pub text: String,
    /// The host has name servers, but none that a container can reach: no name will resolve.
    pub dropped_all: bool,
}

#[derive(Default)]
struct Parsed {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

/// Reads the lines that matter. As in the resolver itself the last `search` or `domain` wins and
/// what it does not know is skipped.
fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(keyword) = words.next() else { continue };
        match keyword {
            "nameserver" => parsed.servers.extend(words.next().map(str::to_owned)),
            "search" | "domain" => parsed.search = words.map(str::to_owned).collect(),
            "options" => parsed.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    parsed
}

/// Whether a name server of the host can be reached from another network namespace.
fn is_reachable(server: &str) -> bool {
    server.parse::<IpAddr>().is_ok_and(|address| !address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_carry_every_address_and_each_name_once() {
        let names = ["web.1".to_owned(), "web".to_owned(), "web.1".to_owned()];
        let extra = [(ip("10.1.1.1"), "db.example".to_owned())];
        let text = hosts_file(&[ip("172.20.0.2"), ip("172.20.1.2")], &names, &extra);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        let tail = "10.1.1.1\tdb.example\n172.20.0.2\tweb.1 web\n172.20.1.2\tweb.1 web\n";
        assert!(text.ends_with(tail), "{text}");
        assert_eq!(hostname_file("web.1"), "web.1\n");
    }

    #[test]
    fn containers_ask_where_names_are_answered() {
        let host = HostResolver {
            own: "nameserver 127.0.0.53\nnameserver 10.0.0.2\nsearch a b\noptions ndots:5 edns0\n"
                .to_owned(),
            resolved: String::new(),
        };
        let at = "127.0.0.11".parse().unwrap();
        let of = |servers: &[&str], search: &[&str], options: &[&str]| {
            let words = |all: &[&str]| all.iter().map(|&word| word.to_owned()).collect();
            let servers = servers.iter().map(|server| ip(server)).collect();
            let user = DnsConfig { servers, search: words(search), options: words(options) };
            resolution(&host, &user, at)
        };
        let told = |text: &str| format!("nameserver 127.0.0.11\n{text}");
        // One question per name of ours, whatever the host does for its own.
        assert_eq!(of(&[], &[], &[]), told("search a b\noptions edns0 ndots:0\n"));
        assert_eq!(of(&["9.9.9.9"], &["."], &[]), told("options edns0 ndots:0\n"));
        let own = told("search c\noptions ndots:3\n");
        assert_eq!(of(&[], &["c"], &["ndots:3"]), own);
        let other = told("search a b\noptions rotate ndots:0\n");
        assert_eq!(of(&[], &[], &["rotate"]), other);
        assert_eq!(host_servers(&host), [ip("127.0.0.53"), ip("10.0.0.2")]);
    }

    #[test]
    fn resolv_conf_of_a_container() {
        let check = |host: &str, user: &DnsConfig, shared: bool, text: &str, dropped_all: bool| {
            let expect = ResolvConf { text: text.to_owned(), dropped_all };
            let resolver = HostResolver { own: host.to_owned(), resolved: String::new() };
            assert_eq!(resolv_conf(&resolver, user, shared), expect, "{host}");
        };
        let none = DnsConfig::default();
        check(
            "# note\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nsearch a b\noptions ndots:2\n",
            &none,
            false,
            "nameserver 10.0.0.2\nsearch a b\noptions ndots:2\n",
            false,
        );
        check("nameserver 127.0.0.53\n", &none, false, "", true);
        check("nameserver ::1\nnameserver fe80::1%eth0\n", &none, false, "", true);
        check("nameserver 127.0.0.53\n", &none, true, "nameserver 127.0.0.53\n", false);
        check("", &none, false, "", false);
        let resolved = "nameserver 10.0.0.2\nsearch a\n";
        let behind = |own: &str, shared: bool| {
            let host = HostResolver { own: own.to_owned(), resolved: resolved.to_owned() };
            resolv_conf(&host, &none, shared).text
        };
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n";
        assert_eq!(behind(stub, false), resolved);
        assert!(behind(stub, true).starts_with("nameserver 127.0.0.53\n"));
        // Another resolver of the host, or servers of its own beside it.
        assert_eq!(behind("nameserver 127.0.0.1\n", false), "");
        let both = "nameserver 127.0.0.53\nnameserver 9.9.9.9\n";
        assert_eq!(behind(both, false), "nameserver 9.9.9.9\n");
        check("domain x\nsearch y z\n", &none, false, "search y z\n", false);
        let user = DnsConfig {
            servers: vec![ip("9.9.9.9")],
            search: vec![".".to_owned()],
            options: vec!["timeout:1".to_owned()],
        };
        check(
            "nameserver 127.0.0.53\nsearch a\noptions ndots:2\n",
            &user,
            false,
            "nameserver 9.9.9.9\noptions timeout:1\n",
            false,
        );
    }
}
