//! Certificate requests: what the three controllers that work on them share.
//!
//! Source: kubernetes `pkg/controller/certificates`, `pkg/apis/certificates/helpers.go`.

use std::sync::Arc;

use client::runner::{Controller, Seen};
use client::{Cache, Client, Key, Object as _, Result, Selector, WriteParams};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::Context;
use crate::keys::{Keys, Requested};

/// As whom all three act.
const NAME: &str = "certificate-controller";

pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

const NODE_PREFIX: &str = "system:node:";
const MASTERS: &str = "system:masters";

/// Requests that one controller works on at once: a question, a signature and a write each.
const WORKERS: usize = 2;

/// What each of the three works with.
pub struct Desk {
    pub client: Client,
    pub requests: Arc<Cache<CertificateSigningRequest>>,
    pub keys: Arc<dyn Keys>,
}

/// Runs a controller that is told of every request that changes; without keys there is nothing to do.
pub fn start<C: Controller>(context: &Context, controller: impl FnOnce(Desk) -> C) {
    let Some(keys) = context.config.keys.clone() else { return };
    let requests = context.informers.cache::<CertificateSigningRequest>(Selector::all());
    let queue = context.queue();
    let dirty = Arc::clone(&queue);
    requests.on_change(Box::new(move |_, new| {
        if let Some(request) = new {
            dirty.add(request.key());
        }
    }));
    let desk = Desk { client: context.client(NAME), requests, keys };
    context.run(controller(desk), queue, WORKERS);
}

impl Desk {
    /// The request, when it is still as it was decided upon; what has changed since is planned for anew.
    pub fn decided(&self, key: &Key, decided: &Decided) -> Option<Arc<CertificateSigningRequest>> {
        self.requests.get(key).filter(|request| Decided::on(request) == *decided)
    }

    /// Writes a subresource of a request, unless somebody else was there first.
    pub async fn update(&self, key: &Key, subresource: &str, object: &Value) -> Result<Vec<Seen>> {
        let collection = client::api::collection_path::<CertificateSigningRequest>("");
        let path = client::api::object_path(&collection, &key.name, subresource);
        let params = WriteParams::default();
        match self.client.update_path::<CertificateSigningRequest>(&path, object, &params).await {
            Ok(request) => Ok(vec![Box::pin(self.requests.reached(request.revision()))]),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }
}

/// The request that was looked at when something was decided. Names are given anew, so a decision carries it, and ends
/// where another request or a later version of it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    uid: String,
    resource_version: String,
}

impl Decided {
    pub fn on(request: &CertificateSigningRequest) -> Self {
        let resource_version = request.metadata.resource_version.clone().unwrap_or_default();
        Self { uid: request.uid().into(), resource_version }
    }
}

/// Whether there is a condition of this type; one without a status counts, as upstream has it.
pub fn has(request: &CertificateSigningRequest, condition: &str) -> bool {
    let conditions = request.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == condition)
}

pub fn is_issued(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().is_some_and(|s| s.certificate.as_ref().is_some_and(|c| !c.0.is_empty()))
}

/// The whole request with one more condition, for the subresources.
pub fn with_condition(request: &CertificateSigningRequest, condition: Value) -> Value {
    let mut object = serde_json::to_value(request).unwrap_or_default();
    match object["status"]["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => object["status"]["conditions"] = json!([condition]),
    }
    object
}

/// Time of the last change of a condition of this type.
pub fn updated(request: &CertificateSigningRequest, condition: &str) -> Option<Time> {
    let conditions = request.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().find(|c| c.type_ == condition).and_then(|c| c.last_update_time.clone())
}

/// Whether a request is what the signer signs.
///
/// # Errors
/// Why it never will be: the request fails.
pub fn check(signer: &str, requested: &Requested, usages: &[String]) -> Result<(), String> {
    match signer {
        KUBELET_CLIENT => kubelet_client(requested, usages),
        KUBELET_SERVING => kubelet_serving(requested, usages),
        _ => api_client(requested, usages),
    }
}

pub fn kubelet_client(requested: &Requested, usages: &[String]) -> Result<(), String> {
    of_nodes(requested)?;
    let refused = |what: &str| Err(format!("{what} subjectAltNames are not allowed"));
    if requested.dns_names > 0 {
        return refused("DNS");
    }
    if requested.emails > 0 {
        return refused("Email");
    }
    if requested.ip_addresses > 0 {
        return refused("IP");
    }
    if requested.uris > 0 {
        return refused("URI");
    }
    of_a_node(requested)?;
    exactly(usages, "client auth")
}

