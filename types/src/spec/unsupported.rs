//! What the model can say and shoal cannot do yet: the one table. Each row is an error that says so, from
//! the managers at the door and from a node for what reaches it all the same; nothing is dropped. A row
//! leaves with the change that makes it work. `docs/unsupported.md` lists exactly these.

use super::validate::Check;
use super::{
    ConfigSpec, ContainerSpec, Mount, MountKind, NetworkAttachmentConfig, NetworkKind,
    NetworkScope, NetworkSpec, PayloadReference, PayloadTarget, Placement, PortConfig, Privileges,
    SecretSpec, ServiceMode, ServiceSpec, TaskRuntime, TaskSpec,
};
use crate::resources::ResourceRequirements;

/// One thing that an `S` can ask for and nobody can do.
pub struct Row<S: 'static> {
    /// Path of the field below the `S`.
    pub field: &'static str,
    /// What is not done; of a word, what is accepted instead.
    pub what: &'static str,
    asked: Asked<S>,
}

/// How it is asked for.
enum Asked<S: 'static> {
    /// By a field that is set.
    If(fn(&S) -> bool),
    /// By a word that is another one than those that are accepted.
    Word(fn(&S) -> Option<&str>),
}

impl<S> Row<S> {
    const fn new(field: &'static str, what: &'static str, asked: fn(&S) -> bool) -> Self {
        Self { field, what, asked: Asked::If(asked) }
    }

    const fn word(
        field: &'static str,
        accepted: &'static str,
        refused: fn(&S) -> Option<&str>,
    ) -> Self {
        Self { field, what: accepted, asked: Asked::Word(refused) }
    }

    /// Whether this one asks for it.
    #[must_use]
    pub fn is_asked(&self, spec: &S) -> bool {
        match self.asked {
            Asked::If(asked) => asked(spec),
            Asked::Word(refused) => refused(spec).is_some(),
        }
    }

    /// For the document.
    fn described(&self) -> String {
        match self.asked {
            Asked::If(_) => self.what.to_owned(),
            Asked::Word(_) => format!("anything but {}", self.what),
        }
    }
}

fn no_default<'a>(word: &'a str, usual: &str) -> Option<&'a str> {
    (!word.is_empty() && word != usual).then_some(word)
}

const SERVICE: &[Row<ServiceSpec>] = &[
    Row::word("mode", "replicated or global", |s| match s.mode {
        ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob {} => Some(s.mode.as_str()),
        ServiceMode::Replicated { .. } | ServiceMode::Global {} => None,
    }),
    Row::new("rollback_config", "rollback settings", |s| s.rollback_config.is_some()),
];

const PORT: &[Row<PortConfig>] = &[Row::new(
    "host_ip",
    "publishing on ::1, from where IPv6 has no way back; expected another one",
    |p| p.host_ip.is_some_and(|ip| ip.is_ipv6() && ip.is_loopback()),
)];

const TASK: &[Row<TaskSpec>] = &[
    Row::word("runtime", "a container", |t| match t.runtime {
        TaskRuntime::Container(_) => None,
        TaskRuntime::Plugin(_) => Some("plugin"),
        TaskRuntime::Attachment { .. } => Some("attachment"),
    }),
    Row::new("log_driver", "log drivers", |t| t.log_driver.is_some()),
];

const RESOURCES: &[Row<ResourceRequirements>] = &[
    Row::new("reservations.generic_resources", "generic resources", |r| {
        r.reservations.as_ref().is_some_and(|r| !r.generic_resources.is_empty())
    }),
    Row::new("swap_bytes", "swap limits", |r| r.swap_bytes.is_some()),
    Row::new("memory_swappiness", "swappiness", |r| r.memory_swappiness.is_some()),
];

const ATTACHMENT: &[Row<NetworkAttachmentConfig>] =
    &[Row::new("driver_opts", "driver options of an attachment", |n| !n.driver_opts.is_empty())];

const PLACEMENT: &[Row<Placement>] =
    &[Row::new("preferences", "placement preferences", |p| !p.preferences.is_empty())];

/// What no node can do about a container.
pub const CONTAINER: &[Row<ContainerSpec>] = &[
    Row::new("init", "an init process", |s| s.init == Some(true)),
    Row::new("isolation", "Windows isolation", |s| !s.isolation.is_empty()),
    Row::new("groups", "further groups", |s| !s.groups.is_empty()),
    Row::new("privileges.credential_spec", "Windows credentials", |s| {
        has(s, |p| p.credential_spec.is_some())
    }),
    Row::new("privileges.selinux_context", "SELinux labels", |s| {
        has(s, |p| p.selinux_context.is_some())
    }),
    Row::new("privileges.seccomp", "system call filters other than the default one", |s| {
        has(s, |p| p.seccomp.is_some())
    }),
    Row::new("privileges.app_armor", "AppArmor", |s| has(s, |p| p.app_armor.is_some())),
];

