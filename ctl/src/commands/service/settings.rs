//! Flags that `service create` and `service update` share: each sets one thing of a spec.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use shoal_types::resources::{Limits, Resources};
use shoal_types::spec::{
    ContainerSpec, FailureAction, Healthcheck, RestartCondition, RestartPolicy, ServiceMode,
    ServiceSpec, TaskRuntime, TaskSpec, UpdateConfig, UpdateOrder,
};

use super::confine::Confinement;
use super::pairs::{bytes, duration, nano_cpus};
use crate::error::CommandError;
use crate::stack::scalar;

/// Flags that set one thing each.
#[derive(Debug, Default, Args)]
pub(super) struct Settings {
    /// How many tasks [default: 1]
    #[arg(long)]
    replicas: Option<u64>,
    /// Tasks per node at the most; 0 is without limit [default: 0]
    #[arg(long, value_name = "N")]
    replicas_max_per_node: Option<u64>,
    /// Replaces the image's entrypoint and drops its command; split as a shell does, "" for none
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// `USER[:GROUP]`, names or numbers
    #[arg(long, short)]
    user: Option<String>,
    /// Working directory in the container
    #[arg(long, short, value_name = "PATH")]
    workdir: Option<String>,
    /// Host name in the container
    #[arg(long)]
    hostname: Option<String>,
    /// Give containers a terminal
    #[arg(long, short, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tty: Option<bool>,
    /// The root file system cannot be written
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    read_only: Option<bool>,
    /// The signal that asks a container to stop [default: the image's, else SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// How long after that it is killed [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    stop_grace_period: Option<Duration>,
    /// How long a container that is to stop goes on serving what is open, when nobody is led to it any more, before
    /// the stop signal [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    drain_timeout: Option<Duration>,
    #[command(flatten)]
    confinement: Confinement,
    #[command(flatten)]
    resources: ResourceFlags,
    #[command(flatten)]
    restart: RestartFlags,
    #[command(flatten)]
    health: HealthFlags,
    #[command(flatten)]
    update: UpdateFlags,
}

#[derive(Debug, Default, Args)]
struct ResourceFlags {
    /// CPUs a task may use, such as 0.5
    #[arg(long, value_name = "CPUS", value_parser = nano_cpus)]
    limit_cpu: Option<u64>,
    /// Memory a task may use, such as 64m
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    limit_memory: Option<u64>,
    /// Processes and threads a task may have
    #[arg(long, value_name = "N")]
    limit_pids: Option<u64>,
    /// CPUs set aside for a task
    #[arg(long, value_name = "CPUS", value_parser = nano_cpus)]
    reserve_cpu: Option<u64>,
    /// Memory set aside for a task
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    reserve_memory: Option<u64>,
}

#[derive(Debug, Default, Args)]
struct RestartFlags {
    /// Which ends of a task lead to a replacement [default: any]
    #[arg(long, value_enum)]
    restart_condition: Option<ConditionArg>,
    /// Wait before a replacement [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    restart_delay: Option<Duration>,
    /// Replacements at the most; 0 is without limit [default: 0]
    #[arg(long, value_name = "N")]
    restart_max_attempts: Option<u64>,
    /// Time over which they are counted [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    restart_window: Option<Duration>,
}

