//! The gRPC service `Ca`.

use std::sync::Arc;

use shoal_proto::v1;
use shoal_proto::v1::ca_server::Ca;
use shoal_transport::{Joiner, PeerId, Role};
use shoal_types::error_chain::chain;
use shoal_types::id::NodeId;
use shoal_types::time::Timestamp;
use tonic::{Request, Response, Status};

use super::{CaError, CertificateAuthority, JoinSecrets, TokenError, node_id_of_key};
use crate::auth::{Caller, Standing, audit, caller};

/// Longest hostname (RFC 1035, 2.3.4) or address that is taken from a joiner, in bytes.
const MAX_HINT: usize = 253;

/// A host that has shown a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Follows from its key, so a repeat has the same.
    pub node: NodeId,
    /// What its token gives.
    pub role: Role,
    /// What it calls itself; unverified.
    pub hostname: String,
}

/// What the service needs of the cluster.
#[tonic::async_trait]
pub trait ClusterCa: Send + Sync + 'static {
    /// The authority and the join secrets as the cluster has them now.
    ///
    /// # Errors
    /// `UNAVAILABLE` while this manager does not know.
    async fn authority(&self) -> Result<(Arc<CertificateAuthority>, JoinSecrets), Status>;

    /// The same as far as this manager knows, which costs next to nothing: strangers may ask.
    ///
    /// # Errors
    /// `UNAVAILABLE` while there is no cluster.
    fn known_authority(&self) -> Result<(Arc<CertificateAuthority>, JoinSecrets), Status>;

    /// Makes the node a member, durably, unless it is one already, and returns the role it has. To
    /// be repeated safely.
    ///
    /// # Errors
    /// A status for the joiner.
    async fn admit(&self, admission: Admission) -> Result<Role, Status>;

    /// What the cluster gives a member now; `None` if it is none.
    ///
    /// # Errors
    /// `UNAVAILABLE` while this manager does not know.
    async fn standing_of(&self, id: PeerId) -> Result<Option<Standing>, Status>;

    /// The time.
    fn now(&self) -> Timestamp;
}

/// Serves `Ca` over what the cluster knows. [`crate::auth`] has let the caller through.
#[derive(Debug)]
pub struct CaService<C>(C);

impl<C: ClusterCa> CaService<C> {
    /// The service.
    pub fn new(cluster: C) -> Self {
        Self(cluster)
    }

    /// Makes whoever shows a valid token a node.
    async fn let_in(
        &self,
        joiner: Joiner,
        message: v1::IssueNodeCertificateRequest,
    ) -> Result<v1::IssueNodeCertificateResponse, Status> {
        let admit = |(ca, secrets): &(Arc<CertificateAuthority>, JoinSecrets)| {
            secrets.admit(ca, &message.join_token).map_err(|e| token_status(&e))
        };
        // Who has no token at all makes no work for the other managers.
        admit(&self.0.known_authority()?)?;
        let newest = self.0.authority().await?;
        let role = admit(&newest)?;
        let (ca, _) = newest;
        let hints = message.hints.unwrap_or_default();
        check_hint("hints.hostname", &hints.hostname)?;
        if !hints.advertise_addr.is_empty() {
            return Err(Status::unimplemented(
                "hints.advertise_addr: a manager says itself where it is reached: leave it out",
            ));
        }

        let node = node_id_of_key(&joiner.public_key);
        let now = self.0.now();
        // Tried before the node exists, so that a bad request leaves nothing behind.
        let trial = ca.issue(&message.csr_der, PeerId::Node(node), role, now);
        let trial = trial.map_err(|error| ca_status(&error))?;
        if trial.public_key != joiner.public_key {
            return Err(Status::invalid_argument(
                "csr_der is for another key than the one of the connection",
            ));
        }
        let admission = Admission { node, role, hostname: hints.hostname };
        let granted = self.0.admit(admission).await?;
        let issued = if granted == role {
            trial
        } else {
            let issued = ca.issue(&message.csr_der, PeerId::Node(node), granted, now);
            issued.map_err(|error| ca_status(&error))?
        };
        tracing::info!(%node, role = granted.noun(), "issued a certificate to a joining node");
        Ok(v1::IssueNodeCertificateResponse {
            certificate: Some(certificate(&ca, issued.pem)),
            node_id: node.to_string(),
            cluster_id: ca.cluster().to_string(),
        })
    }
}

#[tonic::async_trait]
impl<C: ClusterCa> Ca for CaService<C> {
    async fn get_root_certificate(
        &self,
        _: Request<v1::GetRootCertificateRequest>,
    ) -> Result<Response<v1::GetRootCertificateResponse>, Status> {
        let (ca, _) = self.0.known_authority()?;
        Ok(Response::new(v1::GetRootCertificateResponse {
            root_pem: ca.material().trusted_pem(),
            cluster_id: ca.cluster().to_string(),
        }))
    }

    async fn issue_node_certificate(
        &self,
        request: Request<v1::IssueNodeCertificateRequest>,
    ) -> Result<Response<v1::IssueNodeCertificateResponse>, Status> {
        let Caller::Joiner(joiner) = caller(&request)?.clone() else {
            return Err(Status::failed_precondition(
                "this host is a member of the cluster already",
            ));
        };
        let message = request.into_inner();
        let hostname = message.hints.as_ref().map(|h| h.hostname.clone()).unwrap_or_default();
        let entry = audit::Entry::join(hostname);
        let outcome = self.let_in(joiner, message).await;
        let entry = match &outcome {
            Ok(answer) => entry.by(format!("node {}", answer.node_id)),
            Err(_) => entry,
        };
        entry.ended(&outcome);
        outcome.map(Response::new)
    }

    async fn renew_certificate(
        &self,
        request: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        let id = match caller(&request)? {
            Caller::Member(identity, _) => identity.id,
            Caller::Joiner(_) => return Err(Status::permission_denied("join first")),
        };
        let standing = self.0.standing_of(id).await?.ok_or_else(|| {
            Status::permission_denied(format!("{id} is not a member of the cluster any more"))
        })?;
        let (role, until) = (standing.role(), standing.ends());
        let (ca, _) = self.0.authority().await?;
        let issued = ca.issue_until(&request.get_ref().csr_der, id, role, self.0.now(), until);
        let issued = issued.map_err(|error| ca_status(&error))?;
        tracing::info!(%id, role = role.noun(), "renewed a certificate");
        let certificate = Some(certificate(&ca, issued.pem));
        Ok(Response::new(v1::RenewCertificateResponse { certificate }))
    }
}

fn certificate(ca: &CertificateAuthority, chain_pem: String) -> v1::Certificate {
    v1::Certificate { chain_pem, root_pem: ca.material().trusted_pem() }
}

fn check_hint(field: &str, value: &str) -> Result<(), Status> {
    if value.len() > MAX_HINT || value.chars().any(char::is_control) {
        let message = format!("{field}: longer than {MAX_HINT} bytes or with control characters");
        return Err(Status::invalid_argument(message));
    }
    Ok(())
}

fn token_status(error: &TokenError) -> Status {
    let message = error.to_string();
    match error {
        TokenError::Invalid(_) => Status::invalid_argument(message),
        TokenError::OtherCluster { .. } | TokenError::Secret => Status::permission_denied(message),
        TokenError::Random => Status::internal(message),
    }
}

fn ca_status(error: &CaError) -> Status {
    let message = chain(error).to_string();
    match error {
        CaError::Request { .. } => Status::invalid_argument(message),
        CaError::Key(_) | CaError::Root { .. } | CaError::Issue(_) | CaError::Credentials(_) => {
            Status::internal(message)
        }
    }
}
