//! What is allowed in a pod but will surprise its writer. Source: `pkg/api/pod/warnings.go`.

use serde_json::Value;
use types::field::Path;
use types::names;

use super::super::super::check::items;
use super::super::super::json::{at, get, int, list, map, quantity, text};

/// Labels that nodes once had, and what to write instead.
const OLD_NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
];

/// What is said of a label that nodes no longer have.
pub fn old_node_label(key: &str) -> Option<&'static str> {
    OLD_NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, words)| *words)
}

pub fn pod(pod: &Value) -> Vec<String> {
    let mut warnings = name(pod, "the Pod's hostname");
    spec(get(pod, "spec"), &Path::new("spec"), &mut warnings);
    warnings
}

/// A workload: its pods will have its name, and what its template has.
pub fn workload(object: &Value) -> Vec<String> {
    let mut warnings = name(object, "Pod names and hostnames");
    spec(at(object, &["spec", "template", "spec"]), &Path::new("spec.template.spec"), &mut warnings);
    warnings
}

/// A workload whose name is no pod's.
pub fn template(object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    spec(at(object, &["spec", "template", "spec"]), &Path::new("spec.template.spec"), &mut warnings);
    warnings
}

/// A template at any path.
pub fn template_at(template: &Value, path: &Path, warnings: &mut Vec<String>) {
    spec(get(template, "spec"), &path.child("spec"), warnings);
}

/// A name that pods and their hosts will have.
pub fn pod_names(object: &Value) -> Vec<String> {
    name(object, "Pod names and hostnames")
}

fn name(object: &Value, used: &str) -> Vec<String> {
    let name = text(get(object, "metadata"), "name");
    let messages = if name.is_empty() { Vec::new() } else { names::dns1123_label(name) };
    if messages.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
        messages.join(" ")
    )]
}

/// A term that selects nodes by labels that have newer names.
pub fn node_term(term: &Value, path: &Path, warnings: &mut Vec<String>) {
    for (path, expression) in items(term, "matchExpressions", path) {
        if let Some((key, words)) = OLD_NODE_LABELS.iter().find(|(label, _)| *label == text(expression, "key")) {
            warnings.push(format!("{}: {key} is {words}", path.child("key")));
        }
    }
}

fn spec(spec: &Value, path: &Path, warnings: &mut Vec<String>) {
    for (key, _) in map(spec, "nodeSelector") {
        if let Some((_, words)) = OLD_NODE_LABELS.iter().find(|(label, _)| label == key) {
            warnings.push(format!("{}: {words}", path.child("nodeSelector").key(key)));
        }
    }
    for (path, secret) in items(spec, "imagePullSecrets", path) {
        if text(secret, "name").is_empty() {
            warnings.push(format!("{}: invalid empty name \"\"", path.child("name")));
        }
    }
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|n| n < 0) {
        let words = "must be >= 0; negative values are invalid and will be treated as 1";
        warnings.push(format!("{}: {words}", path.child("terminationGracePeriodSeconds")));
    }
    for field in ["initContainers", "containers"] {
        for (path, container) in items(spec, field, path) {
            self::container(container, &path, warnings);
        }
    }
}

fn container(container: &Value, path: &Path, warnings: &mut Vec<String>) {
    let env = list(container, "env");
    for (i, (path, variable)) in items(container, "env", path).enumerate() {
        let name = text(variable, "name");
        if env[..i].iter().any(|other| text(other, "name") == name) {
            let words = "which may be dropped when using apply";
            warnings.push(format!("{path}: hides previous definition of {name:?}, {words}"));
        }
    }
    let ports = list(container, "ports");
    for (i, port) in ports.iter().enumerate() {
        let same = |other: &Value| {
            ["containerPort", "hostPort"].iter().all(|f| int(other, f) == int(port, f))
                && ["protocol", "hostIP"].iter().all(|f| text(other, f) == text(port, f))
        };
        if let Some(first) = ports[..i].iter().position(same) {
            let path = path.child("ports");
            warnings.push(format!("{}: duplicate port definition with {}", path.index(i), path.index(first)));
        }
    }
    for field in ["limits", "requests"] {
        let memory = get(at(container, &["resources", field]), "memory");
        if quantity(memory).is_some_and(|q| !q.is_integer()) {
            let path = path.child("resources").child(field).key("memory");
            let shown = memory.as_str().unwrap_or_default();
            warnings.push(format!("{path}: fractional byte value {shown:?} is invalid, must be an integer"));
        }
    }
}
