//! Containers of pods and of templates of pods.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use serde_json::Value;
use types::quantity::Quantity;

use super::page::{NONE, Page, bracketed, date, flag, int, list, map, or, shown, strings, yes};
use crate::manifest::text;

/// `pod`: the pod itself, whose fields its environment may name; none for a template.
pub fn containers(
    page: &mut Page,
    title: &str,
    spec: &[Value],
    status: &[Value],
    pod: Option<&Value>,
    zone: &TimeZone,
) {
    let space = if pod.is_none() { "  " } else { "" };
    let none = if spec.is_empty() { format!(" {NONE}") } else { String::new() };
    page.line(0, format!("{space}{title}:{none}"));
    for container in spec {
        let status = status.iter().find(|s| text(s, "/name") == text(container, "/name"));
        one(page, container, status, pod, zone);
    }
}

fn one(page: &mut Page, container: &Value, status: Option<&Value>, pod: Option<&Value>, zone: &TimeZone) {
    let indent = if pod.is_none() { " " } else { "" };
    page.line(1, format!("{indent}{}:", text(container, "/name")));
    if let Some(status) = status {
        page.field(2, "Container ID", text(status, "/containerID"));
    }
    page.field(2, "Image", text(container, "/image"));
    if let Some(status) = status {
        page.field(2, "Image ID", text(status, "/imageID"));
    }
    ports(page, container, "Port", "/containerPort");
    ports(page, container, "Host Port", "/hostPort");
    if let Some(profile) = container.pointer("/securityContext/seccompProfile") {
        page.field(2, "SeccompProfile", text(profile, "/type"));
        if text(profile, "/type") == "Localhost" {
            page.field(3, "LocalhostProfile", text(profile, "/localhostProfile"));
        }
    }
    words(page, "Command", &strings(container, "/command"));
    words(page, "Args", &strings(container, "/args"));
    if let Some(status) = status {
        state(page, "State", &status["state"], zone);
        if status.pointer("/lastState/terminated").is_some() {
            state(page, "Last State", &status["lastState"], zone);
        }
        page.field(2, "Ready", yes(flag(status, "/ready")));
        page.field(2, "Restart Count", int(status, "/restartCount"));
    }
    resources(page, 2, &container["resources"]);
    for (title, field) in [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
    {
        if let Some(probe) = container.get(field) {
            page.field(2, title, probe_text(probe));
        }
    }
    environment(page, container, pod);
    mounts(page, container);
}

fn ports(page: &mut Page, container: &Value, title: &str, field: &str) {
    let ports = list(container, "/ports").iter().map(|port| {
        let number = format!("{}/{}", int(port, field), text(port, "/protocol"));
        match text(port, "/name") {
            "" => number,
            name => format!("{number} ({name})"),
        }
    });
    let ports: Vec<String> = ports.collect();
    let several = if ports.len() > 1 { "s" } else { "" };
    page.field(2, &format!("{title}{several}"), or(&ports.join(", "), NONE));
}

fn words(page: &mut Page, title: &str, words: &[&str]) {
    if words.is_empty() {
        return;
    }
    page.line(2, format!("{title}:"));
    for line in words.iter().flat_map(|w| w.split('\n')) {
        page.line(3, line);
    }
}

pub fn resources(page: &mut Page, level: usize, resources: &Value) {
    for (title, field) in [("Limits", "/limits"), ("Requests", "/requests")] {
        let amounts = map(resources, field);
        if !amounts.is_empty() {
            page.line(level, format!("{title}:"));
        }
        for (name, amount) in amounts {
            page.field(level + 1, &name, amount);
        }
    }
}

fn state(page: &mut Page, title: &str, state: &Value, zone: &TimeZone) {
    if let Some(running) = state.get("running") {
        page.field(2, title, "Running");
        page.field(3, "Started", date(text(running, "/startedAt"), zone));
    } else if let Some(ended) = state.get("terminated") {
        page.field(2, title, "Terminated");
        page.field_if(3, "Reason", text(ended, "/reason"));
        page.field_if(3, "Message", text(ended, "/message"));
        page.field(3, "Exit Code", int(ended, "/exitCode"));
        if int(ended, "/signal") > 0 {
            page.field(3, "Signal", int(ended, "/signal"));
        }
        page.field(3, "Started", date(text(ended, "/startedAt"), zone));
        page.field(3, "Finished", date(text(ended, "/finishedAt"), zone));
    } else {
        page.field(2, title, "Waiting");
        page.field_if(3, "Reason", text(state, "/waiting/reason"));
    }
}

fn probe_text(probe: &Value) -> String {
    let numbers = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        int(probe, "/initialDelaySeconds"),
        int(probe, "/timeoutSeconds"),
        int(probe, "/periodSeconds"),
        int(probe, "/successThreshold"),
        int(probe, "/failureThreshold")
    );
    let how = if let Some(exec) = probe.get("exec") {
        format!("exec {}", bracketed(&strings(exec, "/command")))
    } else if let Some(get) = probe.get("httpGet") {
        let (host, port) = (text(get, "/host"), shown(get, "/port"));
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let path = text(get, "/path");
        let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
        format!("http-get {}://{host}:{port}{slash}{path}", text(get, "/scheme").to_lowercase())
    } else if let Some(socket) = probe.get("tcpSocket") {
        format!("tcp-socket {}:{}", text(socket, "/host"), shown(socket, "/port"))
    } else if let Some(grpc) = probe.get("grpc") {
        format!("grpc <pod>:{} {}", int(grpc, "/port"), text(grpc, "/service"))
    } else {
        "unknown".into()
    };
    format!("{how} {numbers}")
}

