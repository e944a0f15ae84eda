//! What `/metrics` shows of the server itself, by upstream's names.
//!
//! Source: apiserver `pkg/endpoints/metrics/metrics.go`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use types::registry::{Kind, KindRef};

/// Upper bounds in seconds: from a read out of memory to a slow disk.
const DURATION_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Custom kinds come and go without a bound, counters stay: as many as a large cluster has.
const CUSTOM_KINDS_MAX: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: Cow<'static, str>,
    resource: Cow<'static, str>,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    verb: &'static str,
}

/// Counters of one server.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<VerbLabels, Histogram>,
    watches: Gauge<i64, AtomicI64>,
    panics: Counter,
    /// The custom kinds that have labels of their own.
    custom: Mutex<HashSet<String>>,
}

/// Counts one open watch until it is dropped.
pub struct OpenWatch(Gauge<i64, AtomicI64>);
impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations: Family<VerbLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS.iter().copied()));
        let (watches, panics) = (Gauge::default(), Counter::default());
        registry.register("apiserver_request", "Requests by verb, resource and response code", requests.clone());
        registry.register("apiserver_request_duration_seconds", "Time to the head of the response", durations.clone());
        registry.register("apiserver_longrunning_requests", "Open watches", watches.clone());
        registry.register("apiserver_request_panics", "Requests that ended in a bug", panics.clone());
        Self { registry, requests, durations, watches, panics, custom: Mutex::default() }
    }
}

impl Metrics {
    pub fn observe(&self, verb: &'static str, kind: Option<&KindRef>, code: u16, took: Duration) {
        let (group, resource) = match kind {
            None => (Cow::Borrowed(""), Cow::Borrowed("")),
            Some(KindRef::BuiltIn(kind)) => (Cow::Borrowed(&*kind.group), Cow::Borrowed(&*kind.plural)),
            Some(KindRef::Custom(kind)) => self.custom(kind),
        };
        self.requests.get_or_create(&RequestLabels { verb, group, resource, code }).inc();
        if verb != "watch" && verb != "connect" {
            self.durations.get_or_create(&VerbLabels { verb }).observe(took.as_secs_f64());
        }
    }

    /// The labels of a custom kind; all but the first few kinds share theirs.
    fn custom(&self, kind: &Kind) -> (Cow<'static, str>, Cow<'static, str>) {
        let mut seen = self.custom.lock();
        let name = kind.group_resource();
        if !seen.contains(&name) {
            if seen.len() >= CUSTOM_KINDS_MAX {
                return (Cow::Borrowed("other"), Cow::Borrowed("other"));
            }
            seen.insert(name);
        }
        (Cow::Owned(kind.group.to_string()), Cow::Owned(kind.plural.to_string()))
    }

    pub fn open_watch(&self) -> OpenWatch {
        self.watches.inc();
        OpenWatch(self.watches.clone())
    }

    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// The text of `/metrics`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to memory does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
