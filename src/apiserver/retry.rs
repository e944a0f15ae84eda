//! When what was refused is tried again: after a wait that doubles, and that chance makes longer, so that those who were
//! refused together do not come back together.
//!
//! What never lives here: what is tried.
//!
//! Source: apimachinery `pkg/util/wait` `Jitter`, client-go `util/workqueue/default_rate_limiters.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The first wait: who has just removed what stood in the way wants to see it soon.
pub const FIRST: Duration = Duration::from_millis(250);
/// The longest, without what chance adds. No event tells that a webhook or a server takes what it refused, and somebody
/// waits for it to be found out; upstream's queues go on to 1000 s.
pub const LONGEST: Duration = Duration::from_secs(30);
/// Chance adds up to this part of a wait: one in so many.
const JITTER: u32 = 4;

/// The wait after so many failures before this one; `chance` is any number.
fn wait(failures: u32, chance: u32) -> Duration {
    let wait = FIRST.saturating_mul(1 << failures.min(16)).min(LONGEST);
    wait + wait / JITTER * (chance % 1024) / 1024
}

fn chance() -> u32 {
    let mut bytes = [0; 4];
    types::random::fill(&mut bytes);
    u32::from_le_bytes(bytes)
}

/// How often one thing has been refused in a row.
#[derive(Debug, Default)]
pub struct Retry {
    failures: u32,
}

impl Retry {
    /// It was refused once more: how long to wait.
    pub fn refused(&mut self) -> Duration {
        let wait = wait(self.failures, chance());
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// It went well: the next failure is the first.
    pub fn went_well(&mut self) {
        self.failures = 0;
    }
}

/// What was refused, by name, each with the time at which it is tried again. As many as there are names.
#[derive(Debug, Default)]
pub struct Retries {
    all: BTreeMap<String, (Retry, Instant)>,
}

impl Retries {
    /// `name` was refused at `now`.
    pub fn refused(&mut self, name: String, now: Instant) {
        let (retry, at) = self.all.entry(name).or_insert((Retry::default(), now));
        *at = now + retry.refused();
    }

    /// `name` went well, or is no more.
    pub fn went_well(&mut self, name: &str) {
        self.all.remove(name);
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those whose time has come.
    pub fn due(&self, now: Instant) -> impl Iterator<Item = &String> {
        self.all.iter().filter(move |(_, (_, at))| *at <= now).map(|(name, _)| name)
    }

    /// Waits until one is due; for ever when there is none.
    pub async fn wait(&self) {
        match self.all.values().map(|(_, at)| *at).min() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_longest_and_chance_adds_a_little() {
        for (failures, seconds) in [(0, 0.25), (1, 0.5), (4, 4.0), (6, 16.0), (7, 30.0), (40, 30.0), (u32::MAX, 30.0)] {
            assert_eq!(wait(failures, 0).as_secs_f64(), seconds);
            let longest = wait(failures, 1023).as_secs_f64();
            assert!(longest > seconds * 1.24 && longest < seconds * 1.25, "{failures}: {longest}");
        }
        let mut retry = Retry::default();
        let first = retry.refused();
        assert!(retry.refused() > first);
        retry.went_well();
        assert!(retry.refused() < FIRST * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn each_name_waits_for_itself() {
        let (mut retries, start) = (Retries::default(), Instant::now());
        for _ in 0..8 {
            retries.refused("old".into(), start);
        }
        retries.refused("new".into(), start);
        retries.wait().await;
        let due: Vec<_> = retries.due(Instant::now()).cloned().collect();
        assert_eq!(due, ["new"]);
        assert!(start.elapsed() < FIRST * 2);
        retries.went_well("new");
        retries.wait().await;
        assert!(start.elapsed() >= LONGEST);
        assert_eq!(retries.due(Instant::now()).count(), 1);
        retries.went_well("old");
        assert!(retries.is_empty());
    }
}
