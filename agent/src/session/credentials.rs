//! Asking a manager on behalf of tasks.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_proto::v1::{AwaitWithdrawalRequest, GetRegistryAuthRequest};
use shoal_types::id::TaskId;
use shoal_types::registry_auth::RegistryAuth;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Code;

use super::Client;
use crate::worker::{Credentials, Unasked};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// For others to be told that a task does not serve any more. Managers answer a little earlier.
const WITHDRAWAL: Duration = Duration::from_secs(5);

/// The present session, for those who ask on behalf of tasks. Clones share it. What it brings is in
/// memory alone, and there only as long as a pull takes.
#[derive(Clone, Default)]
pub struct CredentialLine(watch::Sender<Option<(Client, String)>>);

/// Ends with the session.
pub(super) struct Open<'a>(&'a CredentialLine);

impl CredentialLine {
    pub(super) fn open(&self, client: Client, session: String) -> Open<'_> {
        self.0.send_replace(Some((client, session)));
        Open(self)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.0.send_replace(None);
    }
}

impl Credentials for CredentialLine {
    fn for_task(
        &self,
        task: TaskId,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Option<RegistryAuth>, Unasked>> {
        let mut sessions = self.0.subscribe();
        async move {
            // Its end is no matter: what counts is whether there is a session then.
            let _ = timeout(wait, sessions.wait_for(Option::is_some)).await;
            let session = sessions.borrow().clone();
            let Some((mut client, session_id)) = session else {
                return Err(Unasked("there is no session with a manager".to_owned()));
            };
            let request = GetRegistryAuthRequest { session_id, task_id: task.to_string() };
            let answer = match timeout(PATIENCE, client.get_registry_auth(request)).await {
                Err(_) => return Err(Unasked(format!("no answer within {PATIENCE:?}"))),
                // An older manager, which has none to give.
                Ok(Err(status)) if status.code() == Code::Unimplemented => return Ok(None),
                Ok(Err(status)) => return Err(Unasked(status.message().to_owned())),
                Ok(Ok(answer)) => answer.into_inner(),
            };
            let auth = answer.auth.map(RegistryAuth::try_from).transpose();
            auth.map_err(|error| Unasked(error.to_string()))
        }
        .boxed()
    }

    fn withdrawn(&self, task: TaskId) -> BoxFuture<'static, Result<u32, Unasked>> {
        let session = self.0.borrow().clone();
        async move {
            let Some((mut client, session_id)) = session else {
                return Err(Unasked("there is no session with a manager".to_owned()));
            };
            let request = AwaitWithdrawalRequest { session_id, task_id: task.to_string() };
            match timeout(WITHDRAWAL, client.await_withdrawal(request)).await {
                Err(_) => Err(Unasked(format!("no answer within {WITHDRAWAL:?}"))),
                // An older manager, which cannot tell.
                Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(0),
                Ok(Err(status)) => Err(Unasked(status.message().to_owned())),
                Ok(Ok(answer)) => Ok(answer.into_inner().missing),
            }
        }
        .boxed()
    }
}
