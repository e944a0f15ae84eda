//! What the node's pods use, as three documents: one for the API server's metrics.k8s.io, the kubelet's summary, and the
//! kubelet's resource metrics for Prometheus. Pure.
//!
//! The summary tells of CPU, memory and swap; of file systems and networks it says nothing.
//!
//! Source: `staging/src/k8s.io/kubelet/pkg/apis/stats/v1alpha1/types.go`,
//! `pkg/kubelet/metrics/collectors/resource_metrics.go`.

use std::fmt::Write as _;

use jiff::Timestamp;
use runtime::Stats;
use serde_json::{Value, json};
use types::time::rfc3339;

use crate::measure::{PodUsage, Sample, Usage};
use crate::pod;

/// What metrics.k8s.io is made of: `[nanocores, bytes]` by container. A pod is told when every container of it has a rate.
pub fn usage(sample: &Sample) -> Value {
    let pods: Vec<Value> = sample.pods.iter().filter_map(of_pod).collect();
    let mut all = json!({"pods": pods});
    if let Some(pair) = pair(&sample.node) {
        all["node"] = window(&sample.node);
        all["node"]["usage"] = pair;
    }
    all
}

fn pair(usage: &Usage) -> Option<Value> {
    Some(json!([usage.rate?.nano_cores, usage.stats.memory_working_set_bytes]))
}

fn window(usage: &Usage) -> Value {
    let window = usage.rate.map_or(0, |r| u64::try_from(r.window.as_nanos()).unwrap_or(u64::MAX));
    json!({"timestamp": rfc3339(usage.at), "windowNanoseconds": window})
}

fn of_pod(pod: &PodUsage) -> Option<Value> {
    let containers: Option<Vec<Value>> =
        pod.containers.iter().map(|c| Some(json!([c.name, pair(&c.usage)?]))).collect();
    let containers = containers.filter(|c| !c.is_empty())?;
    // The earliest, whose window tells how old the oldest of it is.
    let first = pod.containers.iter().min_by_key(|c| c.usage.since())?;
    let mut all = window(&first.usage);
    all["uid"] = json!(pod::uid(&pod.pod));
    all["containers"] = json!(containers);
    Some(all)
}

/// `/stats/summary`.
pub fn summary(sample: &Sample, node: &str, started: Timestamp) -> Value {
    let mut of_node = figures(&sample.node, started);
    of_node["nodeName"] = json!(node);
    let pods: Vec<Value> = sample
        .pods
        .iter()
        .map(|p| {
            let mut all = figures(&p.usage, p.started_at);
            all["podRef"] =
                json!({"name": pod::name(&p.pod), "namespace": pod::namespace(&p.pod), "uid": pod::uid(&p.pod)});
            all["process_stats"] = json!({"process_count": p.usage.stats.pids});
            let containers: Vec<Value> = p
                .containers
                .iter()
                .map(|c| {
                    let mut all = figures(&c.usage, c.started_at);
                    all["name"] = json!(c.name);
                    all
                })
                .collect();
            all["containers"] = json!(containers);
            all
        })
        .collect();
    json!({"node": of_node, "pods": pods})
}

fn figures(usage: &Usage, started: Timestamp) -> Value {
    let (stats, time) = (&usage.stats, rfc3339(usage.at));
    let mut cpu = json!({"time": time, "usageCoreNanoSeconds": stats.cpu_usage_ns});
    if let Some(rate) = usage.rate {
        cpu["usageNanoCores"] = json!(rate.nano_cores);
    }
    let mut memory = json!({"time": time, "usageBytes": stats.memory_usage_bytes,
        "workingSetBytes": stats.memory_working_set_bytes, "rssBytes": stats.memory_rss_bytes,
        "pageFaults": stats.page_faults, "majorPageFaults": stats.major_page_faults});
    if let Some(limit) = stats.memory_limit_bytes {
        memory["availableBytes"] = json!(limit.saturating_sub(stats.memory_working_set_bytes));
    }
    json!({"startTime": rfc3339(started), "cpu": cpu, "memory": memory,
        "swap": {"time": time, "swapUsageBytes": stats.swap_usage_bytes}})
}

