//! Containers of a pod: names, images, ports, env, mounts, resources.
//! Source: `validateContainers`, `validateInitContainers`, `validateContainerCommon` and what they call.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;
use types::quantity::{self, Quantity};

use super::super::super::check::{
    self, Errors, PORT_RANGE, count, descending_path, items, one_of, port_name, required, required_one_of, wrong,
};
use super::super::super::json::{boolean, get, has, int, list, map, text};
use super::super::service::validate::PROTOCOLS;
use super::{probe, security};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const ENV_SOURCES: &[&str] = &["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const ENV_RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub fn containers(spec: &Value, path: &Path, volumes: &[&str], errors: &mut Errors) {
    if list(spec, "containers").is_empty() {
        errors.push(FieldError::required(&path.child("containers"), ""));
    }
    let mut seen: Vec<&str> = Vec::new();
    let mut host_ports: Vec<String> = Vec::new();
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for (path, container) in items(spec, field, path) {
            let name = required(errors, container, "name", &path);
            if !name.is_empty() {
                wrong(errors, &path.child("name"), name, names::dns1123_label(name));
                if seen.contains(&name) {
                    errors.push(FieldError::duplicate(&path.child("name"), name));
                }
                seen.push(name);
            }
            common(container, &path, volumes, errors);
            match field {
                "containers" => host_port_conflicts(container, &path, &mut host_ports, errors),
                "initContainers" => init_only(container, &path, errors),
                _ => ephemeral_only(container, &path, errors),
            }
            if boolean(spec, "hostNetwork") {
                host_network_ports(container, &path, errors);
            }
        }
    }
}

/// On the host's network a port is the host's own. Templates may leave the host port out; pods have it by default.
fn host_network_ports(container: &Value, path: &Path, errors: &mut Errors) {
    for (path, port) in items(container, "ports", path) {
        let number = int(port, "hostPort").unwrap_or(0);
        if number != 0 && int(port, "containerPort") != Some(number) {
            let words = "must match `containerPort` when `hostNetwork` is true";
            errors.push(FieldError::invalid(&path.child("hostPort"), number, words));
        }
    }
}

fn common(container: &Value, path: &Path, volumes: &[&str], errors: &mut Errors) {
    let image = required(errors, container, "image", path);
    if image.trim().len() != image.len() {
        let words = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(&path.child("image"), image, words));
    }
    required_one_of(errors, container, "terminationMessagePolicy", path, &["FallbackToLogsOnError", "File"]);
    required_one_of(errors, container, "imagePullPolicy", path, PULL_POLICIES);
    one_of(errors, container, "restartPolicy", path, &["Always", "Never", "OnFailure"]);
    ports(container, path, errors);
    env(container, path, errors);
    env_from(container, path, errors);
    mounts(container, path, volumes, errors);
    resources(get(container, "resources"), &path.child("resources"), errors);
    security::container(container, path, errors);
    probe::validate(container, path, errors);
}

fn init_only(container: &Value, path: &Path, errors: &mut Errors) {
    if text(container, "restartPolicy") == "Always" {
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if has(container, field) {
            let words = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(&path.child(field), words));
        }
    }
}

fn ephemeral_only(container: &Value, path: &Path, errors: &mut Errors) {
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe", "ports"] {
        if has(container, field) {
            errors.push(FieldError::forbidden(&path.child(field), "cannot be set for an Ephemeral Container"));
        }
    }
}

