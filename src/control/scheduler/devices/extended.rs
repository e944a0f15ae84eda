//! Extended resources that drivers offer as devices: a pod that asks for `example.com/gpu: 1` the old way gets, on a node that does
//! not count such a resource itself, a claim that asks for a device of the class that stands for it. Pure.
//!
//! Containers that run at the same time have devices of their own; an init container that ends before they start uses theirs, and
//! brings more only as far as these are too few.
//!
//! Source: KEP-5004; `pkg/scheduler/framework/plugins/dynamicresources/extendeddynamicresources.go`.

use client::Object as _;
use client::devices::{Claim, ClaimSpec, Request, Requests, Wanted};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;
use serde_json::{Value, json};
use types::quantity::Quantity;

use crate::pods;

/// Marks the claim. Source: resource/v1 `types.go` (`ExtendedResourceClaimAnnotation`).
pub const ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";
/// Resources that name their class themselves. Source: there, `ResourceDeviceClassPrefix`.
pub const CLASS_PREFIX: &str = "deviceclass.resource.kubernetes.io/";

/// The claim has this name until it is made: none that an object can have.
const MADE_UP: &str = "<extended-resources>";

/// The claim that stands for extended resources of a pod.
pub fn claim(pod: &Pod, requests: Vec<Request>) -> Claim {
    let owner = OwnerReference { block_owner_deletion: None, ..pods::controller_reference(pod) };
    let metadata = ObjectMeta {
        name: Some(MADE_UP.into()),
        namespace: pod.metadata.namespace.clone(),
        uid: Some(format!("{MADE_UP}/{}", pod.uid())),
        generate_name: Some(format!("{}-extended-resources-", pod.name())),
        owner_references: Some(vec![owner]),
        annotations: Some([(ANNOTATION.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    };
    let spec = ClaimSpec { devices: Requests { requests, ..Requests::default() } };
    Claim { metadata, spec, ..Claim::default() }
}

/// Whether the claim is not in the API.
pub fn is_made_up(claim: &Claim) -> bool {
    claim.name() == MADE_UP
}

/// As it is sent to the API.
pub fn to_create(claim: &Claim) -> Value {
    let metadata = ObjectMeta { name: None, uid: None, ..claim.metadata.clone() };
    let requests = claim.spec.devices.requests.iter().filter_map(|request| {
        let wanted = request.exactly.as_ref()?;
        Some(json!({"name": request.name, "exactly": {"deviceClassName": wanted.device_class_name,
            "allocationMode": wanted.allocation_mode, "count": wanted.count}}))
    });
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": metadata,
        "spec": {"devices": {"requests": requests.collect::<Vec<_>>()}}})
}

/// Which request a container's resource comes from, as the pod's status says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mapping {
    pub container_name: String,
    pub request_name: String,
    pub resource_name: String,
}

