//! `top`: what nodes and pods use now, from metrics.k8s.io.
//!
//! Source: kubectl `pkg/cmd/top`, `pkg/metricsutil/metrics_printer.go`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use client::{Clock, ListParams};
use jiff::Timestamp;
use serde_json::Value;
use types::quantity::Quantity;

use crate::failure::usage;
use crate::manifest::text;
use crate::session::Session;
use crate::table::Table;
use crate::target;

const ROOT: &str = "/apis/metrics.k8s.io/v1beta1";
const MIB: i64 = 1 << 20;
/// So long after its creation a pod need not have been measured. Source: kubectl `metricsCreationDelay`.
const DELAY_SECONDS: i64 = 120;

#[derive(Debug, Clone, Args)]
pub struct Top {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, Clone, Subcommand)]
pub enum What {
    /// What nodes use
    #[command(aliases = ["nodes", "no"])]
    Node {
        #[command(flatten)]
        which: Which,
        /// Percentages of what the node has, not of what pods may have of it
        #[arg(long)]
        show_capacity: bool,
    },
    /// What pods use
    #[command(aliases = ["pods", "po"])]
    Pod {
        #[command(flatten)]
        which: Which,
        /// Only those with these fields
        #[arg(long, default_value = "", hide_default_value = true)]
        field_selector: String,
        /// Each container
        #[arg(long)]
        containers: bool,
        /// All namespaces
        #[arg(long, short = 'A')]
        all_namespaces: bool,
        /// The sum, too
        #[arg(long)]
        sum: bool,
    },
}

#[derive(Debug, Clone, Default, Args)]
pub struct Which {
    /// Only this one
    pub name: Option<String>,
    /// Only those with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub selector: String,
    /// The largest first
    #[arg(long)]
    pub sort_by: Option<SortBy>,
    /// Leave the headers out
    #[arg(long)]
    pub no_headers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    Cpu,
    Memory,
}

pub async fn run(session: &Session, top: &Top) -> Result<()> {
    let rows = match &top.what {
        What::Node { which, show_capacity } => {
            let items = fetch(session, &format!("{ROOT}/nodes"), which, "").await?;
            if items.is_empty() {
                bail!("metrics not available yet");
            }
            let params = ListParams::labels(&which.selector);
            let nodes = match &which.name {
                Some(name) => vec![session.client.get_path(&format!("/api/v1/nodes/{name}")).await?],
                None => target::list_all(session, "/api/v1/nodes", &params).await?.0,
            };
            nodes_shown(items, &nodes, *show_capacity, which)
        }
        What::Pod { which, field_selector, containers, all_namespaces, sum } => {
            let namespaces = if *all_namespaces { String::new() } else { format!("/namespaces/{}", session.namespace) };
            let items = fetch(session, &format!("{ROOT}{namespaces}/pods"), which, field_selector).await?;
            if items.is_empty() {
                let mut params = ListParams::labels(&which.selector);
                params.field_selector = field_selector.clone();
                let path = format!("/api/v1{namespaces}/pods");
                let pods = target::list_all(session, &path, &params).await?.0;
                if let Some(why) = why_unknown(&pods, Clock::system().now()) {
                    bail!(why);
                }
                session.note(match *all_namespaces {
                    true => "No resources found".to_owned(),
                    false => format!("No resources found in {} namespace.", session.namespace),
                });
                return Ok(());
            }
            pods_shown(items, which, *all_namespaces, *containers, *sum)
        }
    };
    session.print(&Table::default().lay_out(&rows))
}

async fn fetch(session: &Session, path: &str, which: &Which, fields: &str) -> Result<Vec<Value>> {
    if which.name.is_some() && !(which.selector.is_empty() && fields.is_empty()) {
        return Err(usage("only one of NAME or selector can be provided"));
    }
    let found = match &which.name {
        Some(name) => session.client.get_path(&format!("{path}/{name}")).await.map(|one| vec![one]),
        None => {
            let params = ListParams { field_selector: fields.to_owned(), ..ListParams::labels(&which.selector) };
            target::list_all(session, path, &params).await.map(|(items, _)| items)
        }
    };
    match found {
        // No group of that name: nobody serves it.
        Err(error)
            if error.is_not_found() && error.status().is_none_or(|s| s.message.contains("requested resource")) =>
        {
            bail!("Metrics API not available")
        }
        other => Ok(other?),
    }
}

