//! `service create`.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use shoal_types::spec::{
    ContainerSpec, EndpointSpec, Placement, ServiceMode, ServiceSpec, TaskRuntime, TaskSpec,
};

use super::checked::{By, check};
use super::confine::Surroundings;
use super::mount::MountFlag;
use super::network::{AffinityArg, EndpointArg, LocalityArg, NetworkFlag, join};
use super::pairs::KeyValue;
use super::payload::PayloadFlag;
use super::publish::Publish;
use super::settings::{Settings, words};
use super::{Waiting, alone, applied, note_narrow_ports, wait_for};
use crate::commands::login::WithLogins;
use crate::commands::{Result, Shell};
use crate::error::CommandError;
use crate::files;
use crate::stack::{Variables, parse_raw_env_file};

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name; a random one if absent
    #[arg(long)]
    name: Option<String>,
    /// Whether there is a number of tasks, or one on every node
    #[arg(long, value_enum, default_value = "replicated")]
    mode: ModeArg,
    /// An environment variable; without =VALUE it takes that of this environment
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// A file of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// A port: [[IP:]PUBLISHED:]TARGET[/PROTOCOL] or published=8080,target=80,mode=host
    #[arg(long, short, value_name = "PORT")]
    publish: Vec<Publish>,
    /// A mount: type=volume,source=data,target=/data
    #[arg(long, value_name = "MOUNT")]
    mount: Vec<MountFlag>,
    /// A secret it is given: NAME[@VERSION] or source=NAME,target=FILE,uid=,gid=,mode=,env=,on-change=
    #[arg(long, value_name = "SECRET")]
    secret: Vec<PayloadFlag>,
    /// A config it is given, likewise
    #[arg(long, value_name = "CONFIG")]
    config: Vec<PayloadFlag>,
    /// A network to join: NETWORK or name=NETWORK,alias=NAME; or service:NAME to share that of another service
    #[arg(long, value_name = "NETWORK")]
    network: Vec<NetworkFlag>,
    /// What its name leads to
    #[arg(long, value_enum, default_value = "vip")]
    endpoint_mode: EndpointArg,
    /// Whether a client is led to the same task each time
    #[arg(long, value_enum, default_value = "none")]
    endpoint_affinity: AffinityArg,
    /// Which tasks a client is led to before others
    #[arg(long, value_enum, default_value = "any")]
    endpoint_locality: LocalityArg,
    /// A placement constraint, such as node.labels.disk==ssd
    #[arg(long, value_name = "CONSTRAINT")]
    constraint: Vec<String>,
    /// A label of the service
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    label: Vec<KeyValue>,
    /// A label of its containers
    #[arg(long, value_name = "KEY[=VALUE]")]
    container_label: Vec<KeyValue>,
    #[command(flatten)]
    surroundings: Surroundings,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    logins: WithLogins,
    #[command(flatten)]
    waiting: Waiting,
    /// The image to run
    image: String,
    /// Replaces the image's command; split as a shell does, "" for none
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true, conflicts_with = "words")]
    args: Option<String>,
    /// Replaces the image's command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    words: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    /// A number of tasks, anywhere
    Replicated,
    /// One task on every node that fits
    Global,
}

pub(super) async fn run(shell: &Shell, mut args: Create) -> Result {
    let (waiting, logins) = (args.waiting, args.logins);
    let name = args.name.take().unwrap_or_else(random_name);
    let narrow = args.publish.iter().any(|p| p.is_narrow).then(|| name.clone());
    let spec = spec(args, name, &variables_here())?;
    check(&spec, By::Create)?;
    let auths = logins.of_services([&spec].into_iter()).await?;
    let client = shell.manager().await?;
    note_narrow_ports(narrow.as_slice());
    let service = client.create_service(&spec, &auths).await?;
    applied(shell, &service, &service.id.to_string())?;
    wait_for(shell, &client, alone(vec![service]), waiting).await
}

/// The environment of this process, as far as it is text.
pub(super) fn variables_here() -> Variables {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn random_name() -> String {
    // Nothing hangs on it; the manager refuses a name that is taken.
    let nanos = crate::render::time::now().as_nanos();
    let mixed = nanos.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id());
    format!("service-{mixed:016x}")
}