/// `/metrics/resource`.
pub fn resource_metrics(sample: &Sample) -> String {
    let mut out = String::new();
    let mut family = |name: &str, help: &str, kind: &str, lines: &mut dyn Iterator<Item = (String, f64, Timestamp)>| {
        let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        for (labels, value, at) in lines {
            let _ = writeln!(out, "{name}{labels} {value} {}", at.as_millisecond());
        }
    };
    let seconds = |stats: &Stats| stats.cpu_usage_ns as f64 / 1e9;
    let working_set = |stats: &Stats| stats.memory_working_set_bytes as f64;
    let swap = |stats: &Stats| stats.swap_usage_bytes as f64;
    let of_pod = |p: &PodUsage| format!("namespace=\"{}\",pod=\"{}\"", pod::namespace(&p.pod), pod::name(&p.pod));
    let containers = || {
        sample
            .pods
            .iter()
            .flat_map(|p| p.containers.iter().map(move |c| (format!("{{container=\"{}\",{}}}", c.name, of_pod(p)), c)))
    };
    let pods = || sample.pods.iter().map(|p| (format!("{{{}}}", of_pod(p)), &p.usage));
    let node = || std::iter::once((String::new(), &sample.node));
    type Figure<'a> = &'a dyn Fn(&Stats) -> f64;
    let figures: [(&str, &str, &str, Figure<'_>); 3] = [
        ("cpu_usage_seconds_total", "Cumulative cpu time consumed by the {} in core-seconds", "counter", &seconds),
        ("memory_working_set_bytes", "Current working set of the {} in bytes", "gauge", &working_set),
        ("swap_usage_bytes", "Current amount of the {} swap usage in bytes", "gauge", &swap),
    ];
    for (what, help, kind, figure) in figures {
        let of = |(labels, usage): (String, &Usage)| (labels, figure(&usage.stats), usage.at);
        let help = |of: &str| help.replace("{}", of);
        family(&format!("node_{what}"), &help("node"), kind, &mut node().map(of));
        let each = containers().map(|(labels, c)| (labels, &c.usage));
        family(&format!("container_{what}"), &help("container"), kind, &mut each.map(of));
        family(&format!("pod_{what}"), &help("pod"), kind, &mut pods().map(of));
    }
    let starts = containers().map(|(labels, c)| (labels, c.started_at.as_millisecond() as f64 / 1e3, c.usage.at));
    let help = "Start time of the container since unix epoch in seconds";
    family("container_start_time_seconds", help, "gauge", &mut { starts });
    out.push_str(
        "# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n\
         # TYPE resource_scrape_error gauge\nresource_scrape_error 0\n",
    );
    out
}

/// When the host was started. Source: proc_stat(5).
pub fn boot_time(stat: &str) -> Timestamp {
    let seconds = stat.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok());
    seconds.and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::measure::{ContainerUsage, Rate};

    fn sample(rates: &[Option<u64>]) -> Sample {
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let usage = |rate: Option<u64>| Usage {
            at,
            stats: Stats {
                cpu_usage_ns: 1_500_000_000,
                memory_usage_bytes: 3000,
                memory_working_set_bytes: 2048,
                memory_limit_bytes: Some(4096),
                pids: 2,
                ..Stats::default()
            },
            rate: rate.map(|nano_cores| Rate { nano_cores, window: Duration::from_secs(15) }),
        };
        let containers = rates.iter().enumerate().map(|(i, rate)| ContainerUsage {
            name: format!("c{i}"),
            started_at: at,
            usage: usage(*rate),
        });
        let pod =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}})).unwrap();
        let pods = vec![PodUsage {
            pod: Arc::new(pod),
            started_at: at,
            usage: usage(Some(9)),
            containers: containers.collect(),
        }];
        Sample { node: usage(Some(7)), pods }
    }

    #[test]
    fn a_pod_is_told_when_all_of_it_is_known() {
        let told = |rates: &[Option<u64>]| usage(&sample(rates))["pods"].clone();
        assert_eq!(told(&[]), json!([]));
        assert_eq!(told(&[Some(1), None]), json!([]));
        assert_eq!(
            told(&[Some(1), Some(2)]),
            json!([{"timestamp": "2026-01-02T03:04:05Z", "windowNanoseconds": 15_000_000_000u64, "uid": "u",
                "containers": [["c0", [1, 2048]], ["c1", [2, 2048]]]}])
        );
        assert_eq!(usage(&sample(&[]))["node"]["usage"], json!([7, 2048]));
    }

    #[test]
    fn the_kubelets_documents() {
        let sample = sample(&[Some(5)]);
        let all = summary(&sample, "n1", Timestamp::UNIX_EPOCH);
        assert_eq!(all["node"]["nodeName"], "n1");
        assert_eq!(all["pods"][0]["podRef"], json!({"name": "web", "namespace": "shop", "uid": "u"}));
        let container = &all["pods"][0]["containers"][0];
        assert_eq!((&container["name"], &container["cpu"]["usageNanoCores"]), (&json!("c0"), &json!(5)));
        assert_eq!(container["memory"]["availableBytes"], 2048);
        let text = resource_metrics(&sample);
        for line in [
            "node_cpu_usage_seconds_total 1.5 1767323045000",
            "container_cpu_usage_seconds_total{container=\"c0\",namespace=\"shop\",pod=\"web\"} 1.5 1767323045000",
            "pod_memory_working_set_bytes{namespace=\"shop\",pod=\"web\"} 2048 1767323045000",
            "container_start_time_seconds{container=\"c0\",namespace=\"shop\",pod=\"web\"} 1767323045 1767323045000",
            "# TYPE node_swap_usage_bytes gauge",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert_eq!(boot_time("cpu 1\nbtime 1767323045\n").to_string(), "2026-01-02T03:04:05Z");
    }
}
