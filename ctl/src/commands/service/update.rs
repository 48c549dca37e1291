//! `service update`, `scale` and `rollback`.

use std::sync::Arc;

use clap::Args;
use shoal_types::registry_auth::RegistryAuths;
use shoal_types::spec::{Labels, PortConfig, ServiceMode, ServiceSpec};

use super::checked::{By, check};
use super::confine::NewSurroundings;
use super::create::{env_entries, env_lines, variables_here};
use super::mount::MountFlag;
use super::network::{AffinityArg, EndpointArg, LocalityArg, NetworkFlag, OF_SERVICE, join};
use super::pairs::KeyValue;
use super::payload::{self, PayloadFlag};
use super::publish::{Publish, Unpublish};
use super::settings::{Settings, container_mut, words};
use super::{Waiting, alone, applied, note_narrow_ports, wait_for};
use crate::commands::login::WithLogins;
use crate::commands::{Result, Shell};
use crate::error::CommandError;
use crate::stack::Variables;

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Another image
    #[arg(long)]
    image: Option<String>,
    /// Another command; split as a shell does, "" for none
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    args: Option<String>,
    /// Back to the image's command
    #[arg(long, conflicts_with = "args")]
    args_rm: bool,
    /// Back to the image's entrypoint
    #[arg(long, conflicts_with = "entrypoint")]
    entrypoint_rm: bool,
    /// Add or replace an environment variable; without =VALUE it takes that of this environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    env_add: Vec<String>,
    /// Remove an environment variable
    #[arg(long, value_name = "NAME")]
    env_rm: Vec<String>,
    /// Add or replace a port
    #[arg(long, value_name = "PORT")]
    publish_add: Vec<Publish>,
    /// Remove a port by its number in the container: TARGET[/PROTOCOL]
    #[arg(long, value_name = "TARGET")]
    publish_rm: Vec<Unpublish>,
    /// Add or replace a mount
    #[arg(long, value_name = "MOUNT")]
    mount_add: Vec<MountFlag>,
    /// Remove a mount by its path in the container
    #[arg(long, value_name = "TARGET")]
    mount_rm: Vec<String>,
    /// Give it a secret, in place of one with the same target
    #[arg(long, value_name = "SECRET")]
    secret_add: Vec<PayloadFlag>,
    /// Take a secret away by its name
    #[arg(long, value_name = "SECRET")]
    secret_rm: Vec<String>,
    /// Give it a config, in place of one with the same target
    #[arg(long, value_name = "CONFIG")]
    config_add: Vec<PayloadFlag>,
    /// Take a config away by its name
    #[arg(long, value_name = "CONFIG")]
    config_rm: Vec<String>,
    /// Join a network: NETWORK or name=NETWORK,alias=NAME; or share that of a service: service:NAME
    #[arg(long, value_name = "NETWORK")]
    network_add: Vec<NetworkFlag>,
    /// What its name leads to
    #[arg(long, value_enum)]
    endpoint_mode: Option<EndpointArg>,
    /// Whether a client is led to the same task each time
    #[arg(long, value_enum)]
    endpoint_affinity: Option<AffinityArg>,
    /// Which tasks a client is led to before others
    #[arg(long, value_enum)]
    endpoint_locality: Option<LocalityArg>,
    /// Leave a network, or have one of its own again: NETWORK or service:NAME
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<String>,
    /// Add a placement constraint
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_add: Vec<String>,
    /// Remove a placement constraint
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_rm: Vec<String>,
    /// Add or replace a label of the service
    #[arg(long, value_name = "KEY[=VALUE]")]
    label_add: Vec<KeyValue>,
    /// Remove a label of the service
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Add or replace a label of its containers
    #[arg(long, value_name = "KEY[=VALUE]")]
    container_label_add: Vec<KeyValue>,
    /// Remove a label of its containers
    #[arg(long, value_name = "KEY")]
    container_label_rm: Vec<String>,
    /// Replace all tasks though nothing changed
    #[arg(long)]
    force: bool,
    /// Put the previous spec back
    #[arg(long)]
    rollback: bool,
    #[command(flatten)]
    surroundings: NewSurroundings,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    logins: WithLogins,
    #[command(flatten)]
    waiting: Waiting,
    /// Id or name
    service: String,
}