fn kubelet_serving(requested: &Requested, usages: &[String]) -> Result<(), String> {
    of_nodes(requested)?;
    if requested.dns_names == 0 && requested.ip_addresses == 0 {
        return Err("DNS or IP subjectAltName is required".into());
    }
    if requested.emails > 0 {
        return Err("Email subjectAltNames are not allowed".into());
    }
    if requested.uris > 0 {
        return Err("URI subjectAltNames are not allowed".into());
    }
    exactly(usages, "server auth")?;
    of_a_node(requested)
}

fn of_nodes(requested: &Requested) -> Result<(), String> {
    if requested.organizations == ["system:nodes"] {
        Ok(())
    } else {
        Err("subject organization is not system:nodes".into())
    }
}

fn of_a_node(requested: &Requested) -> Result<(), String> {
    if requested.common_name.starts_with(NODE_PREFIX) {
        Ok(())
    } else {
        Err("subject common name does not begin with system:node:".into())
    }
}

/// `purpose` and digital signature; key encipherment is for RSA keys.
fn exactly(usages: &[String], purpose: &str) -> Result<(), String> {
    let mut given: Vec<&str> = usages.iter().map(String::as_str).collect();
    given.sort_unstable();
    given.dedup();
    let mut wanted = ["digital signature", "key encipherment", purpose];
    wanted.sort_unstable();
    let without: Vec<&str> = wanted.iter().copied().filter(|u| *u != "key encipherment").collect();
    if given == wanted || given == without {
        Ok(())
    } else {
        Err(format!("usages did not match [{}]", wanted.join(" ")))
    }
}

/// Admission refuses masters already; what was stored before it did, or by a way around it, is not signed either.
fn api_client(requested: &Requested, usages: &[String]) -> Result<(), String> {
    if requested.organizations.iter().any(|o| o == MASTERS) {
        return Err(format!("use of {API_CLIENT} signer with {MASTERS} group is not allowed"));
    }
    let optional = |u: &&String| !matches!(u.as_str(), "digital signature" | "key encipherment" | "client auth");
    if let Some(other) = usages.iter().find(optional) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if !usages.iter().any(|u| u == "client auth") {
        return Err("missing required usage for client certificate: client auth".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signers_sign_what_they_are_for() {
        let node = Requested {
            common_name: "system:node:n1".into(),
            organizations: vec!["system:nodes".into()],
            ..Requested::default()
        };
        let serving = Requested { dns_names: 1, ..node.clone() };
        let person = Requested { common_name: "ann".into(), ..Requested::default() };
        let master = Requested { organizations: vec!["team".into(), "system:masters".into()], ..person.clone() };
        for (signer, requested, usages, wanted) in [
            (KUBELET_CLIENT, &node, "digital signature,client auth", ""),
            (KUBELET_CLIENT, &node, "client auth,key encipherment,digital signature", ""),
            (
                KUBELET_CLIENT,
                &node,
                "client auth",
                "usages did not match [client auth digital signature key encipherment]",
            ),
            (KUBELET_CLIENT, &serving, "digital signature,client auth", "DNS subjectAltNames are not allowed"),
            (KUBELET_CLIENT, &person, "digital signature,client auth", "subject organization is not system:nodes"),
            (KUBELET_SERVING, &serving, "digital signature,server auth", ""),
            (KUBELET_SERVING, &node, "digital signature,server auth", "DNS or IP subjectAltName is required"),
            (
                KUBELET_SERVING,
                &serving,
                "server auth",
                "usages did not match [digital signature key encipherment server auth]",
            ),
            (API_CLIENT, &person, "client auth", ""),
            (
                API_CLIENT,
                &master,
                "client auth",
                "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
            ),
            (API_CLIENT, &person, "digital signature", "missing required usage for client certificate: client auth"),
            (API_CLIENT, &person, "client auth,server auth", "invalid usage for client certificate: server auth"),
        ] {
            let usages: Vec<String> = usages.split(',').map(str::to_owned).collect();
            let got = check(signer, requested, &usages).err().unwrap_or_default();
            assert_eq!(got, wanted, "{signer} {requested:?} {usages:?}");
        }
    }
}
