//! A container's environment: service links, envFrom, env with its references, in the order that decides who wins. Pure.
//!
//! Source: `pkg/kubelet/kubelet_pods.go` (makeEnvironmentVariables, podFieldSelectorRuntimeValue),
//! `pkg/kubelet/envvars/envvars.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use super::expand::expand;
use super::resources::{self, Allocatable};
use crate::pod;

/// What a pod refers to, fetched before: `None` for an object that does not exist.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    pub config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    pub secrets: BTreeMap<String, Option<Arc<Secret>>>,
}

/// What the environment shows of the world around the container.
#[derive(Debug, Clone, Default)]
pub struct Context<'a> {
    pub objects: Objects,
    /// Services of the pod's namespace and `default/kubernetes`, in name order.
    pub services: &'a [Arc<Service>],
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
    pub allocatable: Allocatable,
}

/// Names with values in the order in which they were first set. Errors: what the waiting container shows with
/// CreateContainerConfigError.
pub fn environment(pod: &Pod, c: &Container, context: &Context<'_>) -> Result<Vec<(String, String)>, String> {
    let services = service_links(pod, context.services);
    let mut env = Env::default();
    for from in c.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref
            && let Some(map) = config_map(&context.objects, &r.name, r.optional == Some(true))?
        {
            for (key, value) in map.data.iter().flatten() {
                env.set(format!("{prefix}{key}"), value.clone());
            }
        }
        if let Some(r) = &from.secret_ref
            && let Some(secret) = secret(&context.objects, &r.name, r.optional == Some(true))?
        {
            for (key, value) in secret.data.iter().flatten() {
                env.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
            }
        }
    }
    for var in c.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(text), _) if !text.is_empty() => {
                expand(text, |name| env.get(name).or_else(|| services.get(name).map(String::as_str)))
            }
            (_, Some(from)) => match reference(pod, c, from, context)? {
                Some(value) => value,
                None => continue,
            },
            (_, None) => String::new(),
        };
        env.set(var.name.clone(), value);
    }
    for (name, value) in services {
        if env.get(&name).is_none() {
            env.set(name, value);
        }
    }
    Ok(env.vars)
}

#[derive(Default)]
struct Env {
    vars: Vec<(String, String)>,
    at: BTreeMap<String, usize>,
}

impl Env {
    fn set(&mut self, name: String, value: String) {
        // Anything printable but `=` may be a name; others are left out rather than breaking the container.
        if name.is_empty() || !name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
            return;
        }
        match self.at.get(&name) {
            Some(at) => self.vars[*at].1 = value,
            None => {
                self.at.insert(name.clone(), self.vars.len());
                self.vars.push((name, value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.at.get(name).map(|at| self.vars[*at].1.as_str())
    }
}

fn config_map<'a>(objects: &'a Objects, name: &str, optional: bool) -> Result<Option<&'a ConfigMap>, String> {
    match objects.config_maps.get(name).and_then(Option::as_ref) {
        Some(map) => Ok(Some(map)),
        None if optional => Ok(None),
        None => Err(format!("configmap \"{name}\" not found")),
    }
}

fn secret<'a>(objects: &'a Objects, name: &str, optional: bool) -> Result<Option<&'a Secret>, String> {
    match objects.secrets.get(name).and_then(Option::as_ref) {
        Some(secret) => Ok(Some(secret)),
        None if optional => Ok(None),
        None => Err(format!("secret \"{name}\" not found")),
    }
}

fn reference(pod: &Pod, c: &Container, from: &EnvVarSource, context: &Context<'_>) -> Result<Option<String>, String> {
    if let Some(f) = &from.field_ref {
        return field(pod, &f.field_path, context).map(Some);
    }
    if let Some(r) = &from.resource_field_ref {
        let own;
        let of = match r.container_name.as_deref().filter(|n| !n.is_empty() && *n != c.name) {
            Some(name) => {
                own = pod::container(pod, name).ok_or_else(|| format!("container {name} not found"))?.1;
                &own
            }
            None => c,
        };
        return resources::field(of, &r.resource, r.divisor.as_ref(), context.allocatable).map(Some);
    }
    if let Some(r) = &from.config_map_key_ref {
        let optional = r.optional == Some(true);
        let Some(map) = config_map(&context.objects, &r.name, optional)? else { return Ok(None) };
        return match map.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in ConfigMap {}/{}", r.key, pod::namespace(pod), r.name)),
        };
    }
    if let Some(r) = &from.secret_key_ref {
        let optional = r.optional == Some(true);
        let Some(secret) = secret(&context.objects, &r.name, optional)? else { return Ok(None) };
        return match secret.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in Secret {}/{}", r.key, pod::namespace(pod), r.name)),
        };
    }
    if from.file_key_ref.is_some() {
        return Err("environment variables from files are not served by this node".into());
    }
    Ok(None)
}

