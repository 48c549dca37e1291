//! What a service cannot have that shares the network of another one.

use super::*;

/// What belongs to a network belongs to the service whose network it is.
#[test]
fn who_shares_the_network_of_another_service_has_nothing_that_belongs_to_one() {
    type Change = fn(&mut ServiceSpec, &mut TaskSpec, &mut ContainerSpec);
    let cases: [(Change, &str); 12] = [
        (
            |_, t, _| t.network_of = Some("web".to_owned()),
            "task_template.network_of: \"web\" is the service itself",
        ),
        (
            |_, t, _| t.network_of = Some("a b".to_owned()),
            "task_template.network_of: \"a b\" is not a service's name",
        ),
        (
            |_, t, _| {
                t.networks = vec![NetworkAttachmentConfig {
                    target: "n".to_owned(),
                    ..NetworkAttachmentConfig::default()
                }];
            },
            "task_template.networks: \"n\" cannot be combined with sharing the network of service \"db\": expected none",
        ),
        (
            |_, _, c| c.hostname = "me".to_owned(),
            "task_template.container.hostname: \"me\" cannot be",
        ),
        (|_, _, c| c.hosts = vec!["10.0.0.1 me".to_owned()], "task_template.container.hosts: "),
        (
            |_, _, c| c.dns_config.get_or_insert_default().nameservers.push("9.9.9.9".to_owned()),
            "task_template.container.dns_config.nameservers: \"9.9.9.9\" cannot be",
        ),
        (
            |_, _, c| c.dns_config.get_or_insert_default().search.push("lan".to_owned()),
            "task_template.container.dns_config.search: ",
        ),
        (
            |_, _, c| drop(c.sysctls.insert("net.core.somaxconn".to_owned(), "1".to_owned())),
            "task_template.container.sysctls: \"net.core.somaxconn\" cannot be",
        ),
        (
            |s, _, _| {
                let ports = vec![port(80, PublishMode::Ingress)];
                s.endpoint_spec = Some(EndpointSpec { ports, ..EndpointSpec::default() });
            },
            "endpoint_spec.ports: \"80\" cannot be combined",
        ),
        (
            |s, _, _| s.endpoint_spec.get_or_insert_default().mode = EndpointMode::Dnsrr,
            "endpoint_spec.mode: \"dnsrr\" cannot be",
        ),
        (
            |s, _, _| s.endpoint_spec.get_or_insert_default().affinity = Some(Affinity::ClientIp),
            "endpoint_spec.affinity: ",
        ),
        (
            |s, _, _| {
                s.endpoint_spec.get_or_insert_default().locality = Some(Locality::PreferLocal);
            },
            "endpoint_spec.locality: ",
        ),
    ];
    let sharing = |change: Change| {
        violations(&service(|s, t, c| {
            t.network_of = Some("db".to_owned());
            change(s, t, c);
        }))
    };
    assert_eq!(sharing(|_, _, _| {}), [] as [String; 0]);
    for (change, expected) in cases {
        let found = sharing(change);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{expected}: {found:?}");
    }
}
