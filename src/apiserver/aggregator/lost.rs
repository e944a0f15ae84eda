//! Which APIServices are not available, and how often that has begun, as `/metrics` shows it.
//!
//! Source: kube-aggregator `pkg/controllers/status/metrics/metrics.go`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use parking_lot::Mutex;

use super::Registered;

/// How often each has ceased to be available, by name and reason; of those that are registered.
#[derive(Default)]
pub struct Lost(Mutex<BTreeMap<(String, &'static str), u64>>);

impl Lost {
    /// One that was available is not any more.
    pub fn count(&self, name: &str, reason: &'static str) {
        *self.0.lock().entry((name.to_owned(), reason)).or_default() += 1;
    }

    /// Appends both metrics. In OpenMetrics a gauge and a counter cannot share a name but for `_total`: here the counter has
    /// no type.
    pub fn write(&self, text: &mut String, registered: &Registered) {
        const GAUGE: &str = "aggregator_unavailable_apiservice";
        const TOTAL: &str = "aggregator_unavailable_apiservice_total";
        // Writing to memory does not fail.
        let _ = writeln!(text, "# HELP {GAUGE} APIServices that are not available.\n# TYPE {GAUGE} gauge");
        for registration in registered.iter() {
            let remote = registration.remote.as_ref();
            let gone = u8::from(remote.is_some_and(|remote| !remote.link.is_available()));
            let _ = writeln!(text, "{GAUGE}{{name=\"{}\"}} {gone}", registration.name);
        }
        // Without a type: the counter would be of one name with the gauge, and Prometheus' own format does not know `unknown`.
        let _ = writeln!(text, "# HELP {TOTAL} How often APIServices ceased to be available.");
        let mut lost = self.0.lock();
        lost.retain(|(name, _), _| registered.named(name).is_some());
        for ((name, reason), count) in &*lost {
            let _ = writeln!(text, "{TOTAL}{{name=\"{name}\",reason=\"{reason}\"}} {count}");
        }
    }
}
