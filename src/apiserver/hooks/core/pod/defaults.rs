//! Pod defaults: those of every pod template, and those of pods alone.
//! Source: `pkg/apis/core/v1/defaults.go`, `pkg/apis/core/v1/zz_generated.defaults.go`, `conversion.go` (serviceAccount).

use serde_json::{Map, Value, json};
use types::quantity::Quantity;

use super::super::super::json::{
    boolean, canonical_quantity, canonical_resources, each_mut, ensure_object, get, has, int, is_empty, list, map,
    object_mut, quantity, set, set_absent, set_blank, set_zero, text,
};

/// Mode of files in secret, configMap, downwardAPI and projected volumes.
const FILE_MODE: i64 = 0o644;
const TOKEN_SECONDS: i64 = 3600;
const GRACE_SECONDS: i64 = 30;

/// A pod: what every template gets, and what only pods get.
pub fn pod(pod: &mut Value) {
    let Some(spec) = ensure_object(pod, "spec") else { return };
    template_spec(spec);
    for field in ["containers", "initContainers"] {
        for container in each_mut(spec, field) {
            if let Some(resources) = object_mut(container, "resources") {
                requests_from_limits(resources);
            }
        }
    }
    pod_level_requests(spec);
    set_absent(spec, "enableServiceLinks", true);
    if boolean(spec, "hostNetwork") {
        for field in ["containers", "initContainers"] {
            for container in each_mut(spec, field) {
                for port in each_mut(container, "ports") {
                    let number = int(port, "containerPort").unwrap_or(0);
                    set_zero(port, "hostPort", number);
                }
            }
        }
    }
}

/// The spec of a pod or of a template.
pub fn template_spec(spec: &mut Value) {
    set_blank(spec, "dnsPolicy", "ClusterFirst");
    set_blank(spec, "restartPolicy", "Always");
    set_absent(spec, "securityContext", json!({}));
    set_absent(spec, "terminationGracePeriodSeconds", GRACE_SECONDS);
    set_blank(spec, "schedulerName", "default-scheduler");
    // the deprecated twin always shows the same name
    let account = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount"),
        name => name,
    }
    .to_owned();
    if !account.is_empty() {
        set_blank(spec, "serviceAccountName", &account);
        if text(spec, "serviceAccount") != account {
            set(spec, "serviceAccount", account);
        }
    }
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in each_mut(spec, field) {
            self::container(container);
        }
    }
    for volume in each_mut(spec, "volumes") {
        self::volume(volume);
    }
    canonical_resources(spec, "overhead");
    if let Some(resources) = object_mut(spec, "resources") {
        canonical_resources(resources, "limits");
        canonical_resources(resources, "requests");
    }
}

fn container(container: &mut Value) {
    if text(container, "imagePullPolicy").is_empty() {
        let policy = pull_policy(text(container, "image"));
        set(container, "imagePullPolicy", policy);
    }
    set_blank(container, "terminationMessagePath", "/dev/termination-log");
    set_blank(container, "terminationMessagePolicy", "File");
    if let Some(resources) = ensure_object(container, "resources") {
        canonical_resources(resources, "limits");
        canonical_resources(resources, "requests");
    }
    for port in each_mut(container, "ports") {
        set_blank(port, "protocol", "TCP");
    }
    for env in each_mut(container, "env") {
        if let Some(source) = object_mut(env, "valueFrom") {
            field_source(source);
            if let Some(file) = object_mut(source, "fileKeyRef") {
                set_absent(file, "optional", false);
            }
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object_mut(container, name) {
            set_zero(probe, "timeoutSeconds", 1);
            set_zero(probe, "periodSeconds", 10);
            set_zero(probe, "successThreshold", 1);
            set_zero(probe, "failureThreshold", 3);
            http_get(probe);
            if let Some(grpc) = object_mut(probe, "grpc") {
                set_absent(grpc, "service", "");
            }
        }
    }
    if let Some(lifecycle) = object_mut(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(handler) = object_mut(lifecycle, name) {
                http_get(handler);
            }
        }
    }
}

fn http_get(handler: &mut Value) {
    if let Some(http) = object_mut(handler, "httpGet") {
        set_blank(http, "path", "/");
        set_blank(http, "scheme", "HTTP");
    }
}

/// `fieldRef` and `resourceFieldRef`, in env and in downward volumes.
fn field_source(source: &mut Value) {
    if let Some(field) = object_mut(source, "fieldRef") {
        set_blank(field, "apiVersion", "v1");
    }
    if let Some(resource) = object_mut(source, "resourceFieldRef") {
        set_absent(resource, "divisor", "0");
        if let Some(divisor) = resource.get_mut("divisor") {
            canonical_quantity(divisor);
        }
    }
}

