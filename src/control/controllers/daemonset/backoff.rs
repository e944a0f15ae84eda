//! How long the failed pods of a node are left alone before they are replaced: each time twice as long, so that a set and a
//! node that will not have its pod do not wear each other out.
//!
//! Source: client-go `util/flowcontrol/backoff.go`, `cmd/kube-controller-manager/app/apps.go` (its two delays).

use std::collections::HashMap;

use client::Object;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::DaemonSet;
use parking_lot::Mutex;

const FIRST_SECONDS: i64 = 1;
const LONGEST_SECONDS: i64 = 15 * 60;
/// Silence after which a failure is the first one again; upstream's twice the longest delay.
const FORGOTTEN_SECONDS: i64 = 2 * LONGEST_SECONDS;
/// Failures remembered; beyond it further ones are not slowed until others are forgotten.
const REMEMBERED_MAX: usize = 10_000;

/// A change of the set starts anew.
type Id = (Box<str>, i64, Box<str>);

#[derive(Default)]
pub struct Backoff(Mutex<HashMap<Id, (Timestamp, i64)>>);

fn id(set: &DaemonSet, node: &str) -> Id {
    let generation = set.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
    (set.uid().into(), generation, node.into())
}

/// A clock that ran backwards has made the past worthless.
fn is_fresh(last: Timestamp, now: Timestamp) -> bool {
    (0..FORGOTTEN_SECONDS).contains(&now.duration_since(last).as_secs())
}

impl Backoff {
    /// Until when the set's failed pod on the node stays; `None`: it may go.
    pub fn until(&self, set: &DaemonSet, node: &str, now: Timestamp) -> Option<Timestamp> {
        let (last, seconds) = *self.0.lock().get(&id(set, node))?;
        is_fresh(last, now).then(|| last + SignedDuration::from_secs(seconds))
    }

    /// A failed pod goes now.
    pub fn next(&self, set: &DaemonSet, node: &str, now: Timestamp) {
        let mut all = self.0.lock();
        let id = id(set, node);
        let known = all.get(&id).filter(|(last, _)| is_fresh(*last, now));
        let seconds = known.map_or(FIRST_SECONDS, |(_, seconds)| (seconds * 2).min(LONGEST_SECONDS));
        all.retain(|_, (last, _)| is_fresh(*last, now));
        if all.len() < REMEMBERED_MAX || all.contains_key(&id) {
            all.insert(id, (now, seconds));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_end_and_are_forgotten() {
        let (backoff, set) = (Backoff::default(), DaemonSet::default());
        let mut now = Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(backoff.until(&set, "n", now), None);
        let mut delays = Vec::new();
        for _ in 0..12 {
            backoff.next(&set, "n", now);
            let until = backoff.until(&set, "n", now).unwrap();
            delays.push(until.duration_since(now).as_secs());
            now = until;
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        assert_eq!(backoff.until(&set, "other", now), None);
        let later = now + SignedDuration::from_secs(FORGOTTEN_SECONDS);
        assert_eq!(backoff.until(&set, "n", later), None);
        backoff.next(&set, "n", later);
        assert_eq!(backoff.until(&set, "n", later), Some(later + SignedDuration::from_secs(1)));
        assert_eq!(backoff.until(&set, "n", now), None, "the clock was set back");
    }
}
