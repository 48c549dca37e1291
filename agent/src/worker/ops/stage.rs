//! What a preparation is busy with, for people who wait for it.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shoal_agent_image::PullProgress;
use shoal_agent_planning::task::{Doing, Fact, TELL_INTERVAL, Tell, Telling};
use shoal_types::image_ref::ImageReference;
use tokio::sync::watch;

use super::{Context, Order};
use crate::worker::event::Event;
use crate::worker::images::describe;

/// How often is looked whether there is something to tell.
const LOOK_INTERVAL: Duration = TELL_INTERVAL;

/// What a preparation is busy with.
#[derive(Default)]
pub(super) struct Stage(Mutex<Work>);

#[derive(Clone, Default)]
enum Work {
    #[default]
    Beginning,
    Pull(ImageReference, watch::Receiver<PullProgress>),
    Other(String),
}

impl Stage {
    fn enter(&self, work: Work) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }

    /// It is busy with the pull of an image, which says how far it is.
    pub(super) fn is_pull(&self, image: ImageReference, progress: watch::Receiver<PullProgress>) {
        self.enter(Work::Pull(image, progress));
    }

    /// It is busy with this.
    pub(super) fn is(&self, what: impl Into<String>) {
        self.enter(Work::Other(what.into()));
    }

    fn doing(&self) -> Option<Doing> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Work::Beginning => None,
            Work::Pull(reference, progress) => Some(describe(reference, &progress.borrow())),
            Work::Other(what) => Some(Doing::new(what.clone(), "")),
        }
    }
}

/// Tells what a preparation is busy with, as long as it goes on.
pub(super) async fn tell(context: &Context, order: &Order, stage: &Stage) -> Infallible {
    let now = || context.drivers.clock.now().steady;
    let mut telling = Telling::new(now());
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    loop {
        look.tick().await;
        let Some(doing) = stage.doing() else { continue };
        if telling.next(&doing, now()) == Tell::Now {
            // The loop may have ended.
            let _ = order.events.send(Event::Fact(order.task.id, Fact::Progress(doing.text())));
            telling.tell(doing, now());
        }
    }
}