/// Why nothing is known of pods that are there: the first that should have been measured, if one should.
fn why_unknown(pods: &[Value], now: Timestamp) -> Option<String> {
    let age = |pod: &Value| {
        let created: Timestamp = text(pod, "/metadata/creationTimestamp").parse().ok()?;
        Some(now.duration_since(created).as_secs())
    };
    let old = pods.iter().find_map(|pod| Some((pod, age(pod).filter(|age| *age > DELAY_SECONDS)?)));
    match old {
        None if pods.is_empty() => None,
        None => Some("metrics not available yet".into()),
        Some((pod, age)) => {
            let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
            let hours = if age < 3600 { String::new() } else { format!("{}h", age / 3600) };
            let age = format!("{hours}{}m{}s", age / 60 % 60, age % 60);
            Some(format!("Metrics not available for pod {namespace}/{name}, age: {age}"))
        }
    }
}

/// CPU and memory.
type Use = [Quantity; 2];

fn uses(of: &Value) -> Use {
    ["cpu", "memory"].map(|resource| of[resource].as_str().and_then(|q| q.parse().ok()).unwrap_or_default())
}

fn plus(sum: Use, other: Use) -> Use {
    [sum[0].plus(&other[0]), sum[1].plus(&other[1])]
}

fn shown(of: Use) -> [String; 2] {
    [format!("{}m", of[0].millis()), format!("{}Mi", of[1].value() / MIB)]
}

/// The largest first, or by name.
fn sort<T>(items: &mut [T], by: Option<SortBy>, of: impl Fn(&T) -> (Use, Vec<String>)) {
    items.sort_by_cached_key(|item| {
        let (uses, name) = of(item);
        let size = match by {
            None => None,
            Some(SortBy::Cpu) => Some(uses[0]),
            Some(SortBy::Memory) => Some(uses[1]),
        };
        (Reverse(size), name)
    });
}

/// A row ends with an empty cell, so that the last column is as wide as kubectl's.
fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(ToString::to_string).chain([String::new()]).collect()
}

fn nodes_shown(mut items: Vec<Value>, nodes: &[Value], capacity: bool, which: &Which) -> Vec<Vec<String>> {
    let name = |item: &Value| text(item, "/metadata/name").to_owned();
    sort(&mut items, which.sort_by, |item| (uses(&item["usage"]), vec![name(item)]));
    let field = if capacity { "capacity" } else { "allocatable" };
    let mut has: BTreeMap<String, Use> = nodes.iter().map(|n| (name(n), uses(&n["status"][field]))).collect();
    let mut rows = Vec::new();
    if !which.no_headers {
        rows.push(row(["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"]));
    }
    for item in &items {
        let (used, name) = (uses(&item["usage"]), name(item));
        let has = has.remove(&name);
        let percent = |i: usize| match has {
            Some(has) if !has[i].is_zero() => {
                format!("{}%", (used[i].millis() as f64 / has[i].millis() as f64 * 100.0) as i64)
            }
            Some(_) => "0%".to_owned(),
            None => String::new(),
        };
        let [cpu, memory] = shown(used);
        rows.push(row([&name, &cpu, &percent(0), &memory, &percent(1)]));
    }
    // Those of which nothing is known.
    rows.extend(has.keys().map(|name| row([name, "<unknown>", "<unknown>", "<unknown>", "<unknown>"])));
    rows
}

