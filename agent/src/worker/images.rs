//! Which image a task gets: from here if that is sure to be the right one, else from the registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use shoal_agent_planning::image::{AfterFailure, CredentialNeed, PullFailure};
use shoal_agent_planning::lower::ImageDefaults;
use shoal_agent_planning::task::Doing;
use shoal_types::assignment::AssignedTask;
use shoal_types::error_chain::chain;
use shoal_types::id::{ServiceId, TaskId};
use shoal_types::image_ref::{Digest, ImageReference};
use shoal_types::registry_auth::RegistryAuth;
use shoal_types::spec::Healthcheck;
use tokio::sync::watch;

use shoal_agent_image::{
    Held, Image, ImageError, ImageHealthcheck, ImageStore, Pin, PullPolicy, PullProgress,
    RegistryError,
};

/// Brings images.
pub trait Images: Send + Sync + 'static {
    /// The image that is here under this name.
    fn hold(&self, reference: &ImageReference) -> Option<Held>;

    /// Keeps the image with this id, which a task was made from.
    fn pin(&self, id: Digest) -> Pin;

    /// As [`ImageStore::ensure`].
    ///
    /// # Errors
    /// The image is not here and cannot be had.
    fn ensure(
        &self,
        reference: ImageReference,
        policy: PullPolicy,
        auth: Option<RegistryAuth>,
        progress: watch::Sender<PullProgress>,
    ) -> BoxFuture<'static, Result<Held, ImageError>>;
}

/// Asks managers on behalf of tasks: for credentials, and whether others still lead to them.
pub trait Credentials: Send + Sync + 'static {
    /// The one with which a task's image is pulled, if there is one. `wait` is for somebody to ask.
    ///
    /// # Errors
    /// Nobody could be asked.
    fn for_task(
        &self,
        task: TaskId,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Option<RegistryAuth>, Unasked>>;

    /// Waits until no other node leads anybody to a task that does not serve any more, for a few seconds at
    /// the most: how many nodes still may. There has to be a session with a manager that can tell.
    ///
    /// # Errors
    /// Nobody could be asked.
    fn withdrawn(&self, task: TaskId) -> BoxFuture<'static, Result<u32, Unasked>>;
}

/// Why nobody could be asked for a credential.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Unasked(pub String);

impl Images for ImageStore {
    fn hold(&self, reference: &ImageReference) -> Option<Held> {
        Self::hold(self, reference)
    }

    fn pin(&self, id: Digest) -> Pin {
        Self::pin(self, id)
    }

    fn ensure(
        &self,
        reference: ImageReference,
        policy: PullPolicy,
        auth: Option<RegistryAuth>,
        progress: watch::Sender<PullProgress>,
    ) -> BoxFuture<'static, Result<Held, ImageError>> {
        let store = self.clone();
        async move { Self::ensure(&store, &reference, policy, auth, Some(progress)).await }.boxed()
    }
}

/// An image that is here, and what people should know about how it was chosen.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub held: Held,
    pub note: String,
}

/// Why there is no image for a task.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChoiceError {
    #[error(transparent)]
    Image(ImageError),
    /// The registry wants a credential, and whether there is one is not known.
    #[error("no manager could be asked for a login ({why})")]
    Unasked { why: Unasked, source: ImageError },
}

impl ChoiceError {
    /// What could be done about it.
    pub(super) fn hint(&self) -> Option<String> {
        let Self::Image(ImageError::Pull { source, .. }) = self else { return None };
        let RegistryError::Denied { registry, .. } = source else { return None };
        Some(format!("shoalctl login {registry}, then deploy with --with-registry-auth"))
    }
}

type Answer = Result<Chosen, Arc<ChoiceError>>;
/// How long a task whose image is not here waits for a manager who knows its credential.
const CREDENTIAL_WAIT: Duration = Duration::from_secs(10);

type Choice = BoxFuture<'static, Answer>;

struct Active {
    choice: WeakShared<Choice>,
    progress: watch::Receiver<PullProgress>,
}

/// Chooses images; tasks of a service that want the same one at the same time share one question.
pub(super) struct Chooser {
    images: Arc<dyn Images>,
    credentials: Arc<dyn Credentials>,
    /// By service too: what one may see, another perhaps may not.
    active: Mutex<BTreeMap<(ImageReference, ServiceId), Active>>,
    /// What keeps the image of each task, from its choice until its container is gone.
    kept: Mutex<BTreeMap<TaskId, Arc<Pin>>>,
}

impl Chooser {
    pub(super) fn new(images: Arc<dyn Images>, credentials: Arc<dyn Credentials>) -> Self {
        Self { images, credentials, active: Mutex::default(), kept: Mutex::default() }
    }

