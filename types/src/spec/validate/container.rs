//! Rules for containers.

use std::net::IpAddr;

use super::{Check, mount, payload};
use crate::capability;
use crate::image_ref::ImageReference;
use crate::signal;
use crate::spec::{ContainerSpec, DnsConfig, Healthcheck, Ulimit, is_own_sysctl};

pub(super) fn container(c: &mut Check, spec: &ContainerSpec, host_network: bool) {
    c.at("image", |c| {
        if let Err(error) = spec.image.parse::<ImageReference>() {
            c.wrong("", error.to_string());
        }
    });
    c.each("env", &spec.env, |c, entry| {
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
        c.that(!name.is_empty(), entry, "has no name: expected NAME=value");
        c.that(!entry.contains('\0'), name, "contains a NUL byte");
    });
    for (field, list) in [("command", &spec.command), ("args", &spec.args)] {
        let list = list.as_deref().unwrap_or_default();
        c.each(field, list, |c, arg| c.that(!arg.contains('\0'), arg, "contains a NUL byte"));
    }
    c.at("drain_timeout", |c| {
        let (timeout, most) =
            (spec.drain_timeout.unwrap_or_default(), ContainerSpec::DRAIN_TIMEOUT_MAX);
        let why = format!("is too long: expected at most {most:?}, as nodes wait for it");
        c.that(timeout <= most, format!("{timeout:?}"), &why);
    });
    c.at("hostname", |c| {
        let ok = spec.hostname.is_empty() || is_hostname(&spec.hostname);
        c.that(
            ok,
            &spec.hostname,
            "is not a host name: expected labels of letters, digits and '-'",
        );
    });
    c.at("dir", |c| {
        let ok = spec.dir.is_empty() || spec.dir.starts_with('/');
        c.that(ok, &spec.dir, "is not absolute: expected a path that begins with '/'");
    });
    c.at("stop_signal", |c| {
        let ok = spec.stop_signal.is_empty() || signal::parse(&spec.stop_signal).is_some();
        c.that(
            ok,
            &spec.stop_signal,
            "is not a signal: expected a name such as SIGTERM or 1 to 64",
        );
    });
    if let Some(check) = &spec.healthcheck {
        c.at("healthcheck", |c| healthcheck(c, check));
    }
    mount::mounts(c, &spec.mounts);
    payload::references(c, spec);
    confinement(c, spec, host_network);
    c.each("hosts", &spec.hosts, host);
    if let Some(config) = &spec.dns_config {
        c.at("dns_config", |c| dns(c, config));
    }
}

fn confinement(c: &mut Check, spec: &ContainerSpec, host_network: bool) {
    for (field, names) in
        [("capability_add", &spec.capability_add), ("capability_drop", &spec.capability_drop)]
    {
        c.each(field, names, |c, name| {
            let what = "is no capability: expected ALL or a name such as NET_ADMIN";
            c.that(capability::is_known(name), name, what);
        });
    }
    c.at("sysctls", |c| {
        for name in spec.sysctls.keys().filter(|name| !is_own_sysctl(name, host_network)) {
            c.wrong(
                name,
                "is not the container's own: expected net.* (not on the host's network), \
                 fs.mqueue.*, or a parameter of kernel IPC",
            );
        }
        for (name, value) in &spec.sysctls {
            c.that(!value.is_empty(), name, "has no value");
        }
    });
    c.each("ulimits", &spec.ulimits, ulimit);
    c.at("oom_score_adj", |c| {
        let adj = spec.oom_score_adj.unwrap_or(0);
        c.that((-1000..=1000).contains(&adj), adj, "is out of range: expected -1000 to 1000");
    });
}

/// A line of hosts(5).
fn host(c: &mut Check, line: &String) {
    let mut words = line.split_whitespace();
    let address = words.next().is_some_and(|word| word.parse::<IpAddr>().is_ok());
    let ok = address && words.next().is_some() && !line.contains(char::is_control);
    c.that(ok, line, "is no line of a hosts file: expected an address followed by names");
}

fn dns(c: &mut Check, config: &DnsConfig) {
    c.each("nameservers", &config.nameservers, |c, server| {
        c.that(server.parse::<IpAddr>().is_ok(), server, "is no address: expected IPv4 or IPv6");
    });
    for (field, words) in [("search", &config.search), ("options", &config.options)] {
        c.each(field, words, |c, word| {
            let ok = !word.is_empty() && !word.contains(|ch: char| ch.is_whitespace());
            c.that(ok, word, "is not one word");
        });
    }
}

/// RFC 1123 section 2.1, in total at most 64 bytes because that is what the kernel holds.
pub(super) fn is_hostname(name: &str) -> bool {
    name.len() <= 64
        && name.split('.').all(|label| {
            let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            !label.is_empty() && inner && !label.starts_with('-') && !label.ends_with('-')
        })
}

fn healthcheck(c: &mut Check, check: &Healthcheck) {
    c.at("test", |c| match check.test.first().map(String::as_str) {
        None => {}
        Some("NONE") => c.that(check.test.len() == 1, "NONE", "takes no arguments"),
        Some("CMD") => c.that(check.test.len() > 1, "CMD", "names no command"),
        Some("CMD-SHELL") => {
            c.that(check.test.len() == 2, "CMD-SHELL", "takes exactly one command line");
        }
        Some(other) => c.wrong(other, "is no kind of test: expected NONE, CMD or CMD-SHELL"),
    });
    let times = [
        ("interval", check.interval),
        ("timeout", check.timeout),
        ("start_period", check.start_period),
        ("start_interval", check.start_interval),
    ];
    for (name, value) in times {
        let too_short = value.is_some_and(|d| !d.is_zero() && d.as_millis() < 1);
        c.at(name, |c| {
            c.that(!too_short, format!("{value:?}"), "is too short: expected 1 ms or more");
        });
    }
}

fn ulimit(c: &mut Check, limit: &Ulimit) {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    if !NAMES.contains(&limit.name.as_str()) {
        c.wrong(&limit.name, format!("is no resource limit: expected one of {}", NAMES.join(", ")));
    }
    let unlimited = |n: i64| if n < 0 { i64::MAX } else { n };
    if unlimited(limit.soft) > unlimited(limit.hard) {
        c.wrong(limit.soft, format!("is a soft limit above the hard limit {}", limit.hard));
    }
}
