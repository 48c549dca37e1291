//! The connection to the agent of this host.

use std::os::unix::net::UnixStream;
use std::path::Path;

use futures::{Stream, StreamExt as _};
use shoal_proto::v1 as pb;
use shoal_proto::v1::local_agent_client::LocalAgentClient;
use shoal_transport::unix_channel;
use shoal_types::object::TroubledLinks;
use shoal_types::spec::ClusterSpec;
use tonic::transport::Channel;

use super::{Result, part, parts};
use crate::error::ClientError;

/// The agent of this host.
#[derive(Debug, Clone)]
pub struct LocalAgent {
    rpc: LocalAgentClient<Channel>,
}

/// An image as the agent holds it.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Image {
    /// Digest of its configuration.
    #[serde(rename = "ID")]
    pub id: String,
    /// What it is called.
    pub references: Vec<String>,
    /// Of its layers together, in bytes.
    pub size_bytes: u64,
    /// When it was built, in nanoseconds since the Unix epoch.
    pub created_at: u64,
}

impl From<pb::ImageSummary> for Image {
    fn from(wire: pb::ImageSummary) -> Self {
        let pb::ImageSummary { id, references, size_bytes, created_at } = wire;
        Self { id, references, size_bytes, created_at }
    }
}

/// What a new cluster begins with.
pub struct Initialised {
    /// The cluster.
    pub cluster_id: String,
    /// This host's node.
    pub node_id: String,
    /// The first user's certificate with those above it, in PEM.
    pub admin_chain_pem: String,
    /// The cluster's root certificate, in PEM.
    pub root_pem: String,
    /// What other hosts join with, as agents.
    pub agent_join_token: String,
    /// Where the manager answers.
    pub manager_addr: String,
}

/// A user's certificate, issued on this host.
pub struct UserCertificate {
    /// The cluster.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// The certificate with those above it, in PEM.
    pub chain_pem: String,
    /// The cluster's root certificate, in PEM.
    pub root_pem: String,
    /// Where managers answer.
    pub manager_addrs: Vec<String>,
}

/// How far this host is on its way out.
#[derive(Debug, Default)]
pub struct Draining {
    /// Absent if nobody drains it: no manager could be told, or it is no node any more.
    pub drained: Option<Drained>,
    /// Why no manager could be told; empty if one was.
    pub not_told: String,
    /// The node that this host is.
    pub node_id: String,
}

/// The same in a manager's words; `left` and so on are for people.
#[derive(Debug, Default)]
pub struct Drained {
    /// Whether the manager has written it down.
    pub begun: bool,
    /// Of the node.
    pub hostname: String,
    /// Tasks that are still here.
    pub left: usize,
    /// Tasks elsewhere that are to take their place, and do not run yet.
    pub awaited: usize,
    /// Tasks that no node can take.
    pub unplaced: usize,
    /// Their names.
    pub left_names: Vec<String>,
    /// Their names.
    pub awaited_names: Vec<String>,
    /// Their names.
    pub unplaced_names: Vec<String>,
}

impl From<pb::DrainNodeResponse> for Drained {
    fn from(wire: pb::DrainNodeResponse) -> Self {
        let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let names = |role: pb::DrainedRole| -> Vec<String> {
            wire.tasks.iter().filter(|task| task.role() == role).map(words).collect()
        };
        Self {
            begun: wire.begun,
            left: count(wire.left),
            awaited: count(wire.awaited),
            unplaced: count(wire.unplaced),
            left_names: names(pb::DrainedRole::Left),
            awaited_names: names(pb::DrainedRole::Awaited),
            unplaced_names: names(pb::DrainedRole::Unplaced),
            hostname: wire.hostname,
        }
    }
}

fn words(task: &pb::DrainedTask) -> String {
    let state = shoal_types::task_state::TaskState::try_from(task.state());
    let state = state.map_or("unknown", shoal_types::task_state::TaskState::as_str);
    match task.reason.as_str() {
        "" => format!("{} ({state})", task.name),
        reason => format!("{} ({state}: {reason})", task.name),
    }
}

/// Where a host stands.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostInfo {
    /// Of the agent.
    pub version: String,
    /// As the cluster knows it.
    pub hostname: String,
    /// Whether the host is in a cluster.
    pub state: &'static str,
    /// Why it is as it is; empty if there is nothing to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The cluster; empty if it is in none.
    #[serde(rename = "ClusterID", skip_serializing_if = "String::is_empty")]
    pub cluster_id: String,
    /// The node; empty likewise.
    #[serde(rename = "NodeID", skip_serializing_if = "String::is_empty")]
    pub node_id: String,
    /// "worker" or "manager"; empty likewise.
    pub role: &'static str,
    /// Where managers answer.
    pub manager_addrs: Vec<String>,
    /// How many tasks are assigned to it.
    pub tasks: u64,
}

impl LocalAgent {
    /// Connects to the agent of this host.
    pub fn connect(socket: &Path) -> Result<Self> {
        // tonic would only say that the transport failed; the system says why.
        UnixStream::connect(socket)
            .map_err(|source| ClientError::NoAgent { socket: socket.to_owned(), source })?;
        Ok(Self { rpc: LocalAgentClient::new(unix_channel(socket)) })
    }