/// What the flags ask for.
fn spec(args: Create, name: String, variables: &Variables) -> Result<ServiceSpec> {
    let mut env: BTreeMap<String, Option<String>> = BTreeMap::new();
    for file in &args.env_file {
        env.extend(env_file(file)?);
    }
    env.extend(env_entries(&args.env));
    let pairs = |list: Vec<KeyValue>| list.into_iter().map(|l| (l.key, l.value)).collect();
    let mut container = ContainerSpec {
        image: args.image,
        args: match args.args {
            Some(line) => Some(words("--args", &line)?),
            None => (!args.words.is_empty()).then_some(args.words),
        },
        env: env_lines(env, variables),
        labels: pairs(args.container_label),
        mounts: args.mount.into_iter().map(|m| m.0).collect(),
        secrets: args.secret.into_iter().map(|s| s.0).collect(),
        configs: args.config.into_iter().map(|c| c.0).collect(),
        ..ContainerSpec::default()
    };
    args.surroundings.apply(&mut container)?;
    let ports: Vec<_> = args.publish.into_iter().flat_map(|p| p.ports).collect();
    let endpoint_spec = EndpointSpec {
        mode: args.endpoint_mode.into(),
        ports,
        affinity: args.endpoint_affinity.into(),
        locality: args.endpoint_locality.into(),
    };
    let mut task = TaskSpec::of(TaskRuntime::Container(container));
    join(args.network, &mut task)?;
    let mut spec = ServiceSpec {
        name,
        labels: pairs(args.label),
        task_template: Arc::new(TaskSpec {
            placement: (!args.constraint.is_empty())
                .then(|| Placement { constraints: args.constraint, ..Placement::default() }),
            ..task
        }),
        mode: match args.mode {
            ModeArg::Replicated => ServiceMode::Replicated { replicas: 1 },
            ModeArg::Global => ServiceMode::Global {},
        },
        update_config: None,
        rollback_config: None,
        endpoint_spec: endpoint_spec.unless_default(),
    };
    args.settings.apply(&mut spec)?;
    Ok(spec)
}

/// `NAME=VALUE` or `NAME` of flags; the last one of a name counts.
pub(super) fn env_entries(texts: &[String]) -> BTreeMap<String, Option<String>> {
    let entry = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text.clone(), None),
    };
    texts.iter().map(entry).collect()
}

/// As a container gets them: a name without a value takes that of the caller's environment; if there
/// is none either, the bare name stays, which unsets the image's.
pub(super) fn env_lines(
    env: BTreeMap<String, Option<String>>,
    variables: &Variables,
) -> Vec<String> {
    env.into_iter()
        .map(|(name, value)| match value.as_ref().or_else(|| variables.get(&name)) {
            Some(value) => format!("{name}={value}"),
            None => name,
        })
        .collect()
}

