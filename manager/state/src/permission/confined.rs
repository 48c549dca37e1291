//! What in a service's spec reaches out of its containers, to the host or to what is others'.

use shoal_types::object::{Config, Secret};
use shoal_types::spec::{
    AppArmor, ContainerSpec, Mount, MountKind, NetworkKind, NetworkSpec, Privileges, Seccomp,
    ServiceSpec, StackSpec, TaskRuntime, TaskSpec, Ulimit,
};

use super::is_payload_of;
use crate::cluster_state::ClusterState;
use crate::payload::Kept;

/// Who is on a wire reaches what hosts reach there, and can speak as they do.
const ON_WIRE: &str = "is on a wire of the hosts";

/// Where a service is to run.
#[derive(Debug, Clone, Copy)]
pub struct Home<'a> {
    /// Name of its stack; empty if it has none.
    pub stack: &'a str,
    /// The stack as it is to be, if the networks of its spec are made with it.
    pub makes: Option<&'a StackSpec>,
}

impl<'a> Home<'a> {
    /// In a stack that is made, or changed, as a whole.
    #[must_use]
    pub fn of_stack(spec: &'a StackSpec) -> Self {
        Self { stack: &spec.name, makes: Some(spec) }
    }

    /// Whether such a one is on the wire of an interface of the nodes.
    fn puts_on_wire(self, network: &str) -> bool {
        let on_wire =
            |spec: &NetworkSpec| NetworkKind::of(&spec.driver).is_some_and(NetworkKind::is_on_wire);
        let mut made = self.makes.into_iter().flat_map(|spec| spec.networks.values());
        made.any(|spec| spec.name == network && on_wire(spec))
    }

    /// The service of a name: as it is made with the stack, or as it is.
    fn service(self, view: &'a ClusterState, name: &str) -> Option<&'a ServiceSpec> {
        let mut made = self.makes.into_iter().flat_map(|spec| spec.services.values());
        let made = made.find(|spec| spec.name == name);
        made.or_else(|| view.service_by_name(name).map(|service| &*service.spec))
    }

    /// Whether a network of this name is made with the stack. It is refused if another one has it.
    fn makes(self, network: &str) -> bool {
        self.makes.is_some_and(|spec| spec.networks.values().any(|n| n.name == network))
    }
}

/// Each part of a spec that gives its containers more than a container of its stack has by itself,
/// with its path below `key`; nothing if there is none. Specs are taken apart field by field, so that
/// one that comes has to be judged.
#[must_use]
pub fn reaches_host<'a>(
    view: &'a ClusterState,
    home: Home<'a>,
    key: &str,
    spec: &ServiceSpec,
) -> Vec<String> {
    // Ports are published beside those that the host's own programs have, never over them.
    let ServiceSpec {
        name: _,
        labels: _,
        task_template,
        mode: _,
        update_config: _,
        rollback_config: _,
        endpoint_spec: _,
    } = spec;
    let TaskSpec {
        runtime,
        resources: _,
        restart_policy: _,
        placement: _,
        networks,
        network_of,
        log_driver,
        force_update: _,
    } = &**task_template;
    let mut found = Vec::new();
    match runtime {
        TaskRuntime::Container(container) => {
            of_container(view, home.stack, container, &mut found);
            of_payloads::<Secret>(view, home, container, &mut found);
            of_payloads::<Config>(view, home, container, &mut found);
        }
        TaskRuntime::Plugin(_) | TaskRuntime::Attachment { .. } => {
            found.push("runtime: it is no container".to_owned());
        }
    }
    for (i, joined) in networks.iter().enumerate() {
        if let Some(why) = of_network(view, home, &joined.target) {
            found.push(format!("networks[{i}]: {:?} {why}", joined.target));
        }
    }
    // The state lets it be one of the same stack alone; but that one may have been given more.
    if let Some(other) = network_of {
        let shared = home.service(view, other);
        let joined = shared.iter().flat_map(|shared| &shared.task_template.networks);
        let why = joined.filter_map(|joined| of_network(view, home, &joined.target)).next();
        if let Some(why) = why {
            found.push(format!("network_of: the network of {other:?} {why}"));
        }
    }
    // Its options name hosts that are written to, or files.
    if let Some(driver) = log_driver {
        found.push(format!("log_driver: {:?} is not the default", driver.name));
    }
    found.into_iter().map(|part| format!("{key}.{part}")).collect()
}

