//! What `/metrics` shows of the server itself, by upstream's names.
//!
//! Source: apiserver `pkg/endpoints/metrics/metrics.go`, `pkg/audit/metrics.go`, `pkg/util/flowcontrol/metrics`,
//! `pkg/storage/etcd3/metrics`, component-base `metrics/prometheus/version`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use http::{HeaderMap, Method};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use store::View;
use types::registry::{Kind, KindRef};

use super::process;
use super::query::Query;
use super::router::Resource;
use crate::aggregator::Aggregator;
use crate::flow::Flow;
use crate::server::Config;

/// Upper bounds in seconds. Those that dashboards ask for (1, 5, 30) are among upstream's; a read out of memory is below the
/// smallest of these.
const DURATION_BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0];
/// Custom kinds come and go without a bound, counters stay: as many as a large cluster has.
const CUSTOM_KINDS_MAX: usize = 1000;
/// The last line of the format.
const END: &str = "# EOF\n";

type Text = Cow<'static, str>;

/// What is said of a request besides how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Labels {
    pub verb: &'static str,
    dry_run: &'static str,
    group: Text,
    version: Text,
    resource: Text,
    subresource: Text,
    scope: &'static str,
    component: &'static str,
}

impl Default for Labels {
    /// Of a request that is refused before it is known what it is about.
    fn default() -> Self {
        Self {
            verb: "OTHER",
            dry_run: "",
            group: Text::default(),
            version: Text::default(),
            resource: Text::default(),
            subresource: Text::default(),
            scope: "",
            component: "apiserver",
        }
    }
}