fn environment(page: &mut Page, container: &Value, pod: Option<&Value>) {
    let from = list(container, "/envFrom");
    if !from.is_empty() {
        page.line(2, "Environment Variables from:");
    }
    for e in from {
        let (kind, source) = match (e.get("configMapRef"), e.get("secretRef")) {
            (Some(source), _) => ("ConfigMap", source),
            (None, Some(source)) => ("Secret", source),
            (None, None) => ("", &Value::Null),
        };
        let with = match text(e, "/prefix") {
            "" => String::new(),
            prefix => format!(" with prefix '{prefix}'"),
        };
        page.line(3, format!("{}\t{kind}{with}\tOptional: {}", text(source, "/name"), flag(source, "/optional")));
    }
    let env = list(container, "/env");
    page.line(2, if env.is_empty() { "Environment:\t<none>" } else { "Environment:" });
    for e in env {
        let name = text(e, "/name");
        let Some(source) = e.get("valueFrom") else {
            for (i, line) in text(e, "/value").split('\n').enumerate() {
                page.line(3, if i == 0 { format!("{name}:\t{line}") } else { format!("\t{line}") });
            }
            continue;
        };
        if let Some(field) = source.get("fieldRef") {
            let (version, path) = (text(field, "/apiVersion"), text(field, "/fieldPath"));
            let value = pod.map(|pod| pod_field(pod, path)).unwrap_or_default();
            page.field(3, name, format!("{value} ({version}:{path})"));
        } else if let Some(field) = source.get("resourceFieldRef") {
            let value = resource_field(container, field).unwrap_or_default();
            let resource = text(field, "/resource");
            let whole_node = value == "0" && ["limits.cpu", "limits.memory"].contains(&resource);
            let value = if whole_node { "node allocatable" } else { &value };
            page.field(3, name, format!("{value} ({resource})"));
        } else if let Some(key) = source.get("secretKeyRef") {
            page.field(3, name, key_text(key, "in secret"));
        } else if let Some(key) = source.get("configMapKeyRef") {
            page.field(3, name, key_text(key, "of config map"));
        }
    }
}

fn key_text(key: &Value, place: &str) -> String {
    let (optional, name) = (flag(key, "/optional"), text(key, "/name"));
    format!("<set to the key '{}' {place} '{name}'>\tOptional: {optional}", text(key, "/key"))
}

