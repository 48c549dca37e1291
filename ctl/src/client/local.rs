//! The connection to the agent of this host.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use futures::{Stream, StreamExt as _};
use shoal_proto::v1 as pb;
use shoal_proto::v1::local_agent_client::LocalAgentClient;
use shoal_transport::unix_channel;
use shoal_types::spec::ClusterSpec;
use tonic::transport::Channel;

use super::{Result, parts};
use crate::error::CommandError;

/// The agent of this host.
#[derive(Debug, Clone)]
pub(crate) struct LocalAgent {
    rpc: LocalAgentClient<Channel>,
}

/// An image as the agent holds it.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Image {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) references: Vec<String>,
    pub(crate) size_bytes: u64,
    pub(crate) created_at: u64,
}

impl From<pb::ImageSummary> for Image {
    fn from(wire: pb::ImageSummary) -> Self {
        let pb::ImageSummary { id, references, size_bytes, created_at } = wire;
        Self { id, references, size_bytes, created_at }
    }
}

/// What a new cluster begins with.
pub(crate) struct Initialised {
    pub(crate) cluster_id: String,
    pub(crate) node_id: String,
    pub(crate) admin_chain_pem: String,
    pub(crate) root_pem: String,
    pub(crate) agent_join_token: String,
    pub(crate) manager_addr: String,
}

/// A user's certificate, issued on this host.
pub(crate) struct UserCertificate {
    pub(crate) cluster_id: String,
    pub(crate) cluster_name: String,
    pub(crate) chain_pem: String,
    pub(crate) root_pem: String,
    pub(crate) manager_addrs: Vec<String>,
}

/// How far this host is on its way out.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    /// Absent if nobody drains it: no manager could be told, or it is no node any more.
    pub(crate) drained: Option<Drained>,
    pub(crate) not_told: String,
    pub(crate) node_id: String,
}

/// The same in a manager's words; `left` and so on are for people.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    pub(crate) begun: bool,
    pub(crate) hostname: String,
    pub(crate) left: usize,
    pub(crate) awaited: usize,
    pub(crate) unplaced: usize,
    pub(crate) left_names: Vec<String>,
    pub(crate) awaited_names: Vec<String>,
    pub(crate) unplaced_names: Vec<String>,
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
pub(crate) struct HostInfo {
    pub(crate) version: String,
    pub(crate) hostname: String,
    pub(crate) state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
    #[serde(rename = "ClusterID", skip_serializing_if = "String::is_empty")]
    pub(crate) cluster_id: String,
    #[serde(rename = "NodeID", skip_serializing_if = "String::is_empty")]
    pub(crate) node_id: String,
    pub(crate) role: &'static str,
    pub(crate) manager_addrs: Vec<String>,
    pub(crate) tasks: u64,
}

impl LocalAgent {
    /// Connects to the agent of this host.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        // tonic would only say that the transport failed; the system says why.
        if let Err(error) = UnixStream::connect(socket) {
            let at = socket.display();
            let failed = CommandError::failed(format!("cannot reach the agent at {at}"));
            return Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    failed.because("it does not run").hint("start it: systemctl start shoal-agent")
                }
                io::ErrorKind::PermissionDenied => {
                    failed.because(error).hint("only root may talk to the agent: use sudo")
                }
                _ => failed.because(error),
            });
        }
        Ok(Self { rpc: LocalAgentClient::new(unix_channel(socket)) })
    }

    pub(crate) async fn init(
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

    /// Node id and role.
    pub(crate) async fn join(
        &self,
        join_token: String,
        manager_addrs: Vec<String>,
    ) -> Result<(String, &'static str)> {
        let request = pb::JoinRequest { join_token, manager_addrs, ..Default::default() };
        let answer = self.rpc.clone().join(request).await.map_err(refused)?.into_inner();
        let role = role(answer.role());
        Ok((answer.node_id, role))
    }

    /// The node that this host was, and why no manager could be told, if none could.
    pub(crate) async fn leave(&self, force: bool) -> Result<(String, String)> {
        let answer = self.rpc.clone().leave(pb::LeaveRequest { force }).await.map_err(refused)?;
        let pb::LeaveResponse { not_told, node_id } = answer.into_inner();
        Ok((node_id, not_told))
    }

    /// Has this host's node drained, and hears how far that is.
    pub(crate) async fn drain(&self) -> Result<Draining> {
        let answer = self.rpc.clone().drain(pb::DrainRequest {}).await.map_err(refused)?;
        let pb::DrainResponse { drained, not_told, node_id } = answer.into_inner();
        Ok(Draining { drained: drained.map(Drained::from), not_told, node_id })
    }

    pub(crate) async fn info(&self) -> Result<HostInfo> {
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

    pub(crate) async fn issue_user_certificate(&self, csr_der: Vec<u8>) -> Result<UserCertificate> {
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

    pub(crate) async fn load_image(
        &self,
        pieces: impl Stream<Item = Vec<u8>> + Send + 'static,
    ) -> Result<Vec<Image>> {
        let pieces = pieces.map(|data| pb::LoadImageRequest { data });
        let answer = self.rpc.clone().load_image(pieces.boxed()).await.map_err(refused)?;
        Ok(answer.into_inner().images.into_iter().map(Image::from).collect())
    }

    pub(crate) async fn images(&self) -> Result<Vec<Image>> {
        let answer = self.rpc.clone().list_images(pb::ListImagesRequest {}).await;
        let mut images = Vec::new();
        parts::each(answer.map_err(refused)?.into_inner(), |part: pb::ListImagesResponse| {
            images.extend(part.images.into_iter().map(Image::from));
            Ok(())
        })
        .await?;
        Ok(images)
    }

    pub(crate) async fn remove_image(&self, reference: &str) -> Result<Vec<String>> {
        let request = pb::RemoveImageRequest { reference: reference.to_owned() };
        let answer = self.rpc.clone().remove_image(request).await.map_err(refused)?;
        Ok(answer.into_inner().removed)
    }
}

/// The agent's refusal; the hints of a manager's do not fit here.
#[expect(clippy::needless_pass_by_value, reason = "handed to map_err")]
fn refused(status: tonic::Status) -> CommandError {
    CommandError::failed(match status.message() {
        "" => format!("{:?}", status.code()).to_lowercase(),
        message => message.to_owned(),
    })
}

fn role(role: pb::NodeRole) -> &'static str {
    match role {
        pb::NodeRole::Agent => "worker",
        pb::NodeRole::Manager => "manager",
        pb::NodeRole::Unspecified => "",
    }
}