/// A pod's own fields, for env.
pub fn field(pod: &Pod, path: &str, context: &Context<'_>) -> Result<String, String> {
    let spec = pod::spec(pod);
    Ok(match path {
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => context.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => context.host_ips.join(","),
        "status.podIP" => context.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => context.pod_ips.join(","),
        _ => return metadata_field(pod, path),
    })
}

/// The fields that both env and downwardAPI files show. Source: `pkg/fieldpath/fieldpath.go`.
pub fn metadata_field(pod: &Pod, path: &str) -> Result<String, String> {
    let key = |of: &BTreeMap<String, String>, head: &str| {
        let key = path.strip_prefix(head)?.strip_suffix("']")?;
        Some(of.get(key).cloned().unwrap_or_default())
    };
    let all = |of: &BTreeMap<String, String>| {
        let lines: Vec<String> = of.iter().map(|(k, v)| format!("{k}={}", quoted(v))).collect();
        lines.join("\n")
    };
    Ok(match path {
        "metadata.name" => pod::name(pod).to_owned(),
        "metadata.namespace" => pod::namespace(pod).to_owned(),
        "metadata.uid" => pod::uid(pod).to_owned(),
        "metadata.labels" => all(pod::labels(pod)),
        "metadata.annotations" => all(pod::annotations(pod)),
        _ => {
            return key(pod::labels(pod), "metadata.labels['")
                .or_else(|| key(pod::annotations(pod), "metadata.annotations['"))
                .ok_or_else(|| format!("unsupported fieldPath: {path}"));
        }
    })
}

