//! Who belongs to the cluster, over the replicated state.

use std::sync::{Arc, Mutex, PoisonError};

use shoal_manager_state::{ClusterState, Command};
use shoal_transport::{PeerId, Role};
use shoal_types::error_chain::chain;
use shoal_types::object::{self, NodeDescription};
use shoal_types::spec::{NodeRole, NodeSpec};
use shoal_types::time::Timestamp;
use tonic::{Code, Status};

use crate::auth::{Standing, role_in, standing_in};
use crate::ca::{Admission, CertificateAuthority, ClusterCa, JoinSecrets};
use crate::clock;
use crate::cluster::Cluster;

/// The authority and the join secrets of a state.
///
/// # Errors
/// `UNAVAILABLE` while there is no cluster.
pub fn authority(view: &ClusterState) -> Result<(CertificateAuthority, JoinSecrets), Status> {
    let cluster =
        view.cluster().ok_or_else(|| Status::unavailable("this manager has no cluster yet"))?;
    let broken = |error: &dyn std::error::Error| Status::internal(chain(error).to_string());
    let authority = CertificateAuthority::of_cluster(cluster).map_err(|e| broken(&e))?;
    let secrets = JoinSecrets::of_cluster(&cluster.join_tokens).map_err(|e| broken(&e))?;
    Ok((authority, secrets))
}

/// What was read of the newest state: reading a certificate and a key costs more than most calls.
#[derive(Default)]
struct Known(Mutex<Option<Read>>);

struct Read {
    of: Arc<object::Cluster>,
    authority: Arc<CertificateAuthority>,
    secrets: JoinSecrets,
}

impl Known {
    fn of(&self, view: &ClusterState) -> Result<(Arc<CertificateAuthority>, JoinSecrets), Status> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |read: &&Read| view.cluster().is_some_and(|c| Arc::ptr_eq(c, &read.of));
        if let Some(read) = known.as_ref().filter(is_same) {
            return Ok((Arc::clone(&read.authority), read.secrets));
        }
        let (authority, secrets) = authority(view)?;
        let authority = Arc::new(authority);
        let read = |of| Read { of: Arc::clone(of), authority: Arc::clone(&authority), secrets };
        *known = view.cluster().map(read);
        Ok((authority, secrets))
    }
}

/// [`ClusterCa`] over the cluster's state.
#[derive(Clone)]
pub struct StateCa {
    cluster: Cluster,
    known: Arc<Known>,
}

impl StateCa {
    /// The authority of this cluster.
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, known: Arc::default() }
    }
}

#[tonic::async_trait]
impl ClusterCa for StateCa {
    async fn authority(&self) -> Result<(Arc<CertificateAuthority>, JoinSecrets), Status> {
        self.known.of(&*self.cluster.read().await?)
    }

    fn known_authority(&self) -> Result<(Arc<CertificateAuthority>, JoinSecrets), Status> {
        self.known.of(&self.cluster.view())
    }

    async fn admit(&self, admission: Admission) -> Result<Role, Status> {
        let role = match admission.role {
            Role::Agent => NodeRole::Agent,
            Role::Manager => NodeRole::Manager,
            Role::User => return Err(Status::permission_denied("a token never makes a user")),
        };
        let id = PeerId::Node(admission.node);
        if let Some(role) = role_in(&*self.cluster.read().await?, id) {
            return Ok(role);
        }
        let command = Command::CreateNode {
            id: admission.node,
            spec: NodeSpec { role, ..NodeSpec::default() },
            description: NodeDescription { hostname: admission.hostname, ..Default::default() },
        };
        match self.cluster.propose(command).await.map_err(Status::from) {
            Ok(_) => Ok(admission.role),
            // The same joiner was faster on another connection.
            Err(status) if status.code() == Code::AlreadyExists => {
                role_in(&self.cluster.view(), id).ok_or(status)
            }
            Err(status) => Err(status),
        }
    }

    async fn standing_of(&self, id: PeerId) -> Result<Option<Standing>, Status> {
        Ok(standing_in(&*self.cluster.read().await?, id))
    }

    fn now(&self) -> Timestamp {
        clock::now()
    }
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::{JoinSecret, PredefinedIds, apply};
    use shoal_types::id::ClusterId;
    use shoal_types::level::Level;
    use shoal_types::spec::{ClusterSpec, UserRole, UserSpec};

    use super::*;

    #[test]
    fn the_authority_is_read_again_when_the_cluster_has_changed_and_not_before() {
        let (mut state, known, now) = (ClusterState::new(), Known::default(), clock::now());
        assert!(known.of(&state).is_err(), "there is no cluster yet");
        let mut index = 0;
        let mut change = |state: &mut ClusterState, command| {
            index += 1;
            apply(state, index, now, command).expect("accepted");
        };
        let id = ClusterId::from(1);
        let ca = CertificateAuthority::create(id, now).expect("made");
        let [first, second] = [(); 2].map(|()| JoinSecrets::generate().expect("random"));
        let create = Command::CreateCluster {
            id,
            spec: ClusterSpec::default(),
            root_ca: ca.to_stored(),
            join_tokens: first.to_stored(),
            networks: PredefinedIds { bridge: 1.into(), host: 2.into(), none: 3.into() },
            level: Level::FIRST,
        };
        change(&mut state, create);
        let read = |state: &ClusterState| {
            let (ca, secrets) = known.of(state).expect("there is a cluster");
            (ca, secrets.agent.reveal())
        };
        let (ca, secret) = read(&state);
        assert_eq!(secret, first.agent.reveal());

        let spec = UserSpec { name: "a".into(), role: UserRole::Admin, ..UserSpec::default() };
        change(&mut state, Command::CreateUser { id: 4.into(), spec });
        assert!(Arc::ptr_eq(&read(&state).0, &ca), "it was read for nothing");

        let secret = JoinSecret(second.agent.reveal());
        change(&mut state, Command::RotateJoinToken { role: NodeRole::Agent, secret });
        assert_eq!(read(&state).1, second.agent.reveal());
    }
}
