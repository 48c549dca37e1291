//! Telling the managers that this node has gone.

use std::time::Duration;

use shoal_proto::transport::{MANAGER_NAME, client_channel};
use shoal_proto::v1::LeaveClusterRequest;
use shoal_proto::v1::dispatcher_client::DispatcherClient;
use tonic::{Code, Status};

use super::Member;

/// For one manager to answer, connecting included.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has this node removed from its cluster by a manager that leads. It holds nothing any more.
///
/// # Errors
/// Why the last manager that was asked did not do it.
pub async fn farewell(member: &Member) -> Result<(), String> {
    let mut why = "no manager is known".to_owned();
    for address in member.managers.all() {
        let channel = client_channel(address.clone(), member.credentials.clone(), MANAGER_NAME);
        let mut client = match channel {
            Ok(channel) => DispatcherClient::new(channel),
            Err(error) => return Err(error.to_string()),
        };
        let answer = tokio::time::timeout(PATIENCE, client.leave(LeaveClusterRequest {})).await;
        let answer =
            answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("it does not answer")));
        match answer {
            Ok(_) => return Ok(()),
            // It was removed before.
            Err(status) if status.code() == Code::Unauthenticated => return Ok(()),
            Err(status) => why = format!("{address}: {}", status.message()),
        }
    }
    Err(why)
}
