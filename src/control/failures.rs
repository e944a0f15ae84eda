//! What went wrong the last time, per object, so that the next plan can write it into a status. Bounded by the objects that
//! fail at the same time; an entry goes when its object succeeds, or is dropped when there are too many.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Objects remembered; beyond it new failures are only logged and recorded as events.
const REMEMBERED_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Upstream's reason, e.g. `FailedCreate`.
    pub reason: &'static str,
    pub message: String,
}

#[derive(Default)]
pub struct Failures(Mutex<HashMap<String, Failure>>);

impl Failures {
    pub fn get(&self, uid: &str) -> Option<Failure> {
        self.0.lock().get(uid).cloned()
    }
    pub fn set(&self, uid: &str, failure: Failure) {
        let mut map = self.0.lock();
        if map.len() < REMEMBERED_MAX || map.contains_key(uid) {
            map.insert(uid.to_owned(), failure);
        }
    }
    /// Remembers a failure. Whether it is another one than before, worth an event.
    pub fn is_new(&self, uid: &str, failure: Failure) -> bool {
        let known = self.get(uid).is_some_and(|known| known == failure);
        if !known {
            self.set(uid, failure);
        }
        !known
    }
    /// Whether there was one.
    pub fn clear(&self, uid: &str) -> bool {
        self.0.lock().remove(uid).is_some()
    }
}
