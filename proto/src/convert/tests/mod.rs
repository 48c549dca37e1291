//! What goes through the door comes out the same; what is wrong does not pass.

mod arbitrary;
mod docker;
mod numbers;
mod objects;
mod questions;
mod refusals;
mod specs;
mod wire;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use prost::Message;
use shoal_types::assignment::{AssignedTask, AssignmentChange};
use shoal_types::id::TaskId;
use shoal_types::object::*;
use shoal_types::question::{
    Answer, PlacedDisk, PlacedNetworks, PlacedUsage, PlacedVolume, PrunedNode, Question, Silent,
    TraceStep,
};
use shoal_types::resources::{GenericResource, Limits, ResourceRequirements, Resources};
use shoal_types::spec::*;

use self::arbitrary::{Arbitrary, Source};
use super::InvalidMessage;
use crate::v1 as pb;

/// Domain to message to bytes and back.
fn survives<T, W>(seed: u64) -> Result<(), TestCaseError>
where
    T: Arbitrary + PartialEq + Debug + TryFrom<W, Error = InvalidMessage>,
    W: Message + Default + for<'a> From<&'a T>,
{
    for mut source in [Source::new(seed), Source::full(seed)] {
        let value: T = source.any();
        let bytes = W::from(&value).encode_to_vec();
        let wire = W::decode(&*bytes)?;
        prop_assert_eq!(T::try_from(wire), Ok(value));
    }
    Ok(())
}

macro_rules! survive {
    ($($test:ident: $($domain:ty => $wire:ident),*;)*) => {
        proptest! {$(
            #[test]
            fn $test(seed: u64) {
                $(survives::<$domain, pb::$wire>(seed)?;)*
            }
        )*}
    };
}

survive! {
    specs_of_services: ServiceSpec => ServiceSpec, TaskSpec => TaskSpec;
    specs_of_containers: ContainerSpec => ContainerSpec, Mount => Mount;
    specs_of_networks_and_volumes: NetworkSpec => NetworkSpec, VolumeSpec => VolumeSpec;
    specs_of_payloads: SecretSpec => SecretSpec, ConfigSpec => ConfigSpec;
    specs_of_nodes_and_clusters: NodeSpec => NodeSpec, ClusterSpec => ClusterSpec;
    specs_of_stacks: StackSpec => StackSpec;
    services: Service => Service, Deployment => Deployment;
    tasks: Task => Task, (TaskId, TaskStatus) => TaskStatusUpdate;
    nodes_and_clusters: Node => Node, Cluster => Cluster;
    networks: Network => Network;
    payloads: Secret => Secret, Config => Config, Volume => Volume;
    stacks: Stack => Stack;
    questions: Question => NodeQuestion, Answer => NodeAnswer, Silent => Silent,
        PlacedVolume => PlacedVolume, PrunedNode => PrunedNode,
        PlacedUsage => PlacedUsage, PlacedDisk => PlacedDisk, PlacedNetworks => PlacedNetworks,
        TraceStep => TraceStep;
    users: User => User, UserSpec => UserSpec;
    assignments: AssignedTask => AssignedTask, AssignmentChange => AssignmentChange;
}