pub(super) async fn run(shell: &Shell, args: Update) -> Result {
    let (waiting, logins) = (args.waiting, args.logins);
    let back = args.rollback;
    let client = shell.manager().await?;
    let found = client.service(&args.service).await?.service;
    let mut spec = ServiceSpec::clone(&found.spec);
    if args.publish_add.iter().any(|p| p.is_narrow) {
        note_narrow_ports(std::slice::from_ref(&spec.name));
    }
    args.apply(&mut spec, &variables_here())?;
    if back && spec != *found.spec {
        return Err(CommandError::usage("--rollback does not go with a change"));
    }
    if !back {
        check(&spec, By::Update)?;
    }
    let target = if back { found.previous_spec.as_deref() } else { Some(&spec) };
    let auths = logins.of_services(target.into_iter()).await?;
    let service = client.update_service(&found, (!back).then_some(&spec), &auths).await?;
    applied(shell, &service, &service.spec.name)?;
    wait_for(shell, &client, alone(vec![service]), waiting).await
}

pub(super) async fn rollback(shell: &Shell, reference: &str, waiting: Waiting) -> Result {
    let client = shell.manager().await?;
    let found = client.service(reference).await?.service;
    let service = client.update_service(&found, None, &RegistryAuths::new()).await?;
    applied(shell, &service, &service.spec.name)?;
    wait_for(shell, &client, alone(vec![service]), waiting).await
}

/// `NAME=REPLICAS` of several services.
pub(super) async fn scale(shell: &Shell, wanted: &[KeyValue], waiting: Waiting) -> Result {
    let mut parsed = Vec::new();
    for KeyValue { key, value } in wanted {
        let replicas = value.parse::<u64>().map_err(|_| {
            CommandError::usage(format!("\"{key}={value}\": expected SERVICE=REPLICAS"))
        })?;
        parsed.push((key, replicas));
    }
    let client = shell.manager().await?;
    let mut services = Vec::new();
    // All are looked at before any is changed.
    for (name, wanted) in parsed {
        let found = client.service(name).await?.service;
        let mut spec = ServiceSpec::clone(&found.spec);
        match &mut spec.mode {
            ServiceMode::Replicated { replicas } => *replicas = wanted,
            mode => {
                let mode = mode.as_str();
                return Err(CommandError::failed(format!(
                    "{name} cannot be scaled: its mode is {mode}"
                )));
            }
        }
        services.push((found, spec, wanted));
    }
    let mut updated = Vec::new();
    for (found, spec, replicas) in services {
        let service = client.update_service(&found, Some(&spec), &RegistryAuths::new()).await?;
        applied(shell, &service, &format!("{} scaled to {replicas}", service.spec.name))?;
        updated.push(service);
    }
    wait_for(shell, &client, alone(updated), waiting).await
}

impl Update {
    /// Changes a spec as the flags say; whatever is to be removed must be there.
    fn apply(self, spec: &mut ServiceSpec, variables: &Variables) -> Result {
        self.settings.apply(spec)?;
        labels(&mut spec.labels, self.label_add, &self.label_rm)?;
        ports(spec, self.publish_add, &self.publish_rm)?;
        // A service that says nothing has the defaults; saying these would replace all tasks.
        let said = spec.endpoint_spec.clone();
        let mut endpoint = said.clone().unwrap_or_default();
        self.endpoint_mode.into_iter().for_each(|mode| endpoint.mode = mode.into());
        self.endpoint_affinity.into_iter().for_each(|arg| endpoint.affinity = arg.into());
        self.endpoint_locality.into_iter().for_each(|arg| endpoint.locality = arg.into());
        spec.endpoint_spec =
            if said.is_some() { Some(endpoint) } else { endpoint.unless_default() };
        let task = Arc::make_mut(&mut spec.task_template);
        for target in &self.network_rm {
            match target.strip_prefix(OF_SERVICE) {
                Some(service) if task.network_of.as_deref() == Some(service) => {
                    task.network_of = None;
                }
                _ => remove("network", target, &mut task.networks, |n| n.target == *target)?,
            }
        }
        join(self.network_add, task)?;
        if !self.constraint_add.is_empty() || !self.constraint_rm.is_empty() {
            let constraints = &mut task.placement.get_or_insert_default().constraints;
            for text in &self.constraint_rm {
                remove("constraint", text, constraints, |c| squeeze(c) == squeeze(text))?;
            }
            constraints.extend(self.constraint_add);
        }
        if self.force {
            task.force_update += 1;
        }
        let container = container_mut(task)?;
        if let Some(image) = self.image {
            container.image = image;
        }
        if self.args_rm {
            container.args = None;
        }
        if let Some(line) = self.args {
            container.args = Some(words("--args", &line)?);
        }
        if self.entrypoint_rm {
            container.command = None;
        }
        labels(&mut container.labels, self.container_label_add, &self.container_label_rm)?;
        self.surroundings.apply(container)?;
        for name in &self.env_rm {
            remove("environment variable", name, &mut container.env, |e| env_name(e) == name)?;
        }
        for entry in env_lines(env_entries(&self.env_add), variables) {
            container.env.retain(|e| env_name(e) != env_name(&entry));
            container.env.push(entry);
        }
        for target in &self.mount_rm {
            remove("mount", target, &mut container.mounts, |m| m.target == *target)?;
        }
        for MountFlag(mount) in self.mount_add {
            container.mounts.retain(|m| m.target != mount.target);
            container.mounts.push(mount);
        }
        payload::change("secret", &mut container.secrets, self.secret_add, &self.secret_rm)?;
        payload::change("config", &mut container.configs, self.config_add, &self.config_rm)
    }
}

