//! The local socket: no TLS, the kernel says who is at the other end.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::UdsConnectInfo;
use tonic::transport::{Channel, Endpoint};

use super::client::{connect_timeout, keepalive};
use super::server::after_accept_error;

/// Connections accepted and not yet taken by the server.
const READY_QUEUE: usize = 16;

/// What [`unix_incoming`] yields from.
pub type UnixIncoming = ReceiverStream<io::Result<UnixStream>>;

/// Why the local socket cannot be reached. `Display` tells the whole story, see
/// [`super::ConnectFailure`].
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {}: {}", .path.display(), .why)]
struct UnixConnectFailure {
    path: PathBuf,
    why: String,
}

/// Listens on a unix socket at `path` with mode 0600, for `Server::serve_with_incoming`. A socket
/// that a dead process left there is replaced; one that somebody answers on is not. Must be called
/// within a tokio runtime; dropping the result closes the listener and leaves the file.
///
/// # Errors
/// `AddrInUse` when another process serves the socket, `AlreadyExists` when `path` is something
/// else, and whatever binding answers.
pub fn unix_incoming(path: &Path) -> io::Result<UnixIncoming> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let (ready, connections) = mpsc::channel(READY_QUEUE);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = ready.closed() => return,
                accepted = listener.accept() => match accepted {
                    // Fails only when the server is gone; the loop then ends.
                    Ok((stream, _)) => { let _ = ready.send(Ok(stream)).await; }
                    Err(error) => after_accept_error(&error).await,
                },
            }
        }
    });
    Ok(ReceiverStream::new(connections))
}

/// The user at the other end of a request that came through [`unix_incoming`]; `None` for requests
/// that did not.
#[must_use]
pub fn unix_peer_uid(extensions: &http::Extensions) -> Option<u32> {
    let info = extensions.get::<UdsConnectInfo>()?;
    info.peer_cred.map(|credentials| credentials.uid())
}

/// A channel to the socket at `path`; it connects at the first call and again whenever the
/// connection is lost.
#[must_use]
pub fn unix_channel(path: &Path) -> Channel {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| connect(path.clone()));
    keepalive(Endpoint::from_static("http://local.shoal")).connect_with_connector_lazy(connector)
}

async fn connect(path: PathBuf) -> Result<TokioIo<UnixStream>, UnixConnectFailure> {
    let why = match tokio::time::timeout(connect_timeout(), UnixStream::connect(&path)).await {
        Ok(Ok(stream)) => return Ok(TokioIo::new(stream)),
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::NotFound => "it does not exist; is shoal-agent running?".to_owned(),
            io::ErrorKind::ConnectionRefused => {
                "nobody serves it; is shoal-agent running?".to_owned()
            }
            io::ErrorKind::PermissionDenied => {
                "permission denied; it is for the user that runs shoal-agent".to_owned()
            }
            _ => error.to_string(),
        },
        Err(_) => format!("no answer within {:?}", connect_timeout()),
    };
    Err(UnixConnectFailure { path, why })
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let file_type = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file_type.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "path exists, not as a socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves the socket")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}
