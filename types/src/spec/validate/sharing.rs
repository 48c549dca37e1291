//! Rules for services that share the network of another one: what belongs to a network is that one's affair.

use super::Check;
use crate::name;
use crate::spec::{EndpointMode, ServiceSpec};

pub(super) fn sharing(c: &mut Check, spec: &ServiceSpec) {
    let task = &spec.task_template;
    let Some(other) = &task.network_of else { return };
    let why = format!("cannot be combined with sharing the network of service {other:?}: ");
    let refused = |c: &mut Check, field: &str, value: &str, instead: &str| {
        c.at(field, |c| c.wrong(value, format!("{why}{instead}")));
    };
    c.at("task_template", |c| {
        c.at("network_of", |c| {
            let is_name = name::is_valid(other);
            let expected = format!("is not a service's name: expected {}", name::NAME_RULE);
            c.that(is_name, other, &expected);
            c.that(*other != spec.name, other, "is the service itself: expected another one");
        });
        if let Some(first) = task.networks.first() {
            refused(c, "networks", &first.target, "expected none, as it has that one's");
        }
        let Some(container) = task.container() else { return };
        c.at("container", |c| {
            if !container.hostname.is_empty() {
                let instead = "expected none, as it has that one's";
                refused(c, "hostname", &container.hostname, instead);
            }
            if let Some(line) = container.hosts.first() {
                refused(c, "hosts", line, "say it there");
            }
            if let Some(dns) = &container.dns_config {
                c.at("dns_config", |c| {
                    let all = [
                        ("nameservers", &dns.nameservers),
                        ("search", &dns.search),
                        ("options", &dns.options),
                    ];
                    for (field, list) in all {
                        if let Some(first) = list.first() {
                            refused(c, field, first, "say it there");
                        }
                    }
                });
            }
            for name in container.sysctls.keys().filter(|name| name.starts_with("net.")) {
                refused(c, "sysctls", name, "say it there");
            }
        });
    });
    let Some(endpoint) = &spec.endpoint_spec else { return };
    c.at("endpoint_spec", |c| {
        if let Some(port) = endpoint.ports.first() {
            let instead = "publish it there, as it leads to the same place";
            refused(c, "ports", &port.target_port.to_string(), instead);
        }
        if endpoint.mode == EndpointMode::Dnsrr {
            refused(c, "mode", "dnsrr", "expected vip, as it is not reached by a name");
        }
        if endpoint.affinity.is_some() {
            refused(c, "affinity", "client-ip", "say it there");
        }
        if endpoint.locality.is_some() {
            refused(c, "locality", "prefer-local", "say it there");
        }
    });
}
