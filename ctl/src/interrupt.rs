//! Being told to stop, by a person or by whatever runs this program.

use tokio::signal::unix::{SignalKind, signal};

use crate::error::Kind;

/// Waits for Ctrl-C or a polite request to end; tells which.
pub(crate) async fn asked_to_stop() -> Kind {
    // Where a handler cannot be set the signal ends the program as ever.
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return Kind::Interrupted;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => Kind::Interrupted,
        _ = terminate.recv() => Kind::Terminated,
    }
}