    /// Makes a cluster whose first node is this host.
    pub async fn init(
        &self,
        listen_addr: String,
        advertise_addr: String,
        admin_csr_der: Vec<u8>,
        spec: &ClusterSpec,
    ) -> Result<Initialised> {
        let spec = Some(spec.into());
        let request = pb::InitRequest { listen_addr, advertise_addr, admin_csr_der, spec };
        let answer = self.rpc.clone().init(request).await.map_err(refused)?.into_inner();
        let pb::InitResponse {
            cluster_id,
            node_id,
            admin_chain_pem,
            root_pem,
            agent_join_token,
            manager_join_token: _,
            manager_addr,
        } = answer;
        Ok(Initialised {
            cluster_id,
            node_id,
            admin_chain_pem,
            root_pem,
            agent_join_token,
            manager_addr,
        })
    }

    /// Node id and role. Where the host's manager listens, and where it is reached, may be left empty.
    pub async fn join(
        &self,
        join_token: String,
        manager_addrs: Vec<String>,
        [listen_addr, advertise_addr]: [String; 2],
    ) -> Result<(String, &'static str)> {
        let request = pb::JoinRequest { join_token, manager_addrs, listen_addr, advertise_addr };
        let answer = self.rpc.clone().join(request).await.map_err(refused)?.into_inner();
        let role = role(answer.role());
        Ok((answer.node_id, role))
    }

    /// Waits until the links to other nodes were tried: how many there are, unless that takes too long, and those
    /// that not everything passes. Nothing from an agent that does not know the question.
    pub async fn await_links(&self) -> Result<Option<(Option<u32>, TroubledLinks)>> {
        let answer = match self.rpc.clone().await_links(pb::AwaitLinksRequest {}).await {
            Err(status) if status.code() == tonic::Code::Unimplemented => return Ok(None),
            answer => answer.map_err(refused)?.into_inner(),
        };
        let troubled = answer.troubled.map(|links| part("troubled", links)).transpose()?;
        Ok(Some((answer.tried, troubled.unwrap_or_default())))
    }

    /// The node that this host was, and why no manager could be told, if none could.
    pub async fn leave(&self, force: bool) -> Result<(String, String)> {
        let answer = self.rpc.clone().leave(pb::LeaveRequest { force }).await.map_err(refused)?;
        let pb::LeaveResponse { not_told, node_id } = answer.into_inner();
        Ok((node_id, not_told))
    }

    /// Has this host's node drained, and hears how far that is.
    pub async fn drain(&self) -> Result<Draining> {
        let answer = self.rpc.clone().drain(pb::DrainRequest {}).await.map_err(refused)?;
        let pb::DrainResponse { drained, not_told, node_id } = answer.into_inner();
        Ok(Draining { drained: drained.map(Drained::from), not_told, node_id })
    }

    /// Where this host stands.
    pub async fn info(&self) -> Result<HostInfo> {
        let answer = self.rpc.clone().get_info(pb::GetInfoRequest {}).await.map_err(refused)?;
        let answer = answer.into_inner();
        let state = match answer.state() {
            pb::MembershipState::Inactive => "inactive",
            pb::MembershipState::Pending => "pending",
            pb::MembershipState::Active => "active",
            pb::MembershipState::Error => "error",
            pb::MembershipState::Unspecified => "unknown",
        };
        Ok(HostInfo {
            state,
            role: role(answer.role()),
            version: answer.version,
            hostname: answer.hostname,
            message: answer.message,
            cluster_id: answer.cluster_id,
            node_id: answer.node_id,
            manager_addrs: answer.manager_addrs,
            tasks: answer.tasks,
        })
    }

    /// A certificate for a user, who needs no other to ask for it.
    pub async fn issue_user_certificate(&self, csr_der: Vec<u8>) -> Result<UserCertificate> {
        let request = pb::IssueUserCertificateRequest { csr_der };
        let answer = self.rpc.clone().issue_user_certificate(request).await.map_err(refused)?;
        let pb::IssueUserCertificateResponse {
            cluster_id,
            cluster_name,
            chain_pem,
            root_pem,
            manager_addrs,
        } = answer.into_inner();
        Ok(UserCertificate { cluster_id, cluster_name, chain_pem, root_pem, manager_addrs })
    }

    /// Takes images from an archive, in pieces.
    pub async fn load_image(
        &self,
        pieces: impl Stream<Item = Vec<u8>> + Send + 'static,
    ) -> Result<Vec<Image>> {
        let pieces = pieces.map(|data| pb::LoadImageRequest { data });
        let answer = self.rpc.clone().load_image(pieces.boxed()).await.map_err(refused)?;
        Ok(answer.into_inner().images.into_iter().map(Image::from).collect())
    }

    /// The images of this host.
    pub async fn images(&self) -> Result<Vec<Image>> {
        let answer = self.rpc.clone().list_images(pb::ListImagesRequest {}).await;
        let mut images = Vec::new();
        parts::each(answer.map_err(refused)?.into_inner(), |part: pb::ListImagesResponse| {
            images.extend(part.images.into_iter().map(Image::from));
            Ok(())
        })
        .await?;
        Ok(images)
    }

    /// Removes an image or a name of it, and returns what went.
    pub async fn remove_image(&self, reference: &str) -> Result<Vec<String>> {
        let request = pb::RemoveImageRequest { reference: reference.to_owned() };
        let answer = self.rpc.clone().remove_image(request).await.map_err(refused)?;
        Ok(answer.into_inner().removed)
    }
}

/// The agent's refusal, which is not a manager's.
fn refused(status: tonic::Status) -> ClientError {
    ClientError::Agent(Box::new(status))
}

fn role(role: pb::NodeRole) -> &'static str {
    match role {
        pb::NodeRole::Agent => "worker",
        pb::NodeRole::Manager => "manager",
        pb::NodeRole::Unspecified => "",
    }
}
