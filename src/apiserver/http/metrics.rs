//! What `/metrics` shows of the server itself, by upstream's names.
//!
//! Source: apiserver `pkg/endpoints/metrics/metrics.go`.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds in seconds: from a read out of memory to a slow disk.
const DURATION_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
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
        Self { registry, requests, durations, watches, panics }
    }
}

impl Metrics {
    pub fn observe(&self, verb: &'static str, group: &'static str, resource: &'static str, code: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { verb, group, resource, code }).inc();
        if verb != "watch" && verb != "connect" {
            self.durations.get_or_create(&VerbLabels { verb }).observe(took.as_secs_f64());
        }
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
