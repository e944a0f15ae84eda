//! What the parts of this process have had to do, as `/metrics` shows it by upstream's names: work queues and requests.
//!
//! What never lives here: a registry of who has queues, or a server that shows them.
//!
//! Source: component-base `metrics/prometheus/workqueue/metrics.go`, `metrics/prometheus/restclient/metrics.go`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use http::{Method, StatusCode};
use parking_lot::Mutex;

/// Upper bounds, in seconds. Source: `prometheus.ExponentialBuckets(10e-9, 10, 12)`.
const BOUNDS: [f64; 12] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0];

/// Durations, by size.
#[derive(Debug, Clone, Default)]
pub struct Durations {
    /// Each counted in the first bucket that holds it; those beyond the last bound in the count alone.
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: Duration,
}

impl Durations {
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(took);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// All of them together.
    pub fn seconds(&self) -> f64 {
        self.sum.as_secs_f64()
    }
}

/// What one work queue has had to do.
#[derive(Debug, Clone, Default)]
pub struct Load {
    pub depth: usize,
    pub adds: u64,
    pub retries: u64,
    /// From the addition of a key to the work on it.
    pub waited: Durations,
    pub worked: Durations,
    /// Of the work that is going on: all of it, and what goes on longest.
    pub unfinished: Duration,
    pub longest: Duration,
}

/// Appends what the queues have had to do, in OpenMetrics' text. Names are labels as they are.
pub fn write_queues(text: &mut String, queues: &[(&str, Load)]) {
    let mut simple = |metric: &str, kind: &str, what: &str, value: &dyn Fn(&Load) -> f64| {
        head(text, metric, kind, what);
        let total = if kind == "counter" { "_total" } else { "" };
        for (name, load) in queues {
            // Writing to memory does not fail.
            let _ = writeln!(text, "{metric}{total}{{name=\"{name}\"}} {}", value(load));
        }
    };
    simple("workqueue_depth", "gauge", "Keys that wait to be worked on", &|l| l.depth as f64);
    simple("workqueue_adds", "counter", "Keys that were added", &|l| l.adds as f64);
    simple("workqueue_retries", "counter", "Keys that come again because work on them failed", &|l| l.retries as f64);
    simple("workqueue_unfinished_work_seconds", "gauge", "Time that the work that goes on has taken", &|l| {
        l.unfinished.as_secs_f64()
    });
    simple("workqueue_longest_running_processor_seconds", "gauge", "Time that the longest work has taken", &|l| {
        l.longest.as_secs_f64()
    });
    let mut spread = |metric: &str, what: &str, durations: &dyn Fn(&Load) -> &Durations| {
        head(text, metric, "histogram", what);
        for (name, load) in queues {
            let Durations { buckets, count, sum } = durations(load);
            let mut below = 0;
            for (bound, bucket) in BOUNDS.iter().zip(buckets) {
                below += bucket;
                let _ = writeln!(text, "{metric}_bucket{{name=\"{name}\",le=\"{bound:?}\"}} {below}");
            }
            let _ = writeln!(text, "{metric}_bucket{{name=\"{name}\",le=\"+Inf\"}} {count}");
            let _ = writeln!(text, "{metric}_sum{{name=\"{name}\"}} {}", sum.as_secs_f64());
            let _ = writeln!(text, "{metric}_count{{name=\"{name}\"}} {count}");
        }
    };
    spread("workqueue_queue_duration_seconds", "Time from a key's addition to the work on it", &|l| &l.waited);
    spread("workqueue_work_duration_seconds", "Time that work on a key takes", &|l| &l.worked);
}

fn head(text: &mut String, metric: &str, kind: &str, what: &str) {
    let _ = writeln!(text, "# HELP {metric} {what}.\n# TYPE {metric} {kind}");
}

/// Requests that were sent, by what came of them: as many kinds as there are codes and methods.
#[derive(Debug, Default)]
pub struct Requests {
    sent: Mutex<BTreeMap<(Code, &'static str), u64>>,
}

/// As the label has it: anything beyond the usual is none.
type Code = Option<u16>;

impl Requests {
    pub const fn new() -> Self {
        Self { sent: Mutex::new(BTreeMap::new()) }
    }

    /// One was sent; `code`: `None` when nobody answered.
    pub fn sent(&self, method: &Method, code: Option<StatusCode>) {
        let method = match *method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "OTHER",
        };
        *self.sent.lock().entry((code.map(|c| c.as_u16()), method)).or_default() += 1;
    }

    /// Appends them; `host`: to whom they were sent.
    pub fn write(&self, text: &mut String, host: &str) {
        head(text, "rest_client_requests", "counter", "Requests by method and code");
        for ((code, method), count) in &*self.sent.lock() {
            let code = code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
            let _ = writeln!(
                text,
                "rest_client_requests_total{{code=\"{code}\",host=\"{host}\",method=\"{method}\"}} {count}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_shown_as_upstream_shows_them() {
        let mut load = Load { depth: 3, adds: 7, retries: 1, longest: Duration::from_millis(1500), ..Load::default() };
        for ms in [1, 2, 2_000_000] {
            load.waited.observe(Duration::from_millis(ms));
        }
        let mut text = String::new();
        write_queues(&mut text, &[("job", load), ("other", Load::default())]);
        for line in [
            "# TYPE workqueue_depth gauge",
            "workqueue_depth{name=\"job\"} 3",
            "# TYPE workqueue_adds counter",
            "workqueue_adds_total{name=\"job\"} 7",
            "workqueue_adds_total{name=\"other\"} 0",
            "workqueue_retries_total{name=\"job\"} 1",
            "workqueue_unfinished_work_seconds{name=\"job\"} 0",
            "workqueue_longest_running_processor_seconds{name=\"job\"} 1.5",
            "# TYPE workqueue_queue_duration_seconds histogram",
            "workqueue_queue_duration_seconds_bucket{name=\"job\",le=\"0.0001\"} 0",
            "workqueue_queue_duration_seconds_bucket{name=\"job\",le=\"0.001\"} 1",
            "workqueue_queue_duration_seconds_bucket{name=\"job\",le=\"0.01\"} 2",
            "workqueue_queue_duration_seconds_bucket{name=\"job\",le=\"1000.0\"} 2",
            "workqueue_queue_duration_seconds_bucket{name=\"job\",le=\"+Inf\"} 3",
            "workqueue_queue_duration_seconds_sum{name=\"job\"} 2000.003",
            "workqueue_queue_duration_seconds_count{name=\"job\"} 3",
            "workqueue_work_duration_seconds_count{name=\"job\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn requests_are_counted_by_code_and_method() {
        let requests = Requests::default();
        requests.sent(&Method::GET, Some(StatusCode::OK));
        requests.sent(&Method::GET, Some(StatusCode::OK));
        requests.sent(&Method::PUT, None);
        requests.sent(&Method::TRACE, Some(StatusCode::CONFLICT));
        let mut text = String::new();
        requests.write(&mut text, "here");
        let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "rest_client_requests_total{code=\"<error>\",host=\"here\",method=\"PUT\"} 1",
                "rest_client_requests_total{code=\"200\",host=\"here\",method=\"GET\"} 2",
                "rest_client_requests_total{code=\"409\",host=\"here\",method=\"OTHER\"} 1",
            ]
        );
    }
}