/// What an environment variable says of its own pod; only metadata is resolved.
fn pod_field(pod: &Value, path: &str) -> String {
    let meta = &pod["metadata"];
    let lines = |field: &str| map(meta, field).iter().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n");
    let keyed = |field: &str| {
        let key = path.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']")?;
        map(pod, &format!("/{}", field.replace('.', "/"))).get(key).cloned()
    };
    match path {
        "metadata.name" => text(meta, "/name").into(),
        "metadata.namespace" => text(meta, "/namespace").into(),
        "metadata.uid" => text(meta, "/uid").into(),
        "metadata.labels" => lines("/labels"),
        "metadata.annotations" => lines("/annotations"),
        _ => keyed("metadata.labels").or_else(|| keyed("metadata.annotations")).unwrap_or_default(),
    }
}

/// A container's amount in units of the divisor, rounded up; nothing for a resource that cannot be named so.
fn resource_field(container: &Value, field: &Value) -> Option<String> {
    let (place, name) = text(field, "/resource").split_once('.')?;
    if !["limits", "requests"].contains(&place) || !(["cpu", "memory", "ephemeral-storage"].contains(&name)) {
        return None;
    }
    let amounts: BTreeMap<_, _> = map(container, &format!("/resources/{place}"));
    let amount: Quantity = amounts.get(name).and_then(|a| a.parse().ok()).unwrap_or_default();
    let divisor = text(field, "/divisor").parse().ok().filter(|d: &Quantity| !d.is_zero());
    let divisor = divisor.unwrap_or(Quantity::from_units(1));
    let (amount, divisor) = match name {
        "cpu" => (amount.millis(), divisor.millis()),
        _ => (amount.value(), divisor.value()),
    };
    Some(((amount + divisor - 1) / divisor.max(1)).to_string())
}

fn mounts(page: &mut Page, container: &Value) {
    let mut mounts: Vec<&Value> = list(container, "/volumeMounts").iter().collect();
    page.line(2, if mounts.is_empty() { "Mounts:\t<none>" } else { "Mounts:" });
    mounts.sort_by_key(|m| text(m, "/mountPath"));
    for mount in &mounts {
        let mode = if flag(mount, "/readOnly") { "ro" } else { "rw" };
        let sub = match text(mount, "/subPath") {
            "" => String::new(),
            sub => format!(",path={sub:?}"),
        };
        page.line(3, format!("{} from {} ({mode}{sub})", text(mount, "/mountPath"), text(mount, "/name")));
    }
    let mut devices: Vec<&Value> = list(container, "/volumeDevices").iter().collect();
    if !devices.is_empty() {
        page.line(2, if mounts.is_empty() { "Devices:\t<none>" } else { "Devices:" });
        devices.sort_by_key(|d| text(d, "/devicePath"));
        for device in devices {
            page.line(3, format!("{} from {}", text(device, "/devicePath"), text(device, "/name")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn amounts_are_counted_in_units_of_the_divisor() {
        let c = json!({"resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}});
        for (resource, divisor, expected) in [
            ("limits.cpu", "0", Some("2")),
            ("limits.cpu", "1m", Some("1500")),
            ("limits.memory", "1Mi", Some("64")),
            ("requests.cpu", "1", Some("0")),
            ("limits.gpu", "1", None),
        ] {
            let field = json!({"resource": resource, "divisor": divisor});
            assert_eq!(resource_field(&c, &field).as_deref(), expected, "{resource}/{divisor}");
        }
    }

    #[test]
    fn probes_on_one_line() {
        let numbers = json!({"initialDelaySeconds": 1, "timeoutSeconds": 2, "periodSeconds": 3, "successThreshold": 4,
            "failureThreshold": 5});
        let tail = "delay=1s timeout=2s period=3s #success=4 #failure=5";
        for (how, expected) in [
            (json!({"exec": {"command": ["a", "b"]}}), "exec [a b]"),
            (json!({"httpGet": {"path": "/x", "port": "web", "scheme": "HTTP"}}), "http-get http://:web/x"),
            (json!({"tcpSocket": {"port": 80}}), "tcp-socket :80"),
            (json!({"grpc": {"port": 80, "service": "s"}}), "grpc <pod>:80 s"),
        ] {
            let mut probe = numbers.clone();
            probe.as_object_mut().unwrap().extend(how.as_object().unwrap().clone());
            assert_eq!(probe_text(&probe), format!("{expected} {tail}"));
        }
    }
}
