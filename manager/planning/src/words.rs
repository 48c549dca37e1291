//! What agents say in words, cut before it becomes part of the state: there it is kept for every task
//! and node, written into every snapshot and sent to everybody who watches.
//!
//! Agents keep to these bounds themselves; one that does not is hostile or broken, and loses what is
//! over them.

use std::collections::BTreeMap;

use shoal_types::object::{
    ContainerStatus, HOST_SUBNETS_MAX, HostSubnet, NodeDescription, PluginDescription,
    TROUBLED_LINKS_MAX, TaskStatus,
};
use shoal_types::resources::GenericResource;
use shoal_types::spec::PortConfig;
use shoal_types::text::{cut, cut_to};

/// Bytes of a text for people, such as the last words of a container.
const TEXT_BYTES_MAX: usize = 4096;
/// Bytes of a name, as DNS has it (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;
/// Bytes of a label's value.
const VALUE_BYTES_MAX: usize = 1024;
/// Labels of an engine, made-up resources of a node, ports of a task.
const COUNT_MAX: usize = 256;

/// A text for people.
#[must_use]
pub fn text(text: &str) -> String {
    cut(text, TEXT_BYTES_MAX).into_owned()
}

/// A status as an agent reports it. Taken apart field by field, so that none that comes is forgotten.
#[must_use]
pub fn status(mut status: TaskStatus) -> TaskStatus {
    let TaskStatus { state: _, timestamp: _, message, err, container_status, port_status } =
        &mut status;
    cut_to(message, TEXT_BYTES_MAX);
    cut_to(err, TEXT_BYTES_MAX);
    if let Some(container) = container_status {
        let ContainerStatus { container_id, pid: _, exit_code: _, signal: _, oom_killed: _ } =
            container;
        cut_to(container_id, NAME_BYTES_MAX);
    }
    port_status.truncate(COUNT_MAX);
    port_status.shrink_to_fit();
    for port in port_status {
        let PortConfig {
            name,
            protocol: _,
            target_port: _,
            published_port: _,
            publish_mode: _,
            host_ip: _,
        } = port;
        cut_to(name, NAME_BYTES_MAX);
    }
    status
}

/// What an agent says of its host.
#[must_use]
pub fn description(mut description: NodeDescription) -> NodeDescription {
    let labels = std::mem::take(&mut description.engine.labels).into_iter().take(COUNT_MAX);
    let label = |(key, value): (String, String)| {
        (cut(&key, NAME_BYTES_MAX).into_owned(), cut(&value, VALUE_BYTES_MAX).into_owned())
    };
    description.engine.labels = labels.map(label).collect::<BTreeMap<_, _>>();
    let plugins = &mut description.engine.plugins;
    plugins.truncate(COUNT_MAX);
    for PluginDescription { kind, name } in plugins {
        cut_to(kind, NAME_BYTES_MAX);
        cut_to(name, NAME_BYTES_MAX);
    }
    let resources = &mut description.resources.generic_resources;
    resources.truncate(COUNT_MAX);
    for resource in resources {
        match resource {
            GenericResource::Named { kind, value } => {
                cut_to(kind, NAME_BYTES_MAX);
                cut_to(value, VALUE_BYTES_MAX);
            }
            GenericResource::Discrete { kind, value: _ } => cut_to(kind, NAME_BYTES_MAX),
        }
    }
    if let Some(troubled) = &mut description.troubled_links {
        troubled.links.truncate(TROUBLED_LINKS_MAX);
    }
    let subnets = &mut description.host_subnets;
    subnets.truncate(HOST_SUBNETS_MAX);
    for HostSubnet { subnet, interface } in subnets {
        *subnet = subnet.trunc();
        cut_to(interface, NAME_BYTES_MAX);
    }
    let platform = &mut description.platform;
    for name in [
        &mut description.hostname,
        &mut platform.architecture,
        &mut platform.os,
        &mut description.engine.version,
    ] {
        cut_to(name, NAME_BYTES_MAX);
    }
    description
}

#[cfg(test)]
mod tests {
    use shoal_types::spec::{Protocol, PublishMode};
    use shoal_types::task_state::TaskState;
    use shoal_types::time::Timestamp;

    use super::*;

    /// Three bytes a character, so that no bound falls between two.
    fn long() -> String {
        "€".repeat(1_000_000)
    }

    fn is_cut(text: &str, bytes: usize) {
        assert!(text.len() <= bytes && text.len() > bytes - 8, "{} bytes of {bytes}", text.len());
        assert!(text.ends_with("€…"), "{text}");
    }

    #[test]
    fn what_agents_say_is_bounded() {
        let mut said = TaskStatus::new(TaskState::Failed, Timestamp::ZERO, &long());
        said.err = long();
        said.container_status =
            Some(ContainerStatus { container_id: long(), ..Default::default() });
        let port = |name: String| PortConfig {
            name,
            protocol: Protocol::Tcp,
            target_port: 1,
            published_port: 1,
            publish_mode: PublishMode::Host,
            host_ip: None,
        };
        said.port_status =
            std::iter::once(port(long())).chain((0..1000).map(|n| port(n.to_string()))).collect();
        let kept = status(said);
        assert_eq!(kept.port_status.len(), 256);
        is_cut(&kept.port_status[0].name, 253);
        assert_eq!(kept.port_status[255].name, "254");
        is_cut(&kept.message, 4096);
        is_cut(&kept.err, 4096);
        is_cut(&kept.container_status.expect("kept").container_id, 253);
        is_cut(&text(&long()), 4096);

        let mut host = NodeDescription { hostname: long(), ..Default::default() };
        host.engine.version = long();
        host.platform.os = long();
        host.platform.architecture = long();
        for n in 0..1000 {
            host.engine.labels.insert(format!("{n:04}{}", long()), long());
            let value = long();
            let resource = GenericResource::Named { kind: long(), value };
            host.resources.generic_resources.push(resource);
            if n == 2 {
                break;
            }
        }
        for n in 3..1000 {
            host.engine.labels.insert(format!("{n:04}"), String::new());
            let resource = GenericResource::Discrete { kind: "ssd".to_owned(), value: n };
            host.resources.generic_resources.push(resource);
        }
        let kept = description(host);
        for name in
            [&kept.hostname, &kept.engine.version, &kept.platform.os, &kept.platform.architecture]
        {
            is_cut(name, 253);
        }
        assert_eq!(kept.engine.labels.len(), 256);
        let (key, value) = kept.engine.labels.first_key_value().expect("labels");
        is_cut(key, 253);
        is_cut(value, 1024);
        assert_eq!(kept.resources.generic_resources.len(), 256);
        let GenericResource::Named { kind, value } = &kept.resources.generic_resources[0] else {
            panic!("the order stays")
        };
        is_cut(kind, 253);
        is_cut(value, 1024);
    }

    #[test]
    fn what_is_short_stays_as_it_is() {
        let said = TaskStatus::new(TaskState::Running, Timestamp::ZERO, "läuft");
        assert_eq!(status(said.clone()), said);
        let host = shoal_manager_state::testing::node_description("host-1");
        assert_eq!(description(host.clone()), host);
    }
}