fn ports(container: &Value, path: &Path, errors: &mut Errors) {
    let all = list(container, "ports");
    for (i, (path, port)) in items(container, "ports", path).enumerate() {
        let name = text(port, "name");
        if !name.is_empty() {
            let messages = port_name(name);
            let valid = messages.is_empty();
            wrong(errors, &path.child("name"), name, messages);
            if valid && all[..i].iter().any(|p| text(p, "name") == name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
        match int(port, "containerPort").unwrap_or(0) {
            0 => errors.push(FieldError::required(&path.child("containerPort"), "")),
            n if !(1..=65535).contains(&n) => {
                errors.push(FieldError::invalid(&path.child("containerPort"), n, PORT_RANGE));
            }
            _ => {}
        }
        if let Some(n) = int(port, "hostPort").filter(|n| *n != 0 && !(1..=65535).contains(n)) {
            errors.push(FieldError::invalid(&path.child("hostPort"), n, PORT_RANGE));
        }
        required_one_of(errors, port, "protocol", &path, PROTOCOLS);
    }
}

fn host_port_conflicts(container: &Value, path: &Path, seen: &mut Vec<String>, errors: &mut Errors) {
    for (path, port) in items(container, "ports", path) {
        let number = int(port, "hostPort").unwrap_or(0);
        if number == 0 {
            continue;
        }
        let claim = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
        if seen.contains(&claim) {
            errors.push(FieldError::duplicate(&path.child("hostPort"), &claim));
        }
        seen.push(claim);
    }
}

fn env(container: &Value, path: &Path, errors: &mut Errors) {
    for (path, env) in items(container, "env", path) {
        let name = required(errors, env, "name", &path);
        env_name(name, &path.child("name"), errors);
        let source = get(env, "valueFrom");
        if source.is_null() {
            continue;
        }
        let path = path.child("valueFrom");
        match count(source, ENV_SOURCES) {
            0 => {
                let words = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                             `fileKeyRef`";
                errors.push(FieldError::invalid(&path, "", words));
            }
            _ if !text(env, "value").is_empty() => {
                errors.push(FieldError::invalid(&path, "", "may not be specified when `value` is not empty"));
            }
            1 => {}
            _ => errors.push(FieldError::invalid(&path, "", "may not have more than one field specified at a time")),
        }
        if has(source, "fieldRef") {
            field_ref(get(source, "fieldRef"), ENV_FIELDS, &path.child("fieldRef"), errors);
        }
        if has(source, "resourceFieldRef") {
            resource_field_ref(get(source, "resourceFieldRef"), &path.child("resourceFieldRef"), errors);
        }
        for name in ["configMapKeyRef", "secretKeyRef"] {
            if has(source, name) {
                let (reference, path) = (get(source, name), path.child(name));
                required(errors, reference, "name", &path);
                let key = required(errors, reference, "key", &path);
                if !key.is_empty() {
                    wrong(errors, &path.child("key"), key, names::config_key(key));
                }
            }
        }
    }
}

/// Any printable ASCII but `=`. Source: `IsRelaxedEnvVarName`, KEP-4369.
fn env_name(name: &str, path: &Path, errors: &mut Errors) {
    if !name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        let words = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        errors.push(FieldError::invalid(path, name, words));
    }
}

/// A field of the pod that may be referred to; labels and annotations by key as well.
pub fn field_ref(reference: &Value, known: &[&str], path: &Path, errors: &mut Errors) {
    required(errors, reference, "apiVersion", path);
    let field = required(errors, reference, "fieldPath", path);
    if field.is_empty() {
        return;
    }
    let at = path.child("fieldPath");
    if let Some((map, key)) = field.split_once("['").and_then(|(map, rest)| Some((map, rest.strip_suffix("']")?))) {
        match map {
            "metadata.labels" => wrong(errors, &at, key, names::qualified_name(key)),
            "metadata.annotations" => wrong(errors, &at, key, names::qualified_name(&key.to_ascii_lowercase())),
            _ => errors.push(FieldError::invalid(&at, field, "does not support subscript")),
        }
    } else if !known.contains(&field) {
        errors.push(FieldError::not_supported(&at, field, known));
    }
}

pub fn resource_field_ref(reference: &Value, path: &Path, errors: &mut Errors) {
    let resource = required(errors, reference, "resource", path);
    let huge = resource.split_once('.').is_some_and(|(_, name)| name.starts_with("hugepages-"));
    if !resource.is_empty() && !huge && !ENV_RESOURCES.contains(&resource) {
        errors.push(FieldError::not_supported(&path.child("resource"), resource, ENV_RESOURCES));
    }
}

fn env_from(container: &Value, path: &Path, errors: &mut Errors) {
    const SOURCES: &[&str] = &["configMapRef", "secretRef"];
    for (path, source) in items(container, "envFrom", path) {
        env_name(text(source, "prefix"), &path.child("prefix"), errors);
        match count(source, SOURCES) {
            0 => errors.push(FieldError::invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errors.push(FieldError::invalid(&path, "", "may not have more than one field specified at a time")),
        }
        for name in SOURCES.iter().filter(|n| has(source, n)) {
            required(errors, get(source, name), "name", &path.child(name));
        }
    }
}

fn mounts(container: &Value, path: &Path, volumes: &[&str], errors: &mut Errors) {
    let all = list(container, "volumeMounts");
    let privileged = boolean(get(container, "securityContext"), "privileged");
    for (i, (path, mount)) in items(container, "volumeMounts", path).enumerate() {
        let name = required(errors, mount, "name", &path);
        if !name.is_empty() && !volumes.contains(&name) {
            errors.push(FieldError::not_found(&path.child("name"), name));
        }
        let target = required(errors, mount, "mountPath", &path);
        if all[..i].iter().any(|m| text(m, "mountPath") == target) {
            errors.push(FieldError::invalid(&path.child("mountPath"), target, "must be unique"));
        }
        let (sub, expr) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        descending_path(errors, sub, &path.child("subPath"));
        if !expr.is_empty() {
            let at = path.child("subPathExpr");
            if !sub.is_empty() {
                errors.push(FieldError::invalid(&at, expr, "subPathExpr and subPath are mutually exclusive"));
            }
            descending_path(errors, expr, &at);
        }
        one_of(errors, mount, "mountPropagation", &path, &["Bidirectional", "HostToContainer", "None"]);
        if text(mount, "mountPropagation") == "Bidirectional" && !privileged {
            let words = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(FieldError::forbidden(&path.child("mountPropagation"), words));
        }
    }
}

/// Limits and requests, and that no request is above its limit.
pub fn resources(resources: &Value, path: &Path, errors: &mut Errors) {
    quantities(get(resources, "limits"), &path.child("limits"), errors);
    quantities(get(resources, "requests"), &path.child("requests"), errors);
    let limits = get(resources, "limits");
    for (name, request) in map(resources, "requests") {
        let amount = super::super::super::json::quantity;
        let (Some(request), limit) = (amount(request), amount(get(limits, name))) else { continue };
        let at = path.child("requests");
        let overcommit = !name.contains('/') && !name.starts_with("hugepages-");
        match limit {
            Some(limit) if request > limit => {
                let words = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(&at, &request.to_string(), words));
            }
            Some(limit) if !overcommit && request != limit => {
                let words = format!("must be equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(&at, &request.to_string(), words));
            }
            None if !overcommit => {
                let words = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(&path.child("limits"), words));
            }
            _ => {}
        }
    }
}

/// A resource list: known names, amounts that are not negative.
pub fn quantities(amounts: &Value, path: &Path, errors: &mut Errors) {
    for (name, value) in amounts.as_object().into_iter().flatten() {
        let at = path.key(name);
        wrong(errors, &at, name, names::qualified_name(name));
        let standard =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if !name.contains('/') && !standard {
            errors.push(FieldError::invalid(&at, name, "must be a standard resource for containers"));
        }
        let Some(amount) = super::super::super::json::quantity(value) else {
            errors.push(FieldError::invalid(&at, value, quantity::ParseError.to_string()));
            continue;
        };
        if amount < Quantity::default() {
            errors.push(FieldError::invalid(&at, &amount.to_string(), check::NOT_NEGATIVE));
        } else if !amount.is_integer() && (name.contains('/') || name.starts_with("hugepages-")) {
            errors.push(FieldError::invalid(&at, &amount.to_string(), "must be an integer"));
        }
    }
}
