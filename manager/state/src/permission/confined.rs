//! What in a service's spec reaches out of its containers, to the host or to what is others'.

use shoal_types::spec::{
    AppArmor, ContainerSpec, Mount, MountKind, Seccomp, ServiceSpec, TaskRuntime,
};

use crate::cluster_state::ClusterState;

/// Each part of a spec that gives its containers more than a container of its stack has by itself,
/// with its path below `key`; nothing if there is none.
#[must_use]
pub fn reaches_host(
    view: &ClusterState,
    stack: &str,
    key: &str,
    spec: &ServiceSpec,
) -> Vec<String> {
    let mut found = Vec::new();
    match &spec.task_template.runtime {
        TaskRuntime::Container(container) => of_container(view, stack, container, &mut found),
        TaskRuntime::Plugin(_) | TaskRuntime::Attachment { .. } => {
            found.push("runtime: it is no container".to_owned());
        }
    }
    for (i, joined) in spec.task_template.networks.iter().enumerate() {
        let target = &joined.target;
        let others = |id| view.stack(id).is_some_and(|s| s.spec.name != stack);
        match view.network_target(target) {
            _ if target == "host" => {
                found.push(format!("networks[{i}]: {target:?} is the host's own"));
            }
            Some(network) if network.stack_id.is_some_and(others) => {
                found.push(format!("networks[{i}]: {target:?} is of another stack"));
            }
            _ => {}
        }
    }
    found.into_iter().map(|part| format!("{key}.{part}")).collect()
}

fn of_container(
    view: &ClusterState,
    stack: &str,
    container: &ContainerSpec,
    found: &mut Vec<String>,
) {
    for (i, mount) in container.mounts.iter().enumerate() {
        if let Some(why) = of_mount(view, stack, mount) {
            found.push(format!("mounts[{i}]: {} {:?} {why}", mount.kind.as_str(), mount.source));
        }
    }
    if !container.capability_add.is_empty() {
        let names = container.capability_add.join(", ");
        found.push(format!("capability_add: {names} is more than the default"));
    }
    let Some(privileges) = &container.privileges else { return };
    if matches!(privileges.seccomp, Some(Seccomp::Unconfined | Seccomp::Custom(_))) {
        found.push("privileges.seccomp: it is not the default profile".to_owned());
    }
    if privileges.app_armor == Some(AppArmor::Disabled) {
        found.push("privileges.app_armor: it is switched off".to_owned());
    }
    if privileges.selinux_context.is_some() {
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
            // `shop_b_data` may be of stack `shop` and of stack `shop_b`.
            let closer = |other: &str| other.len() > stack.len() && of(other);
            let own = of(stack) && !view.stacks().any(|s| closer(&s.spec.name));
            (!own).then_some("is not a volume of the stack")
        }
    }
}
