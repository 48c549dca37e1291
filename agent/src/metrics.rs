//! What this host tells a Prometheus server that asks: figures of its tasks and of its ways to other hosts.
//!
//! Nothing is counted for it: what is said is read when it is asked for, so that who is never asked does
//! nothing. The listener knows neither users nor secrets, says nothing that identifies a service, and
//! listens where the host's owner says, by default nowhere.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use self::text::{Figures, Link, Tunnel, Ways};

mod text;

/// Where what is asked for is found, as everywhere.
const PATH: &str = "/metrics";
/// Who asks is answered one after another beyond these.
const CONNECTIONS: usize = 4;
/// How long a connection lasts, from its first byte to the last of the answer. One question each.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a question, at the most.
const QUESTION_MAX: usize = 16 << 10;
/// How long is waited after a connection that could not be taken: the host is out of files, or of memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Finds the figures out.
pub type Source = Arc<dyn Fn() -> BoxFuture<'static, Figures> + Send + Sync>;

/// Answers whoever connects. Never returns; what goes wrong with a connection ends that connection.
pub async fn serve(listener: TcpListener, source: Source) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Fails only if it is closed, which nobody does.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let source = Arc::clone(&source);
                tokio::spawn(async move {
                    if timeout(PATIENCE, connection(stream, source)).await.is_err() {
                        tracing::debug!(%from, "who asks for metrics was too slow");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection of who asks for metrics");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, source: Source) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let source = Arc::clone(&source);
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &source).await) }
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(QUESTION_MAX);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!(%error, "a connection of who asks for metrics broke off");
    }
}

async fn answer(method: &Method, path: &str, source: &Source) -> Response<String> {
    let (status, kind, said) = match (path, method) {
        (PATH, &Method::GET | &Method::HEAD) => {
            (StatusCode::OK, text::CONTENT_TYPE, source().await.text())
        }
        (PATH, _) => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "expected GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", format!("nothing is here but {PATH}\n")),
    };
    let mut response = Response::new(said);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests;