fn of_network(view: &ClusterState, home: Home<'_>, target: &str) -> Option<&'static str> {
    if NetworkKind::predefined(target) == Some(NetworkKind::Host) {
        return Some("is the host's own");
    }
    if home.puts_on_wire(target) {
        return Some(ON_WIRE);
    }
    let Some(network) = view.network_target(target) else {
        // It may be another stack's when the spec is applied.
        return (!home.makes(target)).then_some("does not exist, and is none of the stack's");
    };
    if network.is_on_wire() {
        return Some(ON_WIRE);
    }
    let others = |id| view.stack(id).is_some_and(|s| s.spec.name != home.stack);
    network.stack_id.is_some_and(others).then_some("is of another stack")
}

fn of_container(
    view: &ClusterState,
    stack: &str,
    container: &ContainerSpec,
    found: &mut Vec<String>,
) {
    let ContainerSpec {
        image: _,
        labels: _,
        command: _,
        args: _,
        hostname: _,
        env: _,
        dir: _,
        // Whoever it is inside, it has the default capabilities at the most.
        user: _,
        groups: _,
        privileges,
        init: _,
        stop_signal: _,
        tty: _,
        open_stdin: _,
        read_only: _,
        mounts,
        stop_grace_period: _,
        drain_timeout: _,
        healthcheck: _,
        hosts: _,
        dns_config: _,
        // Looked at by themselves.
        secrets: _,
        configs: _,
        isolation: _,
        // All that are accepted are the container's own.
        sysctls: _,
        capability_add,
        capability_drop: _,
        ulimits,
        oom_score_adj,
    } = container;
    for (i, mount) in mounts.iter().enumerate() {
        if let Some(why) = of_mount(view, stack, mount) {
            found.push(format!("mounts[{i}]: {} {:?} {why}", mount.kind.as_str(), mount.source));
        }
    }
    if !capability_add.is_empty() {
        let names = capability_add.join(", ");
        found.push(format!("capability_add: {names} is more than the default"));
    }
    for (i, Ulimit { name, soft: _, hard }) in ulimits.iter().enumerate() {
        // A process that is always first takes the processors from the host.
        if *hard != 0 && PRIORITY_ULIMITS.contains(&name.as_str()) {
            found.push(format!("ulimits[{i}]: {name} {hard} is more than the default"));
        }
    }
    // The kernel kills something of the host instead.
    if let Some(adj) = oom_score_adj.filter(|adj| *adj < 0) {
        found.push(format!("oom_score_adj: {adj} is more than the default"));
    }
    if let Some(privileges) = privileges {
        of_privileges(privileges, found);
    }
}

/// Secrets and configs that are not the stack's.
fn of_payloads<T: Kept>(
    view: &ClusterState,
    home: Home<'_>,
    container: &ContainerSpec,
    found: &mut Vec<String>,
) {
    for (i, reference) in T::references(container).iter().enumerate() {
        let name = &reference.name;
        let why = match view.version::<T>(name, reference.version) {
            Some(one) if is_payload_of(view, &**one, home.stack) => continue,
            Some(_) => "is none of the stack's",
            None if home.makes.is_some_and(|s| T::of_stack(s).values().any(|n| n == name)) => {
                continue;
            }
            None => "does not exist, and is none of the stack's",
        };
        found.push(format!("{}s[{i}]: {name:?} {why}", T::KIND));
    }
}

/// Limits of how far a process may put itself before others; the default is 0.
const PRIORITY_ULIMITS: [&str; 2] = ["nice", "rtprio"];

fn of_privileges(privileges: &Privileges, found: &mut Vec<String>) {
    let Privileges { credential_spec, selinux_context, seccomp, app_armor, no_new_privileges: _ } =
        privileges;
    if credential_spec.is_some() {
        found.push("privileges.credential_spec: it is the node's".to_owned());
    }
    if matches!(seccomp, Some(Seccomp::Unconfined | Seccomp::Custom(_))) {
        found.push("privileges.seccomp: it is not the default profile".to_owned());
    }
    if *app_armor == Some(AppArmor::Disabled) {
        found.push("privileges.app_armor: it is switched off".to_owned());
    }
    if selinux_context.is_some() {
        found.push("privileges.selinux_context: it is not the default".to_owned());
    }
}

fn of_mount(view: &ClusterState, stack: &str, mount: &Mount) -> Option<&'static str> {
    let driver = mount.volume_options.as_ref().and_then(|options| options.driver_config.as_ref());
    match mount.kind {
        MountKind::Tmpfs | MountKind::Image => None,
        MountKind::Bind | MountKind::Npipe | MountKind::Cluster => Some("is the host's"),
        // Its options can name any file system of the host.
        MountKind::Volume if driver.is_some_and(|d| !d.options.is_empty()) => {
            Some("has options for its driver")
        }
        MountKind::Volume if mount.source.is_empty() => None,
        MountKind::Volume => {
            let of = |name: &str| {
                mount.source.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'))
            };
            // `shop_b_data` may be of stack `shop` and of stack `shop_b`, also while the latter is not
            // there and somebody may deploy it again.
            let closer = |other: &String| other.len() > stack.len() && of(other);
            let granted = view.users().any(|user| user.spec.stacks.iter().any(closer));
            let own = of(stack) && !granted && !view.stacks().any(|s| closer(&s.spec.name));
            (!own).then_some("is not a volume of the stack")
        }
    }
}
