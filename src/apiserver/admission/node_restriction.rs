//! NodeRestriction: a node's own credentials write only what is that node's.
//! Source: `plugin/pkg/admission/noderestriction/admission.go`. Authorization has already kept nodes from other kinds.

use serde_json::Value;
use types::registry::by_kind;
use types::status::Status;

use super::{Operation, Request};
use crate::auth::{Attributes, Target, certificate_request, x509};
use crate::hooks::json::{boolean, get, has, list, map, remove, same, text, texts};

const MIRROR: &str = "kubernetes.io/config.mirror";
const ISOLATION: &str = "node-restriction.kubernetes.io";
/// What a node may say of itself among the labels of Kubernetes. Source: `k8s.io/kubelet/pkg/apis/well_known_labels.go`.
const KUBELET_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const KUBELET_LABEL_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

pub fn validate(request: &Request) -> Result<(), Status> {
    let Some(node) = request.user.node_name() else { return Ok(()) };
    if request.operation == Operation::Connect {
        return Ok(());
    }
    let node = Node { request, name: node };
    match (&*request.kind.group, &*request.kind.kind, request.subresource) {
        ("", "Pod", "") => node.pod(),
        ("", "Pod", "status") => node.pod_status(),
        ("", "Pod", "eviction") => node.eviction(),
        ("", "Pod", other) => {
            node.refuse(&format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "Node", _) => node.node(),
        ("", "PersistentVolumeClaim", "status") => node.claim_status(),
        ("", "PersistentVolumeClaim", _) => node.refuse("may only update PVC status"),
        ("", "ServiceAccount", "token") if request.operation == Operation::Create => node.token(),
        ("coordination.k8s.io", "Lease", _) => node.lease(),
        ("storage.k8s.io", "CSINode", _) if node.object_name() != node.name => {
            node.refuse("can only access CSINode with the same name as the requesting node")
        }
        ("resource.k8s.io", "ResourceSlice", _) => node.resource_slice(),
        ("certificates.k8s.io", "CertificateSigningRequest", _) => node.certificate(),
        _ => Ok(()),
    }
}

struct Node<'a, 'r> {
    request: &'a Request<'r>,
    name: &'a str,
}

fn on_node(pod: &Value) -> &str {
    text(get(pod, "spec"), "nodeName")
}

fn is_mirror(pod: &Value) -> bool {
    map(get(pod, "metadata"), "annotations").any(|(key, _)| key == MIRROR)
}

impl Node<'_, '_> {
    fn refuse(&self, why: &str) -> Result<(), Status> {
        Err(Status::forbidden(self.request.kind, self.request.name, why))
    }

    fn unexpected(&self) -> Result<(), Status> {
        self.refuse(&format!("unexpected operation {:?}", self.request.operation.as_str()))
    }

    fn object(&self) -> &Value {
        self.request.object.as_deref().unwrap_or(&Value::Null)
    }

    fn old(&self) -> &Value {
        self.request.old.unwrap_or(&Value::Null)
    }

    /// A creation may leave the name to the object.
    fn object_name(&self) -> &str {
        if self.request.name.is_empty() { text(get(self.object(), "metadata"), "name") } else { self.request.name }
    }

    /// An object of the core group that the request speaks of.
    fn find(&self, kind: &str, namespace: &str, name: &str) -> Result<Value, Status> {
        let kind = by_kind("", "v1", kind).ok_or_else(Status::no_such_path)?;
        super::read(self.request.view, &kind.store_key(namespace, name)).ok_or_else(|| Status::not_found(kind, name))
    }

    fn pod(&self) -> Result<(), Status> {
        let node = self.name;
        match self.request.operation {
            Operation::Create => self.mirror_pod(),
            Operation::Delete if on_node(self.old()) != node => {
                self.refuse(&format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
            Operation::Delete => Ok(()),
            other => self.refuse(&format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                other.as_str()
            )),
        }
    }

    fn mirror_pod(&self) -> Result<(), Status> {
        let (node, pod) = (self.name, self.object());
        if !is_mirror(pod) {
            return self.refuse(&format!(
                "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
            ));
        }
        if on_node(pod) != node {
            return self.refuse(&format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        let owner = match list(get(pod, "metadata"), "ownerReferences") {
            [owner] => owner,
            [] => {
                return self
                    .refuse(&format!("node {node:?} can only create pods with an owner reference set to itself"));
            }
            _ => {
                let why = format!("node {node:?} can only create pods with a single owner reference set to itself");
                return self.refuse(&why);
            }
        };
        if (text(owner, "apiVersion"), text(owner, "kind"), text(owner, "name")) != ("v1", "Node", node) {
            return self.refuse(&format!("node {node:?} can only create pods with an owner reference set to itself"));
        }
        if !boolean(owner, "controller") {
            return self.refuse(&format!(
                "node {node:?} can only create pods with a controller owner reference set to itself"
            ));
        }
        if boolean(owner, "blockOwnerDeletion") {
            return self.refuse(&format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let own = self.find("Node", "", node)?;
        let (named, known) = (text(owner, "uid"), text(get(&own, "metadata"), "uid"));
        if named != known {
            return self.refuse(&format!("node {node} UID mismatch: expected {named} got {known}"));
        }
        match reference(get(pod, "spec")) {
            None => Ok(()),
            Some(resource) => self.refuse(&format!("node {node:?} can not create pods that reference {resource}")),
        }
    }

    fn pod_status(&self) -> Result<(), Status> {
        let (node, old, new) = (self.name, self.old(), self.object());
        if self.request.operation != Operation::Update {
            return self.unexpected();
        }
        if on_node(old) != node {
            return self.refuse(&format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            ));
        }
        let labels = |pod| get(get(pod, "metadata"), "labels");
        if !same(labels(old), labels(new)) {
            return self.refuse(&format!("node {node:?} cannot update labels through pod status"));
        }
        let of = |pod, field| get(get(pod, "status"), field);
        if !same(of(old, "resourceClaimStatuses"), of(new, "resourceClaimStatuses")) {
            return self.refuse(&format!("node {node:?} cannot update resource claim statues"));
        }
        if !same(of(old, "extendedResourceClaimStatus"), of(new, "extendedResourceClaimStatus")) {
            return self.refuse(&format!("node {node:?} cannot update extended resource claim status"));
        }
        Ok(())
    }

    fn eviction(&self) -> Result<(), Status> {
        if self.request.operation != Operation::Create {
            return self.unexpected();
        }
        let pod = self.find("Pod", self.request.namespace, self.object_name())?;
        if on_node(&pod) == self.name {
            return Ok(());
        }
        self.refuse(&format!("node {} can only evict pods with spec.nodeName set to itself", self.name))
    }

    fn node(&self) -> Result<(), Status> {
        let (node, name) = (self.name, self.object_name());
        if name != node {
            return self.refuse(&format!("node {node:?} is not allowed to modify node {name:?}"));
        }
        let (old, new) = (self.old(), self.object());
        let labels = |object| get(get(object, "metadata"), "labels");
        match self.request.operation {
            Operation::Create => {
                let forbidden = forbidden_labels(labels(new), &Value::Null);
                if forbidden.is_empty() {
                    return Ok(());
                }
                self.refuse(&format!(
                    "node {node:?} is not allowed to set the following labels: {}",
                    forbidden.join(", ")
                ))
            }
            Operation::Update => {
                let source = |object| get(get(object, "spec"), "configSource");
                if !source(new).is_null() && !same(source(new), source(old)) {
                    return self.refuse(&format!(
                        "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                    ));
                }
                if !same(get(get(new, "spec"), "taints"), get(get(old, "spec"), "taints")) {
                    return self.refuse(&format!("node {node:?} is not allowed to modify taints"));
                }
                let owners = |object| get(get(object, "metadata"), "ownerReferences");
                if !same(owners(new), owners(old)) {
                    return self.refuse(&format!("node {node:?} is not allowed to modify ownerReferences"));
                }
                let forbidden = forbidden_labels(labels(new), labels(old));
                if forbidden.is_empty() {
                    return Ok(());
                }
                self.refuse(&format!("is not allowed to modify labels: {}", forbidden.join(", ")))
            }
            _ => Ok(()),
        }
    }

    fn claim_status(&self) -> Result<(), Status> {
        if self.request.operation != Operation::Update {
            return self.unexpected();
        }
        let kept = |claim: &Value| {
            let mut claim = claim.clone();
            if let Some(metadata) = claim.get_mut("metadata") {
                remove(metadata, "resourceVersion");
                remove(metadata, "managedFields");
            }
            if let Some(status) = claim.get_mut("status") {
                ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"]
                    .into_iter()
                    .for_each(|field| remove(status, field));
            }
            claim
        };
        if same(&kept(self.old()), &kept(self.object())) {
            return Ok(());
        }
        self.refuse(&format!(
            "node {:?} is not allowed to update fields other than status.quantity and status.conditions",
            self.name
        ))
    }

    fn lease(&self) -> Result<(), Status> {
        if self.request.namespace != "kube-node-lease" {
            return self.refuse("can only access leases in the \"kube-node-lease\" system namespace");
        }
        if self.object_name() == self.name {
            return Ok(());
        }
        self.refuse("can only access node lease with the same name as the requesting node")
    }

    fn resource_slice(&self) -> Result<(), Status> {
        let (verb, slice) = match self.request.operation {
            Operation::Create => ("create", self.object()),
            Operation::Delete => ("delete", self.old()),
            _ => return Ok(()),
        };
        if text(get(slice, "spec"), "nodeName") == self.name {
            return Ok(());
        }
        self.refuse(&format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
    }

    /// A node asks for certificates in its own name only.
    fn certificate(&self) -> Result<(), Status> {
        let spec = get(self.object(), "spec");
        let signer = text(spec, "signerName");
        if self.request.operation != Operation::Create
            || !matches!(signer, "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet")
        {
            return Ok(());
        }
        let wanted = format!("system:node:{}", self.name);
        let der = certificate_request::der(text(spec, "request"));
        let csr = der.as_ref().map_err(String::clone).and_then(|der| certificate_request::parse(der));
        let csr = match csr {
            Ok(csr) => csr,
            Err(why) => return self.refuse(&format!("unable to parse csr: {why}")),
        };
        if x509::last_common_name(&csr.certification_request_info.subject) == wanted {
            return Ok(());
        }
        self.refuse(&format!("can only create a node CSR with CN={wanted}"))
    }

    /// A node asks for tokens only for pods that run on it, and for audiences that these pods know.
    fn token(&self) -> Result<(), Status> {
        let spec = get(self.object(), "spec");
        let bound = get(spec, "boundObjectRef");
        if (text(bound, "apiVersion"), text(bound, "kind")) != ("v1", "Pod") || text(bound, "name").is_empty() {
            return self.refuse("node requested token not bound to a pod");
        }
        let uid = text(bound, "uid");
        if uid.is_empty() {
            return self.refuse("node requested token with a pod binding without a uid");
        }
        let pod = self.find("Pod", self.request.namespace, text(bound, "name"))?;
        if text(get(&pod, "metadata"), "uid") != uid {
            return self.refuse(&format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
                 deleted and then recreated"
            ));
        }
        if on_node(&pod) != self.name {
            return self.refuse("node requested token bound to a pod scheduled on a different node");
        }
        let audiences: Vec<&str> = texts(spec, "audiences").collect();
        let audience = match audiences.as_slice() {
            [] => "",
            [one] => *one,
            _ => return self.refuse("node may only request 0 or 1 audiences"),
        };
        if self.knows_audience(&pod, audience) || self.may_ask_for(audience) {
            return Ok(());
        }
        self.refuse(&format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            self.request.user.user
        ))
    }

    /// Whether a volume of the pod needs a token for the audience: projected, or by its CSI driver.
    fn knows_audience(&self, pod: &Value, audience: &str) -> bool {
        let volumes = list(get(pod, "spec"), "volumes");
        volumes.iter().any(|volume| {
            let mut tokens = list(get(volume, "projected"), "sources").iter().map(|s| get(s, "serviceAccountToken"));
            if tokens.any(|token| token.is_object() && text(token, "audience") == audience) {
                return true;
            }
            let claim = text(get(volume, "persistentVolumeClaim"), "claimName");
            let driver = if has(volume, "ephemeral") {
                let name = text(get(pod, "metadata"), "name");
                self.driver_of_claim(&format!("{name}-{}", text(volume, "name")))
            } else if claim.is_empty() {
                Some(text(get(volume, "csi"), "driver").to_owned()).filter(|driver| !driver.is_empty())
            } else {
                self.driver_of_claim(claim)
            };
            let driver = driver.and_then(|driver| {
                let kind = by_kind("storage.k8s.io", "v1", "CSIDriver")?;
                super::read::<Value>(self.request.view, &kind.store_key("", &driver))
            });
            driver.is_some_and(|driver| {
                list(get(&driver, "spec"), "tokenRequests").iter().any(|request| text(request, "audience") == audience)
            })
        })
    }

    fn driver_of_claim(&self, claim: &str) -> Option<String> {
        let claim = self.find("PersistentVolumeClaim", self.request.namespace, claim).ok()?;
        let volume = self.find("PersistentVolume", "", text(get(&claim, "spec"), "volumeName")).ok()?;
        Some(text(get(get(&volume, "spec"), "csi"), "driver").to_owned())
    }

    fn may_ask_for(&self, audience: &str) -> bool {
        let target = Target::Resource {
            group: "",
            version: "v1",
            resource: audience,
            subresource: "",
            namespace: self.request.namespace,
            name: self.request.name,
            fields: None,
        };
        let attributes =
            Attributes { identity: self.request.user, verb: "request-serviceaccounts-token-audience", target };
        self.request.authorizer.is_some_and(|a| a.authorize(&attributes, self.request.view).is_ok())
    }
}

/// Labels that a node must not choose: those that isolate workloads, and what Kubernetes has not given to it.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let keys =
        |labels: &Value| labels.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut changed: Vec<String> =
        keys(new).into_iter().chain(keys(old)).filter(|k| new.get(k) != old.get(k)).collect();
    changed.sort_unstable();
    changed.dedup();
    changed.retain(|key| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let within = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|d| d.ends_with('.'));
        let of_kubernetes = within("kubernetes.io") || within("k8s.io");
        let allowed = KUBELET_LABELS.contains(&key.as_str()) || KUBELET_LABEL_DOMAINS.iter().any(|d| within(d));
        within(ISOLATION) || (of_kubernetes && !allowed)
    });
    changed
}

/// An object of the API that a pod's spec refers to, which a pod that the API does not rule must not.
///
/// Source: `pkg/api/pod/util.go` `HasAPIObjectReference`.
fn reference(spec: &Value) -> Option<&'static str> {
    if !text(spec, "serviceAccountName").is_empty() {
        return Some("serviceaccounts");
    }
    let containers: Vec<&Value> =
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|f| list(spec, f)).collect();
    let from_env = |source: &str, key: &str| {
        containers.iter().any(|container| {
            list(container, "envFrom").iter().any(|from| has(from, source))
                || list(container, "env").iter().any(|env| has(get(env, "valueFrom"), key))
        })
    };
    if !list(spec, "imagePullSecrets").is_empty() || from_env("secretRef", "secretKeyRef") {
        return Some("secrets");
    }
    if from_env("configMapRef", "configMapKeyRef") {
        return Some("configmaps");
    }
    if !list(spec, "resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    const VOLUMES: &[(&str, &str)] = &[
        ("configMap", "configmaps (via configmap volumes)"),
        ("secret", "secrets (via secret volumes)"),
        ("csi", "csidrivers (via CSI volumes)"),
        ("glusterfs", "endpoints (via glusterFS volumes)"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
        ("azureFile", "secrets (via azureFile volumes)"),
    ];
    const PROJECTED: &[(&str, &str)] = &[
        ("configMap", "configmaps (via projected volumes)"),
        ("secret", "secrets (via projected volumes)"),
        ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    list(spec, "volumes").iter().find_map(|volume| {
        let found = |of: &Value, table: &[(&str, &'static str)]| {
            table.iter().find(|(field, _)| has(of, field)).map(|(_, what)| *what)
        };
        found(volume, VOLUMES)
            .or_else(|| list(get(volume, "projected"), "sources").iter().find_map(|source| found(source, PROJECTED)))
    })
}