fn env_file(file: &Path) -> Result<Vec<(String, Option<String>)>> {
    let shown = file.display();
    let text = files::text_of(file)
        .map_err(|e| CommandError::failed(format!("cannot read {shown}")).because(e))?;
    parse_raw_env_file(&text)
        .map_err(|e| CommandError::failed(format!("cannot understand {shown}")).because(e))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn made(line: &str) -> serde_json::Value {
        let args = Line::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{e}"));
        let variables = [("FROM_HERE".to_owned(), "1".to_owned())].into();
        serde_json::to_value(spec(args.create, "web".to_owned(), &variables).unwrap()).unwrap()
    }

    #[test]
    fn an_empty_command_is_not_an_absent_one() {
        let cases = [
            ("x i", "null", "null"),
            ("x i sh -c x", "null", r#"["sh","-c","x"]"#),
            ("x --args= i", "null", "[]"),
            ("x --entrypoint= i sh", "[]", r#"["sh"]"#),
        ];
        for (line, command, args) in cases {
            let made = made(line);
            let container = &made["TaskTemplate"]["ContainerSpec"];
            assert_eq!(container["Command"].to_string(), command, "{line}");
            assert_eq!(container["Args"].to_string(), args, "{line}");
        }
    }

    #[test]
    fn flags_end_in_the_spec() {
        let made = made(
            "x --replicas 3 -e A=1 -e FROM_HERE -e GONE -p 8080:80 --mount type=tmpfs,target=/t \
             --network name=n,alias=m --endpoint-mode dnsrr --constraint node.role==worker --limit-cpu 0.5 --limit-memory 64m \
             --limit-pids 9 --reserve-cpu .25 --reserve-memory 32m --restart-condition on-failure \
             --restart-delay 1s --restart-max-attempts 2 --restart-window 1m --label a=b \
             --container-label c=d --user u --workdir /w --hostname h --health-cmd true \
             --health-interval 2s --health-retries 4 --stop-signal SIGINT --stop-grace-period 3s \
             --update-parallelism 0 --update-delay 1s --update-failure-action rollback \
             --update-order start-first --replicas-max-per-node 2 --tty --read-only \
             --cap-add net_admin --cap-drop ALL --sysctl net.core.somaxconn=9 --ulimit nofile=5:6 \
             --ulimit core=-1 --host db:10.0.0.9 --dns 10.0.0.53 --dns-option ndots:2 --dns-search \
             local --oom-score-adj -5 nginx:1 -g x",
        );
        let expected = [
            ("/Mode/Replicated/Replicas", "3"),
            ("/Labels", r#"{"a":"b"}"#),
            ("/TaskTemplate/ContainerSpec/Image", "\"nginx:1\""),
            ("/TaskTemplate/ContainerSpec/Args", r#"["-g","x"]"#),
            ("/TaskTemplate/ContainerSpec/Env", r#"["A=1","FROM_HERE=1","GONE"]"#),
            ("/TaskTemplate/ContainerSpec/Labels", r#"{"c":"d"}"#),
            ("/TaskTemplate/ContainerSpec/User", "\"u\""),
            ("/TaskTemplate/ContainerSpec/Dir", "\"/w\""),
            ("/TaskTemplate/ContainerSpec/Hostname", "\"h\""),
            ("/TaskTemplate/ContainerSpec/TTY", "true"),
            ("/TaskTemplate/ContainerSpec/ReadOnly", "true"),
            ("/TaskTemplate/ContainerSpec/CapabilityAdd", r#"["CAP_NET_ADMIN"]"#),
            ("/TaskTemplate/ContainerSpec/CapabilityDrop", r#"["ALL"]"#),
            ("/TaskTemplate/ContainerSpec/Sysctls", r#"{"net.core.somaxconn":"9"}"#),
            (
                "/TaskTemplate/ContainerSpec/Ulimits",
                r#"[{"Name":"nofile","Soft":5,"Hard":6},{"Name":"core","Soft":-1,"Hard":-1}]"#,
            ),
            ("/TaskTemplate/ContainerSpec/Hosts", r#"["10.0.0.9 db"]"#),
            (
                "/TaskTemplate/ContainerSpec/DNSConfig",
                r#"{"Nameservers":["10.0.0.53"],"Search":["local"],"Options":["ndots:2"]}"#,
            ),
            ("/TaskTemplate/ContainerSpec/OomScoreAdj", "-5"),
            ("/TaskTemplate/ContainerSpec/StopSignal", "\"SIGINT\""),
            ("/TaskTemplate/ContainerSpec/StopGracePeriod", "3000000000"),
            ("/TaskTemplate/ContainerSpec/Healthcheck/Test", r#"["CMD-SHELL","true"]"#),
            ("/TaskTemplate/ContainerSpec/Healthcheck/Interval", "2000000000"),
            ("/TaskTemplate/ContainerSpec/Healthcheck/Retries", "4"),
            ("/TaskTemplate/ContainerSpec/Mounts/0/Target", "\"/t\""),
            ("/TaskTemplate/Resources/Limits/NanoCPUs", "500000000"),
            ("/TaskTemplate/Resources/Limits/MemoryBytes", "67108864"),
            ("/TaskTemplate/Resources/Limits/Pids", "9"),
            ("/TaskTemplate/Resources/Reservations/NanoCPUs", "250000000"),
            ("/TaskTemplate/RestartPolicy/Condition", "\"on-failure\""),
            ("/TaskTemplate/RestartPolicy/MaxAttempts", "2"),
            ("/TaskTemplate/Placement/Constraints", r#"["node.role==worker"]"#),
            ("/TaskTemplate/Placement/MaxReplicas", "2"),
            ("/TaskTemplate/Networks/0/Target", "\"n\""),
            ("/TaskTemplate/Networks/0/Aliases", "[\"m\"]"),
            ("/EndpointSpec/Mode", "\"dnsrr\""),
            ("/EndpointSpec/Ports/0/PublishedPort", "8080"),
            ("/UpdateConfig/Parallelism", "0"),
            ("/UpdateConfig/Order", "\"start-first\""),
        ];
        for (pointer, json) in expected {
            let found = made.pointer(pointer).cloned().unwrap_or_default();
            let wanted: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(found, wanted, "{pointer}");
        }
    }

    #[test]
    fn what_is_not_said_is_not_in_the_spec() {
        let made = made("x nginx");
        for absent in ["Resources", "RestartPolicy", "Placement", "Networks"] {
            assert!(made["TaskTemplate"].get(absent).is_none(), "{absent}");
        }
        assert!(made.get("UpdateConfig").is_none() && made.get("EndpointSpec").is_none());
    }

    #[test]
    fn what_does_not_go_together() {
        for line in [
            "x --replicas -1 nginx",
            "x --limit-memory lots nginx",
            "x --no-healthcheck --health-cmd a nginx",
            "x --mode job nginx",
            "x -p 80:http nginx",
            "x --ulimit nofile nginx",
            "x --host db nginx",
            "x --dns names nginx",
            "x",
        ] {
            assert!(Line::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
        let args = Line::try_parse_from("x --mode global --replicas 2 i".split_whitespace());
        assert!(spec(args.unwrap().create, "n".to_owned(), &Variables::new()).is_err());
    }
}
