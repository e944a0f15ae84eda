//! `/metrics/slis`: how the health checks end, as service level indicators.
//!
//! Every check is made when somebody asks; nothing is made in between, so that the counter grows by one with every look.
//!
//! Source: component-base `metrics/prometheus/slis`, KEP-3466.

use std::collections::HashMap;
use std::fmt::Write as _;

use parking_lot::Mutex;

/// A check: its name and path.
type Check = (&'static str, &'static str);

/// How often each check has passed and failed, by its name and path: as many as there are checks.
#[derive(Default)]
pub struct Indicators(Mutex<HashMap<Check, (u64, u64)>>);

impl Indicators {
    /// Counts what was found now, by `(check, path, passed)`, and tells all of it.
    pub fn text(&self, found: &[(&'static str, &'static str, bool)]) -> String {
        let mut text = String::from(
            "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.\n\
             # TYPE kubernetes_healthcheck gauge\n",
        );
        for (name, root, passed) in found {
            let value = u8::from(*passed);
            let _ = writeln!(text, "kubernetes_healthcheck{{name=\"{name}\",type=\"{root}\"}} {value}");
        }
        text.push_str(
            "# HELP kubernetes_healthchecks_total [STABLE] This metric records the results of all healthcheck.\n\
             # TYPE kubernetes_healthchecks_total counter\n",
        );
        let mut counts = self.0.lock();
        for (name, root, passed) in found {
            let (passes, failures) = counts.entry((name, root)).or_default();
            *(if *passed { &mut *passes } else { &mut *failures }) += 1;
            for (status, count) in [("error", *failures), ("success", *passes)].into_iter().filter(|(_, n)| *n > 0) {
                let labels = format!("{{name=\"{name}\",status=\"{status}\",type=\"{root}\"}}");
                let _ = writeln!(text, "kubernetes_healthchecks_total{labels} {count}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_counted_and_the_last_one_is_told() {
        let indicators = Indicators::default();
        indicators.text(&[("etcd", "readyz", true), ("ping", "livez", true)]);
        let text = indicators.text(&[("etcd", "readyz", false), ("ping", "livez", true)]);
        for line in [
            "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 0",
            "kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 1",
            "kubernetes_healthchecks_total{name=\"etcd\",status=\"error\",type=\"readyz\"} 1",
            "kubernetes_healthchecks_total{name=\"etcd\",status=\"success\",type=\"readyz\"} 1",
            "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"livez\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert!(!text.contains("name=\"ping\",status=\"error\""));
    }
}
