//! Containers.

use shoal_types::spec::{
    AppArmor, ContainerSpec, CredentialSpec, DnsConfig, FileTarget, Healthcheck, OnChange,
    PayloadReference, PayloadTarget, Privileges, SeLinuxContext, Seccomp, Ulimit,
};

use super::field::{self, Kind};
use super::{InvalidMessage, by_value, choice, message};
use crate::v1 as pb;

message!(ContainerSpec {
    image: Same,
    labels: Same,
    hostname: Same,
    env: Same,
    dir: Same,
    user: Same,
    groups: Same,
    privileges: OptionalMessage,
    init: Same,
    stop_signal: Same,
    tty: Same,
    open_stdin: Same,
    read_only: Same,
    mounts: List,
    healthcheck: OptionalMessage,
    hosts: Same,
    dns_config: OptionalMessage,
    secrets: List,
    configs: List,
    isolation: Same,
    sysctls: Same,
    capability_add: Same,
    capability_drop: Same,
    ulimits: List,
    oom_score_adj: Same;
    stop_grace_period => stop_grace_period_nanos: OptionalNanos,
    drain_timeout => drain_timeout_nanos: OptionalNanos,
    | command => (command, command_cleared): OptionalWords,
    args => (args, args_cleared): OptionalWords,
});

message!(Privileges {
    credential_spec: OptionalMessage,
    selinux_context: OptionalMessage,
    seccomp: OptionalMessage,
    app_armor: OptionalMessage,
    no_new_privileges: Same,
});

impl From<&CredentialSpec> for pb::CredentialSpec {
    fn from(spec: &CredentialSpec) -> Self {
        use pb::credential_spec::Source;
        let source = match spec {
            CredentialSpec::Config(id) => Source::Config(id.clone()),
            CredentialSpec::File(path) => Source::File(path.clone()),
            CredentialSpec::Registry(value) => Source::Registry(value.clone()),
        };
        Self { source: Some(source) }
    }
}

impl TryFrom<pb::CredentialSpec> for CredentialSpec {
    type Error = InvalidMessage;

    fn try_from(wire: pb::CredentialSpec) -> Result<Self, InvalidMessage> {
        use pb::credential_spec::Source;
        match wire.source {
            Some(Source::Config(id)) => Ok(Self::Config(id)),
            Some(Source::File(path)) => Ok(Self::File(path)),
            Some(Source::Registry(value)) => Ok(Self::Registry(value)),
            None => Err(InvalidMessage::missing("source")),
        }
    }
}

by_value!(CredentialSpec => pb::CredentialSpec);

message!(SeLinuxContext { disable: Same, user: Same, role: Same, kind: Same, level: Same });

impl From<&Seccomp> for pb::Seccomp {
    fn from(seccomp: &Seccomp) -> Self {
        use pb::seccomp::Profile;
        let profile = match seccomp {
            Seccomp::Default => Profile::Default(pb::Nothing {}),
            Seccomp::Unconfined => Profile::Unconfined(pb::Nothing {}),
            Seccomp::Custom(json) => Profile::Custom(json.clone()),
        };
        Self { profile: Some(profile) }
    }
}

impl TryFrom<pb::Seccomp> for Seccomp {
    type Error = InvalidMessage;

    fn try_from(wire: pb::Seccomp) -> Result<Self, InvalidMessage> {
        use pb::seccomp::Profile;
        match wire.profile {
            Some(Profile::Default(pb::Nothing {})) => Ok(Self::Default),
            Some(Profile::Unconfined(pb::Nothing {})) => Ok(Self::Unconfined),
            Some(Profile::Custom(json)) => Ok(Self::Custom(json)),
            None => Err(InvalidMessage::missing("profile")),
        }
    }
}

by_value!(Seccomp => pb::Seccomp);

impl From<&AppArmor> for pb::AppArmor {
    fn from(app_armor: &AppArmor) -> Self {
        Self { mode: field::Choice::write(app_armor) }
    }
}

impl TryFrom<pb::AppArmor> for AppArmor {
    type Error = InvalidMessage;

    fn try_from(wire: pb::AppArmor) -> Result<Self, InvalidMessage> {
        field::Choice::read("mode", wire.mode)
    }
}

impl From<AppArmor> for pb::AppArmorMode {
    fn from(app_armor: AppArmor) -> Self {
        match app_armor {
            AppArmor::Default => Self::Default,
            AppArmor::Disabled => Self::Disabled,
        }
    }
}

impl TryFrom<pb::AppArmorMode> for AppArmor {
    type Error = field::Unspecified;

    fn try_from(wire: pb::AppArmorMode) -> Result<Self, field::Unspecified> {
        match wire {
            pb::AppArmorMode::Unspecified => Err(field::Unspecified),
            pb::AppArmorMode::Default => Ok(Self::Default),
            pb::AppArmorMode::Disabled => Ok(Self::Disabled),
        }
    }
}

impl field::WireChoice for AppArmor {
    type Wire = pb::AppArmorMode;
}

by_value!(AppArmor => pb::AppArmor);

message!(Healthcheck {
    test: Same,
    retries: Same;
    interval => interval_nanos: OptionalNanos,
    timeout => timeout_nanos: OptionalNanos,
    start_period => start_period_nanos: OptionalNanos,
    start_interval => start_interval_nanos: OptionalNanos,
});

message!(DnsConfig { nameservers: Same, search: Same, options: Same });

impl From<&PayloadReference> for pb::PayloadReference {
    fn from(reference: &PayloadReference) -> Self {
        use pb::payload_reference::Target;
        let PayloadReference { target, name, version, on_change } = reference;
        let target = match target {
            PayloadTarget::File(file) => Target::File(file.into()),
            PayloadTarget::Env(name) => Target::Env(name.clone()),
            PayloadTarget::Runtime => Target::Runtime(pb::Nothing {}),
        };
        Self {
            target: Some(target),
            name: name.clone(),
            version: *version,
            // What is usual is not said.
            on_change: match on_change {
                OnChange::Restart => 0,
                other => field::write::<field::DefaultChoice, _, _>(other),
            },
        }
    }
}

impl TryFrom<pb::PayloadReference> for PayloadReference {
    type Error = InvalidMessage;

    fn try_from(wire: pb::PayloadReference) -> Result<Self, InvalidMessage> {
        use pb::payload_reference::Target;
        let target = match wire.target {
            Some(Target::File(file)) => {
                FileTarget::try_from(file).map(PayloadTarget::File).map_err(|e| e.under("file"))?
            }
            Some(Target::Env(name)) => PayloadTarget::Env(name),
            Some(Target::Runtime(pb::Nothing {})) => PayloadTarget::Runtime,
            None => return Err(InvalidMessage::missing("target")),
        };
        let on_change = field::read::<field::DefaultChoice, _, _>("on_change", wire.on_change)?;
        Ok(Self { target, name: wire.name, version: wire.version, on_change })
    }
}

choice!(OnChange { Restart, Nothing });

message!(FileTarget { name: Same, uid: Same, gid: Same, mode: Same });

message!(Ulimit { name: Same, soft: Same, hard: Same });
