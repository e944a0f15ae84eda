//! Back-off: how long something that failed waits before it is tried again. Pure; times are monotonic.

use std::time::Duration;

/// First and longest wait, and the quiet time after which the past is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub first: Duration,
    pub longest: Duration,
    pub forget_after: Duration,
}

/// Crashing containers and failing pulls. Source: `pkg/kubelet/kubelet.go` (`MaxCrashLoopBackOff`, `containerBackOffPeriod`,
/// `backOffPeriod`), client-go `util/flowcontrol/backoff.go`.
pub const CRASH: Policy = Policy {
    first: Duration::from_secs(10),
    longest: Duration::from_secs(300),
    forget_after: Duration::from_secs(600),
};

/// Volumes that cannot be set up. Source: `pkg/util/goroutinemap/exponentialbackoff`.
pub const VOLUME: Policy = Policy {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(122),
    forget_after: Duration::from_secs(600),
};

/// Sandboxes and containers that cannot be created: the kubelet's sync loop comes back about that often.
pub const CREATE: Policy =
    Policy { first: Duration::from_secs(1), longest: Duration::from_secs(30), forget_after: Duration::from_secs(600) };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    /// The wait that applies to the next failure; zero before the first attempt.
    delay: Duration,
    /// When `delay` was last raised.
    raised_at: Duration,
}

impl Backoff {
    /// Something crashed at `at`: when it may start again, `None` for at once.
    pub fn after_crash(&self, policy: Policy, at: Duration) -> Option<Duration> {
        if self.delay.is_zero() || at.saturating_sub(self.raised_at) > policy.forget_after {
            return None;
        }
        Some(at + self.delay)
    }

    /// The wait that a crash at `at` would have.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// A new attempt begins: the next failure waits longer.
    pub fn raise(&mut self, policy: Policy, now: Duration) {
        let forget = now.saturating_sub(self.raised_at) > policy.forget_after;
        self.delay = if self.delay.is_zero() || forget { policy.first } else { (self.delay * 2).min(policy.longest) };
        self.raised_at = now;
    }

    /// An attempt failed: when the next one may begin.
    pub fn after_failure(&mut self, policy: Policy, now: Duration) -> Duration {
        self.raise(policy, now);
        now + self.delay
    }

    pub fn reset(&mut self) {
        *self = Backoff::default();
    }
}

/// A duration as messages show it: `10s`, `1m20s`, `5m0s`. Source: Go's `time.Duration.String` for whole seconds.
pub fn shown(d: Duration) -> String {
    let seconds = d.as_secs();
    if seconds == 0 && !d.is_zero() {
        return format!("{}ms", d.as_millis());
    }
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_wait_longer_each_time_and_are_forgotten() {
        let s = Duration::from_secs;
        let mut b = Backoff::default();
        assert_eq!(b.after_crash(CRASH, s(1)), None, "the first restart is immediate");
        let mut now = s(1);
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            b.raise(CRASH, now);
            assert_eq!(b.after_crash(CRASH, now), Some(now + s(expected)));
            now += s(expected);
        }
        assert_eq!(b.after_crash(CRASH, now + s(601)), None, "it ran long enough");
        b.raise(CRASH, now + s(601));
        assert_eq!(b.delay(), s(10));
    }

    #[test]
    fn durations_as_go_shows_them() {
        for (d, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s"), (3661, "1h1m1s"), (0, "0s")] {
            assert_eq!(shown(Duration::from_secs(d)), text);
        }
        assert_eq!(shown(Duration::from_millis(500)), "500ms");
    }
}
