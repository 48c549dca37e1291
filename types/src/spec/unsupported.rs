//! What the model can say and shoal cannot do yet. Each is an error that says so; nothing is
//! dropped. A line leaves this file with the change that makes it work.

use super::validate::Check;
use super::{
    ContainerSpec, EndpointMode, Mount, MountKind, NetworkKind, NetworkScope, NetworkSpec,
    Placement, Privileges, PublishMode, ServiceMode, ServiceSpec, StackSpec, TaskRuntime, TaskSpec,
};

fn refuse(c: &mut Check, asked: bool, field: &str, what: &str) {
    if asked {
        c.at(field, |c| c.wrong("", format!("not supported yet: {what}")));
    }
}

pub(super) fn service(c: &mut Check, spec: &ServiceSpec) {
    let job = matches!(spec.mode, ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob {});
    if job {
        c.at("mode", |c| {
            c.wrong(spec.mode.as_str(), "is not supported yet: expected replicated or global");
        });
    }
    refuse(c, spec.rollback_config.is_some(), "rollback_config", "rollback settings");
    if let Some(endpoint) = &spec.endpoint_spec {
        c.at("endpoint_spec", |c| {
            let dnsrr = endpoint.mode == EndpointMode::Dnsrr;
            refuse(c, dnsrr, "mode", "endpoint mode dnsrr needs an overlay network");
            c.each("ports", &endpoint.ports, |c, port| {
                let ingress = port.publish_mode == PublishMode::Ingress;
                refuse(c, ingress, "mode", "the routing mesh (mode ingress); expected mode host");
                let six = port.host_ip.is_some_and(|ip| ip.is_ipv6());
                refuse(c, six, "host_ip", "publishing on an IPv6 address of the host");
            });
        });
    }
    c.at("task_template", |c| task(c, &spec.task_template));
}

fn task(c: &mut Check, spec: &TaskSpec) {
    match &spec.runtime {
        TaskRuntime::Container(spec) => c.at("container", |c| container(c, spec)),
        TaskRuntime::Plugin(_) => c.wrong("plugin", "is no runtime of shoal: expected a container"),
        TaskRuntime::Attachment { .. } => {
            c.wrong("attachment", "is no runtime of shoal: expected a container");
        }
    }
    if let Some(resources) = &spec.resources {
        let generic =
            resources.reservations.as_ref().is_some_and(|r| !r.generic_resources.is_empty());
        refuse(c, generic, "resources.reservations.generic_resources", "generic resources");
        refuse(c, resources.swap_bytes.is_some(), "resources.swap_bytes", "swap limits");
        let swappiness = resources.memory_swappiness.is_some();
        refuse(c, swappiness, "resources.memory_swappiness", "swappiness");
    }
    refuse(c, spec.log_driver.is_some(), "log_driver", "log drivers");
    for (i, network) in spec.networks.iter().enumerate() {
        let opts = !network.driver_opts.is_empty();
        refuse(c, opts, &format!("networks[{i}].driver_opts"), "driver options of an attachment");
        let aliases = !network.aliases.is_empty();
        refuse(c, aliases, &format!("networks[{i}].aliases"), "network aliases");
    }
    if let Some(placement) = &spec.placement {
        c.at("placement", |c| self::placement(c, placement));
    }
}

fn placement(c: &mut Check, placement: &Placement) {
    refuse(c, !placement.preferences.is_empty(), "preferences", "placement preferences");
}

fn container(c: &mut Check, spec: &ContainerSpec) {
    let refusals = [
        (spec.init == Some(true), "init", "an init process"),
        (!spec.isolation.is_empty(), "isolation", "Windows isolation"),
        (!spec.secrets.is_empty(), "secrets", "secrets"),
        (!spec.configs.is_empty(), "configs", "configs"),
        (!spec.groups.is_empty(), "groups", "further groups"),
    ];
    for (asked, field, what) in refusals {
        refuse(c, asked, field, what);
    }
    if let Some(asked) = &spec.privileges {
        c.at("privileges", |c| privileges(c, asked));
    }
    for (i, entry) in spec.env.iter().enumerate() {
        let name = entry.split('=').next().unwrap_or_default();
        let what = format!("{TEMPLATES}, in {name}");
        refuse(c, is_template(entry), &format!("env[{i}]"), &what);
    }
    c.each("mounts", &spec.mounts, mount);
}

const TEMPLATES: &str = "templates ({{.…}})";

