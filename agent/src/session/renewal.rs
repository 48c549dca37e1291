//! New certificates for this node.

use std::time::Duration;

use shoal_transport::{
    Credentials, CredentialsError, EnrolError, MANAGER_NAME, client_channel, renew, renew_on_host,
    unix_channel,
};
use shoal_types::error_chain::chain;
use tokio::time::timeout;

use super::Member;

/// How long one manager may take to renew a certificate.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks each manager in turn for a new certificate, and last the one of this host by its socket: that
/// one answers also when the certificate has expired while the host was off.
pub(super) async fn renew_somewhere(
    member: &Member,
    current: Credentials,
) -> Result<Credentials, EnrolError> {
    let mut outcome = Err(EnrolError::Unavailable("no manager's address is known".to_owned()));
    for address in member.managers.all() {
        let channel = client_channel(address, member.credentials.clone(), MANAGER_NAME)
            .map_err(EnrolError::Connection)?;
        outcome = within_time(renew(channel, &current)).await;
        if !matches!(&outcome, Err(error) if error.may_pass()) {
            break;
        }
    }
    if outcome.is_err() && member.manager_socket.exists() {
        let channel = unix_channel(&member.manager_socket);
        // Of two failures the first says more.
        if let Ok(renewed) = within_time(renew_on_host(channel, &current)).await {
            return Ok(renewed);
        }
    }
    outcome
}

async fn within_time(
    attempt: impl Future<Output = Result<Credentials, EnrolError>>,
) -> Result<Credentials, EnrolError> {
    let late = |_| Err(EnrolError::Unavailable(format!("no answer in {RENEWAL_TIMEOUT:?}")));
    timeout(RENEWAL_TIMEOUT, attempt).await.unwrap_or_else(late)
}

/// Renews at once, because the cluster gives this node another role than its certificate has.
pub(super) async fn renew_now(member: &Member) -> Result<(), String> {
    let renewed = renew_somewhere(member, member.credentials.current()).await;
    let renewed = renewed.map_err(|error| chain(&error).to_string())?;
    let keep = |renewed: Credentials| -> Result<(), CredentialsError> {
        member.store.save_credentials(&renewed)?;
        member.credentials.replace(renewed)
    };
    keep(renewed).map_err(|error| chain(&error).to_string())
}
