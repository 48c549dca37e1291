//! Commands as bytes.

use bytes::Bytes;
use prost::Message as _;
use shoal_manager_state::{
    Command, JoinSecret, PredefinedIds, StackIds, StackPayloads, UpdateKind,
};
use shoal_proto::convert::InvalidMessage;
use shoal_proto::convert::field::{
    Auths, Choice, DefaultMessage, Kind, Levels, List, Message, OptionalMessage, OptionalText,
    OptionalTime, Same, Shared, Text, TextList, TextMap, read, write,
};
use shoal_proto::v1 as pb;
use shoal_types::time::Timestamp;

/// A command with the time at which it was proposed.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedCommand {
    /// When it was proposed.
    pub time: Timestamp,
    /// What to do.
    pub command: Command,
}

/// Why bytes are not a command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// They are not a message.
    #[error("failed to decode a command of {length} bytes")]
    Decode {
        /// How many bytes.
        length: usize,
        /// What is wrong with them.
        #[source]
        source: prost::DecodeError,
    },
    /// The message does not say what it must.
    #[error("refused a decoded command")]
    Invalid(#[from] InvalidMessage),
}

/// The bytes of a command, for the log.
#[must_use]
pub fn encode_command(time: Timestamp, command: &Command) -> Bytes {
    let message = pb::Command { time: time.as_nanos(), kind: Some(to_wire(command)) };
    message.encode_to_vec().into()
}

/// The command in the log's bytes.
///
/// # Errors
/// When the bytes are damaged, or a newer manager has written them.
pub fn decode_command(bytes: &[u8]) -> Result<TimedCommand, CommandError> {
    let message = pb::Command::decode(bytes)
        .map_err(|source| CommandError::Decode { length: bytes.len(), source })?;
    let unknown = || InvalidMessage::new("kind", "is missing, or unknown to this version");
    let command = from_wire(message.kind.ok_or_else(unknown)?)?;
    Ok(TimedCommand { time: Timestamp::from_nanos(message.time), command })
}

/// Both directions of all commands from one table, `variant: Message { field: Kind }`, in which
/// both sides have to be complete.
macro_rules! commands {
    ($($variant:ident: $message:ident { $($field:ident: $kind:ident),* $(,)? })*) => {
        fn to_wire(command: &Command) -> pb::command::Kind {
            match command {
                $(Command::$variant { $($field),* } => {
                    pb::command::Kind::$variant(pb::$message {
                        $($field: write::<$kind, _, _>($field),)*
                    })
                })*
            }
        }

        fn from_wire(kind: pb::command::Kind) -> Result<Command, InvalidMessage> {
            match kind {
                $(pb::command::Kind::$variant(pb::$message { $($field),* }) => {
                    let read = || -> Result<Command, InvalidMessage> {
                        Ok(Command::$variant {
                            $($field: read::<$kind, _, _>(stringify!($field), $field)?,)*
                        })
                    };
                    read().map_err(|e| e.under(stringify!($variant)))
                })*
            }
        }
    };
}