fn pods_shown(mut items: Vec<Value>, which: &Which, namespaces: bool, containers: bool, sum: bool) -> Vec<Vec<String>> {
    let parts = |item: &Value| item["containers"].as_array().cloned().unwrap_or_default();
    let whole = |item: &Value| parts(item).iter().map(|c| uses(&c["usage"])).fold(Use::default(), plus);
    let place = |item: &Value| ["/metadata/namespace", "/metadata/name"].map(|p| text(item, p).to_owned());
    sort(&mut items, which.sort_by, |item| (whole(item), place(item).to_vec()));
    let line = |namespace: &str, pod: &str, name: &str, of: [&str; 2]| {
        let before = [(namespaces, namespace), (containers, pod), (true, name)];
        let before = before.into_iter().filter(|(is_shown, _)| *is_shown).map(|(_, text)| text);
        before.chain(of).chain([""]).map(str::to_owned).collect::<Vec<String>>()
    };
    let mut rows = Vec::new();
    if !which.no_headers {
        rows.push(line("NAMESPACE", "POD", "NAME", ["CPU(cores)", "MEMORY(bytes)"]));
    }
    for item in &items {
        let [namespace, pod] = place(item);
        let mut each = |name: &str, of: Use| {
            let [cpu, memory] = shown(of);
            rows.push(line(&namespace, &pod, name, [&cpu, &memory]));
        };
        if containers {
            let mut parts = parts(item);
            sort(&mut parts, which.sort_by, |c| (uses(&c["usage"]), vec![text(c, "/name").to_owned()]));
            parts.iter().for_each(|c| each(text(c, "/name"), uses(&c["usage"])));
        } else {
            each(&pod, whole(item));
        }
    }
    if sum {
        let [cpu, memory] = shown(items.iter().map(whole).fold(Use::default(), plus));
        rows.push(line("", "", "", ["________", "________"]));
        rows.push(line("", "", "", [&cpu, &memory]));
    }
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, containers: &[(&str, &str, &str)]) -> Value {
        let containers: Vec<Value> = containers
            .iter()
            .map(|(name, cpu, memory)| json!({"name": name, "usage": {"cpu": cpu, "memory": memory}}))
            .collect();
        json!({"metadata": {"name": name, "namespace": "shop"}, "containers": containers})
    }

    #[test]
    fn pods_and_their_containers() {
        let items = || {
            vec![
                pod("web", &[("app", "1500001n", "3Mi"), ("log", "1m", "1536Ki")]),
                pod("db", &[("db", "250m", "2Mi")]),
            ]
        };
        let check = |which: Which, [namespaces, containers, sum]: [bool; 3], expected: &str| {
            let found = Table::default().lay_out(&pods_shown(items(), &which, namespaces, containers, sum));
            assert_eq!(found.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"), expected);
        };
        check(
            Which::default(),
            [false, false, true],
            "NAME   CPU(cores)   MEMORY(bytes)\ndb     250m         2Mi\nweb    3m           4Mi\n\
             \u{20}      ________     ________\n       253m         6Mi",
        );
        check(
            Which { sort_by: Some(SortBy::Memory), no_headers: true, ..Which::default() },
            [true, true, false],
            "shop   web   app   2m     3Mi\nshop   web   log   1m     1Mi\nshop   db    db    250m   2Mi",
        );
        let rows = pods_shown(items(), &Which::default(), false, false, false);
        assert!(
            Table::default().lay_out(&rows).starts_with("NAME   CPU(cores)   MEMORY(bytes)   \n"),
            "as kubectl ends it"
        );
    }

    #[test]
    fn why_nothing_is_known() {
        let now: Timestamp = "2026-01-02T04:04:05Z".parse().unwrap();
        let pod =
            |created: &str| json!({"metadata": {"name": "web", "namespace": "shop", "creationTimestamp": created}});
        assert_eq!(why_unknown(&[], now), None);
        assert_eq!(why_unknown(&[pod("2026-01-02T04:03:05Z")], now).unwrap(), "metrics not available yet");
        let old = why_unknown(&[pod("2026-01-02T04:03:05Z"), pod("2026-01-02T03:03:00Z")], now);
        assert_eq!(old.unwrap(), "Metrics not available for pod shop/web, age: 1h1m5s");
    }

    #[test]
    fn nodes_and_what_they_have() {
        let used = json!({"metadata": {"name": "n1"}, "usage": {"cpu": "500m", "memory": "512Mi"}});
        let node = |name: &str| {
            json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi"},
                "capacity": {"cpu": "4", "memory": "0"}}})
        };
        let nodes = [node("n1"), node("n2")];
        let rows = nodes_shown(vec![used.clone()], &nodes, false, &Which::default());
        assert_eq!(rows[1], row(["n1", "500m", "25%", "512Mi", "50%"]));
        assert_eq!(rows[2], row(["n2", "<unknown>", "<unknown>", "<unknown>", "<unknown>"]));
        let rows = nodes_shown(vec![used], &nodes[..1], true, &Which { no_headers: true, ..Which::default() });
        assert_eq!(rows, [row(["n1", "500m", "12%", "512Mi", "0%"])]);
    }
}
