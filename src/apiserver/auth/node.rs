//! What a node agent may do: read what the pods bound to its node use, report on itself and on those pods.
//!
//! Decided from the store's view at the moment of the question; nothing is kept. A question about a Secret looks at the
//! pods of one namespace that are bound to the node.
//!
//! Source: `plugin/pkg/auth/authorizer/node/node_authorizer.go`, `plugin/pkg/auth/authorizer/rbac/bootstrappolicy` NodeRules.

use serde_json::Value;
use store::View;

use super::attributes::{Attributes, Target};
use crate::verbs::facts;

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// # Errors
/// Why not, in upstream's words; RBAC may still allow it.
pub fn authorize(node: &str, attributes: &Attributes, view: &dyn View) -> Result<(), String> {
    let Target::Resource { group, resource, subresource, namespace, name, fields, .. } = attributes.target else {
        return Err(String::new());
    };
    let verb = attributes.verb;
    let no = |text: &str| Err(text.to_owned());
    let yes_if = |condition: bool| if condition { Ok(()) } else { Err(String::new()) };
    match (group, resource, subresource) {
        ("", "secrets" | "configmaps" | "persistentvolumeclaims", "") => {
            // Lists and watches of one name are as good as a get: the agent follows single objects.
            let single = fields.and_then(|f| f.required("metadata.name")).unwrap_or(name);
            if !matches!(verb, "get" | "list" | "watch") {
                return no("can only get individual resources of this type");
            }
            if single.is_empty() {
                return no("No Object name found");
            }
            let used = pods_of(node, namespace, view).any(|pod| uses(&pod, resource, single))
                || (resource == "secrets" && opens_data_of(node, namespace, single, view));
            if used { Ok(()) } else { Err(format!("no relationship found between node '{node}' and this object")) }
        }
        // What the node has made of a volume that was grown; admission looks at what it writes.
        ("", "persistentvolumeclaims", "status") => {
            if !matches!(verb, "get" | "update" | "patch") {
                return no("can only update/patch status of this type");
            }
            yes_if(pods_of(node, namespace, view).any(|pod| uses(&pod, resource, name)))
        }
        ("storage.k8s.io", "volumeattachments", "") => {
            if verb != "get" {
                return no("can only get individual resources of this type");
            }
            let found = view.get(&format!("storage.k8s.io/volumeattachments//{name}"));
            let found: Option<Value> = found.and_then(|entry| serde_json::from_slice(entry.value()).ok());
            // Of one that is not there a node may know as much.
            if found.is_none_or(|attachment| attachment["spec"]["nodeName"] == node) {
                Ok(())
            } else {
                Err(format!("no relationship found between node '{node}' and this object"))
            }
        }
        ("", "persistentvolumes", "") => {
            if verb != "get" {
                return no("can only get individual resources of this type");
            }
            if keeps_data_of(node, name, view) {
                Ok(())
            } else {
                Err(format!("no relationship found between node '{node}' and this object"))
            }
        }
        ("", "serviceaccounts", "token") => {
            let bound = |pod: Value| {
                let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
                account == name
            };
            if verb != "create" {
                return no("can only create tokens for individual service accounts");
            }
            if pods_of(node, namespace, view).any(bound) {
                Ok(())
            } else {
                Err(format!("no relationship found between node '{node}' and this object"))
            }
        }
        ("", "serviceaccounts", "") => {
            yes_if(verb == "get" && pods_of(node, namespace, view).any(|p| p["spec"]["serviceAccountName"] == name))
        }
        ("", "nodes", "") => match verb {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" if name == node => Ok(()),
            "list" | "watch" if fields.and_then(|f| f.required("metadata.name")) == Some(node) => Ok(()),
            _ => Err(format!("node '{node}' cannot read '{name}', only its own Node object")),
        },
        ("", "nodes", "status") => yes_if(name == node && matches!(verb, "get" | "update" | "patch")),
        ("", "pods", "") => match verb {
            "list" | "watch" if fields.and_then(|f| f.required("spec.nodeName")) == Some(node) => Ok(()),
            // Mirror pods; NodeRestriction holds them to the agent's own node.
            "create" => Ok(()),
            "get" | "delete" => yes_if(bound_to(node, namespace, name, view)),
            _ => no("can only list/watch pods with spec.nodeName field selector"),
        },
        ("", "pods", "status") => {
            yes_if(matches!(verb, "get" | "update" | "patch") && bound_to(node, namespace, name, view))
        }
        ("", "pods", "eviction") => yes_if(verb == "create" && bound_to(node, namespace, name, view)),
        ("coordination.k8s.io", "leases", "") => {
            if namespace != LEASE_NAMESPACE {
                return Err(format!("can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"));
            }
            let own = name == node || (verb == "create" && name.is_empty());
            match verb {
                "get" | "create" | "update" | "patch" | "delete" if own => Ok(()),
                _ => no("can only access node lease with the same name as the requesting node"),
            }
        }
        ("", "events", "") => yes_if(matches!(verb, "create" | "update" | "patch")),
        ("", "services", "") => yes_if(matches!(verb, "get" | "list" | "watch")),
        ("node.k8s.io", "runtimeclasses", "") | ("storage.k8s.io", "csidrivers", "") => {
            yes_if(matches!(verb, "get" | "list" | "watch"))
        }
        ("storage.k8s.io", "csinodes", "") => {
            let own = name == node || (verb == "create" && name.is_empty());
            yes_if(own && matches!(verb, "get" | "create" | "update" | "patch" | "delete"))
        }
        // Its own certificates; who may have which is for approval to say.
        ("certificates.k8s.io", "certificatesigningrequests", "") => {
            yes_if(matches!(verb, "create" | "get" | "list" | "watch"))
        }
        ("authentication.k8s.io", "tokenreviews", "") => yes_if(verb == "create"),
        ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "") => yes_if(verb == "create"),
        _ => Err(String::new()),
    }
}