/// As the label has it: anybody can make up methods.
pub fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CountLabels {
    #[prometheus(flatten)]
    of: Labels,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InFlightLabels {
    request_kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    git_version: String,
    git_commit: String,
    build_date: String,
    major: String,
    minor: String,
    platform: &'static str,
}

/// Appends what others count, in OpenMetrics' text.
pub type Others = Box<dyn Fn(&mut String) + Send + Sync>;

/// Counters of one server.
pub struct Metrics {
    registry: Registry,
    requests: Family<CountLabels, Counter>,
    durations: Family<Labels, Histogram>,
    in_flight: Family<InFlightLabels, Gauge>,
    watches: Gauge<i64, AtomicI64>,
    panics: Counter,
    started_seconds: i64,
    /// The custom kinds that have labels of their own.
    custom: Mutex<HashSet<String>>,
    others: Mutex<Vec<Others>>,
    /// What `/metrics/slis` shows.
    pub indicators: super::slis::Indicators,
}

/// Counts one request or open watch until it is dropped.
pub struct OpenWatch(Gauge<i64, AtomicI64>);
impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub fn new(config: &Config, flow: &Arc<Flow>) -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations: Family<Labels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS.iter().copied()));
        let in_flight: Family<InFlightLabels, Gauge> = Family::default();
        let (watches, panics) = (Gauge::default(), Counter::default());
        let build: Family<BuildLabels, Gauge> = Family::default();
        build.get_or_create(&build_labels(config)).set(1);
        registry.register("apiserver_request", "Requests by verb, resource and response code", requests.clone());
        registry.register("apiserver_request_duration_seconds", "Time to the head of the response", durations.clone());
        // Nothing that is waited for is left out of it here: it is the same time.
        registry.register(
            "apiserver_request_sli_duration_seconds",
            "Time to the head of the response",
            durations.clone(),
        );
        registry.register("apiserver_current_inflight_requests", "Requests that are worked on", in_flight.clone());
        registry.register("apiserver_longrunning_requests", "Open watches", watches.clone());
        registry.register("apiserver_request_panics", "Requests that ended in a bug", panics.clone());
        registry.register("kubernetes_build_info", "What is running", build);
        let (dispatched, rejected) = (flow.dispatched.clone(), flow.rejected.clone());
        registry.register("apiserver_flowcontrol_dispatched_requests", "Requests that got a seat", dispatched);
        registry.register("apiserver_flowcontrol_rejected_requests", "Requests that were turned away", rejected);
        if let Some(audit) = &config.audit {
            registry.register("apiserver_audit_event", "Audit events that were recorded", audit.log.events.clone());
            registry.register(
                "apiserver_audit_requests_rejected",
                "Audit events that were lost",
                audit.log.lost.clone(),
            );
        }
        let started_seconds = (config.clock)().as_second();
        let (custom, others) = (Mutex::default(), Mutex::default());
        let indicators = super::slis::Indicators::default();
        Self { registry, requests, durations, in_flight, watches, panics, started_seconds, custom, others, indicators }
    }

    /// What is said of a request for a kind.
    pub fn labels(
        &self,
        kind: &KindRef,
        resource: &Resource<'_>,
        verb: &str,
        method: &Method,
        query: &Query,
        headers: &HeaderMap,
    ) -> Labels {
        let (group, version, plural) = match kind {
            KindRef::BuiltIn(kind) => {
                (Text::Borrowed(&*kind.group), Text::Borrowed(&*kind.version), Text::Borrowed(&*kind.plural))
            }
            KindRef::Custom(kind) => self.custom(kind),
        };
        let known = |s: &&types::registry::Subresource| s.name == resource.subresource;
        let subresource = match kind {
            KindRef::BuiltIn(kind) => Text::Borrowed(kind.subresources.iter().find(known).map_or("", |s| &*s.name)),
            KindRef::Custom(kind) => kind.subresources.iter().find(known).map(|s| s.name.clone()).unwrap_or_default(),
        };
        let content_type = headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let verb_label = match verb {
            _ if matches!(&*subresource, "proxy" | "exec" | "attach" | "portforward" | "log") => "CONNECT",
            "list" => "LIST",
            "watch" => "WATCH",
            "deletecollection" => "DELETECOLLECTION",
            "patch" if content_type.starts_with("application/apply-patch") => "APPLY",
            _ => method_name(method),
        };
        Labels {
            verb: verb_label,
            dry_run: if query.get("dryRun") == Some("All") { "All" } else { "" },
            group,
            version,
            resource: plural,
            subresource,
            scope: match () {
                () if !resource.name.is_empty() || verb == "create" => "resource",
                () if !resource.namespace.is_empty() => "namespace",
                () => "cluster",
            },
            component: "apiserver",
        }
    }

    /// Group, version and plural of a custom kind; all but the first few kinds share theirs.
    fn custom(&self, kind: &Kind) -> (Text, Text, Text) {
        let mut seen = self.custom.lock();
        let name = kind.group_resource();
        if !seen.contains(&name) {
            if seen.len() >= CUSTOM_KINDS_MAX {
                return (Text::Borrowed("other"), Text::default(), Text::Borrowed("other"));
            }
            seen.insert(name);
        }
        (kind.group.clone(), kind.version.clone(), kind.plural.clone())
    }

    pub fn observe(&self, labels: &Labels, code: u16, took: Duration) {
        self.requests.get_or_create(&CountLabels { of: labels.clone(), code }).inc();
        if !matches!(labels.verb, "WATCH" | "CONNECT") {
            self.durations.get_or_create(labels).observe(took.as_secs_f64());
        }
    }

    /// A request is being worked on until the guard is dropped.
    pub fn work_on(&self, verb: &str) -> OpenWatch {
        let request_kind = if matches!(verb, "get" | "list") { "readOnly" } else { "mutating" };
        let gauge = self.in_flight.get_or_create(&InFlightLabels { request_kind }).clone();
        gauge.inc();
        OpenWatch(gauge)
    }

    pub fn open_watch(&self) -> OpenWatch {
        self.watches.inc();
        OpenWatch(self.watches.clone())
    }

    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Has the text end with what others count.
    pub fn show(&self, others: Others) {
        self.others.lock().push(others);
    }

    /// The text of `/metrics`. What is stored is counted as it is asked for.
    pub fn text(&self, view: &dyn View, aggregator: &Aggregator, flow: &Flow) -> String {
        let mut text = String::new();
        // Writing to memory does not fail.
        let _ = encode(&mut text, &self.registry);
        text.truncate(text.len() - if text.ends_with(END) { END.len() } else { 0 });
        text.push_str("# HELP apiserver_storage_objects Stored objects.\n# TYPE apiserver_storage_objects gauge\n");
        for kind in types::registry::BUILT_IN.iter().filter(|k| k.stored) {
            let dot = if kind.group.is_empty() { "" } else { "." };
            let count = view.count(&kind.store_prefix());
            let _ =
                writeln!(text, "apiserver_storage_objects{{resource=\"{}{dot}{}\"}} {count}", kind.plural, kind.group);
        }
        aggregator.write_metrics(&mut text);
        flow.write_metrics(&mut text);
        process::write(&mut text, self.started_seconds);
        self.others.lock().iter().for_each(|write| write(&mut text));
        text.push_str(END);
        text
    }
}

fn build_labels(config: &Config) -> BuildLabels {
    let version = &config.version;
    let mut numbers = version.git_version.trim_start_matches('v').split('.');
    let mut next = || numbers.next().unwrap_or_default().to_owned();
    BuildLabels {
        git_version: version.git_version.clone(),
        git_commit: version.git_commit.clone(),
        build_date: version.build_date.clone(),
        major: next(),
        minor: next(),
        platform: if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" },
    }
}
