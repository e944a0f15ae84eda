//! Waiting for a condition with a deadline. Never for time alone, never for "a change".

use std::time::Duration;

use anyhow::{Result, bail};

/// A namespace or process to appear.
pub const BOOT: Duration = Duration::from_secs(20);
/// Something that the cluster does by itself: schedule, start, roll out.
pub const CLUSTER: Duration = Duration::from_secs(120);

/// How often a condition outside this process is looked at; there is no event to wait for across that border.
const LOOK: Duration = Duration::from_millis(50);

/// Looks until `condition` gives a value; its error ends the waiting.
#[expect(clippy::disallowed_methods, reason = "a test waits for another process, which sends no events")]
pub fn until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = std::time::Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() > deadline {
            bail!("waited {} s for {what}", deadline.as_secs());
        }
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let _ = receiver.recv_timeout(LOOK);
        drop(sender);
    }
}