fn has(spec: &ContainerSpec, asked: fn(&Privileges) -> bool) -> bool {
    spec.privileges.as_ref().is_some_and(asked)
}

const VARIABLE: &[Row<String>] =
    &[Row::new("", "templates ({{.…}})", |entry| is_template(entry))];

const MOUNT: &[Row<Mount>] = &[
    Row::word("type", "bind, volume or tmpfs", |m| match m.kind {
        MountKind::Bind | MountKind::Volume | MountKind::Tmpfs => None,
        MountKind::Npipe | MountKind::Cluster | MountKind::Image => Some(m.kind.as_str()),
    }),
    Row::new("source", "templates ({{.…}})", |m| is_template(&m.source)),
    Row::new("target", "templates ({{.…}})", |m| is_template(&m.target)),
    Row::new("volume_options.subpath", "a volume's subpath", |m| {
        m.volume_options.as_ref().is_some_and(|o| !o.subpath.is_empty())
    }),
    Row::word("volume_options.driver_config.name", "local", |m| {
        let driver = m.volume_options.as_ref()?.driver_config.as_ref()?;
        no_default(&driver.name, "local")
    }),
    Row::new("tmpfs_options.options", "further tmpfs options", |m| {
        m.tmpfs_options.as_ref().is_some_and(|o| !o.options.is_empty())
    }),
    Row::new("bind_options", "choosing how far a bind or its read-only reaches", |m| {
        let reach = |o: &super::BindOptions| o.non_recursive || o.read_only_non_recursive;
        m.bind_options.as_ref().is_some_and(reach)
    }),
    Row::new(
        "bind_options.propagation",
        "mounts that pass between host and container; expected rprivate",
        |m| {
            let words = m.bind_options.as_ref().map(|o| o.propagation.as_str());
            words.is_some_and(|word| no_default(word, "rprivate").is_some())
        },
    ),
];

const NETWORK: &[Row<NetworkSpec>] = &[
    Row::word("driver", "bridge, overlay, macvlan or ipvlan", |n| {
        match NetworkKind::of(&n.driver) {
            Some(
                NetworkKind::Bridge
                | NetworkKind::Overlay
                | NetworkKind::Macvlan
                | NetworkKind::Ipvlan,
            ) => None,
            Some(NetworkKind::Host | NetworkKind::Nothing) | None => Some(n.driver.name.as_str()),
        }
    }),
    Row::new("driver.options", "driver options, but for those of macvlan and ipvlan", |n| {
        let on_wire = NetworkKind::of(&n.driver).is_some_and(NetworkKind::is_on_wire);
        !n.driver.options.is_empty() && !on_wire
    }),
    Row::new("scope", "a scope other than the driver's own", |n| {
        let spans = NetworkKind::of(&n.driver).is_some_and(NetworkKind::spans_nodes);
        let own = if spans { NetworkScope::Swarm } else { NetworkScope::Local };
        n.scope.is_some_and(|scope| scope != own)
    }),
    Row::new("ingress", "a network of one's own for published ports", |n| n.ingress),
    Row::new("config_only", "config-only networks", |n| n.config_only),
    Row::new("config_from", "config-only networks", |n| !n.config_from.is_empty()),
    Row::word("ipam.driver", "default", |n| no_default(&n.ipam.as_ref()?.driver.name, "default")),
    Row::new("ipam.driver.options", "driver options", |n| {
        n.ipam.as_ref().is_some_and(|i| !i.driver.options.is_empty())
    }),
];

const REFERENCE: &[Row<PayloadReference>] = &[Row::word("target", "file or env", |r| {
    matches!(r.target, PayloadTarget::Runtime).then_some("runtime")
})];

const SECRET: &[Row<SecretSpec>] = &[
    Row::new("driver", "drivers that keep secrets elsewhere", |s| s.driver.is_some()),
    Row::new("templating", "templates", |s| s.templating.is_some()),
];

const CONFIG: &[Row<ConfigSpec>] =
    &[Row::new("templating", "templates", |s| s.templating.is_some())];

