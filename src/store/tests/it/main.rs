//! The store as its callers see it, on real files.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests, which clippy does not see in this kind of binary")]

mod bad_input;
mod crash;
mod disk_full;
mod keeping;
mod model;
mod watching;

use std::path::Path;
use std::sync::Arc;

use store::{
    Batch, Class, Entry, Error, Expect, Facts, FactsOf, Op, Options, Revision, SqliteStore, Store, Value, Write,
    Written,
};

/// The facts of a value here: its length.
fn noted(value: &[u8]) -> Facts {
    value.len().to_string().into_bytes().into()
}

fn facts_of() -> FactsOf {
    Arc::new(|_, value| noted(value))
}

fn try_open(path: &Path, options: Options) -> Result<Arc<SqliteStore>, Error> {
    SqliteStore::open(path, facts_of(), options)
}

fn open(path: &Path) -> Arc<SqliteStore> {
    try_open(path, Options::default()).unwrap()
}

/// A write of `{"n":<n>,"rev":"<stamp>"}`.
fn put(key: &str, n: u64, expect: Expect, class: Class) -> Write {
    let bytes = format!(r#"{{"n":{n},"rev":""}}"#);
    let stamp_at = Some(bytes.len() - 2);
    let value = Value { facts: noted(bytes.as_bytes()), bytes: bytes.into(), stamp_at };
    Write { key: key.into(), expect, class, op: Op::Put(value) }
}

fn durable(key: &str, n: u64) -> Batch {
    vec![put(key, n, Expect::Any, Class::Durable)]
}

fn relaxed(key: &str, n: u64) -> Batch {
    vec![put(key, n, Expect::Any, Class::Relaxed)]
}

fn delete(key: &str) -> Batch {
    vec![Write { key: key.into(), expect: Expect::Any, class: Class::Durable, op: Op::Delete }]
}

/// The `n` of an entry, after a check that the stamp is the revision.
fn number(entry: &Entry) -> u64 {
    let text = std::str::from_utf8(entry.value()).unwrap();
    let (n, revision) = text.strip_prefix(r#"{"n":"#).unwrap().split_once(r#","rev":""#).unwrap();
    assert_eq!(revision.strip_suffix(r#""}"#).unwrap(), entry.modified().to_string(), "stamp of {text}");
    n.parse().unwrap()
}

/// Key, `n`, created and modified of all there is.
fn contents(store: &dyn Store) -> Vec<(String, u64, u64, u64)> {
    listed(&*store.snapshot())
}

fn listed(view: &dyn store::View) -> Vec<(String, u64, u64, u64)> {
    view.range("", None).map(|e| (e.key().to_string(), number(e), e.created().0, e.modified().0)).collect()
}

fn revision_of(written: &[Written]) -> Revision {
    written.last().unwrap().modified()
}