#[derive(Debug, Default, Args)]
struct HealthFlags {
    /// Command line that tells whether a container is healthy
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Time from one check to the next [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    health_interval: Option<Duration>,
    /// Time after which a check has failed [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    health_timeout: Option<Duration>,
    /// Failures in a row that make it unhealthy [default: 3]
    #[arg(long, value_name = "N")]
    health_retries: Option<u64>,
    /// Time after the start during which failures do not count [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    health_start_period: Option<Duration>,
    /// Time from one check to the next during that [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    health_start_interval: Option<Duration>,
    /// Switch the image's health check off
    #[arg(long, conflicts_with = "health_cmd")]
    no_healthcheck: bool,
}

#[derive(Debug, Default, Args)]
struct UpdateFlags {
    /// Tasks replaced at a time; 0 is all at once [default: 1]
    #[arg(long, value_name = "N")]
    update_parallelism: Option<u64>,
    /// Wait between one and the next [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    update_delay: Option<Duration>,
    /// What a failed update leads to [default: pause]
    #[arg(long, value_enum)]
    update_failure_action: Option<FailureArg>,
    /// How long a new task is watched for failure [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    update_monitor: Option<Duration>,
    /// Share of failed tasks, 0 to 1, that an update tolerates [default: 0]
    #[arg(long, value_name = "RATIO")]
    update_max_failure_ratio: Option<f32>,
    /// Whether the old task stops before or after the new one runs [default: stop-first]
    #[arg(long, value_enum)]
    update_order: Option<OrderArg>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ConditionArg {
    None,
    OnFailure,
    Any,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FailureArg {
    Pause,
    Continue,
    Rollback,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OrderArg {
    StopFirst,
    StartFirst,
}

/// Puts a value where it belongs, if there is one.
fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn set_some<T>(place: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *place = value;
    }
}

/// The container of a service; a service without one cannot be changed with flags.
pub(super) fn container_mut(spec: &mut TaskSpec) -> Result<&mut ContainerSpec, CommandError> {
    match &mut spec.runtime {
        TaskRuntime::Container(container) => Ok(container),
        TaskRuntime::Plugin(_) | TaskRuntime::Attachment { .. } => {
            Err(CommandError::failed("the service does not run containers"))
        }
    }
}

impl Settings {
    /// Sets what was given.
    pub(super) fn apply(self, spec: &mut ServiceSpec) -> Result<(), CommandError> {
        if let Some(wanted) = self.replicas {
            match &mut spec.mode {
                ServiceMode::Replicated { replicas } => *replicas = wanted,
                mode => {
                    let mode = mode.as_str();
                    return Err(CommandError::usage(format!(
                        "--replicas does not go with mode {mode}"
                    )));
                }
            }
        }
        self.update.apply(spec);
        let task = Arc::make_mut(&mut spec.task_template);
        if let Some(max) = self.replicas_max_per_node {
            task.placement.get_or_insert_default().max_replicas = max;
        }
        self.resources.apply(task);
        self.restart.apply(task);
        let container = container_mut(task)?;
        if let Some(line) = self.entrypoint {
            container.command = Some(words("--entrypoint", &line)?);
        }
        set(&mut container.user, self.user);
        set(&mut container.dir, self.workdir);
        set(&mut container.hostname, self.hostname);
        set(&mut container.tty, self.tty);
        set(&mut container.read_only, self.read_only);
        set(&mut container.stop_signal, self.stop_signal);
        set_some(&mut container.stop_grace_period, self.stop_grace_period);
        set_some(&mut container.drain_timeout, self.drain_timeout);
        self.confinement.apply(container);
        self.health.apply(container);
        Ok(())
    }
}

/// Splits a command line given to a flag.
pub(super) fn words(flag: &str, line: &str) -> Result<Vec<String>, CommandError> {
    scalar::words(line).map_err(|e| CommandError::usage(format!("{flag}: {line:?}: {e}")))
}

impl ResourceFlags {
    fn apply(self, task: &mut TaskSpec) {
        let Self { limit_cpu, limit_memory, limit_pids, reserve_cpu, reserve_memory } = self;
        if limit_cpu.is_some() || limit_memory.is_some() || limit_pids.is_some() {
            let all = task.resources.get_or_insert_default();
            let limits: &mut Limits = all.limits.get_or_insert_default();
            set(&mut limits.nano_cpus, limit_cpu);
            set(&mut limits.memory_bytes, limit_memory);
            set(&mut limits.pids, limit_pids);
        }
        if reserve_cpu.is_some() || reserve_memory.is_some() {
            let all = task.resources.get_or_insert_default();
            let reserved: &mut Resources = all.reservations.get_or_insert_default();
            set(&mut reserved.nano_cpus, reserve_cpu);
            set(&mut reserved.memory_bytes, reserve_memory);
        }
    }
}

impl RestartFlags {
    fn apply(self, task: &mut TaskSpec) {
        let Self { restart_condition, restart_delay, restart_max_attempts, restart_window } = self;
        let any = restart_condition.is_some()
            || restart_delay.is_some()
            || restart_max_attempts.is_some()
            || restart_window.is_some();
        if !any {
            return;
        }
        let policy: &mut RestartPolicy = task.restart_policy.get_or_insert_default();
        let condition = restart_condition.map(|c| match c {
            ConditionArg::None => RestartCondition::None,
            ConditionArg::OnFailure => RestartCondition::OnFailure,
            ConditionArg::Any => RestartCondition::Any,
        });
        set(&mut policy.condition, condition);
        set_some(&mut policy.delay, restart_delay);
        set(&mut policy.max_attempts, restart_max_attempts);
        set_some(&mut policy.window, restart_window);
    }
}

impl HealthFlags {
    fn apply(self, container: &mut ContainerSpec) {
        if self.no_healthcheck {
            let test = vec!["NONE".to_owned()];
            container.healthcheck = Some(Healthcheck { test, ..Healthcheck::default() });
            return;
        }
        let any = self.health_cmd.is_some()
            || self.health_interval.is_some()
            || self.health_timeout.is_some()
            || self.health_retries.is_some()
            || self.health_start_period.is_some()
            || self.health_start_interval.is_some();
        if !any {
            return;
        }
        let check = container.healthcheck.get_or_insert_default();
        let test = self.health_cmd.map(|line| vec!["CMD-SHELL".to_owned(), line]);
        set(&mut check.test, test);
        set_some(&mut check.interval, self.health_interval);
        set_some(&mut check.timeout, self.health_timeout);
        set(&mut check.retries, self.health_retries);
        set_some(&mut check.start_period, self.health_start_period);
        set_some(&mut check.start_interval, self.health_start_interval);
    }
}

impl UpdateFlags {
    fn apply(self, spec: &mut ServiceSpec) {
        let any = self.update_parallelism.is_some()
            || self.update_delay.is_some()
            || self.update_failure_action.is_some()
            || self.update_monitor.is_some()
            || self.update_max_failure_ratio.is_some()
            || self.update_order.is_some();
        if !any {
            return;
        }
        let config: &mut UpdateConfig = spec.update_config.get_or_insert_default();
        set(&mut config.parallelism, self.update_parallelism);
        set(&mut config.delay, self.update_delay);
        let action = self.update_failure_action.map(|a| match a {
            FailureArg::Pause => FailureAction::Pause,
            FailureArg::Continue => FailureAction::Continue,
            FailureArg::Rollback => FailureAction::Rollback,
        });
        set(&mut config.failure_action, action);
        set_some(&mut config.monitor, self.update_monitor);
        set(&mut config.max_failure_ratio, self.update_max_failure_ratio);
        let order = self.update_order.map(|o| match o {
            OrderArg::StopFirst => UpdateOrder::StopFirst,
            OrderArg::StartFirst => UpdateOrder::StartFirst,
        });
        set(&mut config.order, order);
    }
}
