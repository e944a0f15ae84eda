//! Rows of networking.k8s.io.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::cells::{NONE, created, or, selector};
use super::others::class_name;
use super::{name, with_age};
use crate::hooks::json::{at, get, list, text, texts};

/// How many hosts a cell names.
const HOSTS_MAX: usize = 3;

/// The cells of a kind of the group; `None` for one that is shown as any other.
pub fn cells(kind: &str, object: &Value, now: jiff::Timestamp) -> Option<Vec<Value>> {
    let spec = get(object, "spec");
    Some(match kind {
        "Ingress" => {
            let ports = if list(spec, "tls").is_empty() { "80" } else { "80, 443" };
            with_age(
                object,
                now,
                [
                    or(text(spec, "ingressClassName"), NONE).into(),
                    hosts(list(spec, "rules")).into(),
                    addresses(object).into(),
                    ports.into(),
                ],
            )
        }
        "IngressClass" => vec![
            class_name(object, &["ingressclass.kubernetes.io/is-default-class"]),
            text(spec, "controller").into(),
            parameters(get(spec, "parameters")).into(),
            created(object, now).into(),
        ],
        "NetworkPolicy" => with_age(object, now, [selector(get(spec, "podSelector"), NONE, "<error>").into()]),
        "ServiceCIDR" => with_age(object, now, [texts(spec, "cidrs").collect::<Vec<_>>().join(",").into()]),
        "IPAddress" => vec![name(object), parent(get(spec, "parentRef")).into()],
        _ => return None,
    })
}

/// The first hosts, and how many rules there are beyond as many as are shown: a rule without a host counts as well.
fn hosts(rules: &[Value]) -> String {
    let mut shown = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= shown.len() == HOSTS_MAX;
        if !more && !text(rule, "host").is_empty() {
            shown.push(text(rule, "host"));
        }
    }
    match (shown.is_empty(), more) {
        (true, _) => "*".into(),
        (_, false) => shown.join(","),
        (_, true) => format!("{} + {} more...", shown.join(","), rules.len() - HOSTS_MAX),
    }
}

fn addresses(ingress: &Value) -> String {
    let given = list(at(ingress, &["status", "loadBalancer"]), "ingress");
    let all: BTreeSet<&str> =
        given.iter().map(|i| or(text(i, "ip"), text(i, "hostname"))).filter(|a| !a.is_empty()).collect();
    all.into_iter().collect::<Vec<_>>().join(",")
}

fn parameters(of: &Value) -> String {
    if !of.is_object() {
        return NONE.into();
    }
    let group = of.get("apiGroup").and_then(Value::as_str).map(|g| format!(".{g}")).unwrap_or_default();
    format!("{}{group}/{}", text(of, "kind"), text(of, "name"))
}

fn parent(of: &Value) -> String {
    if !of.is_object() {
        return NONE.into();
    }
    let (group, resource) = (text(of, "group"), text(of, "resource"));
    let resource = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let parts = [&*resource.to_lowercase(), text(of, "namespace"), text(of, "name")];
    let [resource, namespace, name] = parts;
    if namespace.is_empty() { format!("{resource}/{name}") } else { format!("{resource}/{namespace}/{name}") }
}
