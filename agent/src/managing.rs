//! The manager of this host follows the role of its node: it is started and brought into the cluster when the
//! node becomes a manager, and stopped and forgotten when the node is one no more.
//!
//! What a manager keeps is removed with it: a log that comes back after its member has left must not be taken
//! for that member's. The next one begins with nothing, under an id of its own.

use std::path::Path;
use std::time::Duration;

use rand::Rng as _;
use shoal_agent_ground::backoff::Backoff;
use shoal_proto::v1::bootstrap_client::BootstrapClient;
use shoal_proto::v1::{Certificate, JoinManagersRequest, PrepareManagerRequest};
use shoal_transport::{EnrolError, MANAGER_NAME, Role, certify, client_channel, unix_channel};
use shoal_types::error_chain::chain;
use tokio::time::timeout;
use tonic::Status;

use crate::endpoint;
use crate::identity::{ClusterFile, IdentityError};
use crate::manager_child::{ManagerState, UserError};
use crate::node::Node;
use crate::session::Member;

/// When something did not work.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(100), last: Duration::from_secs(5) };
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the manager is not what it is to be.
#[derive(Debug, thiserror::Error)]
enum NotFollowed {
    /// What is known of the cluster cannot be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nobody to run it as.
    #[error("cannot run a manager")]
    User(#[from] UserError),
    /// It has no place to listen, or would find what is not its own.
    #[error("cannot run a manager: {}", .0.message())]
    Place(Box<Status>),
    /// What it has kept cannot be removed.
    #[error("cannot remove {}", .path.display())]
    Remove {
        /// Which directory.
        path: std::path::PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// It does not answer on its socket, or not as it should.
    #[error("this host's manager does not join: {}", .0.message())]
    Manager(Box<Status>),
    /// It gets no certificate.
    #[error("this host's manager gets no certificate")]
    Certificate(#[source] EnrolError),
}

impl NotFollowed {
    fn place(status: Status) -> Self {
        Self::Place(Box::new(status))
    }

    fn manager(status: Status) -> Self {
        Self::Manager(Box::new(status))
    }
}

/// What is to be done about the manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// There is none, and none is wanted.
    Nothing,
    /// There is to be one from now on.
    Begin,
    /// The one that there is belongs into the cluster.
    Bring,
    /// There is to be none any more.
    End,
}

/// By what the cluster has said, if it has, and whether there is one.
const fn wish(told: Option<Role>, has_manager: bool) -> Wish {
    match (told, has_manager) {
        (Some(Role::Manager), false) => Wish::Begin,
        (Some(Role::Manager) | None, true) => Wish::Bring,
        (Some(Role::Agent | Role::User), true) => Wish::End,
        (Some(Role::Agent | Role::User) | None, false) => Wish::Nothing,
    }
}

/// Keeps the manager as the node's role wants it. Never returns; dropping it leaves everything as it is.
pub(crate) async fn follow(node: &Node, member: &Member) {
    let (mut role, mut states) = (member.role.subscribe(), node.manager().states());
    let mut failures = 0;
    loop {
        let told = *role.borrow_and_update();
        let runs = matches!(*states.borrow_and_update(), ManagerState::Running { .. });
        let outcome = match node.store().cluster() {
            Ok(cluster) => match wish(told, cluster.manager.is_some()) {
                Wish::Begin => begin(node, member).await,
                Wish::Bring if runs => bring(node, member).await,
                Wish::End => end(node).await,
                Wish::Nothing | Wish::Bring => Ok(()),
            },
            Err(error) => Err(error.into()),
        };
        failures = if outcome.is_ok() { 0 } else { failures + 1 };
        let wait = AGAIN.wait(failures.max(1), rand::rng().random());
        if let Err(error) = &outcome {
            let why = chain(error).to_string();
            match failures {
                // It takes a moment to serve its socket.
                1 => tracing::debug!(why, ?wait, "this host's manager is not yet what it is to be"),
                _ => tracing::warn!(why, ?wait, "this host's manager is not yet what it is to be"),
            }
        }
        tokio::select! {
            // Both fail only when we are gone.
            _ = role.changed() => {}
            _ = states.changed() => {}
            () = tokio::time::sleep(wait), if failures > 0 => {}
        }
    }
}

async fn begin(node: &Node, member: &Member) -> Result<(), NotFollowed> {
    let _alone = node.change().await;
    let manager = node.manager();
    manager.check_user()?;
    let cluster = node.store().cluster()?;
    let endpoint = match cluster.endpoint {
        Some(endpoint) => endpoint,
        None => endpoint::find("", "", &member.managers.all()).await.map_err(NotFollowed::place)?,
    };
    endpoint::prepare(&manager.config().state_dir, false).map_err(NotFollowed::place)?;
    endpoint::can_listen(&endpoint).map_err(NotFollowed::place)?;
    let kept = endpoint.clone();
    node.store().change_cluster(|cluster| cluster.manager = Some(kept))?;
    tracing::info!(advertise = endpoint.advertise, "this node is a manager from now on");
    manager.ensure(endpoint);
    Ok(())
}

/// A manager that has no log of the cluster gets a certificate, and managers whom it can ask.
async fn bring(node: &Node, member: &Member) -> Result<(), NotFollowed> {
    let mut client = BootstrapClient::new(unix_channel(&node.manager().config().socket()));
    let prepared = in_time(client.prepare_manager(PrepareManagerRequest {})).await?;
    if prepared.is_member {
        return Ok(());
    }
    let own = node.store().cluster()?.manager.map(|endpoint| endpoint.advertise);
    let certificate = certificate(member, prepared.csr_der, own.as_deref()).await?;
    let others = member.managers.all().iter().map(ToString::to_string).collect::<Vec<_>>();
    let manager_addrs = others.into_iter().filter(|other| Some(other) != own.as_ref()).collect();
    let request = JoinManagersRequest { certificate: Some(certificate), manager_addrs };
    in_time(client.join_managers(request)).await?;
    tracing::info!("this host's manager joins those of the cluster");
    Ok(())
}

async fn in_time<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, NotFollowed> {
    let late = || Status::deadline_exceeded(format!("no answer within {PATIENCE:?}"));
    match timeout(PATIENCE, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner).map_err(NotFollowed::manager),
        Err(_) => Err(NotFollowed::manager(late())),
    }
}

/// From the first manager that gives one. The one of this host, which is at `own`, has none to give.
async fn certificate(
    member: &Member,
    csr_der: Vec<u8>,
    own: Option<&str>,
) -> Result<Certificate, NotFollowed> {
    let mut outcome = Err(EnrolError::Unavailable("no other manager is known".to_owned()));
    for address in member.managers.all() {
        if own == Some(address.to_string().as_str()) {
            continue;
        }
        let channel = client_channel(address, member.credentials.clone(), MANAGER_NAME)
            .map_err(|error| NotFollowed::Certificate(EnrolError::Connection(error)))?;
        let answer = timeout(PATIENCE, certify(channel, csr_der.clone())).await;
        let late = |_| Err(EnrolError::Unavailable(format!("no answer within {PATIENCE:?}")));
        outcome = answer.unwrap_or_else(late);
        if outcome.is_ok() {
            break;
        }
    }
    outcome.map_err(NotFollowed::Certificate)
}

/// In this order: with nothing left of it, a manager that is started again by mistake is nobody's.
async fn end(node: &Node) -> Result<(), NotFollowed> {
    let _alone = node.change().await;
    tracing::info!("this node is no manager any more: stopping its manager, removing what it kept");
    node.manager().stop().await;
    remove(&node.manager().config().state_dir).await?;
    node.store().change_cluster(|cluster: &mut ClusterFile| cluster.manager = None)?;
    Ok(())
}

async fn remove(dir: &Path) -> Result<(), NotFollowed> {
    match tokio::fs::remove_dir_all(dir).await {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(NotFollowed::Remove { path: dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_wished_for_by_the_cluster_alone() {
        let table = [
            (None, false, Wish::Nothing),
            // The managers of this cluster may all be off: it goes on.
            (None, true, Wish::Bring),
            (Some(Role::Manager), false, Wish::Begin),
            (Some(Role::Manager), true, Wish::Bring),
            (Some(Role::Agent), false, Wish::Nothing),
            (Some(Role::Agent), true, Wish::End),
        ];
        for (told, has_manager, expected) in table {
            assert_eq!(wish(told, has_manager), expected, "{told:?} {has_manager}");
        }
    }
}
