//! What happened so lately that not everybody has heard of it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

#[derive(Debug)]
pub struct Recent {
    lag: SignedDuration,
    /// By uid.
    last: BTreeMap<String, Timestamp>,
}

impl Recent {
    pub fn new(lag: SignedDuration) -> Self {
        Self { lag, last: BTreeMap::new() }
    }

    pub fn mark(&mut self, uid: &str, at: Timestamp) {
        if !uid.is_empty() {
            self.last.insert(uid.to_owned(), at);
        }
    }

    pub fn has(&self, uid: &str, now: Timestamp) -> bool {
        self.last.get(uid).is_some_and(|at| now.duration_since(*at) <= self.lag)
    }
}
