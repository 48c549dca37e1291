//! Telling the managers that this node goes.

use std::time::Duration;

use shoal_proto::v1::dispatcher_client::DispatcherClient;
use shoal_proto::v1::{DrainNodeRequest, DrainNodeResponse, LeaveClusterRequest};
use shoal_transport::{MANAGER_NAME, client_channel, is_removed};
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::Member;

/// For one manager to answer, connecting included.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has this node drained by a manager that leads, and hears how far that is. `None`: it was removed
/// before.
///
/// # Errors
/// Why the last manager that was asked did not do it.
pub async fn drain(member: &Member) -> Result<Option<DrainNodeResponse>, String> {
    first(member, async |mut client| client.drain(DrainNodeRequest {}).await).await
}

/// Has this node removed from its cluster by a manager that leads. It holds nothing any more.
///
/// # Errors
/// Why the last manager that was asked did not do it.
pub async fn farewell(member: &Member) -> Result<(), String> {
    first(member, async |mut client| client.leave(LeaveClusterRequest {}).await).await.map(drop)
}

/// The answer of the first manager that gives one. `None`: this node is no member any more, by the word
/// of its cluster.
async fn first<T>(
    member: &Member,
    ask: impl AsyncFn(DispatcherClient<Channel>) -> Result<Response<T>, Status>,
) -> Result<Option<T>, String> {
    let mut why = "no manager is known".to_owned();
    for address in member.managers.all() {
        let channel = client_channel(address.clone(), member.credentials.clone(), MANAGER_NAME);
        let client = match channel {
            Ok(channel) => DispatcherClient::new(channel),
            Err(error) => return Err(error.to_string()),
        };
        let answer = tokio::time::timeout(PATIENCE, ask(client)).await;
        match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("it does not answer"))) {
            Ok(answer) => return Ok(Some(answer.into_inner())),
            // Any other refusal, as of a certificate that has ended, leaves it a member.
            Err(status) if is_removed(&status) => return Ok(None),
            Err(status) => why = format!("{address}: {}", status.message()),
        }
    }
    Err(why)
}
