//! Accepting connections: handshakes apart from the accept loop, bounded in number and time.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls_pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::live::LiveCredentials;
use super::peer::{ConnectInfo, Peer, judge};

/// Connections whose handshake is done and that the server has not taken yet.
const READY_QUEUE: usize = 64;
/// Pause after an accept that failed for want of something (file descriptors, memory): trying
/// again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds on what strangers can hold.
#[derive(Debug, Clone, Copy)]
pub struct IncomingLimits {
    /// At most this many at a time. One more ends the oldest: an honest peer needs milliseconds, so
    /// whoever only holds connections open makes room for it instead of shutting it out.
    pub handshakes: usize,
    /// At most this long for each handshake.
    pub timeout: Duration,
    /// At most this many connections of peers that are not trusted; one more is closed.
    pub untrusted: usize,
    /// A connection of a peer that is not trusted ends after this time: enough for joining, and for
    /// being told why not.
    pub untrusted_life: Duration,
}

impl Default for IncomingLimits {
    fn default() -> Self {
        Self {
            handshakes: 128,
            timeout: Duration::from_secs(10),
            untrusted: 256,
            untrusted_life: Duration::from_secs(60),
        }
    }
}

/// What [`incoming`] yields from.
pub type Incoming = ReceiverStream<io::Result<ServerStream>>;

/// A TLS connection whose peer has been judged.
#[derive(Debug)]
pub struct ServerStream {
    tls: TlsStream<TcpStream>,
    info: ConnectInfo,
    /// Of peers that are not trusted: its place among them, and when it ends.
    bounds: Option<(OwnedSemaphorePermit, Pin<Box<Sleep>>)>,
}

/// A tonic server with the timeouts that every server of shoal has. Connections are asked to close
/// after an hour, streams on them may go on: so a peer meets the verdict on its newer certificate.
#[must_use]
pub fn server_builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(15)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_connection_age(Duration::from_secs(3600))
        .max_concurrent_streams(1024)
        .http2_max_header_list_size(64 * 1024)
}

/// Connections to `listener` for `Server::serve_with_incoming`, each handshaken with the
/// credentials that are live when it comes. Must be called within a tokio runtime; dropping the
/// result closes the listener.
///
/// Every request then has a [`ConnectInfo`] in its extensions. Peers that cannot be trusted are
/// *not* turned away here: their calls must be refused by whoever reads the [`Peer`].
#[must_use]
pub fn incoming(
    listener: TcpListener,
    credentials: LiveCredentials,
    limits: IncomingLimits,
) -> Incoming {
    let (ready, connections) = mpsc::channel(READY_QUEUE);
    tokio::spawn(accept_loop(listener, credentials, limits, ready));
    ReceiverStream::new(connections)
}

async fn accept_loop(
    listener: TcpListener,
    credentials: LiveCredentials,
    limits: IncomingLimits,
    ready: mpsc::Sender<io::Result<ServerStream>>,
) {
    let untrusted = Arc::new(Semaphore::new(limits.untrusted));
    let mut handshakes = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            () = ready.closed() => return,
            Some(_) = handshakes.join_next() => {
                by_age.retain(|handshake| !handshake.is_finished());
            }
            accepted = listener.accept() => match accepted {
                Ok((tcp, address)) => {
                    if by_age.len() >= limits.handshakes.max(1)
                        && let Some(oldest) = by_age.pop_front()
                    {
                        tracing::debug!("too many unfinished handshakes, ending the oldest");
                        oldest.abort();
                    }
                    let (credentials, ready) = (credentials.clone(), ready.clone());
                    let work = admit(tcp, address, credentials, limits, untrusted.clone(), ready);
                    by_age.push_back(handshakes.spawn(work));
                }
                Err(error) => after_accept_error(&error).await,
            },
        }
    }
}

/// A connection that died in the queue is nothing; anything else would repeat at once.
pub(super) async fn after_accept_error(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        return;
    }
    tracing::warn!(%error, "cannot accept connections for now");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Handshake, verdict, bounds; then over to the server.
async fn admit(
    tcp: TcpStream,
    address: SocketAddr,
    credentials: LiveCredentials,
    limits: IncomingLimits,
    untrusted: Arc<Semaphore>,
    ready: mpsc::Sender<io::Result<ServerStream>>,
) {
    let loaded = credentials.loaded();
    let attempt = async {
        tcp.set_nodelay(true)?;
        TlsAcceptor::from(loaded.server.clone()).accept(tcp).await
    };
    let tls = match tokio::time::timeout(limits.timeout, attempt).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
    };
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let cluster = loaded.credentials.identity().cluster;
    let peer = judge(chain, &*loaded.trusted, cluster, UnixTime::now());
    report(address, &peer);
    let bounds = match (&peer, untrusted.try_acquire_owned()) {
        (Peer::Trusted(_), _) => None,
        (_, Ok(place)) => Some((place, Box::pin(tokio::time::sleep(limits.untrusted_life)))),
        (_, Err(_)) => return tracing::warn!(%address, "too many untrusted peers, closing"),
    };
    let info = ConnectInfo { address, peer: Arc::new(peer) };
    // Fails only when the server is gone, and then so is the connection.
    let _ = ready.send(Ok(ServerStream { tls, info, bounds })).await;
}

fn report(address: SocketAddr, peer: &Peer) {
    match peer {
        Peer::Trusted(identity) => {
            tracing::debug!(%address, id = %identity.id, role = identity.role.noun(), "connected");
        }
        Peer::Joiner(_) => tracing::debug!(%address, "a joining host connected"),
        Peer::Refused(reason) => tracing::warn!(%address, %reason, "untrusted peer connected"),
    }
}

impl Connected for ServerStream {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some((_, end)) = &mut self.bounds
            && end.as_mut().poll(cx).is_ready()
        {
            // To HTTP/2 this is the peer closing the connection.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