fn bound_to(node: &str, namespace: &str, pod: &str, view: &dyn View) -> bool {
    let entry = view.get(&format!("core/pods/{namespace}/{pod}"));
    // An agent asks about pods that are gone, to be told so.
    entry.is_none_or(|e| facts::facts(&e).field("spec.nodeName") == node)
}

/// Whether a pod that is bound to the node uses the claim that a volume belongs to.
fn keeps_data_of(node: &str, volume: &str, view: &dyn View) -> bool {
    let read = |key: String| -> Option<Value> { serde_json::from_slice(view.get(&key)?.value()).ok() };
    let Some(found) = read(format!("core/persistentvolumes//{volume}")) else { return false };
    let of = &found["spec"]["claimRef"];
    let (Some(namespace), Some(claim)) = (of["namespace"].as_str(), of["name"].as_str()) else { return false };
    let named = read(format!("core/persistentvolumeclaims/{namespace}/{claim}"));
    named.is_some_and(|c| c["spec"]["volumeName"] == volume)
        && pods_of(node, namespace, view).any(|pod| uses(&pod, "persistentvolumeclaims", claim))
}

/// Whether a Secret is for a driver, for a volume that a pod on the node uses.
fn opens_data_of(node: &str, namespace: &str, secret: &str, view: &dyn View) -> bool {
    view.range("core/persistentvolumes//", None).any(|entry| {
        let volume: Value = serde_json::from_slice(entry.value()).unwrap_or_default();
        let csi = &volume["spec"]["csi"];
        let refers = |field: &str| csi[field]["name"] == secret && csi[field]["namespace"] == namespace;
        csi.is_object()
            && ["nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"].into_iter().any(refers)
            && keeps_data_of(node, volume["metadata"]["name"].as_str().unwrap_or_default(), view)
    })
}

/// The pods of a namespace that are bound to the node.
fn pods_of<'a>(node: &'a str, namespace: &str, view: &'a dyn View) -> impl Iterator<Item = Value> + 'a {
    view.range(&format!("core/pods/{namespace}/"), None)
        .filter(move |entry| facts::facts(entry).field("spec.nodeName") == node)
        .filter_map(|entry| serde_json::from_slice(entry.value()).ok())
}

/// Whether a pod refers to the Secret, ConfigMap or claim of that name.
fn uses(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    let is = |v: &Value| v.as_str() == Some(name);
    let list = |v: &'static str, of: &Value| of[v].as_array().cloned().unwrap_or_default();
    let containers = ["initContainers", "containers", "ephemeralContainers"].map(|key| list(key, spec)).concat();
    let volumes = list("volumes", spec);
    let projected = |key: &str| {
        volumes.iter().any(|v| list("sources", &v["projected"]).iter().any(|source| is(&source[key]["name"])))
    };
    let env = |from: &str, key: &str| {
        containers.iter().any(|c| {
            list("envFrom", c).iter().any(|e| is(&e[from]["name"]))
                || list("env", c).iter().any(|e| is(&e["valueFrom"][key]["name"]))
        })
    };
    match resource {
        "secrets" => {
            list("imagePullSecrets", spec).iter().any(|s| is(&s["name"]))
                || volumes.iter().any(|v| is(&v["secret"]["secretName"]))
                || projected("secret")
                || env("secretRef", "secretKeyRef")
                || volumes.iter().any(|v| is(&v["csi"]["nodePublishSecretRef"]["name"]))
        }
        "configmaps" => {
            volumes.iter().any(|v| is(&v["configMap"]["name"]))
                || projected("configMap")
                || env("configMapRef", "configMapKeyRef")
        }
        "persistentvolumeclaims" => {
            let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
            volumes.iter().any(|v| {
                is(&v["persistentVolumeClaim"]["claimName"])
                    || (v["ephemeral"].is_object()
                        && v["name"].as_str().is_some_and(|volume| format!("{pod_name}-{volume}") == name))
            })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_of_a_pod() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "s1"}}, {"name": "b", "configMap": {"name": "c1"}},
                {"name": "d", "projected": {"sources": [{"secret": {"name": "s2"}}, {"configMap": {"name": "c2"}}]}},
                {"name": "scratch", "ephemeral": {}}, {"name": "e", "persistentVolumeClaim": {"claimName": "pvc"}}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "c3"}}],
                            "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "k"}}}]}]}});
        for (resource, name, expected) in [
            ("secrets", "pull", true),
            ("secrets", "s1", true),
            ("secrets", "s2", true),
            ("secrets", "s3", true),
            ("secrets", "c1", false),
            ("configmaps", "c1", true),
            ("configmaps", "c2", true),
            ("configmaps", "c3", true),
            ("configmaps", "s1", false),
            ("persistentvolumeclaims", "pvc", true),
            ("persistentvolumeclaims", "p-scratch", true),
            ("persistentvolumeclaims", "x", false),
        ] {
            assert_eq!(uses(&pod, resource, name), expected, "{resource} {name}");
        }
    }
}