fn env_name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// Spaces around operators of constraints mean nothing.
fn squeeze(text: &str) -> String {
    text.split_whitespace().collect()
}

pub(super) fn remove<T>(
    what: &str,
    name: &str,
    list: &mut Vec<T>,
    fits: impl Fn(&T) -> bool,
) -> Result {
    let before = list.len();
    list.retain(|item| !fits(item));
    if list.len() == before {
        return Err(CommandError::failed(format!("the service has no {what} {name:?}")));
    }
    Ok(())
}

fn labels(labels: &mut Labels, add: Vec<KeyValue>, rm: &[String]) -> Result {
    for key in rm {
        if labels.remove(key).is_none() {
            return Err(CommandError::failed(format!("the service has no label {key:?}")));
        }
    }
    labels.extend(add.into_iter().map(|l| (l.key, l.value)));
    Ok(())
}

fn ports(spec: &mut ServiceSpec, add: Vec<Publish>, rm: &[Unpublish]) -> Result {
    if add.is_empty() && rm.is_empty() {
        return Ok(());
    }
    let ports = &mut spec.endpoint_spec.get_or_insert_default().ports;
    for unpublish in rm {
        remove("port", &unpublish.to_string(), ports, |p| unpublish.fits(p))?;
    }
    let same = |a: &PortConfig, b: &PortConfig| {
        (a.published_port, a.protocol, a.host_ip) == (b.published_port, b.protocol, b.host_ip)
            && (a.published_port != 0 || a.target_port == b.target_port)
    };
    for port in add.into_iter().flat_map(|p| p.ports) {
        ports.retain(|old| !same(old, &port));
        ports.push(port);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use shoal_types::spec::{
        Affinity, ContainerSpec, EndpointMode, Locality, TaskRuntime, TaskSpec, Ulimit,
    };

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        update: Update,
    }

    fn base() -> ServiceSpec {
        let container = ContainerSpec {
            image: "i".to_owned(),
            env: vec!["A=1".to_owned(), "B=2".to_owned()],
            ulimits: vec![Ulimit { name: "core".to_owned(), soft: 0, hard: 0 }],
            hosts: vec!["10.0.0.1 a".to_owned()],
            ..ContainerSpec::default()
        };
        ServiceSpec {
            name: "web".to_owned(),
            labels: [("old".to_owned(), "1".to_owned())].into(),
            task_template: Arc::new(TaskSpec {
                force_update: 4,
                ..TaskSpec::of(TaskRuntime::Container(container))
            }),
            mode: ServiceMode::Replicated { replicas: 1 },
            update_config: None,
            rollback_config: None,
            endpoint_spec: None,
        }
    }

    fn update(line: &str) -> Result<ServiceSpec> {
        let args = Line::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{e}"));
        let mut spec = base();
        let here = [("FROM_HERE".to_owned(), "1".to_owned())].into();
        args.update.apply(&mut spec, &here)?;
        Ok(spec)
    }

    #[test]
    fn only_what_is_said_changes() {
        assert_eq!(update("x web").unwrap(), base());
        let spec = update(
            "x --image j --env-add A=9 --env-add FROM_HERE --env-add GONE --env-rm B --publish-add 80:80 --label-rm old --label-add \
             new=1 --constraint-add node.role==worker --network-add n --replicas 5 --force \
             --args a --sysctl-add net.a=2 --ulimit-add nofile=9 --ulimit-rm core --host-add \
             b:10.0.0.2 --host-rm a:10.0.0.1 --dns-add ::1 --cap-add KILL --endpoint-affinity client-ip \
             --endpoint-locality prefer-local web",
        )
        .unwrap();
        let json = serde_json::to_value(&spec).unwrap();
        let container = &json["TaskTemplate"]["ContainerSpec"];
        assert_eq!(container["Image"], "j");
        assert_eq!(container["Env"], serde_json::json!(["A=9", "FROM_HERE=1", "GONE"]));
        assert_eq!(container["Args"], serde_json::json!(["a"]));
        assert_eq!(container["Sysctls"], serde_json::json!({"net.a": "2"}));
        assert_eq!(
            container["Ulimits"],
            serde_json::json!([{"Name": "nofile", "Soft": 9, "Hard": 9}])
        );
        assert_eq!(container["Hosts"], serde_json::json!(["10.0.0.2 b"]));
        assert_eq!(container["DNSConfig"]["Nameservers"], serde_json::json!(["::1"]));
        assert_eq!(container["CapabilityAdd"], serde_json::json!(["CAP_KILL"]));
        assert_eq!(json["Labels"], serde_json::json!({"new": "1"}));
        assert_eq!(json["TaskTemplate"]["ForceUpdate"], 5);
        assert_eq!(json["Mode"]["Replicated"]["Replicas"], 5);
        assert_eq!(json["EndpointSpec"]["Ports"][0]["PublishedPort"], 80);
        assert_eq!(json["EndpointSpec"]["Affinity"], "client-ip");
        assert_eq!(json["EndpointSpec"]["Locality"], "prefer-local");
    }

    #[test]
    fn what_means_the_same_as_nothing_changes_nothing() {
        let same = "x --endpoint-mode vip --endpoint-affinity none --endpoint-locality any web";
        let same = update(same).unwrap();
        assert_eq!(same.endpoint_spec, None);
        let said = |line| update(line).unwrap().endpoint_spec.unwrap();
        assert_eq!(said("x --endpoint-affinity client-ip web").affinity, Some(Affinity::ClientIp));
        let local = said("x --endpoint-locality prefer-local web");
        assert_eq!(local.locality, Some(Locality::PreferLocal));
        assert_eq!(said("x --endpoint-mode dnsrr web").mode, EndpointMode::Dnsrr);
    }

    #[test]
    fn back_to_the_images_command() {
        let words = |spec: &ServiceSpec| {
            let container = &serde_json::to_value(spec).unwrap()["TaskTemplate"]["ContainerSpec"];
            format!("{} {}", container["Command"], container["Args"])
        };
        let mut spec = update("x --entrypoint= --args a web").unwrap();
        assert_eq!(words(&spec), r#"[] ["a"]"#);
        let line = "x --entrypoint-rm --args-rm web".split_whitespace();
        let back = Line::try_parse_from(line).unwrap().update;
        back.apply(&mut spec, &Variables::new()).unwrap();
        assert_eq!(words(&spec), "null null");
    }

    #[test]
    fn what_is_not_there_cannot_be_removed() {
        for line in [
            "x --env-rm NOPE web",
            "x --label-rm nope web",
            "x --publish-rm 80 web",
            "x --mount-rm /x web",
            "x --network-rm n web",
            "x --constraint-rm node.role==worker web",
            "x --sysctl-rm net.a web",
            "x --ulimit-rm nofile web",
            "x --host-rm a:10.0.0.2 web",
            "x --dns-rm ::1 web",
            "x --dns-search-rm a web",
            "x --dns-option-rm a web",
        ] {
            let error = update(line).unwrap_err().to_string();
            assert!(error.starts_with("the service has no"), "{line}: {error}");
        }
        let error = update("x --publish-rm 80 web").unwrap_err().to_string();
        assert_eq!(error, "the service has no port \"80/tcp\"");
    }
}