/// What the claim asks for. `resources`: those that are to be devices, with their classes, sorted.
pub fn requests(pod: &Pod, resources: &[(String, String)]) -> (Vec<Request>, Vec<Mapping>) {
    let Some(spec) = &pod.spec else { return (Vec::new(), Vec::new()) };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let containers: Vec<&Container> = init.iter().chain(&spec.containers).collect();
    let ends_first = |i: usize| i < init.len() && containers[i].restart_policy.as_deref() != Some("Always");
    let (mut all, mut mappings) = (Vec::new(), Vec::new());
    for (resource, class) in resources {
        let mut long: Vec<Option<Request>> = vec![None; containers.len()];
        for (i, container) in containers.iter().enumerate().filter(|(i, _)| !ends_first(*i)) {
            long[i] = of_container(i, container, resource, class, &[], &mut mappings);
        }
        // Those that end first run one after the other: the largest request of them is enough for each.
        let mut largest: Option<Request> = None;
        let (mut short, mut names) = (Vec::new(), Vec::new());
        for (i, container) in containers.iter().enumerate().filter(|(i, _)| ends_first(*i)) {
            let Some(request) = of_container(i, container, resource, class, &long[i..], &mut short) else { continue };
            names.push(request.name.clone());
            if largest.as_ref().is_none_or(|known| count(known) < count(&request)) {
                largest = Some(request);
            }
        }
        if let Some(largest) = &largest {
            let replaced = short.iter_mut().filter(|mapping| names.contains(&mapping.request_name));
            replaced.for_each(|mapping| mapping.request_name.clone_from(&largest.name));
        }
        all.extend(largest);
        all.extend(long.into_iter().flatten());
        mappings.extend(short);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    (all, mappings)
}

fn count(request: &Request) -> i64 {
    request.exactly.as_ref().map_or(0, |exactly| exactly.count)
}

/// What a container asks for beyond what it may use of others.
fn of_container(
    index: usize,
    container: &Container,
    resource: &str,
    class: &str,
    others: &[Option<Request>],
    mappings: &mut Vec<Mapping>,
) -> Option<Request> {
    let asked = container.resources.as_ref()?.requests.as_ref()?;
    let wanted = asked.get(resource)?.0.parse::<Quantity>().ok()?.value();
    if wanted <= 0 {
        return None;
    }
    let mut map = |request: &str| {
        mappings.push(Mapping {
            container_name: container.name.clone(),
            request_name: request.to_owned(),
            resource_name: resource.to_owned(),
        });
    };
    let mut found = 0;
    for other in others.iter().flatten() {
        found += count(other);
        map(&other.name);
        if found >= wanted {
            return None;
        }
    }
    // Its place among all that the container asks for, which are sorted.
    let place = asked.keys().position(|name| name == resource)?;
    let name = format!("container-{index}-request-{place}");
    map(&name);
    let exactly = Wanted {
        device_class_name: class.to_owned(),
        allocation_mode: "ExactCount".into(),
        count: wanted - found,
        ..Wanted::default()
    };
    Some(Request { name, exactly: Some(exactly), ..Request::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, init: Value, containers: Value, expected: &[&str], mapped: &[&str]) {
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"initContainers": init, "containers": containers}})).unwrap();
        let (requests, mappings) = requests(&pod, &[("x.io/gpu".into(), "gpu".into())]);
        let requests: Vec<String> = requests.iter().map(|r| format!("{}={}", r.name, count(r))).collect();
        let mappings: Vec<String> =
            mappings.iter().map(|m| format!("{} {}", m.container_name, m.request_name)).collect();
        assert_eq!(requests, expected, "{name}");
        assert_eq!(mappings, mapped, "{name}");
    }

    fn container(name: &str, gpus: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": "1", "x.io/gpu": gpus}}})
    }

    #[test]
    fn containers_get_requests_of_their_own_or_share() {
        check(
            "each its own",
            json!([]),
            json!([container("a", "1"), {"name": "none"}, container("b", "2")]),
            &["container-0-request-1=1", "container-2-request-1=2"],
            &["a container-0-request-1", "b container-2-request-1"],
        );
        check(
            "what ends first uses what others get",
            json!([container("i", "2")]),
            json!([container("a", "1"), container("b", "1")]),
            &["container-1-request-1=1", "container-2-request-1=1"],
            &[
                "a container-1-request-1",
                "b container-2-request-1",
                "i container-1-request-1",
                "i container-2-request-1",
            ],
        );
        check(
            "and more, as far as these are too few: the most that one of them needs",
            json!([container("i", "2"), container("j", "3")]),
            json!([container("a", "1")]),
            &["container-1-request-1=2", "container-2-request-1=1"],
            &[
                "a container-2-request-1",
                "i container-2-request-1",
                "i container-1-request-1",
                "j container-2-request-1",
                "j container-1-request-1",
            ],
        );
        let mut sidecar = container("s", "1");
        sidecar["restartPolicy"] = json!("Always");
        check(
            "a sidecar stays",
            json!([sidecar]),
            json!([container("a", "1")]),
            &["container-0-request-1=1", "container-1-request-1=1"],
            &["s container-0-request-1", "a container-1-request-1"],
        );
        check("nothing", json!([]), json!([container("a", "0")]), &[], &[]);
    }
}