    /// Keeps the image of a task.
    pub(super) fn keep(&self, task: TaskId, pin: Arc<Pin>) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(task, pin);
    }

    /// Keeps the image of a task that was prepared by an earlier agent.
    pub(super) fn keep_known(&self, task: TaskId, image: Digest) {
        self.keep(task, Arc::new(self.images.pin(image)));
    }

    /// Lets go of the image of a task whose container is gone.
    pub(super) fn let_go(&self, task: TaskId) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&task);
    }

    /// The answer to come, and how far it is. It is worked on while anybody waits for it.
    pub(super) fn choose(
        &self,
        task: &AssignedTask,
        reference: &ImageReference,
    ) -> (Shared<Choice>, watch::Receiver<PullProgress>) {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.retain(|_, a| a.choice.upgrade().is_some_and(|c| c.peek().is_none()));
        let key = (reference.clone(), task.service_id);
        if let Some(known) = active.get(&key)
            && let Some(choice) = known.choice.upgrade()
        {
            return (choice, known.progress.clone());
        }
        let (sender, progress) = watch::channel(PullProgress::default());
        let sources = (Arc::clone(&self.images), Arc::clone(&self.credentials));
        let choice = choose(sources, task.id, reference.clone(), sender).boxed().shared();
        if let Some(weak) = choice.downgrade() {
            let entry = Active { choice: weak, progress: progress.clone() };
            active.insert(key, entry);
        }
        (choice, progress)
    }
}

/// Brings an image; what is decided on the way is [`shoal_agent_planning::image`]'s.
async fn choose(
    (images, credentials): (Arc<dyn Images>, Arc<dyn Credentials>),
    task: TaskId,
    reference: ImageReference,
    progress: watch::Sender<PullProgress>,
) -> Answer {
    let policy = PullPolicy::of(&reference);
    let asked = match CredentialNeed::of(policy, images.hold(&reference).is_some()) {
        CredentialNeed::None => Ok(None),
        CredentialNeed::IfAtHand => credentials.for_task(task, Duration::ZERO).await,
        CredentialNeed::Awaited => credentials.for_task(task, CREDENTIAL_WAIT).await,
    };
    let auth = asked.as_ref().ok().cloned().flatten();
    let error = match images.ensure(reference.clone(), policy, auth, progress).await {
        Ok(held) => return Ok(Chosen { held, note: String::new() }),
        Err(error) => error,
    };
    let here = images.hold(&reference);
    Err(Arc::new(match (failure(&error).then(here.is_some(), asked.is_ok()), here, asked) {
        (AfterFailure::UseHere, Some(held), _) => {
            let note = format!("using the image of this node: {}", chain(&error));
            return Ok(Chosen { held, note });
        }
        (AfterFailure::Unasked, _, Err(why)) => ChoiceError::Unasked { why, source: error },
        _ => ChoiceError::Image(error),
    }))
}

fn failure(error: &ImageError) -> PullFailure {
    match error {
        ImageError::Pull { source: RegistryError::Denied { .. }, .. } => PullFailure::Denied,
        ImageError::Pull { .. } | ImageError::NotFound { .. } => PullFailure::NotHad,
        _ => PullFailure::Other,
    }
}

/// What an image says about the containers made from it.
pub(super) fn defaults(image: &Image) -> ImageDefaults {
    let config = image.config.config();
    let config = config.as_ref();
    let list = |get: fn(&oci_spec::image::Config) -> &Option<Vec<String>>| {
        config.and_then(|c| get(c).clone()).unwrap_or_default()
    };
    let text = |get: fn(&oci_spec::image::Config) -> &Option<String>| {
        config.and_then(|c| get(c).clone()).unwrap_or_default()
    };
    ImageDefaults {
        entrypoint: list(oci_spec::image::Config::entrypoint),
        cmd: list(oci_spec::image::Config::cmd),
        env: list(oci_spec::image::Config::env),
        user: text(oci_spec::image::Config::user),
        workdir: text(oci_spec::image::Config::working_dir),
        stop_signal: text(oci_spec::image::Config::stop_signal),
        volumes: list(oci_spec::image::Config::volumes).into_iter().collect(),
        healthcheck: image.healthcheck.as_ref().map(healthcheck),
    }
}

fn healthcheck(check: &ImageHealthcheck) -> Healthcheck {
    let nanos = |n: i64| u64::try_from(n).ok().filter(|n| *n != 0).map(Duration::from_nanos);
    Healthcheck {
        test: check.test.clone(),
        interval: nanos(check.interval),
        timeout: nanos(check.timeout),
        start_period: nanos(check.start_period),
        start_interval: nanos(check.start_interval),
        retries: u64::try_from(check.retries).unwrap_or(0),
    }
}

/// How far a pull is, for people.
pub(super) fn describe(reference: &ImageReference, progress: &PullProgress) -> Doing {
    let what = match &progress.trouble {
        Some(trouble) => format!("pulling {reference}, {trouble}"),
        None => format!("pulling {reference}"),
    };
    let unit = |bytes: u64| format!("{}.{}", bytes / 1_000_000, bytes % 1_000_000 / 100_000);
    let PullProgress { layers, layers_done, bytes, bytes_done, .. } = *progress;
    let how_far = match layers {
        0 => String::new(),
        _ => {
            format!("{} of {} MB, {layers_done} of {layers} layers", unit(bytes_done), unit(bytes))
        }
    };
    Doing::new(what, how_far)
}
