//! The audit log: who asked for what, when, and what became of it, as far as a policy wants to know.
//!
//! Off unless configured, and then it costs a request nothing. What never lives here: a decision about a request; a request
//! whose event cannot be kept is served all the same, and the loss is counted.
//!
//! ```text
//! request → policy (pure) → Record ── RequestReceived ──┐
//!              │ None: nothing                          ├─▶ queue (bounded) ─▶ log (thread): JSON lines, rotated
//!              └────── ResponseStarted, ResponseComplete┘
//! ```
//!
//! Source: apiserver `pkg/audit`, `pkg/endpoints/filters/audit.go`, `plugin/pkg/audit/log`.

pub mod log;
pub mod policy;
mod record;

pub use log::Log;
pub use policy::Policy;
pub use record::{Origin, Record};

use std::collections::BTreeMap;
use std::sync::Arc;

use types::names;

/// What is recorded, and where.
#[derive(Clone)]
pub struct Settings {
    pub policy: Arc<Policy>,
    pub log: Arc<Log>,
}

/// Where a request is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
pub enum Stage {
    RequestReceived,
    /// Of a request that takes long: its headers were sent.
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// How much is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
pub enum Level {
    None,
    Metadata,
    /// With the body of the request.
    Request,
    /// With both bodies.
    RequestResponse,
}

/// What admission has to say of a request for its record. Costs nothing where there is none.
///
/// Source: apiserver `pkg/admission/attributes.go` `AddAnnotationWithLevel`.
#[derive(Debug)]
pub struct Annotations {
    level: Level,
    said: BTreeMap<String, String>,
}

impl Default for Annotations {
    fn default() -> Self {
        Self::new(Level::None)
    }
}

impl Annotations {
    /// For a record of that level.
    pub fn new(level: Level) -> Self {
        Self { level, said: BTreeMap::new() }
    }

    /// Says `value` under a key of a domain and a name. What was said is not said otherwise later, and what is no key is not
    /// said.
    pub fn add(&mut self, key: impl FnOnce() -> String, value: impl FnOnce() -> String) {
        self.add_at(Level::Metadata, key, value);
    }

    /// The same in records of that level and above.
    pub fn add_at(&mut self, level: Level, key: impl FnOnce() -> String, value: impl FnOnce() -> String) {
        if self.level < level {
            return;
        }
        let key = key();
        if key.split('/').count() != 2 || !names::qualified_name(&key).is_empty() {
            tracing::warn!(key, "an audit annotation has no key");
            return;
        }
        self.said.entry(key).or_insert_with(value);
    }

    /// Everything from the other ones.
    pub fn append(&mut self, other: Self) {
        for (key, value) in other.said {
            self.said.entry(key).or_insert(value);
        }
    }

    pub fn level(&self) -> Level {
        self.level
    }
}

impl IntoIterator for Annotations {
    type Item = (String, String);
    type IntoIter = std::collections::btree_map::IntoIter<String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.said.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_said_once_and_where_they_are_wanted() {
        let mut all = Annotations::new(Level::Metadata);
        all.add(|| "a.example/x".into(), || "first".into());
        all.add(|| "a.example/x".into(), || "second".into());
        all.add(|| "no key".into(), || "x".into());
        all.add(|| "bare".into(), || "x".into());
        all.add_at(Level::Request, || "a.example/body".into(), || "x".into());
        assert_eq!(all.into_iter().collect::<Vec<_>>(), [("a.example/x".to_owned(), "first".to_owned())]);
        Annotations::default().add(|| unreachable!(), || unreachable!());
    }
}
