//! Telling the managers that this node goes.

use std::time::Duration;

use shoal_proto::v1::dispatcher_client::DispatcherClient;
use shoal_proto::v1::{DrainNodeRequest, DrainNodeResponse, LeaveClusterRequest, StepDownRequest};
use shoal_transport::{MANAGER_NAME, ManagerAddress, client_channel, is_removed};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

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

/// Why this node is a manager still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotDown {
    /// The cluster needs it; why, for people.
    Needed(String),
    /// Nobody who could do it answers; why, for people.
    Unheard(String),
}

/// Has this node be a manager no more. True if its manager takes no part by now: it may be stopped.
///
/// # Errors
/// [`NotDown`].
pub async fn step_down(member: &Member, force: bool) -> Result<bool, NotDown> {
    let mut why = "no manager is known".to_owned();
    for address in member.managers.all() {
        let mut client = client(member, &address).map_err(NotDown::Unheard)?;
        let asked = client.step_down(StepDownRequest { force });
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("it does not answer"))) {
            Ok(answer) => return Ok(answer.into_inner().done),
            Err(status) if is_removed(&status) => return Ok(true),
            // Who says so leads: it speaks for all.
            Err(status) if status.code() == Code::FailedPrecondition => {
                return Err(NotDown::Needed(status.message().to_owned()));
            }
            Err(status) => why = format!("{address}: {}", status.message()),
        }
    }
    Err(NotDown::Unheard(why))
}

fn client(member: &Member, address: &ManagerAddress) -> Result<DispatcherClient<Channel>, String> {
    let channel = client_channel(address.clone(), member.credentials.clone(), MANAGER_NAME);
    channel.map(DispatcherClient::new).map_err(|error| error.to_string())
}

/// The answer of the first manager that gives one. `None`: this node is no member any more, by the word
/// of its cluster.
async fn first<T>(
    member: &Member,
    ask: impl AsyncFn(DispatcherClient<Channel>) -> Result<Response<T>, Status>,
) -> Result<Option<T>, String> {
    let mut why = "no manager is known".to_owned();
    for address in member.managers.all() {
        let client = client(member, &address)?;
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
