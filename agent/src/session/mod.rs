//! The connection to the managers: a session at a time, for ever.
//!
//! A session is the stream of that name and, side by side with it, heartbeats, one stream of
//! assignments, batches of statuses, and the log and exec streams that the manager asks for. All of
//! it lives in one scope: when one part fails, everything ends, and after a pause the next session
//! begins at the next manager. The containers know nothing of it.

mod attempt;
mod exec_stream;
mod failure;
mod log_stream;
mod managers;
mod sequence;
mod workload;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use shoal_proto::transport::{
    Credentials, CredentialsError, EnrolError, LiveCredentials, MANAGER_NAME, client_channel,
    renew, renew_forever,
};
use shoal_proto::v1::dispatcher_client::DispatcherClient;
use shoal_types::error_chain::chain;
use shoal_types::object::NodeDescription;
use tokio::sync::watch;
use tonic::transport::Channel;

pub use failure::{Failure, heartbeat_patience, heartbeat_wait};
pub use managers::Managers;
pub use sequence::{Sequence, Step};
pub use workload::{Answer, Workload, WorkloadError};

use crate::identity::IdentityStore;

type Client = DispatcherClient<Channel>;

/// How long one manager may take to renew a certificate.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(30);

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
}

/// What the sessions of a node share.
#[derive(Clone)]
pub struct SessionContext {
    /// Runs the tasks.
    pub workload: Arc<dyn Workload>,
    /// Describes this host anew for each session.
    pub describe: Arc<dyn Fn() -> NodeDescription + Send + Sync>,
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
    loop {
        let mut began = false;
        let failure = attempt::session(context, member, turn, &mut began).await;
        failures = if began { 1 } else { failures.saturating_add(1) };
        turn = turn.wrapping_add(1);
        let why = chain(&failure).to_string();
        let wait = failure.wait(failures, rand::rng().random());
        let standing = if failure.is_refusal() {
            tracing::error!(why, ?wait, "the managers refuse this node");
            Standing::Refused(why)
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

/// Asks each manager in turn for a new certificate.
async fn renew_somewhere(member: &Member, current: Credentials) -> Result<Credentials, EnrolError> {
    let mut outcome = Err(EnrolError::Unavailable("no manager's address is known".to_owned()));
    for address in member.managers.all() {
        let channel = client_channel(address, member.credentials.clone(), MANAGER_NAME)
            .map_err(EnrolError::Connection)?;
        outcome = match tokio::time::timeout(RENEWAL_TIMEOUT, renew(channel, &current)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(EnrolError::Unavailable(format!("no answer in {RENEWAL_TIMEOUT:?}"))),
        };
        if !matches!(&outcome, Err(error) if error.may_pass()) {
            break;
        }
    }
    outcome
}

/// Renews at once, because the cluster gives this node another role than its certificate has.
async fn renew_now(member: &Member) -> Result<(), String> {
    let renewed = renew_somewhere(member, member.credentials.current()).await;
    let renewed = renewed.map_err(|error| chain(&error).to_string())?;
    let keep = |renewed: Credentials| -> Result<(), CredentialsError> {
        member.store.save_credentials(&renewed)?;
        member.credentials.replace(renewed)
    };
    keep(renewed).map_err(|error| chain(&error).to_string())
}