/// Whether Docker would put something else in place of a part of a text.
fn is_template(text: &str) -> bool {
    text.match_indices("{{").any(|(i, _)| text[i + 2..].trim_start().starts_with('.'))
}

fn privileges(c: &mut Check, asked: &Privileges) {
    let Privileges { credential_spec, selinux_context, seccomp, app_armor, no_new_privileges: _ } =
        asked;
    refuse(c, credential_spec.is_some(), "credential_spec", "Windows credentials");
    refuse(c, selinux_context.is_some(), "selinux_context", "SELinux labels");
    refuse(c, seccomp.is_some(), "seccomp", "system call filters other than the default one");
    refuse(c, app_armor.is_some(), "app_armor", "AppArmor");
}

fn mount(c: &mut Check, mount: &Mount) {
    match mount.kind {
        MountKind::Bind | MountKind::Volume | MountKind::Tmpfs => {}
        MountKind::Npipe => c.wrong("npipe", "is a Windows pipe: expected bind, volume or tmpfs"),
        MountKind::Cluster | MountKind::Image => {
            c.wrong(mount.kind.as_str(), "is not supported yet: expected bind, volume or tmpfs");
        }
    }
    refuse(c, is_template(&mount.source), "source", TEMPLATES);
    refuse(c, is_template(&mount.target), "target", TEMPLATES);
    if let Some(options) = &mount.volume_options {
        refuse(c, !options.subpath.is_empty(), "volume_options.subpath", "a volume's subpath");
        let driver = options.driver_config.as_ref().map_or("", |d| d.name.as_str());
        if !matches!(driver, "" | "local") {
            c.at("volume_options.driver_config.name", |c| {
                c.wrong(driver, "is no volume driver of shoal: expected local");
            });
        }
    }
    if let Some(options) = &mount.tmpfs_options {
        refuse(c, !options.options.is_empty(), "tmpfs_options.options", "further tmpfs options");
    }
    if let Some(options) = &mount.bind_options {
        let reach = options.non_recursive || options.read_only_non_recursive;
        refuse(c, reach, "bind_options", "choosing how far a bind or its read-only reaches");
        let shared = !matches!(options.propagation.as_str(), "" | "rprivate");
        let what = "mounts that pass between host and container; expected rprivate";
        refuse(c, shared, "bind_options.propagation", what);
    }
}

pub(super) fn network(c: &mut Check, spec: &NetworkSpec) {
    if NetworkKind::of(&spec.driver) != Some(NetworkKind::Bridge) {
        c.at("driver", |c| {
            c.wrong(&spec.driver.name, "is not supported yet: expected bridge");
        });
    }
    refuse(c, !spec.driver.options.is_empty(), "driver.options", "driver options");
    let elsewhere = matches!(spec.scope, Some(NetworkScope::Swarm | NetworkScope::Global));
    refuse(c, elsewhere, "scope", "networks across nodes; expected local");
    refuse(c, spec.enable_ipv6, "enable_ipv6", "IPv6 on bridge networks");
    refuse(c, spec.enable_ipv4 == Some(false), "enable_ipv4", "networks without IPv4");
    refuse(c, spec.attachable, "attachable", "containers that are no tasks");
    refuse(c, spec.ingress, "ingress", "the routing mesh");
    refuse(c, spec.config_only, "config_only", "config-only networks");
    refuse(c, !spec.config_from.is_empty(), "config_from", "config-only networks");
    if let Some(ipam) = &spec.ipam {
        if !matches!(ipam.driver.name.as_str(), "" | "default") {
            c.at("ipam.driver", |c| c.wrong(&ipam.driver.name, "is unknown: expected default"));
        }
        let options = !ipam.driver.options.is_empty();
        refuse(c, options, "ipam.driver.options", "driver options");
        let several = ipam.config.len() > 1;
        refuse(c, several, "ipam.config", "more than one subnet");
        c.each("ipam.config", &ipam.config, |c, config| {
            refuse(c, config.subnet.contains(':'), "subnet", "IPv6 on bridge networks");
            refuse(c, !config.ip_range.is_empty(), "ip_range", "address ranges");
            refuse(c, !config.aux_addresses.is_empty(), "aux_addresses", "reserved addresses");
        });
    }
}

pub(super) fn stack(c: &mut Check, spec: &StackSpec) {
    refuse(c, !spec.secrets.is_empty(), "secrets", "secrets");
    refuse(c, !spec.configs.is_empty(), "configs", "configs");
}
