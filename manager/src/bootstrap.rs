//! Making a cluster, becoming a manager of one, and letting its users in again. Served on a socket of this
//! host only, to root or this process's own user.

mod joining;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shoal_manager_state::{ClusterState, Command, PredefinedIds};
use shoal_proto::convert::InvalidMessage;
use shoal_proto::v1 as pb;
use shoal_proto::v1::bootstrap_server::Bootstrap;
use shoal_transport::{
    Credentials, LiveCredentials, ManagerAddress, PeerId, PrivateKey, Role, unix_peer_uid,
};
use shoal_types::error_chain::chain;
use shoal_types::id::{IdSource as _, NodeId, UserId};
use shoal_types::level::Level;
use shoal_types::object::{ManagerStatus, NodeDescription};
use shoal_types::spec::{
    Availability, ClusterSpec, Labels, NodeRole, NodeSpec, UserRole, UserSpec,
};
use tokio::sync::{Mutex, watch};
use tonic::{Code, Request, Response, Status};

use crate::api::users::FIRST_NAME;
use crate::api::{invalid, violations};
use crate::auth::{audit, role_in};
use crate::ca::{CertificateAuthority, JoinSecrets, node_id_of_key, public_key_of_request};
use crate::clock::{self, RandomIds};
use crate::cluster::{Cluster, ProposalError};
use crate::machine::Answer;
use crate::membership::authority;
use crate::raft::{LeaderState, RaftNode};

/// How long a group of one may take to have a leader.
const ELECTION_PATIENCE: Duration = Duration::from_secs(20);

/// Names that are tried for root of this host, if others have them.
const NAMES_MAX: u32 = 99;

/// Serves `Bootstrap`.
pub struct BootstrapService {
    cluster: Cluster,
    raft: RaftNode<Answer>,
    credentials_dir: PathBuf,
    listen: String,
    /// Told when this manager has an identity.
    identity: watch::Sender<Option<LiveCredentials>>,
    /// Told of managers of a cluster that this one is to join.
    seeds: watch::Sender<Vec<ManagerAddress>>,
    /// One at a time. The key for which a certificate was asked for last.
    busy: Mutex<Option<PrivateKey>>,
}

fn internal(error: &dyn std::error::Error) -> Status {
    Status::internal(chain(error).to_string())
}

impl BootstrapService {
    /// For a manager that listens on `listen` and keeps its credentials in `credentials_dir`.
    #[must_use]
    pub fn new(
        cluster: Cluster,
        raft: RaftNode<Answer>,
        credentials_dir: PathBuf,
        listen: String,
        identity: watch::Sender<Option<LiveCredentials>>,
        seeds: watch::Sender<Vec<ManagerAddress>>,
    ) -> Self {
        let busy = Mutex::default();
        Self { cluster, raft, credentials_dir, listen, identity, seeds, busy }
    }