/// Every row: the path of its field below the spec that people hand in, and what is not done.
#[must_use]
pub fn all() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let container = "service: task_template.container";
    list(&mut all, "service: ", SERVICE);
    list(&mut all, "service: endpoint_spec.ports[].", PORT);
    list(&mut all, "service: task_template.", TASK);
    list(&mut all, "service: task_template.resources.", RESOURCES);
    list(&mut all, "service: task_template.networks[].", ATTACHMENT);
    list(&mut all, "service: task_template.placement.", PLACEMENT);
    list(&mut all, &format!("{container}."), CONTAINER);
    list(&mut all, &format!("{container}.env[]"), VARIABLE);
    list(&mut all, &format!("{container}.mounts[]."), MOUNT);
    list(&mut all, &format!("{container}.secrets[]."), REFERENCE);
    list(&mut all, &format!("{container}.configs[]."), REFERENCE);
    list(&mut all, "network: ", NETWORK);
    list(&mut all, "secret: ", SECRET);
    list(&mut all, "config: ", CONFIG);
    all
}

fn list<S>(all: &mut Vec<(String, String)>, below: &str, rows: &[Row<S>]) {
    all.extend(rows.iter().map(|row| (format!("{below}{}", row.field), row.described())));
}

/// Whether Docker would put something else in place of a part of a text.
fn is_template(text: &str) -> bool {
    text.match_indices("{{").any(|(i, _)| text[i + 2..].trim_start().starts_with('.'))
}

fn refuse<S>(c: &mut Check, rows: &[Row<S>], spec: &S) {
    refuse_named(c, rows, spec, "");
}

fn refuse_named<S>(c: &mut Check, rows: &[Row<S>], spec: &S, name: &str) {
    for row in rows {
        let refused = match row.asked {
            Asked::If(asked) => {
                asked(spec).then(|| ("", format!("not supported yet: {}{name}", row.what)))
            }
            Asked::Word(refused) => refused(spec)
                .map(|word| (word, format!("is not supported yet: expected {}", row.what))),
        };
        match refused {
            None => {}
            Some((value, text)) if row.field.is_empty() => c.wrong(value, text),
            Some((value, text)) => c.at(row.field, |c| c.wrong(value, text)),
        }
    }
}

pub(super) fn service(c: &mut Check, spec: &ServiceSpec) {
    refuse(c, SERVICE, spec);
    if let Some(endpoint) = &spec.endpoint_spec {
        c.at("endpoint_spec", |c| {
            c.each("ports", &endpoint.ports, |c, port| refuse(c, PORT, port));
        });
    }
    c.at("task_template", |c| task(c, &spec.task_template));
}

fn task(c: &mut Check, spec: &TaskSpec) {
    refuse(c, TASK, spec);
    if let TaskRuntime::Container(spec) = &spec.runtime {
        c.at("container", |c| container(c, spec));
    }
    if let Some(resources) = &spec.resources {
        c.at("resources", |c| refuse(c, RESOURCES, resources));
    }
    c.each("networks", &spec.networks, |c, network| refuse(c, ATTACHMENT, network));
    if let Some(placement) = &spec.placement {
        c.at("placement", |c| refuse(c, PLACEMENT, placement));
    }
}

fn container(c: &mut Check, spec: &ContainerSpec) {
    refuse(c, CONTAINER, spec);
    c.each("env", &spec.env, |c, entry| {
        let name = entry.split('=').next().unwrap_or_default();
        refuse_named(c, VARIABLE, entry, &format!(", in {name}"));
    });
    c.each("mounts", &spec.mounts, |c, mount| refuse(c, MOUNT, mount));
    c.each("secrets", &spec.secrets, |c, reference| refuse(c, REFERENCE, reference));
    c.each("configs", &spec.configs, |c, reference| refuse(c, REFERENCE, reference));
}

pub(super) fn secret(c: &mut Check, spec: &SecretSpec) {
    refuse(c, SECRET, spec);
}

pub(super) fn config(c: &mut Check, spec: &ConfigSpec) {
    refuse(c, CONFIG, spec);
}

pub(super) fn network(c: &mut Check, spec: &NetworkSpec) {
    refuse(c, NETWORK, spec);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document's table is this one, row by row.
    #[test]
    fn the_document_lists_exactly_what_is_refused() {
        let document = include_str!("../../../docs/unsupported.md");
        let rows = all().into_iter().map(|(field, what)| format!("| `{field}` | {what} |"));
        let rows: Vec<String> = rows.collect();
        let section = document.split("## Specs").nth(1).unwrap_or_default();
        let section = section.split("\n## ").next().unwrap_or_default();
        let listed: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(listed, rows, "docs/unsupported.md is to have:\n{}", rows.join("\n"));
    }
}
