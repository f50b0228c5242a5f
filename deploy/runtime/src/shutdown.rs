//! Stopping: the first SIGTERM or SIGINT asks the program to finish in order, the second ends it at once.
//!
//! Knows nothing of what there is to finish: that is the composition root's order.

use std::{future::Future, io, pin::pin};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Runs `work` until it ends. `work` gets a token that the first signal cancels, and should then end by itself.
///
/// A second signal ends the process at once with code 143 (SIGTERM) or 130 (SIGINT): whoever sends it no longer wants order.
///
/// # Errors
/// When the signals cannot be subscribed to; `work` is not started then.
pub async fn run_until_signal<W, F>(work: W) -> io::Result<F::Output>
where
    W: FnOnce(CancellationToken) -> F,
    F: Future,
{
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let mut work = pin!(work(stop.clone()));
    loop {
        let code = tokio::select! {
            done = &mut work => return Ok(done),
            _ = terminate.recv() => 143,
            _ = interrupt.recv() => 130,
        };
        if stop.is_cancelled() {
            warn!(exit_code = code, "second signal: leaving at once");
            std::process::exit(code);
        }
        info!("signal received: finishing");
        stop.cancel();
    }
}
