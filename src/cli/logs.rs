//! `logs`: what containers wrote.
//!
//! Source: kubectl `pkg/cmd/logs`, `polymorphichelpers/logsforobject.go`.

use std::cmp::Reverse;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use client::ListParams;
use client::api::Query;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::failure::{self, usage};
use crate::manifest::text;
use crate::session::Session;
use crate::target::{self, Found};

/// Logs followed at once, as kubectl allows; each is a connection's worth of work for the node.
const FOLLOWED_MAX: usize = 5;

const HELP: &str = "See 'kedge logs -h' for help and examples";
const EXPECTED: &str = "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required \
                        argument for the logs command\nSee 'kedge logs -h' for help and examples";

#[derive(Debug, Clone, Args)]
pub struct Logs {
    /// POD or TYPE/NAME, and a container
    #[arg(value_name = "POD")]
    pub words: Vec<String>,
    /// Go on as more is written
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// This container
    #[arg(long, short = 'c', default_value = "", hide_default_value = true)]
    pub container: String,
    /// Of the container's run before this one
    #[arg(long, short = 'p')]
    pub previous: bool,
    /// So many last lines; -1: all
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    pub tail: i64,
    /// Not older than this: 5s, 2m, 3h
    #[arg(long, value_parser = crate::duration::parse)]
    pub since: Option<Duration>,
    /// Not older than this time (RFC 3339)
    #[arg(long, default_value = "", hide_default_value = true)]
    pub since_time: String,
    /// With the time of each line
    #[arg(long)]
    pub timestamps: bool,
    /// So many bytes at most
    #[arg(long)]
    pub limit_bytes: Option<u64>,
    /// Of the pods with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Of all containers of a pod
    #[arg(long)]
    pub all_containers: bool,
    /// With the pod and container before each line
    #[arg(long)]
    pub prefix: bool,
    /// Of every pod of the object; implies --prefix
    #[arg(long)]
    pub all_pods: bool,
    /// Go on with the others when one cannot be read
    #[arg(long)]
    pub ignore_errors: bool,
    /// So many logs at once at most
    #[arg(long, default_value_t = FOLLOWED_MAX)]
    pub max_log_requests: usize,
}

