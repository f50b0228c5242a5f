//! Waiting for what will happen, without a guess at when.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use crate::settings::patience;

const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Repeats `check` until it gives a value, and fails with its last error when [`patience`] is over.
///
/// For conditions that nobody announces. Where an event can be awaited, await it.
///
/// # Errors
/// The last error of `check`, under a line that says what was waited for.
pub async fn eventually<T>(what: &str, check: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    within(patience(), what, check).await
}

/// [`eventually`] with a patience of its own, for what is expected to fail.
///
/// # Errors
/// As [`eventually`].
pub async fn within<T>(
    patience: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + patience;
    let mut pause = SHORTEST_PAUSE;
    loop {
        match check().await {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() >= deadline => {
                return Err(last).with_context(|| format!("waited {patience:?} in vain: {what}"));
            }
            Err(_) => sleep(pause).await,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[tokio::test]
    async fn it_ends_with_the_first_value() {
        let mut calls = 0;
        let value = eventually("three calls", async || {
            calls += 1;
            if calls < 3 { bail!("only {calls}") } else { Ok(calls) }
        });
        assert_eq!(value.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn it_ends_with_the_last_error_when_patience_is_over() {
        let never =
            within(Duration::ZERO, "the impossible", async || -> anyhow::Result<()> { bail!("not yet") });
        let told = format!("{:#}", never.await.unwrap_err());
        assert!(told.contains("the impossible") && told.contains("not yet"), "{told}");
    }
}