    /// The state of this cluster, made if there is none. Each step is found done by a repeat.
    async fn make_cluster(
        &self,
        node: NodeId,
        request: &pb::BootstrapRequest,
    ) -> Result<Arc<ClusterState>, Status> {
        let spec: ClusterSpec = match request.spec.clone() {
            Some(spec) => spec.try_into().map_err(|e: InvalidMessage| invalid(&e.under("spec")))?,
            None => ClusterSpec::default(),
        };
        spec.validate().map_err(|e| violations(&e))?;
        let description: NodeDescription = request
            .description
            .clone()
            .ok_or_else(|| Status::invalid_argument("description: is required"))?
            .try_into()
            .map_err(|e: InvalidMessage| invalid(&e.under("description")))?;
        if self.raft.is_pristine() {
            self.raft.initialize(node, &request.advertise_addr).await.map_err(|e| internal(&e))?;
        }
        let mut leader = self.raft.leader();
        let elected = leader.wait_for(|state| matches!(state, LeaderState::Leader { .. }));
        match tokio::time::timeout(ELECTION_PATIENCE, elected).await {
            Ok(Ok(_)) => {}
            _ => return Err(Status::unavailable("this manager does not lead")),
        }
        let view = self.cluster.read().await?;
        if view.cluster().is_none() {
            self.cluster.propose(create_cluster(spec)?).await?;
        } else if view.node(node).is_none() && view.nodes().len() > 0 {
            return Err(Status::already_exists("this host has a cluster already"));
        }
        if view.node(node).is_none() {
            // An attempt that broke off may have begun with a key that the agent has lost since. Other
            // managers will dial this one by the node that is noted here.
            let (id, address) = (self.raft.id(), &request.advertise_addr);
            self.raft.set_node(id, node, address).await.map_err(|e| internal(&e))?;
            let spec = NodeSpec {
                name: String::new(),
                labels: Labels::new(),
                role: NodeRole::Manager,
                availability: Availability::Active,
            };
            self.cluster.propose(Command::CreateNode { id: node, spec, description }).await?;
        }
        let status = ManagerStatus {
            raft_id: self.raft.id(),
            addr: request.advertise_addr.clone(),
            level: Level::OWN,
        };
        let command = Command::SetManagerStatus { id: node, status: Some(status) };
        self.cluster.propose(command).await?;
        Ok(self.cluster.view())
    }

    /// A cluster with its first node and its first user.
    async fn make(
        &self,
        node: NodeId,
        request: &pb::BootstrapRequest,
    ) -> Result<pb::BootstrapResponse, Status> {
        let _alone = self.busy.lock().await;
        let view = self.make_cluster(node, request).await?;
        let (ca, secrets) = authority(&view)?;
        let now = clock::now();
        let node_chain = ca
            .issue(&request.node_csr_der, PeerId::Node(node), Role::Agent, now)
            .map_err(|e| bad_csr("node_csr_der", &e))?;
        let user = PeerId::User(self.admin(&view, FIRST_NAME).await.map_err(Status::from)?);
        let admin_chain = ca
            .issue(&request.admin_csr_der, user, Role::User, now)
            .map_err(|e| bad_csr("admin_csr_der", &e))?;
        let own = self.own_credentials(&ca, node)?;
        // A repeat changes nothing: what is in use is renewed in its place.
        if self.identity.borrow().is_none() {
            let live = LiveCredentials::new(own).map_err(|e| internal(&e))?;
            self.identity.send_replace(Some(live));
        }
        tracing::info!(cluster = %ca.cluster(), %node, "made a cluster");
        Ok(pb::BootstrapResponse {
            cluster_id: ca.cluster().to_string(),
            node_id: node.to_string(),
            node_chain_pem: node_chain.pem,
            admin_chain_pem: admin_chain.pem,
            root_pem: ca.material().trusted_pem(),
            agent_join_token: ca.join_token(secrets.agent).reveal(),
            manager_join_token: ca.join_token(secrets.manager).reveal(),
        })
    }

    /// The manager's own key and certificate, made if there are none.
    fn own_credentials(
        &self,
        ca: &CertificateAuthority,
        node: NodeId,
    ) -> Result<Credentials, Status> {
        if let Some(known) = Credentials::load(&self.credentials_dir).map_err(|e| internal(&e))? {
            return Ok(known);
        }
        let key = PrivateKey::generate().map_err(|e| internal(&e))?;
        let credentials = ca
            .certify(&key, PeerId::Node(node), Role::Manager, clock::now())
            .map_err(|e| internal(&e))?;
        credentials.save(&self.credentials_dir).map_err(|e| internal(&e))?;
        Ok(credentials)
    }
}

impl BootstrapService {
    /// The admin of this name, made if there is none.
    async fn admin(&self, view: &ClusterState, name: &str) -> Result<UserId, ProposalError> {
        if let Some(known) = view.user_by_name(name).filter(|user| user.is_lasting_admin()) {
            return Ok(known.id);
        }
        let id = RandomIds.next_id();
        let spec = UserSpec { name: name.to_owned(), role: UserRole::Admin, ..UserSpec::default() };
        self.cluster.propose(Command::CreateUser { id, spec }).await?;
        Ok(id)
    }