commands! {
    CreateCluster: CreateClusterCommand {
        id: Text,
        spec: Message,
        root_ca: Message,
        join_tokens: Message,
        networks: Predefined,
        level: Levels,
    }
    RaiseLevel: RaiseLevelCommand { level: Levels }
    UpdateCluster: UpdateClusterCommand { expected_spec_version: Same, spec: Message }
    SetTunnelEpochs: SetTunnelEpochsCommand {
        from: DefaultMessage,
        to: DefaultMessage,
        forced: Same,
    }
    RotateJoinToken: RotateJoinTokenCommand { role: Choice, secret: Secret }
    CreateNode: CreateNodeCommand { id: Text, spec: Message, description: Message }
    UpdateNode: UpdateNodeCommand { id: Text, expected: Same, spec: Message }
    RemoveNode: RemoveNodeCommand { id: Text, force: Same }
    ReportNode: ReportNodeCommand { id: Text, description: OptionalMessage, status: Message }
    SetManagerStatus: SetManagerStatusCommand { id: Text, status: OptionalMessage }
    CreateService: CreateServiceCommand { id: Text, deployment_id: Text, spec: Shared }
    UpdateService: UpdateServiceCommand {
        id: Text,
        expected: Same,
        deployment_id: Text,
        spec: Shared,
        kind: Update,
    }
    RemoveService: RemoveServiceCommand { id: Text }
    CreateNetwork: CreateNetworkCommand { id: Text, spec: Message }
    RemoveNetwork: RemoveNetworkCommand { id: Text }
    ApplyStack: ApplyStackCommand {
        spec: Shared,
        ids: Ids,
        prune: Same,
        expected: Same,
        payloads: Payloads,
    }
    RemoveStack: RemoveStackCommand { id: Text }
    RollBackStack: RollBackStackCommand {
        id: Text,
        expected: Same,
        to: Same,
        ids: Ids,
        failed: OptionalText,
    }
    CreateTask: CreateTaskCommand {
        id: Text,
        service_id: Text,
        service_version: Same,
        slot: Message,
        node_id: OptionalText,
        desired: Choice,
        start_after: OptionalTime,
        rejections: Same,
        level: Levels,
    }
    AssignTask: AssignTaskCommand { id: Text, node_id: Text, partner: OptionalText }
    ExplainTask: ExplainTaskCommand { id: Text, err: Same }
    SetDesired: SetDesiredCommand { id: Text, desired: Choice }
    RemoveTask: RemoveTaskCommand { id: Text }
    OrphanTask: OrphanTaskCommand { id: Text }
    ConnectTask: ConnectTaskCommand { id: Text, network_id: Text, aliases: Same, addresses: TextList }
    DisconnectTask: DisconnectTaskCommand { id: Text, network_id: Text, force: Same }
    UpdateTaskStatuses: UpdateTaskStatusesCommand { node_id: Text, statuses: List }
    UpdateDeployment: UpdateDeploymentCommand { id: Text, state: Choice, message: Same }
    CreateUser: CreateUserCommand { id: Text, spec: Message }
    UpdateUser: UpdateUserCommand { id: Text, expected: Same, spec: Message }
    RemoveUser: RemoveUserCommand { id: Text }
    CreateSecret: CreateSecretCommand {
        id: Text,
        spec: Message,
        replace: Same,
        deployments: TextMap,
    }
    RemoveSecret: RemoveSecretCommand { name: Same, version: Same }
    CreateConfig: CreateConfigCommand {
        id: Text,
        spec: Message,
        replace: Same,
        deployments: TextMap,
    }
    RemoveConfig: RemoveConfigCommand { name: Same, version: Same }
    WithRegistryAuth: WithRegistryAuthCommand { auths: Auths, command: Deploying }
}

/// A command that credentials for registries go with.
struct Deploying;

impl Kind<Box<Command>, Option<pb::with_registry_auth_command::Command>> for Deploying {
    fn write(value: &Box<Command>) -> Option<pb::with_registry_auth_command::Command> {
        use pb::command::Kind as From;
        use pb::with_registry_auth_command::Command as To;
        match to_wire(value) {
            From::CreateService(command) => Some(To::CreateService(command)),
            From::UpdateService(command) => Some(To::UpdateService(command)),
            From::ApplyStack(command) => Some(To::ApplyStack(command)),
            // Rejected wherever it is applied; nobody proposes it.
            _ => None,
        }
    }

    fn read(
        field: &str,
        wire: Option<pb::with_registry_auth_command::Command>,
    ) -> Result<Box<Command>, InvalidMessage> {
        use pb::command::Kind as To;
        use pb::with_registry_auth_command::Command as From;
        let kind = match wire.ok_or_else(|| InvalidMessage::missing(field))? {
            From::CreateService(command) => To::CreateService(command),
            From::UpdateService(command) => To::UpdateService(command),
            From::ApplyStack(command) => To::ApplyStack(command),
        };
        from_wire(kind).map(Box::new).map_err(|e| e.under(field))
    }
}

/// The ids of predefined networks.
struct Predefined;

impl Kind<PredefinedIds, Option<pb::PredefinedNetworkIds>> for Predefined {
    fn write(value: &PredefinedIds) -> Option<pb::PredefinedNetworkIds> {
        let PredefinedIds { bridge, host, none } = value;
        Some(pb::PredefinedNetworkIds {
            bridge: Text::write(bridge),
            host: Text::write(host),
            none: Text::write(none),
        })
    }

    fn read(
        field: &str,
        wire: Option<pb::PredefinedNetworkIds>,
    ) -> Result<PredefinedIds, InvalidMessage> {
        let wire = wire.ok_or_else(|| InvalidMessage::missing(field))?;
        Ok(PredefinedIds {
            bridge: Text::read(&format!("{field}.bridge"), wire.bridge)?,
            host: Text::read(&format!("{field}.host"), wire.host)?,
            none: Text::read(&format!("{field}.none"), wire.none)?,
        })
    }
}

/// The secret of a join token.
struct Secret;

