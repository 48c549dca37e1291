//! Becoming a manager of a cluster that exists.

use shoal_proto::v1 as pb;
use shoal_transport::{Credentials, LiveCredentials, ManagerAddress, PrivateKey, Role};
use shoal_types::error_chain::chain;
use tonic::Status;

use super::{BootstrapService, internal};

fn refused(why: impl Into<String>) -> Status {
    Status::failed_precondition(why)
}

impl BootstrapService {
    /// Whether this manager knows of a Raft group that it belongs, or belonged, to.
    fn is_member(&self) -> bool {
        !self.raft.members().is_empty()
    }

    /// A request for the certificate with which this manager joins, if it has to.
    pub(super) async fn prepare(&self) -> Result<pb::PrepareManagerResponse, Status> {
        let mut asked = self.busy.lock().await;
        if self.is_member() {
            return Ok(pb::PrepareManagerResponse { is_member: true, csr_der: Vec::new() });
        }
        let key = PrivateKey::generate().map_err(|e| internal(&e))?;
        let csr_der = key.request().map_err(|e| internal(&e))?;
        *asked = Some(key);
        Ok(pb::PrepareManagerResponse { is_member: false, csr_der })
    }

    /// Takes the certificate, and makes itself known to these managers.
    pub(super) async fn join(&self, request: pb::JoinManagersRequest) -> Result<(), Status> {
        let pb::JoinManagersRequest { certificate, manager_addrs } = request;
        let asked = self.busy.lock().await;
        if self.is_member() {
            return Err(refused("this manager is a member of a cluster already"));
        }
        let Some(key) = asked.as_ref() else {
            return Err(refused("no certificate was asked for: prepare this manager first"));
        };
        let addresses = addresses(&manager_addrs)?;
        let certificate =
            certificate.ok_or_else(|| Status::invalid_argument("certificate: is required"))?;
        let own = Credentials::from_pem(certificate.chain_pem, key.to_pem(), certificate.root_pem)
            .map_err(|e| refused(format!("certificate: {}", chain(&e))))?;
        let identity = *own.identity();
        let (Some(node), Role::Manager) = (identity.node(), identity.role) else {
            let who = identity.role.noun();
            return Err(refused(format!("certificate: is one of a {who}, and not of a manager")));
        };
        own.save(&self.credentials_dir).map_err(|e| internal(&e))?;
        let known = self.identity.borrow().clone();
        match known {
            Some(live) => live.replace(own).map_err(|e| internal(&e))?,
            None => {
                let live = LiveCredentials::new(own).map_err(|e| internal(&e))?;
                self.identity.send_replace(Some(live));
            }
        }
        self.seeds.send_replace(addresses);
        tracing::info!(cluster = %identity.cluster, %node, "joining the managers of a cluster");
        Ok(())
    }
}

fn addresses(texts: &[String]) -> Result<Vec<ManagerAddress>, Status> {
    if texts.is_empty() {
        return Err(Status::invalid_argument("manager_addrs: is empty, expected one at least"));
    }
    let parse = |text: &String| {
        text.parse().map_err(|e| Status::invalid_argument(format!("manager_addrs: {e}")))
    };
    texts.iter().map(parse).collect()
}