    /// As [`Self::admin`], with its name. Somebody else may have that: a number is added. Where nothing
    /// can be written, as when the quorum is lost, another admin that exists: root of this host holds
    /// the authority's key, it gains nothing by it.
    async fn admin_or_any(
        &self,
        view: &ClusterState,
        name: &str,
    ) -> Result<(UserId, String), Status> {
        // Of a cluster from before there were users: a first one would lock the others out.
        if view.users().len() == 0 {
            let id = RandomIds.next_id();
            return Ok((id, PeerId::User(id).to_string()));
        }
        let numbered = (2..=NAMES_MAX).map(|number| format!("{name}-{number}"));
        for name in std::iter::once(name.to_owned()).chain(numbered) {
            let error = match self.admin(view, &name).await {
                Ok(id) => return Ok((id, name)),
                Err(error) => Status::from(error),
            };
            match error.code() {
                Code::AlreadyExists => {}
                Code::Unavailable | Code::Unknown => {
                    let other = view.users().find(|user| user.is_lasting_admin()).ok_or(error)?;
                    return Ok((other.id, other.spec.name.clone()));
                }
                _ => return Err(error),
            }
        }
        Err(Status::already_exists(format!(
            "the names {name} and {name}-2 to {name}-{NAMES_MAX} have users who are no admins for \
             good: remove one of them"
        )))
    }

    /// What root of this host is called as a user.
    fn local_name(&self, view: &ClusterState) -> String {
        let raft = self.raft.id();
        let own = |node: &&Arc<shoal_types::object::Node>| {
            node.manager_status.as_ref().is_some_and(|status| status.raft_id == raft)
        };
        let host = view.nodes().find(own).map(|node| node.description.hostname.clone());
        let name = format!("root-{}", host.unwrap_or_default().replace('.', "-"));
        // With room for a number.
        let is_valid = shoal_types::name::is_valid(&format!("{name}-{NAMES_MAX}"));
        if is_valid { name } else { "root".to_owned() }
    }
}

fn create_cluster(spec: ClusterSpec) -> Result<Command, Status> {
    let mut ids = RandomIds;
    let id = ids.next_id();
    let ca = CertificateAuthority::create(id, clock::now()).map_err(|e| internal(&e))?;
    let secrets = JoinSecrets::generate().map_err(|e| internal(&e))?;
    Ok(Command::CreateCluster {
        id,
        spec,
        root_ca: ca.to_stored(),
        join_tokens: secrets.to_stored(),
        networks: PredefinedIds { bridge: ids.next_id(), host: ids.next_id(), none: ids.next_id() },
        level: Level::OWN,
    })
}

/// The socket's mode keeps others out already; this is the second lock.
fn check_peer<T>(request: &Request<T>) -> Result<(), Status> {
    let own = rustix::process::getuid().as_raw();
    match unix_peer_uid(request.extensions()) {
        Some(uid) if uid == 0 || uid == own => Ok(()),
        _ => Err(Status::permission_denied("only root may use this socket")),
    }
}

fn bad_csr(field: &str, error: &dyn std::error::Error) -> Status {
    Status::invalid_argument(format!("{field}: {}", chain(error)))
}