impl Kind<JoinSecret, String> for Secret {
    fn write(value: &JoinSecret) -> String {
        value.0.clone()
    }

    fn read(_field: &str, wire: String) -> Result<JoinSecret, InvalidMessage> {
        Ok(JoinSecret(wire))
    }
}

/// What led to a service's new spec.
struct Update;

impl Kind<UpdateKind, i32> for Update {
    fn write(value: &UpdateKind) -> i32 {
        let kind = match value {
            UpdateKind::Update => pb::DeploymentKind::Update,
            UpdateKind::Rollback => pb::DeploymentKind::Rollback,
        };
        kind.into()
    }

    fn read(field: &str, wire: i32) -> Result<UpdateKind, InvalidMessage> {
        match pb::DeploymentKind::try_from(wire) {
            Ok(pb::DeploymentKind::Update) => Ok(UpdateKind::Update),
            Ok(pb::DeploymentKind::Rollback) => Ok(UpdateKind::Rollback),
            Ok(pb::DeploymentKind::Unspecified | pb::DeploymentKind::Create) | Err(_) => Err(
                InvalidMessage::new(field, format!("is {wire}: expected an update or a rollback")),
            ),
        }
    }
}

/// What is in the secrets and configs of a stack.
struct Payloads;

impl Kind<StackPayloads, Option<pb::StackPayloads>> for Payloads {
    fn write(value: &StackPayloads) -> Option<pb::StackPayloads> {
        let StackPayloads { secrets, configs } = value;
        let secrets = secrets.iter().map(|(key, (id, spec))| {
            let secret = pb::StackSecret { id: Text::write(id), spec: Some(spec.into()) };
            (key.clone(), secret)
        });
        let configs = configs.iter().map(|(key, (id, spec))| {
            let config = pb::StackConfig { id: Text::write(id), spec: Some(spec.into()) };
            (key.clone(), config)
        });
        let wire = pb::StackPayloads { secrets: secrets.collect(), configs: configs.collect() };
        (*value != StackPayloads::default()).then_some(wire)
    }

    fn read(field: &str, wire: Option<pb::StackPayloads>) -> Result<StackPayloads, InvalidMessage> {
        let pb::StackPayloads { secrets, configs } = wire.unwrap_or_default();
        let secret = |(key, one): (String, pb::StackSecret)| {
            let at = format!("{field}.secrets[{key:?}]");
            let id = Text::read(&format!("{at}.id"), one.id)?;
            Ok((key, (id, Message::read(&format!("{at}.spec"), one.spec)?)))
        };
        let config = |(key, one): (String, pb::StackConfig)| {
            let at = format!("{field}.configs[{key:?}]");
            let id = Text::read(&format!("{at}.id"), one.id)?;
            Ok((key, (id, Message::read(&format!("{at}.spec"), one.spec)?)))
        };
        Ok(StackPayloads {
            secrets: secrets.into_iter().map(secret).collect::<Result<_, InvalidMessage>>()?,
            configs: configs.into_iter().map(config).collect::<Result<_, InvalidMessage>>()?,
        })
    }
}

/// The ids for a stack.
struct Ids;

impl Kind<StackIds, Option<pb::StackIds>> for Ids {
    fn write(value: &StackIds) -> Option<pb::StackIds> {
        let StackIds { stack, services, networks } = value;
        let pair = |(service, deployment)| pb::StackServiceIds {
            service: Text::write(service),
            deployment: Text::write(deployment),
        };
        Some(pb::StackIds {
            stack: Text::write(stack),
            services: services.iter().map(|(k, (s, d))| (k.clone(), pair((s, d)))).collect(),
            networks: TextMap::write(networks),
        })
    }

    fn read(field: &str, wire: Option<pb::StackIds>) -> Result<StackIds, InvalidMessage> {
        let wire = wire.ok_or_else(|| InvalidMessage::missing(field))?;
        let pair = |(key, ids): (String, pb::StackServiceIds)| {
            let at = format!("{field}.services[{key:?}]");
            let service = Text::read(&format!("{at}.service"), ids.service)?;
            let deployment = Text::read(&format!("{at}.deployment"), ids.deployment)?;
            Ok((key, (service, deployment)))
        };
        Ok(StackIds {
            stack: Text::read(&format!("{field}.stack"), wire.stack)?,
            services: wire.services.into_iter().map(pair).collect::<Result<_, InvalidMessage>>()?,
            networks: TextMap::read(&format!("{field}.networks"), wire.networks)?,
        })
    }
}