/// `Always` for `latest` and for no tag at all, `IfNotPresent` for a tag or a digest.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':').map(|(_, tag)| tag) {
        Some("latest") => "Always",
        None if digest.is_none() && !name.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

fn volume(volume: &mut Value) {
    let sources = volume.as_object().into_iter().flatten().any(|(key, source)| key != "name" && !source.is_null());
    if !sources {
        set(volume, "emptyDir", json!({}));
    }
    if let Some(limit) = object_mut(volume, "emptyDir").and_then(|e| e.get_mut("sizeLimit")) {
        canonical_quantity(limit);
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = object_mut(volume, name) {
            set_absent(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(source) = object_mut(volume, "downwardAPI") {
        each_mut(source, "items").for_each(field_source);
    }
    if let Some(projected) = object_mut(volume, "projected") {
        for source in each_mut(projected, "sources") {
            if let Some(token) = object_mut(source, "serviceAccountToken") {
                set_absent(token, "expirationSeconds", TOKEN_SECONDS);
            }
            if let Some(downward) = object_mut(source, "downwardAPI") {
                each_mut(downward, "items").for_each(field_source);
            }
        }
    }
    if let Some(path) = object_mut(volume, "hostPath") {
        set_absent(path, "type", "");
    }
    if let Some(image) = object_mut(volume, "image")
        && text(image, "pullPolicy").is_empty()
    {
        let policy = pull_policy(text(image, "reference"));
        set(image, "pullPolicy", policy);
    }
    let claim = object_mut(volume, "ephemeral").and_then(|e| object_mut(e, "volumeClaimTemplate"));
    if let Some(spec) = claim.and_then(|t| object_mut(t, "spec")) {
        set_absent(spec, "volumeMode", "Filesystem");
        if let Some(resources) = object_mut(spec, "resources") {
            canonical_resources(resources, "requests");
            canonical_resources(resources, "limits");
        }
    }
}

fn requests_from_limits(resources: &mut Value) {
    let limits: Vec<_> = map(resources, "limits").map(|(k, v)| (k.clone(), v.clone())).collect();
    if limits.is_empty() {
        return;
    }
    if let Some(requests) = ensure_object(resources, "requests") {
        for (name, limit) in limits {
            set_absent(requests, &name, limit);
        }
    }
}

/// Pod-level requests: what the containers ask for together, or the pod's limit. Source: KEP-2837.
fn pod_level_requests(spec: &mut Value) {
    let limits: Map<String, Value> = get(get(spec, "resources"), "limits").as_object().cloned().unwrap_or_default();
    if limits.is_empty() {
        return;
    }
    let mut wanted: Vec<(String, Value)> = Vec::new();
    for name in ["cpu", "memory"] {
        if let Some(sum) = effective_request(spec, name) {
            wanted.push((name.to_owned(), sum.to_string().into()));
        }
    }
    let supported = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    for (name, limit) in limits {
        if supported(&name) && !wanted.iter().any(|(n, _)| *n == name) {
            wanted.push((name, limit));
        }
    }
    let requests = object_mut(spec, "resources").and_then(|r| ensure_object(r, "requests"));
    if let Some(requests) = requests {
        for (name, value) in wanted {
            set_absent(requests, &name, value);
        }
    }
}

/// What the containers request together: the larger of the running set and any step of initialisation.
fn effective_request(spec: &Value, resource: &str) -> Option<Quantity> {
    let request = |c: &Value| quantity(get(get(get(c, "resources"), "requests"), resource));
    let mut any = false;
    let mut running = Quantity::default();
    for container in list(spec, "containers") {
        if let Some(q) = request(container) {
            (any, running) = (true, running.plus(&q));
        }
    }
    let (mut sidecars, mut step) = (Quantity::default(), Quantity::default());
    for container in list(spec, "initContainers") {
        let Some(q) = request(container) else { continue };
        any = true;
        if text(container, "restartPolicy") == "Always" {
            sidecars = sidecars.plus(&q);
            step = step.max(sidecars);
        } else {
            step = step.max(sidecars.plus(&q));
        }
    }
    any.then(|| running.plus(&sidecars).max(step))
}

/// A template in a workload: labels and all may be absent, the spec may not.
pub fn template(object: &mut Value) {
    if let Some(spec) = object_mut(object, "spec") {
        template_in(spec);
    }
}

/// The template in the field of that name.
pub fn template_in(holder: &mut Value) {
    let Some(template) = ensure_object(holder, "template") else { return };
    if !has(template, "metadata") || is_empty(get(template, "metadata")) {
        set(template, "metadata", json!({}));
    }
    if let Some(spec) = ensure_object(template, "spec") {
        template_spec(spec);
    }
}
