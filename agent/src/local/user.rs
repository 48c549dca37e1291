//! Letting users in again: root of a manager's host gets a user's certificate without having one.

use std::time::Duration;

use shoal_proto::v1::bootstrap_client::BootstrapClient;
use shoal_proto::v1::{IssueUserCertificateRequest, IssueUserCertificateResponse};
use shoal_transport::unix_channel;
use tonic::Status;

use super::init::of_manager;
use super::internal;
use crate::node::Node;

/// For the manager to answer; it only signs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn issue(
    node: &Node,
    request: IssueUserCertificateRequest,
) -> Result<IssueUserCertificateResponse, Status> {
    let cluster = node.store().cluster().map_err(|error| internal(&error))?;
    if node.member().is_none() {
        return Err(Status::failed_precondition("this host belongs to no cluster"));
    }
    let Some(manager) = cluster.manager else {
        let why = format!(
            "no manager runs on this host: ask on a manager's host; known are {}",
            cluster.managers.join(", ")
        );
        return Err(Status::failed_precondition(why));
    };
    let socket = node.manager().config().socket();
    if let Err(error) = tokio::net::UnixStream::connect(&socket).await {
        let why = format!("this host's manager does not answer on {}: {error}", socket.display());
        return Err(Status::failed_precondition(why));
    }
    let mut client = BootstrapClient::new(unix_channel(&socket));
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.issue_user_certificate(request)).await;
    let answer = match answer {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return Err(Status::new(of_manager(status.code()), status.message())),
        Err(_) => {
            let why = format!("this host's manager does not answer within {ANSWER_TIMEOUT:?}");
            return Err(Status::deadline_exceeded(why));
        }
    };
    tracing::info!(cluster = answer.cluster_id, "had a certificate issued to a user");
    // Its own manager first: whoever asks here is here.
    let others = cluster.managers.into_iter().filter(|other| *other != manager.advertise);
    let manager_addrs = std::iter::once(manager.advertise.clone()).chain(others).collect();
    Ok(IssueUserCertificateResponse { manager_addrs, ..answer })
}