pub async fn run(session: &Session, logs: &Logs) -> Result<()> {
    if logs.since.is_some() && !logs.since_time.is_empty() {
        return Err(usage("at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    let (pods, container) = pods(session, logs).await?;
    let mut reads: Vec<(Found, String)> = Vec::new();
    for pod in pods {
        for container in containers(session, logs, &pod, &container)? {
            reads.push((pod.clone(), container));
        }
    }
    if reads.is_empty() {
        session.note(format!("No resources found in {} namespace.", session.namespace));
        return Ok(());
    }
    let mut errors = Vec::new();
    if logs.follow && reads.len() > 1 {
        if reads.len() > logs.max_log_requests {
            return Err(usage(format!(
                "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use \
                 --max-log-requests to increase the limit",
                reads.len(),
                logs.max_log_requests
            )));
        }
        let all = reads.iter().map(|(pod, container)| read(session, logs, pod, container));
        for result in futures_util::future::join_all(all).await {
            note(session, logs, result, &mut errors);
        }
    } else {
        for (pod, container) in &reads {
            let result = read(session, logs, pod, container).await;
            let failed = result.is_err() && !logs.ignore_errors;
            note(session, logs, result, &mut errors);
            if failed {
                break;
            }
        }
    }
    failure::all(errors)
}

fn note(session: &Session, logs: &Logs, result: Result<()>, errors: &mut Vec<anyhow::Error>) {
    match result {
        Ok(()) => {}
        Err(error) if logs.ignore_errors => session.note(format!("error: {error:#}")),
        Err(error) => errors.push(error),
    }
}

/// The pods meant, and the container if a word named it.
async fn pods(session: &Session, logs: &Logs) -> Result<(Vec<Found>, String)> {
    if !logs.selector.is_empty() {
        if !logs.words.is_empty() {
            return Err(usage(format!("only a selector (-l) or a POD name is allowed\n{HELP}")));
        }
        return Ok((select(session, &session.namespace, &logs.selector).await?, logs.container.clone()));
    }
    let Some(first) = logs.words.first() else {
        return Err(usage(EXPECTED));
    };
    if logs.words.len() > 2 {
        return Err(usage(EXPECTED));
    }
    let container = match (logs.words.get(1), logs.container.as_str()) {
        (Some(_), own) if !own.is_empty() => {
            return Err(usage("only one of -c or an inline [CONTAINER] arg is allowed"));
        }
        (Some(word), _) => word.clone(),
        (None, own) => own.to_owned(),
    };
    let (pod, count) = one_pod(session, first, LOGS).await.map_err(|error| missing(session, error))?;
    if logs.all_pods {
        return Ok((all_of(session, first).await?, container));
    }
    if count > 1 {
        session.note(format!("Found {count} pods, using pod/{}", pod.name));
    }
    Ok((vec![pod], container))
}

/// What a pod is looked for, as kubectl says it.
const LOGS: &str = "get the logs from";
pub const ATTACH: &str = "attach to";

/// The pod that a word names: its own name, or a workload's, of which it is one.
pub async fn one_pod(session: &Session, word: &str, purpose: &str) -> Result<(Found, usize)> {
    let discovery = session.discovery().await?;
    let words = if word.contains('/') { vec![word.to_owned()] } else { vec!["pods".into(), word.to_owned()] };
    let targets = target::of_words(discovery, &words, &session.namespace, false)?;
    let [target] = &targets[..] else { return Err(usage(format!("{word:?} names no pod"))) };
    let object: Value = session.client.get_path(&target.path()).await?;
    if target.resource.kind == "Pod" {
        return Ok((target::as_found(&target.resource, object), 1));
    }
    let selector = selector_of(&target.resource, &object, purpose)?;
    let mut pods = select(session, &target.namespace, &selector).await?;
    if pods.is_empty() {
        anyhow::bail!("timed out waiting for the condition: {} has no pods", target.named());
    }
    let count = pods.len();
    pods.sort_by_cached_key(|p| rank(&p.object));
    let first = pods.remove(0);
    Ok((first, count))
}

/// The less, the better a pod is to look at: bound, running, ready, for longer, restarted more often, older. Times are RFC 3339
/// in UTC, and so in order as texts.
///
/// Source: kubectl `pkg/util/podutils` `ByLogging`.
fn rank(pod: &Value) -> (bool, u8, bool, String, Reverse<u64>, String) {
    let items = |path: &str| pod.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let ready = items("/status/conditions").find(|c| c["type"] == "Ready" && c["status"] == "True");
    let phase = match text(pod, "/status/phase") {
        "Unknown" => 1,
        "Pending" => 2,
        _ => 0,
    };
    let restarts = items("/status/containerStatuses").filter_map(|c| c["restartCount"].as_u64()).max().unwrap_or(0);
    let time = |value: Option<&str>| value.unwrap_or("empty, after every digit").to_owned();
    (
        text(pod, "/spec/nodeName").is_empty(),
        phase,
        ready.is_none(),
        time(ready.and_then(|c| c["lastTransitionTime"].as_str())),
        Reverse(restarts),
        time(pod.pointer("/metadata/creationTimestamp").and_then(Value::as_str)),
    )
}

/// The selector of the pods that an object stands for.
fn selector_of(resource: &crate::discovery::Resource, object: &Value, purpose: &str) -> Result<String> {
    Ok(match object.pointer("/spec/selector") {
        Some(selector) if resource.kind == "Service" => equal(selector),
        Some(selector) => selector_text(selector),
        None => anyhow::bail!(
            "cannot {purpose} *{}.{kind}: selector for *{}.{kind} not implemented",
            resource.version,
            resource.version,
            kind = resource.kind
        ),
    })
}

/// A pod by its name.
pub async fn pod_in(session: &Session, namespace: &str, name: &str) -> Result<Found> {
    let words = ["pods".to_owned(), name.to_owned()];
    let targets = target::of_words(session.discovery().await?, &words, namespace, false)?;
    let [target] = &targets[..] else { return Err(usage(format!("{name:?} names no pod"))) };
    let object: Value = session.client.get_path(&target.path()).await?;
    Ok(target::as_found(&target.resource, object))
}

/// Every pod that an object stands for.
async fn all_of(session: &Session, word: &str) -> Result<Vec<Found>> {
    let words = if word.contains('/') { vec![word.to_owned()] } else { vec!["pods".into(), word.to_owned()] };
    let targets = target::of_words(session.discovery().await?, &words, &session.namespace, false)?;
    let [target] = &targets[..] else { return Ok(Vec::new()) };
    let object: Value = session.client.get_path(&target.path()).await?;
    if target.resource.kind == "Pod" {
        return Ok(vec![target::as_found(&target.resource, object)]);
    }
    select(session, &target.namespace, &selector_of(&target.resource, &object, LOGS)?).await
}

/// What kubectl makes of an object that is not there, as `logs` says it.
fn missing(session: &Session, error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<client::Error>().and_then(client::Error::status) {
        Some(status) if status.is(types::status::Reason::NotFound) => {
            anyhow::anyhow!("error from server (NotFound): {} in namespace {:?}", status.message, session.namespace)
        }
        _ => error,
    }
}

pub fn no_container(pod: &Found, named: &str) -> String {
    format!("container {named} is not valid for pod {} out of: {}", pod.name, described(&pod.object))
}

async fn select(session: &Session, namespace: &str, selector: &str) -> Result<Vec<Found>> {
    let pods = session.discovery().await?.only("pods")?;
    let (items, _) = target::list_all(session, &pods.path(namespace), &ListParams::labels(selector)).await?;
    Ok(items.into_iter().map(|o| target::as_found(&pods, o)).collect())
}

fn equal(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
}

/// A `metav1.LabelSelector` as a query has it.
pub fn selector_text(selector: &Value) -> String {
    let mut parts = Vec::new();
    let labels = equal(&selector["matchLabels"]);
    if !labels.is_empty() {
        parts.push(labels);
    }
    for e in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = text(e, "/key");
        let values = || {
            let all = e["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
            all.collect::<Vec<_>>().join(",")
        };
        parts.push(match text(e, "/operator") {
            "In" => format!("{key} in ({})", values()),
            "NotIn" => format!("{key} notin ({})", values()),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.join(",")
}

/// Names of a pod's containers, init containers first.
pub fn container_names(pod: &Value) -> Vec<String> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten())
        .map(|c| text(c, "/name").to_owned())
        .collect()
}

/// The container that is meant when none is named: the annotated one, or the first.
pub fn default_container(session: &Session, pod: &Found, quiet: bool) -> String {
    let annotated =
        pod.object["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str().unwrap_or_default();
    if container_names(&pod.object).iter().any(|n| n == annotated) {
        return annotated.to_owned();
    }
    let names: Vec<&str> =
        pod.object["spec"]["containers"].as_array().into_iter().flatten().map(|c| text(c, "/name")).collect();
    let Some(first) = names.first() else { return String::new() };
    if container_names(&pod.object).len() > 1 && !quiet {
        session.note(format!("Defaulted container {first:?} out of: {}", described(&pod.object)));
    }
    (*first).to_owned()
}

fn described(pod: &Value) -> String {
    let mut parts = Vec::new();
    for (list, mark) in [("containers", ""), ("ephemeralContainers", " (ephem)"), ("initContainers", " (init)")] {
        parts.extend(pod["spec"][list].as_array().into_iter().flatten().map(|c| format!("{}{mark}", text(c, "/name"))));
    }
    parts.join(", ")
}

fn containers(session: &Session, logs: &Logs, pod: &Found, named: &str) -> Result<Vec<String>> {
    let names = container_names(&pod.object);
    if !named.is_empty() {
        anyhow::ensure!(names.iter().any(|n| n == named), "{}", no_container(pod, named));
        return Ok(vec![named.to_owned()]);
    }
    Ok(if logs.all_containers { names } else { vec![default_container(session, pod, false)] })
}

fn query(logs: &Logs, container: &str) -> Query {
    let mut query = Query::default();
    query.push("container", container);
    for (flag, name) in [(logs.follow, "follow"), (logs.previous, "previous"), (logs.timestamps, "timestamps")] {
        if flag {
            query.push(name, "true");
        }
    }
    // Of many pods, kubectl shows the last ten lines each.
    let tail = if logs.tail < 0 && !logs.selector.is_empty() && !logs.follow { 10 } else { logs.tail };
    if tail >= 0 {
        query.push("tailLines", &tail.to_string());
    }
    if let Some(since) = logs.since {
        query.push("sinceSeconds", &since.as_secs_f64().ceil().to_string());
    }
    query.text("sinceTime", &logs.since_time);
    if let Some(limit) = logs.limit_bytes {
        query.push("limitBytes", &limit.to_string());
    }
    query
}

/// What a container wrote beyond the first `known` bytes; how many there are in all.
pub async fn print_from(session: &Session, pod: &Found, container: &str, known: usize) -> Result<usize> {
    let mut query = Query::default();
    query.push("container", container);
    let bytes = session.client.send(Method::GET, &query.on(&format!("{}/log", pod.path())), "*/*", None).await?;
    session.print_bytes(bytes.get(known..).unwrap_or_default())?;
    Ok(bytes.len())
}

async fn read(session: &Session, logs: &Logs, pod: &Found, container: &str) -> Result<()> {
    let path = query(logs, container).on(&format!("{}/log", pod.path()));
    let mut body = session.client.open(Method::GET, &path, "*/*", None).await?;
    let prefix = (logs.prefix || logs.all_pods).then(|| format!("[pod/{}/{container}] ", pod.name));
    let mut pending: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| anyhow::anyhow!("the log ended early: {e}"))?;
        let Ok(data) = frame.into_data() else { continue };
        let Some(prefix) = &prefix else {
            session.print_bytes(&data)?;
            continue;
        };
        pending.extend_from_slice(&data);
        while let Some(at) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=at).collect();
            session.print_bytes(&[prefix.as_bytes(), &line].concat())?;
        }
    }
    if let (Some(prefix), false) = (&prefix, pending.is_empty()) {
        session.print_bytes(&[prefix.as_bytes(), &pending, b"\n"].concat())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_best_pod_to_look_at_comes_first() {
        let ready = |at: &str| {
            json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]}})
        };
        let older = |at: &str| {
            json!({"metadata": {"creationTimestamp": at}, "spec": {"nodeName": "n"},
            "status": {"phase": "Running"}})
        };
        let restarted = json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running",
            "containerStatuses": [{"restartCount": 2}]}});
        let order = [
            ready("2026-01-01T00:00:00Z"),
            ready("2026-01-01T00:00:01Z"),
            restarted,
            older("2026-01-01T00:00:00Z"),
            older("2026-01-01T00:00:01Z"),
            json!({"spec": {"nodeName": "n"}, "status": {"phase": "Pending"}}),
            json!({"status": {"phase": "Pending"}}),
        ];
        for pair in order.windows(2) {
            assert!(rank(&pair[0]) < rank(&pair[1]), "{} {}", pair[0], pair[1]);
        }
    }

    #[test]
    fn selectors_become_queries() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}]});
        assert_eq!(selector_text(&selector), "a=b,c in (d,e),!f");
        let pod = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container_names(&pod), ["i", "a"]);
        assert_eq!(described(&pod), "a, i (init)");
    }
}