proptest! {
    #[test]
    fn a_view_of_the_cluster_has_no_secrets(seed: u64) {
        let cluster: Cluster = Source::full(seed).any();
        let view = pb::ClusterView::from(&cluster);
        let shown = Cluster::try_from(view).unwrap();
        let root_ca = RootCa { key_pem: String::new(), ..cluster.root_ca };
        let (join_tokens, former_managers) = (JoinTokens::default(), Vec::new());
        let expected = Cluster { root_ca, join_tokens, former_managers, ..cluster };
        prop_assert_eq!(shown, expected);
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn pairs(text: &str) -> BTreeMap<String, String> {
    text.split(' ').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

fn golden_container() -> ContainerSpec {
    ContainerSpec {
        image: "docker.io/library/nginx:1.27".to_owned(),
        labels: pairs("tier=front"),
        command: Some(words("/docker-entrypoint.sh")),
        args: Some(words("nginx -g")),
        env: words("A=1 B"),
        user: "101:101".to_owned(),
        privileges: Some(Privileges {
            seccomp: Some(Seccomp::Custom(b"{}".to_vec())),
            app_armor: Some(AppArmor::Disabled),
            no_new_privileges: true,
            ..Privileges::default()
        }),
        init: Some(false),
        stop_signal: "SIGQUIT".to_owned(),
        read_only: true,
        mounts: vec![Mount {
            kind: MountKind::Tmpfs,
            source: String::new(),
            target: "/tmp".to_owned(),
            read_only: false,
            consistency: String::new(),
            bind_options: None,
            volume_options: None,
            image_options: None,
            tmpfs_options: Some(TmpfsOptions {
                size_bytes: 1 << 20,
                mode: 0o1777,
                options: vec![words("noexec"), words("nr_inodes 9")],
            }),
        }],
        stop_grace_period: Some(Duration::from_secs(3)),
        healthcheck: Some(Healthcheck {
            test: words("CMD true"),
            interval: Some(Duration::ZERO),
            retries: 2,
            ..Healthcheck::default()
        }),
        secrets: vec![PayloadReference {
            target: PayloadTarget::File(FileTarget {
                name: "key".to_owned(),
                uid: "0".to_owned(),
                gid: "0".to_owned(),
                mode: 0o400,
            }),
            name: "key.pem".to_owned(),
            version: None,
            on_change: OnChange::Restart,
        }],
        ulimits: vec![Ulimit { name: "nofile".to_owned(), soft: 1024, hard: -1 }],
        oom_score_adj: Some(-500),
        ..ContainerSpec::default()
    }
}

fn golden_spec() -> ServiceSpec {
    let task = TaskSpec {
        runtime: TaskRuntime::Container(golden_container()),
        resources: Some(ResourceRequirements {
            limits: Some(Limits { nano_cpus: 500_000_000, memory_bytes: 1 << 28, pids: 100 }),
            reservations: Some(Resources {
                nano_cpus: 0,
                memory_bytes: 1 << 26,
                generic_resources: vec![GenericResource::Discrete {
                    kind: "ssd".to_owned(),
                    value: 2,
                }],
            }),
            swap_bytes: Some(-1),
            memory_swappiness: None,
        }),
        restart_policy: Some(RestartPolicy {
            condition: RestartCondition::OnFailure,
            delay: Some(Duration::from_millis(1)),
            max_attempts: 3,
            window: None,
        }),
        placement: Some(Placement {
            constraints: vec!["node.role==worker".to_owned()],
            max_replicas: 1,
            ..Placement::default()
        }),
        networks: vec![NetworkAttachmentConfig {
            target: "back".to_owned(),
            ..NetworkAttachmentConfig::default()
        }],
        network_of: None,
        log_driver: None,
        force_update: 1,
    };
    ServiceSpec {
        name: "web".to_owned(),
        labels: pairs("com.example.owner=me"),
        task_template: Arc::new(task),
        mode: ServiceMode::Replicated { replicas: 3 },
        update_config: Some(UpdateConfig {
            failure_action: FailureAction::Rollback,
            order: UpdateOrder::StartFirst,
            ..UpdateConfig::default()
        }),
        rollback_config: None,
        endpoint_spec: Some(EndpointSpec {
            mode: EndpointMode::Vip,
            ports: vec![PortConfig {
                name: String::new(),
                protocol: Protocol::Udp,
                target_port: 80,
                published_port: 8080,
                publish_mode: PublishMode::Host,
                host_ip: Some(IpAddr::from([127, 0, 0, 1])),
            }],
            affinity: None,
            locality: None,
        }),
    }
}

/// Bytes that an early version wrote. If this fails, today's managers cannot read what is stored:
/// it is the code that has to change, not this test.
#[test]
fn bytes_of_the_first_version_are_still_read() {
    let hex: String = include_str!("golden/service_spec.hex").split_whitespace().collect();
    let bytes: Vec<u8> = (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    let wire = pb::ServiceSpec::decode(&*bytes).unwrap();
    assert_eq!(ServiceSpec::try_from(wire), Ok(golden_spec()));
}

/// And bytes of a later version, with a field that nobody knows today.
#[test]
fn fields_of_a_later_version_are_passed_over() {
    let mut bytes = pb::ServiceSpec::from(&golden_spec()).encode_to_vec();
    prost::encoding::string::encode(4000, &"new".to_owned(), &mut bytes);
    let wire = pb::ServiceSpec::decode(&*bytes).unwrap();
    assert_eq!(ServiceSpec::try_from(wire), Ok(golden_spec()));
}
