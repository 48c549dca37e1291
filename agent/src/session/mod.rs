//! The connection to the managers: a session at a time, for ever.
//!
//! A session is the stream of that name and, side by side with it, heartbeats, one stream of
//! assignments, batches of statuses, and the log streams, exec streams and answers that the manager asks for. All of
//! it lives in one scope: when one part fails, everything ends, and after a pause the next session
//! begins at the next manager. The containers know nothing of it.

mod assembly;
mod attempt;
mod credentials;
mod exec_stream;
mod failure;
mod farewell;
mod item;
mod log_stream;
mod managers;
mod question;
mod renewal;
mod sequence;
mod workload;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use rand::Rng as _;
use shoal_proto::v1::dispatcher_client::DispatcherClient;
use shoal_transport::{LiveCredentials, Role, renew_forever};
use shoal_types::error_chain::chain;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;

pub use credentials::CredentialLine;
pub use failure::{Failure, heartbeat_patience, heartbeat_wait};
pub use farewell::{NotDown, drain, farewell, step_down};
pub use managers::Managers;
pub use sequence::{Sequence, Step};
pub use workload::{Answer, Workload, WorkloadError};

use crate::description::Describe;
use crate::identity::IdentityStore;
use renewal::{renew_now, renew_somewhere};

type Client = DispatcherClient<Channel>;

/// Stops everything: this node was removed, and others have its tasks. What came of it, for people.
async fn give_up(context: &SessionContext, why: &str) -> String {
    tracing::error!(why, "this node was removed from its cluster: its containers are stopped");
    let stopping = format!("{why}; its containers are being stopped");
    context.standing.send_replace(Standing::Refused(stopping));
    match context.workload.leave().await {
        Ok(()) => format!("{why}; its containers were stopped"),
        Err(error) => format!("{why}; its containers cannot be stopped: {}", chain(&error)),
    }
}

/// Why this node cannot take its assignment; empty if it can.
type Trouble = watch::Sender<String>;

/// Where this host stands with its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It belongs to none.
    Inactive,
    /// It belongs to one and has no session; why, for people.
    Pending(String),
    /// Its session is alive.
    Active,
    /// Its managers refuse it; why, for people.
    Refused(String),
}

/// A membership: what a session needs besides the workload.
#[derive(Clone)]
pub struct Member {
    /// Who this node is.
    pub credentials: LiveCredentials,
    /// Where to go.
    pub managers: Arc<Managers>,
    /// Where renewed credentials are kept.
    pub store: IdentityStore,
    /// The socket of this host's own manager, if it has one.
    pub manager_socket: PathBuf,
    /// What the cluster has said last that this node is; nothing if it has not said so yet.
    pub role: watch::Sender<Option<Role>>,
}

/// What the sessions of a node share.
#[derive(Clone)]
pub struct SessionContext {
    /// Runs the tasks.
    pub workload: Arc<dyn Workload>,
    /// Describes this host anew for each session.
    pub describe: Describe,
    /// Told of the present session.
    pub line: CredentialLine,
    /// Told whenever the standing changes.
    pub standing: watch::Sender<Standing>,
}

/// Holds sessions, one after another, and keeps the certificate fresh. Never returns; dropping it
/// ends the session.
pub async fn run(context: &SessionContext, member: &Member) {
    let renewal = renew_forever(
        member.credentials.clone(),
        |current| renew_somewhere(member, current),
        |renewed| member.store.save_credentials(renewed),
    );
    tokio::select! {
        () = renewal => {}
        () = sessions(context, member) => {}
    }
}

async fn sessions(context: &SessionContext, member: &Member) {
    let mut failures: u32 = 0;
    // Moves on with every failure, also with the first one after a long session.
    let mut turn: u32 = 0;
    let trouble = Trouble::default();
    loop {
        let mut began: Option<Instant> = None;
        let failure = attempt::session(context, member, turn, &mut began, &trouble).await;
        failures = failure::place(failures, began.map(|at| at.elapsed()));
        turn = turn.wrapping_add(1);
        let mut why = chain(&failure).to_string();
        if failure.is_removal() {
            // Its manager is nobody's any more.
            member.role.send_replace(Some(Role::Agent));
            why = give_up(context, &why).await;
        }
        let wait = failure.wait(failures, rand::rng().random());
        let standing = if failure.is_refusal() {
            tracing::error!(why, ?wait, "the managers refuse this node");
            Standing::Refused(why)
        } else if failure.is_news() {
            tracing::info!(why, "beginning a session anew");
            Standing::Pending(why)
        } else {
            tracing::warn!(why, ?wait, "no session with a manager for now");
            Standing::Pending(why)
        };
        context.standing.send_replace(standing);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // Perhaps they were what was refused.
            () = member.credentials.changed() => {}
        }
    }
}
