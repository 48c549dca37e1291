//! Getting a certificate: the client's side of the service `Ca`.

use shoal_types::id::NodeId;
use shoal_types::join_token::JoinToken;
use tonic::client::GrpcService;
use tonic::codegen::{Body, Bytes, StdError};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::credentials::{Credentials, CredentialsError};
use super::{KeyError, ManagerAddress, PrivateKey, joining_channel};
use shoal_proto::v1;
use shoal_proto::v1::bootstrap_client::BootstrapClient;
use shoal_proto::v1::ca_client::CaClient;

/// The longest answer, in bytes: two chains with their roots have a few thousand.
const MAX_ANSWER: usize = 256 * 1024;

/// Why no certificate was had.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Making or using the private key failed.
    #[error("cannot prepare the request")]
    Key(#[source] KeyError),
    /// Setting the connection up failed.
    #[error("cannot prepare the connection")]
    Connection(#[source] CredentialsError),
    /// No manager was reached, or it cannot be trusted. May be repeated, elsewhere too.
    #[error("{0}")]
    Unavailable(String),
    /// The manager refused, and would again.
    #[error("the manager refused: {0}")]
    Refused(String),
    /// The manager answered with something that cannot be used.
    #[error("the manager's answer is unusable: {0}")]
    Answer(&'static str),
    /// The certificate in the answer cannot be used.
    #[error("cannot use the certificate that the manager issued")]
    Credentials(#[source] CredentialsError),
}

impl EnrolError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Joins the cluster of `token` by way of the manager at `address`. With the same `key` it may be
/// repeated after any failure: the node stays the same one, so keep the key until this succeeds.
///
/// # Errors
/// [`EnrolError`]. Nothing is believed that does not come from the cluster of the token.
pub async fn join(
    address: ManagerAddress,
    token: &JoinToken,
    key: &PrivateKey,
    hints: v1::NodeHints,
) -> Result<Credentials, EnrolError> {
    let channel = joining_channel(address, token.root, key).map_err(EnrolError::Connection)?;
    let request = v1::IssueNodeCertificateRequest {
        join_token: token.reveal(),
        csr_der: key.request().map_err(EnrolError::Key)?,
        hints: Some(hints),
    };
    let answer = client(channel).issue_node_certificate(request).await;
    let answer = answer.map_err(|status| of_status(&status))?.into_inner();
    let credentials = credentials(answer.certificate, key)?;
    let roots = credentials.root_digests().map_err(EnrolError::Credentials)?;
    if !roots.contains(&token.root) {
        return Err(EnrolError::Answer("the root is not the one of the join token"));
    }
    let node: Result<NodeId, _> = answer.node_id.parse();
    if node.ok() != credentials.identity().node() {
        return Err(EnrolError::Answer("certificate and answer name different nodes"));
    }
    Ok(credentials)
}

/// A new certificate, with a new key, for the identity by which `channel` is authenticated. The
/// identity stays; the role may differ, if the cluster has changed it.
///
/// # Errors
/// [`EnrolError`].
pub async fn renew<T>(channel: T, now: &Credentials) -> Result<Credentials, EnrolError>
where
    T: GrpcService<tonic::body::Body>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    let key = PrivateKey::generate().map_err(EnrolError::Key)?;
    let csr_der = key.request().map_err(EnrolError::Key)?;
    let answer = client(channel).renew_certificate(v1::RenewCertificateRequest { csr_der }).await;
    renewed(answer, &key, now)
}

/// The same for a key that somebody else holds: a certificate for this signing request (PKCS #10 in DER),
/// with the role that the cluster gives to the identity now.
///
/// # Errors
/// [`EnrolError`].
pub async fn certify(channel: Channel, csr_der: Vec<u8>) -> Result<v1::Certificate, EnrolError> {
    let answer = client(channel).renew_certificate(v1::RenewCertificateRequest { csr_der }).await;
    let answer = answer.map_err(|status| of_status(&status))?.into_inner();
    answer.certificate.ok_or(EnrolError::Answer("it has no certificate"))
}

/// The same for a node, from its own host's manager by way of `channel`, its socket: also when the
/// certificate has expired and nobody else lets it in.
///
/// # Errors
/// [`EnrolError`].
pub async fn renew_on_host(channel: Channel, now: &Credentials) -> Result<Credentials, EnrolError> {
    let key = PrivateKey::generate().map_err(EnrolError::Key)?;
    let request = v1::RenewNodeCertificateRequest {
        node_id: now.identity().node().map(|id| id.to_string()).unwrap_or_default(),
        csr_der: key.request().map_err(EnrolError::Key)?,
    };
    let mut client = BootstrapClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    renewed(client.renew_node_certificate(request).await, &key, now)
}

fn renewed(
    answer: Result<Response<v1::RenewCertificateResponse>, Status>,
    key: &PrivateKey,
    now: &Credentials,
) -> Result<Credentials, EnrolError> {
    let answer = answer.map_err(|status| of_status(&status))?.into_inner();
    let renewed = credentials(answer.certificate, key)?;
    let (new, old) = (renewed.identity(), now.identity());
    if (new.id, new.cluster) != (old.id, old.cluster) {
        return Err(EnrolError::Answer("the certificate is for somebody else"));
    }
    Ok(renewed)
}

fn client<T>(channel: T) -> CaClient<T>
where
    T: GrpcService<tonic::body::Body>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    CaClient::new(channel).max_decoding_message_size(MAX_ANSWER)
}

fn credentials(
    certificate: Option<v1::Certificate>,
    key: &PrivateKey,
) -> Result<Credentials, EnrolError> {
    let certificate = certificate.ok_or(EnrolError::Answer("it has no certificate"))?;
    Credentials::from_pem(certificate.chain_pem, key.to_pem(), certificate.root_pem)
        .map_err(EnrolError::Credentials)
}

fn of_status(status: &Status) -> EnrolError {
    let message = status.message().to_owned();
    match status.code() {
        // A connection that breaks off in the middle is CANCELLED or UNKNOWN to tonic.
        Code::Unavailable
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted => EnrolError::Unavailable(message),
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => EnrolError::Refused(message),
    }
}
