//! The only clock. Everything that decides takes `now` as a value; what calls it reads it here.
//!
//! Wall time is for what the API stores. Waiting is done on tokio's monotonic clock, so that a jump of the wall clock neither
//! fires nor delays a timer that runs, and tests can pause it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Cheap to copy. A fake's wall clock follows tokio's, so that one `tokio::time::advance` moves both.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    fake: Option<(Timestamp, Instant)>,
}

impl Clock {
    pub const fn system() -> Self {
        Self { fake: None }
    }

    /// Starts at `at` and advances with tokio's clock, which tests pause (`#[tokio::test(start_paused = true)]`).
    pub fn fake(at: Timestamp) -> Self {
        Self { fake: Some((at, Instant::now())) }
    }

    /// Wall time.
    #[expect(clippy::disallowed_methods, reason = "this is where wall time enters")]
    pub fn now(&self) -> Timestamp {
        match self.fake {
            None => Timestamp::now(),
            Some((at, origin)) => at + SignedDuration::try_from(origin.elapsed()).unwrap_or(SignedDuration::MAX),
        }
    }

    /// Monotonic time; only differences mean anything.
    pub fn monotonic(&self) -> Instant {
        Instant::now()
    }

    /// When to wake for a wall time: at once when it has passed.
    pub fn until(&self, at: Timestamp) -> Duration {
        Duration::try_from(at.duration_since(self.now())).unwrap_or(Duration::ZERO)
    }
}

/// A number from the kernel's generator, for jitter and names.
pub fn random() -> u64 {
    let mut bytes = [0u8; 8];
    types::random::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// `base` lengthened by up to `percent` of itself, so that many clients do not come back at the same instant.
pub fn jitter(base: Duration, percent: u32, random: u64) -> Duration {
    let span = base.as_nanos().saturating_mul(u128::from(percent)) / 100;
    let extra = span * u128::from(random % 1024) / 1024;
    base.saturating_add(Duration::from_nanos(u64::try_from(extra).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fake_follows_the_paused_clock() {
        let start: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let clock = Clock::fake(start);
        assert_eq!(clock.now(), start);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(clock.now().to_string(), "2026-01-02T03:04:12Z");
        assert_eq!(clock.until(start), Duration::ZERO);
        assert_eq!(clock.until(start + SignedDuration::from_secs(10)), Duration::from_secs(3));
    }

    #[test]
    fn jitter_only_lengthens() {
        let base = Duration::from_secs(10);
        for random in [0, 1, 511, 1023, u64::MAX] {
            let d = jitter(base, 20, random);
            assert!(d >= base && d < Duration::from_secs(12), "{d:?}");
        }
    }
}