#[tonic::async_trait]
impl Bootstrap for BootstrapService {
    async fn bootstrap(
        &self,
        request: Request<pb::BootstrapRequest>,
    ) -> Result<Response<pb::BootstrapResponse>, Status> {
        check_peer(&request)?;
        let request = request.into_inner();
        if !request.listen_addr.is_empty() && request.listen_addr != self.listen {
            return Err(Status::invalid_argument(format!(
                "listen_addr: {:?} differs from {:?}, where this manager listens",
                request.listen_addr, self.listen
            )));
        }
        if request.advertise_addr.is_empty() {
            return Err(Status::invalid_argument("advertise_addr: is required"));
        }
        let key = public_key_of_request(&request.node_csr_der)
            .map_err(|e| bad_csr("node_csr_der", &e))?;
        public_key_of_request(&request.admin_csr_der).map_err(|e| bad_csr("admin_csr_der", &e))?;
        let node = node_id_of_key(&key);

        let object = format!("user {FIRST_NAME}");
        let entry = audit::Entry::local("/shoal.v1.Bootstrap/Bootstrap", object);
        let outcome = self.make(node, &request).await;
        entry.ended(&outcome);
        outcome.map(Response::new)
    }

    async fn issue_user_certificate(
        &self,
        request: Request<pb::IssueUserCertificateRequest>,
    ) -> Result<Response<pb::IssueUserCertificateResponse>, Status> {
        const PATH: &str = "/shoal.v1.Bootstrap/IssueUserCertificate";
        check_peer(&request)?;
        // What this manager has applied: with a quorum lost, people need their access most.
        let view = self.cluster.view();
        let (ca, _) = authority(&view)?;
        let csr = &request.get_ref().csr_der;
        public_key_of_request(csr).map_err(|e| bad_csr("csr_der", &e))?;
        let name = self.local_name(&view);
        let entry = audit::Entry::local(PATH, format!("user {name}"));
        let admin = self.admin_or_any(&view, &name).await;
        let entry = match &admin {
            Ok((_, name)) => entry.about(format!("user {name}")),
            Err(_) => entry,
        };
        entry.ended(&admin);
        let user = PeerId::User(admin?.0);
        let issued =
            ca.issue(csr, user, Role::User, clock::now()).map_err(|e| bad_csr("csr_der", &e))?;
        tracing::warn!(%user, "issued a certificate to a user on request of root of this host");
        Ok(Response::new(pb::IssueUserCertificateResponse {
            cluster_id: ca.cluster().to_string(),
            cluster_name: view.cluster().map(|c| c.spec.name.clone()).unwrap_or_default(),
            chain_pem: issued.pem,
            root_pem: ca.material().trusted_pem(),
            manager_addrs: Vec::new(),
        }))
    }

    async fn renew_node_certificate(
        &self,
        request: Request<pb::RenewNodeCertificateRequest>,
    ) -> Result<Response<pb::RenewCertificateResponse>, Status> {
        check_peer(&request)?;
        let request = request.into_inner();
        let id: NodeId = request
            .node_id
            .parse()
            .map_err(|e| Status::invalid_argument(format!("node_id: {e}")))?;
        // What this manager has applied: without its agent there may be nobody to make a quorum with.
        let view = self.cluster.view();
        let (ca, _) = authority(&view)?;
        let id = PeerId::Node(id);
        let role = role_in(&view, id).ok_or_else(|| {
            Status::permission_denied(format!("{id} is not a member of the cluster any more"))
        })?;
        let issued = ca
            .issue(&request.csr_der, id, role, clock::now())
            .map_err(|e| bad_csr("csr_der", &e))?;
        tracing::warn!(%id, "renewed a certificate on request of root of this host");
        let root_pem = ca.material().trusted_pem();
        let certificate = Some(pb::Certificate { chain_pem: issued.pem, root_pem });
        Ok(Response::new(pb::RenewCertificateResponse { certificate }))
    }

    async fn prepare_manager(
        &self,
        request: Request<pb::PrepareManagerRequest>,
    ) -> Result<Response<pb::PrepareManagerResponse>, Status> {
        check_peer(&request)?;
        self.prepare().await.map(Response::new)
    }

    async fn join_managers(
        &self,
        request: Request<pb::JoinManagersRequest>,
    ) -> Result<Response<pb::JoinManagersResponse>, Status> {
        check_peer(&request)?;
        self.join(request.into_inner()).await?;
        Ok(Response::new(pb::JoinManagersResponse {}))
    }
}
