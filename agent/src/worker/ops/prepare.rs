//! Everything short of running: image, networks, volumes, files, container, connections.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use shoal_agent_network::{Netns, NetworkError};
use shoal_agent_planning::lower::{self, ContainerPlan, HostFacts, LowerError, NetworkPlan};
use shoal_agent_planning::oci::InvalidContainer;
use shoal_agent_planning::payload::{self, HeldPayloads};
use shoal_agent_planning::task::{Fact, Preparation};
use shoal_agent_volume::VolumeError;
use shoal_types::assignment::AssignedTask;
use shoal_types::error_chain::chain;
use shoal_types::id::NetworkId;
use shoal_types::image_ref::{ImageReference, InvalidImageReference};
use shoal_types::object::Network;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::files::ContainerFiles;
use super::given::{GivenFiles, keeps_variables};
use super::stage::{Stage, tell};
use super::{Context, Volumes};
use crate::worker::event::Event;
use crate::worker::images::{ChoiceError, Chosen, defaults};
use shoal_agent_runtime::{
    ContainerId, ContainerSpec, Layers, LogLimits, NetworkMode, Prepared, RuntimeError,
};

/// Why a task cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    /// It was told to stop.
    #[error("given up")]
    Cancelled,
    #[error(transparent)]
    Reference(#[from] InvalidImageReference),
    #[error(transparent)]
    Image(#[from] Arc<ChoiceError>),
    #[error(transparent)]
    Lower(#[from] LowerError),
    #[error("the container makes no sense")]
    Container(#[from] InvalidContainer),
    #[error("network {name}")]
    Network { name: String, source: NetworkError },
    #[error("volume {name}")]
    Volume { name: String, source: VolumeError },
    #[error("{field}")]
    Bind { field: String, source: VolumeError },
    #[error("write {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "its environment would be written to {}, which is no tmpfs, with what is in a secret or config: expected \
         these as files, or the agent's run directory in memory", dir.display()
    )]
    Exposed { dir: PathBuf },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// A task to prepare.
pub(in crate::worker) struct Order {
    pub task: Arc<AssignedTask>,
    /// The task whose network it shares.
    pub partner: Option<Arc<AssignedTask>>,
    pub networks: Arc<BTreeMap<NetworkId, Arc<Network>>>,
    /// What it is given.
    pub payloads: HeldPayloads,
    pub cancel: CancellationToken,
    pub events: mpsc::UnboundedSender<Event>,
}

/// Prepares a task. What was made when it fails is left to the cleaning up that follows.
pub(in crate::worker) async fn prepare(context: &Context, order: Order) -> Fact {
    let stage = Stage::default();
    let attempt = tokio::select! {
        biased;
        attempt = attempt(context, &order, &stage) => attempt,
        never = tell(context, &order, &stage) => match never {},
    };
    match attempt {
        Ok(preparation) => Fact::Prepared(preparation),
        Err(PrepareError::Cancelled) => Fact::PrepareAborted,
        Err(error) => Fact::PrepareFailed { err: explained(&error) },
    }
}

/// What is wrong, and what could be done about it.
fn explained(error: &PrepareError) -> String {
    let text = chain(error).to_string();
    match error {
        PrepareError::Image(image) => match image.hint() {
            Some(hint) => format!("{text} (hint: {hint})"),
            None => text,
        },
        _ => text,
    }
}

async fn attempt(
    context: &Context,
    order: &Order,
    stage: &Stage,
) -> Result<Preparation, PrepareError> {
    let task = &order.task;
    let container = task.spec.container().ok_or(LowerError::NoContainer)?;
    let reference = ImageReference::parse(&container.image)?;
    let Chosen { held, note } = image(context, order, &reference, stage).await?;
    context.chooser.keep(task.id, held.pin);
    let image = held.image;
    let host = HostFacts { hostname: context.config.hostname.clone() };
    let partner = order.partner.as_deref();
    let mut plan = lower::plan_beside(task, partner, &order.networks, &defaults(&image), &host)?;
    let given = payload::given(task, &order.payloads)?;
    keeps_variables(context, &given)?;
    stage.is("making its networks");
    networks(context, order, &plan).await?;
    stage.is("preparing its volumes and mounts");
    let volumes = Volumes::new(context, task.id);
    let mut mounts = volumes.make(&plan, &image, &order.cancel).await?;
    stage.is("waiting for its turn to be made");
    // Images come as the registry gives them, and what users mount may never answer; what follows
    // is local and bounded.
    let _permit = tokio::select! {
        permit = context.preparing.acquire() => permit,
        () = order.cancel.cancelled() => return Err(PrepareError::Cancelled),
    };
    stage.is("making its container");
    let files = ContainerFiles::new(context, task.id);
    let (own, warning) = files.make(&plan).await?;
    mounts.extend(own);
    plan.config.set_env(&given.env);
    mounts.extend(GivenFiles::new(context, task.id).make(given).await?);
    let oci = plan.oci_spec(mounts)?;
    let spec = ContainerSpec {
        oci,
        layers: Layers(image.layers.clone()),
        network: match plan.network {
            NetworkPlan::Host => NetworkMode::Host,
            NetworkPlan::Of(partner) => NetworkMode::Of(partner.into()),
            NetworkPlan::Joined(_) => NetworkMode::Own,
        },
        open_stdin: plan.open_stdin,
        log: LogLimits::default(),
        user: plan.user.clone(),
        labels: plan.labels().clone(),
    };
    if order.cancel.is_cancelled() {
        return Err(PrepareError::Cancelled);
    }
    let made = make(context, &task.id.into(), spec).await?;
    let unasked = lower::unasked(&plan).map(str::to_owned);
    let unanswered = connect(context, &plan, made, &files).await?;
    Ok(Preparation {
        image: image.id.to_string(),
        stop_signal: plan.stop_signal,
        healthcheck: plan.healthcheck.clone(),
        note: notes([Some(note), warning.map(str::to_owned), unasked, unanswered]),
    })
}

fn notes(all: [Option<String>; 4]) -> String {
    let all: Vec<String> = all.into_iter().flatten().filter(|note| !note.is_empty()).collect();
    all.join("; ")
}

/// Waits for the image.
async fn image(
    context: &Context,
    order: &Order,
    reference: &ImageReference,
    stage: &Stage,
) -> Result<Chosen, PrepareError> {
    let (choice, progress) = context.chooser.choose(&order.task, reference);
    stage.is_pull(reference.clone(), progress);
    tokio::select! {
        biased;
        () = order.cancel.cancelled() => Err(PrepareError::Cancelled),
        chosen = choice => Ok(chosen?),
    }
}

async fn networks(
    context: &Context,
    order: &Order,
    plan: &ContainerPlan,
) -> Result<(), PrepareError> {
    let NetworkPlan::Joined(joined) = &plan.network else { return Ok(()) };
    for one in joined {
        let acquired = context.keeper.acquire(order.task.id, &one.config).await;
        let name = || one.config.name.clone();
        acquired.map_err(|source| PrepareError::Network { name: name(), source })?;
    }
    Ok(())
}

/// What an earlier attempt left under the name is of no use.
async fn make(
    context: &Context,
    id: &ContainerId,
    spec: ContainerSpec,
) -> Result<Prepared, RuntimeError> {
    let runtime = &context.drivers.runtime;
    match runtime.prepare(id, spec.clone()).await {
        Err(RuntimeError::AlreadyExists { .. }) => {
            runtime.remove(id).await?;
            runtime.prepare(id, spec).await
        }
        other => other,
    }
}

/// Connects it, and has it answered names. What people should know if that cannot be.
async fn connect(
    context: &Context,
    plan: &ContainerPlan,
    made: Prepared,
    files: &ContainerFiles,
) -> Result<Option<String>, PrepareError> {
    let NetworkPlan::Joined(joined) = &plan.network else { return Ok(None) };
    let netns = Netns::OfProcess(u32::try_from(made.supervisor_pid).unwrap_or_default());
    let mut addresses = Vec::new();
    for one in joined {
        let attached = context.drivers.networks.attach(one.request.clone(), netns.clone()).await;
        let name = || one.config.name.clone();
        let attached = attached.map_err(|source| PrepareError::Network { name: name(), source })?;
        addresses.extend(attached.ends().map(|end| end.address.addr()));
    }
    files.know(plan, &addresses).await?;
    let Some(asker) = &plan.asker else { return Ok(None) };
    let names = &context.drivers.names;
    // An earlier attempt had a namespace of its own.
    let _ = names.let_go(asker.container.clone()).await;
    let Err(error) = names.serve(asker.clone(), netns.path()).await else { return Ok(None) };
    let error = chain(&error).to_string();
    tracing::error!(container = asker.container, error, "a container is not answered names");
    let _ = names.let_go(asker.container.clone()).await;
    let further = files.ask_others(plan).await?.map(|text| format!("; {text}"));
    let further = further.unwrap_or_default();
    Ok(Some(format!("names of other services do not resolve in it: {error}{further}")))
}