/// A string as Go's `%q` writes it.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `NAME_SERVICE_HOST` and its kin, for services with a cluster IP.
pub fn service_links(pod: &Pod, services: &[Arc<Service>]) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let links = pod::spec(pod).enable_service_links != Some(false);
    for service in services {
        let (name, namespace) = (
            service.metadata.name.as_deref().unwrap_or_default(),
            service.metadata.namespace.as_deref().unwrap_or_default(),
        );
        let master = namespace == "default" && name == "kubernetes";
        if !(master || links && namespace == pod::namespace(pod)) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        if ip.is_empty() || ip == "None" {
            continue;
        }
        let upper = name.to_uppercase().replace('-', "_");
        // A service of the pod's own namespace named like the master does not replace it.
        let mut set = |name: String, value: String| {
            env.entry(name).or_insert(value);
        };
        let ports = spec.ports.as_deref().unwrap_or_default();
        set(format!("{upper}_SERVICE_HOST"), ip.to_owned());
        if let Some(first) = ports.first() {
            set(format!("{upper}_SERVICE_PORT"), first.port.to_string());
        }
        for port in ports {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                set(
                    format!("{upper}_SERVICE_PORT_{}", port_name.to_uppercase().replace('-', "_")),
                    port.port.to_string(),
                );
            }
        }
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        for (i, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if i == 0 {
                set(format!("{upper}_PORT"), url.clone());
            }
            let head = format!("{upper}_PORT_{}_{}", port.port, protocol.to_uppercase());
            set(head.clone(), url);
            set(format!("{head}_PROTO"), protocol.to_lowercase());
            set(format!("{head}_PORT"), port.port.to_string());
            set(format!("{head}_ADDR"), ip.to_owned());
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "web", "q": "a\"b"}, "annotations": {"a/b": "x"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": []}}))
        .unwrap()
    }

    fn container(value: Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    fn objects() -> Objects {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "v", "bad=": "x", "dot.ted": "d"}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"pw": "aHVzaA=="}})).unwrap();
        Objects {
            config_maps: [("cm".to_owned(), Some(Arc::new(map))), ("gone".to_owned(), None)].into(),
            secrets: [("s".to_owned(), Some(Arc::new(secret)))].into(),
        }
    }

    fn check(c: Value, expected: Result<&[(&str, &str)], &str>) {
        let context = Context {
            objects: objects(),
            pod_ips: vec!["10.42.0.5".into(), "fd42::5".into()],
            host_ips: vec!["192.168.0.1".into()],
            ..Context::default()
        };
        let got = environment(&pod(), &container(c.clone()), &context);
        let expected: Result<Vec<(String, String)>, String> = expected
            .map(|l| l.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
            .map_err(str::to_owned);
        assert_eq!(got, expected, "{c}");
    }

    #[test]
    fn values_and_references() {
        check(json!({"name": "c"}), Ok(&[]));
        check(
            json!({"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)$$(A)"}, {"name": "A", "value": "2"}]}),
            Ok(&[("A", "2"), ("B", "1$(C)$(A)")]),
        );
        check(
            json!({"name": "c", "envFrom": [{"configMapRef": {"name": "cm"}, "prefix": "P_"}, {"secretRef": {"name": "s"}}],
                   "env": [{"name": "P_k", "value": "$(pw)"}]}),
            Ok(&[("P_dot.ted", "d"), ("P_k", "hush"), ("pw", "hush")]),
        );
        let from = |source: Value| json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]});
        for (path, value) in [
            ("metadata.name", "p"),
            ("metadata.uid", "u"),
            ("metadata.labels['app']", "web"),
            ("metadata.annotations['a/b']", "x"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "app=\"web\"\nq=\"a\\\"b\""),
            ("spec.nodeName", "n1"),
            ("spec.serviceAccountName", "sa"),
            ("status.podIP", "10.42.0.5"),
            ("status.podIPs", "10.42.0.5,fd42::5"),
            ("status.hostIP", "192.168.0.1"),
        ] {
            check(from(json!({"fieldRef": {"fieldPath": path}})), Ok(&[("X", value)]));
        }
        check(from(json!({"configMapKeyRef": {"name": "cm", "key": "k"}})), Ok(&[("X", "v")]));
        check(from(json!({"secretKeyRef": {"name": "s", "key": "pw"}})), Ok(&[("X", "hush")]));
    }

    #[test]
    fn what_is_missing_is_an_error_unless_optional() {
        let from = |source: Value| json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]});
        check(from(json!({"configMapKeyRef": {"name": "gone", "key": "k"}})), Err("configmap \"gone\" not found"));
        check(from(json!({"configMapKeyRef": {"name": "gone", "key": "k", "optional": true}})), Ok(&[]));
        check(
            from(json!({"configMapKeyRef": {"name": "cm", "key": "z"}})),
            Err("couldn't find key z in ConfigMap ns/cm"),
        );
        check(from(json!({"secretKeyRef": {"name": "s", "key": "z"}})), Err("couldn't find key z in Secret ns/s"));
        check(from(json!({"secretKeyRef": {"name": "s", "key": "z", "optional": true}})), Ok(&[]));
        check(json!({"name": "c", "envFrom": [{"secretRef": {"name": "none"}}]}), Err("secret \"none\" not found"));
        check(json!({"name": "c", "envFrom": [{"secretRef": {"name": "none", "optional": true}}]}), Ok(&[]));
        check(from(json!({"fieldRef": {"fieldPath": "spec.nope"}})), Err("unsupported fieldPath: spec.nope"));
    }

    #[test]
    fn services_link_into_the_environment_and_lose_to_everything() {
        let service = |namespace: &str, name: &str, spec: Value| -> Arc<Service> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec}))
                    .unwrap(),
            )
        };
        let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns-udp", "port": 53, "protocol": "UDP"}]);
        let services = [
            service(
                "default",
                "kubernetes",
                json!({"clusterIP": "10.43.0.1", "ports": [{"name": "https", "port": 443}]}),
            ),
            service("ns", "my-web", json!({"clusterIP": "10.43.0.7", "ports": ports})),
            service("ns", "headless", json!({"clusterIP": "None", "ports": ports})),
            service("other", "else", json!({"clusterIP": "10.43.0.9", "ports": ports})),
        ];
        let mut p = pod();
        let text = |p: &Pod| {
            let lines: Vec<String> = service_links(p, &services).iter().map(|(k, v)| format!("{k}={v}")).collect();
            lines.join("\n")
        };
        super::super::golden::check("env/service_links.txt", &text(&p));
        p.spec.as_mut().unwrap().enable_service_links = Some(false);
        assert!(text(&p).lines().all(|l| l.starts_with("KUBERNETES_")));
        let context = Context { services: &services, ..Context::default() };
        let c = container(
            json!({"name": "c", "env": [{"name": "U", "value": "$(MY_WEB_SERVICE_HOST)"}, {"name": "MY_WEB_PORT", "value": "mine"}]}),
        );
        let env = environment(&pod(), &c, &context).unwrap();
        assert_eq!(env[0], ("U".into(), "10.43.0.7".into()));
        assert_eq!(env.iter().filter(|(k, _)| k == "MY_WEB_PORT").count(), 1);
    }
}
