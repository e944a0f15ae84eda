//! Claims of pods against caches: when nothing can be said, which node suits, what is kept from others.

use client::fake::Fake;
use client::{Client, Clock, Patch, WriteParams};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::super::testing;
use super::*;

fn pod(name: &str, claims: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"containers": [], "resourceClaims": claims}}))
    .unwrap()
}

fn uses(claim: &str) -> Value {
    json!([{"name": "x", "resourceClaimName": claim}])
}

fn facts(name: &str) -> Facts {
    let node: Node = testing::node(name, &[]);
    Facts::of(&node)
}

async fn create(client: &Client, plural: &str, namespace: &str, object: Value) -> client::Revision {
    let path = client::api::resource_path("resource.k8s.io", "v1", namespace, plural);
    let made: Value = client.create_path(&path, &object, &WriteParams::default()).await.unwrap();
    client::Revision::parse(made["metadata"]["resourceVersion"].as_str().unwrap())
}

fn claim(name: &str, request: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"devices": {"requests": [request]}}})
}

fn exactly(class: &str) -> Value {
    json!({"name": "r", "exactly": {"deviceClassName": class, "allocationMode": "ExactCount", "count": 1}})
}

/// Nodes `a` and `b` have one device each. The caches are filled as long as the informers live.
async fn devices() -> (Client, Devices, Informers) {
    let client = Fake::new(Clock::fake(Timestamp::UNIX_EPOCH)).client();
    create(&client, "deviceclasses", "", json!({"metadata": {"name": "gpu"}})).await;
    for node in ["a", "b"] {
        let spec = json!({"driver": "gpu.example.com", "nodeName": node, "devices": [{"name": "0"}],
            "pool": {"name": node, "resourceSliceCount": 1}});
        create(&client, "resourceslices", "", json!({"metadata": {"name": node}, "spec": spec})).await;
    }
    for name in ["one", "two", "three"] {
        create(&client, "resourceclaims", "d", claim(name, &exactly("gpu"))).await;
    }
    create(&client, "resourceclaims", "d", claim("classless", &exactly("none"))).await;
    let informers = Informers::new(client.clone());
    let devices = Devices::new(&informers);
    devices.on_change(|_| ());
    devices.synced().await;
    (client, devices, informers)
}

fn why(devices: &Devices, pod: &Pod, node: &str) -> String {
    match devices.asked_by(&Arc::new(pod.clone()), Vec::new(), Timestamp::UNIX_EPOCH) {
        Err(why) => why,
        Ok(None) => "nothing".into(),
        Ok(Some(asked)) => match devices.refusal(&asked, &facts(node)) {
            None => "fits".into(),
            Some(refusal) => refusal.reasons.join(", "),
        },
    }
}

#[tokio::test]
async fn devices_go_to_one_pod() {
    let (client, devices, _informers) = devices().await;
    let (one, two, three) = (pod("p", uses("one")), pod("q", uses("two")), pod("r", uses("three")));
    assert_eq!(why(&devices, &pod("p", json!([])), "a"), "nothing");
    assert_eq!(why(&devices, &one, "a"), "fits");
    let asked = devices.asked_by(&Arc::new(one.clone()), Vec::new(), Timestamp::UNIX_EPOCH).unwrap().unwrap();
    let bindings = devices.reserve(&asked, &facts("a")).unwrap();
    // Decided, and not written yet.
    assert_eq!(why(&devices, &one, "a"), "resource claim d/one is in the process of being allocated");
    assert_eq!((why(&devices, &two, "a"), why(&devices, &two, "b")), (TOO_FEW.to_owned(), "fits".to_owned()));
    devices.bind(&client, &one, &bindings, Timestamp::UNIX_EPOCH).await.unwrap();
    let written: Claim = client.get("d", "one").await.unwrap();
    assert_eq!(written.metadata.finalizers.as_deref(), Some(&[client::devices::FINALIZER.to_owned()][..]));
    assert_eq!(written.status.reserved_for, [claims::consumer(&one)]);
    assert_eq!(written.status.allocation.as_ref().unwrap().devices.results[0].pool, "a");
    assert_eq!((why(&devices, &one, "a"), why(&devices, &one, "b")), ("fits".to_owned(), ELSEWHERE.to_owned()));
    assert_eq!(why(&devices, &two, "a"), TOO_FEW);
    // The pod is not bound after all: its claim keeps its device, and another pod may share it.
    devices.give_up(&client, &one, &bindings).await;
    let written: Claim = client.get("d", "one").await.unwrap();
    assert!(written.status.reserved_for.is_empty() && written.status.allocation.is_some());
    assert_eq!(why(&devices, &pod("s", uses("one")), "a"), "fits");
    let asked = devices.asked_by(&Arc::new(one.clone()), Vec::new(), Timestamp::UNIX_EPOCH).unwrap().unwrap();
    assert!(asked.to_give_back(&one).is_none(), "nowhere was asked");
    assert!(devices.refusal(&asked, &facts("b")).is_some());
    let Some(InTheWay::Allocated(idle)) = asked.to_give_back(&one) else { panic!("nothing is idle") };
    devices.give_back(&client, &idle).await;
    let written: Claim = client.get("d", "one").await.unwrap();
    devices.claims.reached(written.revision()).await;
    assert_eq!((why(&devices, &one, "b"), why(&devices, &three, "a")), ("fits".to_owned(), "fits".to_owned()));
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let (client, devices, _informers) = devices().await;
    assert_eq!(why(&devices, &pod("p", uses("none")), "a"), "resourceclaim.resource.k8s.io \"none\" not found");
    assert_eq!(why(&devices, &pod("p", uses("classless")), "a"), "request r: device class none does not exist");
    let template = json!([{"name": "x", "resourceClaimTemplateName": "t"}]);
    let mut waits = pod("p", template);
    assert_eq!(why(&devices, &waits, "a"), "pod \"d/p\": ResourceClaim not created yet");
    assert!(devices.hold_back(&waits) && !devices.hold_back(&pod("p", uses("one"))));
    let named = json!({"resourceClaimStatuses": [{"name": "x", "resourceClaimName": "two"}]});
    waits.status = serde_json::from_value(named).unwrap();
    assert_eq!(why(&devices, &waits, "a"), "ResourceClaim d/two was not created for Pod d/p (Pod is not owner)");
    let owners = json!({"metadata": {"ownerReferences":
        [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]}});
    let owned: Claim = client.patch("d", "two", Patch::Merge(&owners)).await.unwrap();
    devices.claims.reached(owned.revision()).await;
    assert_eq!((why(&devices, &waits, "a"), devices.hold_back(&waits)), ("fits".to_owned(), false));
    // A selector that cannot tell ends the attempt.
    let broken = json!({"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1,
        "selectors": [{"cel": {"expression": "device.attributes['x'].y"}}]}});
    let revision = create(&client, "resourceclaims", "d", claim("broken", &broken)).await;
    devices.claims.reached(revision).await;
    let asked =
        devices.asked_by(&Arc::new(pod("p", uses("broken"))), Vec::new(), Timestamp::UNIX_EPOCH).unwrap().unwrap();
    assert!(devices.refusal(&asked, &facts("a")).is_some());
    assert_eq!(asked.error().as_deref(), Some("claim d/broken: selector #0: CEL runtime error: no such key: y"));
}

#[tokio::test]
async fn better_alternatives_are_worth_more() {
    let (client, devices, _informers) = devices().await;
    let on = |node: &str| {
        json!({"name": node, "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1,
            "selectors": [{"cel": {"expression": format!("has(device.attributes['gpu.example.com'].{node})")}}]})
    };
    for node in ["a", "b"] {
        let attributes = json!({node: {"bool": true}});
        let devices_ = json!({"spec": {"devices": [{"name": "0", "attributes": attributes}]}});
        let slice: Slice = client.patch("", node, Patch::Merge(&devices_)).await.unwrap();
        devices.slices.reached(slice.revision()).await;
    }
    let request = json!({"name": "r", "firstAvailable": [on("b"), on("a")]});
    let revision = create(&client, "resourceclaims", "d", claim("choosy", &request)).await;
    devices.claims.reached(revision).await;
    let asked =
        devices.asked_by(&Arc::new(pod("p", uses("choosy"))), Vec::new(), Timestamp::UNIX_EPOCH).unwrap().unwrap();
    let (a, b) = (facts("a"), facts("b"));
    assert_eq!(devices.points(&asked, &[&a, &b]), Some(vec![7, 8]));
    let plain = devices.asked_by(&Arc::new(pod("p", uses("one"))), Vec::new(), Timestamp::UNIX_EPOCH).unwrap().unwrap();
    assert_eq!(devices.points(&plain, &[&a, &b]), None);
}

#[tokio::test]
async fn extended_resources_are_devices_where_no_node_counts_them() {
    let (client, devices, _informers) = devices().await;
    let class = json!({"metadata": {"name": "old"}, "spec": {"extendedResourceName": "example.com/gpu"}});
    let revision = create(&client, "deviceclasses", "", class).await;
    devices.classes.reached(revision).await;
    let asks =
        json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1", "x.io/y": "1"}}}]});
    let asking = testing::pod("p", json!({}), &asks);
    let resident = super::super::needs::Resident::of(&asking);
    let resources = devices.extended(&resident.requests);
    assert_eq!(resources, [("example.com/gpu".to_owned(), "old".to_owned())]);
    let asked = devices.asked_by(&asking, resources.clone(), Timestamp::UNIX_EPOCH).unwrap().unwrap();
    let mut counts = facts("b");
    counts.allocatable.set("example.com/gpu", 1);
    let (claims_, mappings) = asked.wanted_on(&facts("a"));
    assert_eq!((claims_.len(), mappings[0].request_name.as_str()), (1, "container-0-request-0"));
    assert_eq!(asked.wanted_on(&counts).0.len(), 0, "it has what it counts");
    assert!(devices.refusal(&asked, &facts("a")).is_none());
    // It is made when the pod is bound, and the pod names it.
    let stored: Pod = client.create(&*asking).await.unwrap();
    let stored = Arc::new(stored);
    let asked = devices.asked_by(&stored, resources.clone(), Timestamp::UNIX_EPOCH).unwrap().unwrap();
    let bindings = devices.reserve(&asked, &facts("a")).unwrap();
    assert_eq!(why(&devices, &pod("q", uses("one")), "a"), TOO_FEW);
    devices.bind(&client, &stored, &bindings, Timestamp::UNIX_EPOCH).await.unwrap();
    let named: Pod = client.get(stored.namespace(), "p").await.unwrap();
    let named = named.status.unwrap().extended_resource_claim_status.unwrap();
    let made: Claim = client.get(stored.namespace(), &named.resource_claim_name).await.unwrap();
    assert!(claims::is_reserved_for(&stored, &made) && made.status.allocation.is_some());
    assert_eq!(made.spec.devices.requests[0].exactly.as_ref().unwrap().device_class_name, "old");
    // What is left of an attempt goes before the next.
    let asked = devices.asked_by(&stored, resources, Timestamp::UNIX_EPOCH).unwrap().unwrap();
    assert_eq!(devices.refusal(&asked, &facts("a")).unwrap().reasons, [STALE]);
    assert!(matches!(asked.to_give_back(&stored), Some(InTheWay::Stale(_))));
    devices.give_up(&client, &stored, &bindings).await;
    let gone = client.get::<Claim>(stored.namespace(), &named.resource_claim_name).await;
    assert!(gone.is_err_and(|error| error.is_not_found()));
}

#[test]
fn devices_get_ready_or_not() {
    let claim = |conditions: Value, timestamp: &str| -> Claim {
        serde_json::from_value(json!({"metadata": {"name": "c"}, "status": {
            "allocation": {"allocationTimestamp": timestamp, "devices": {"results": [{"driver": "d", "pool": "p",
                "device": "0", "bindingConditions": ["up"], "bindingFailureConditions": ["broken"]}]}},
            "devices": [{"driver": "d", "pool": "p", "device": "0", "conditions": conditions}]}}))
        .unwrap()
    };
    let is = |kind: &str, status: &str| json!([{"type": kind, "status": status, "reason": "R", "message": "m"}]);
    let early = "1970-01-01T00:00:00Z";
    let failed = "device binding failed: claim=c, reason=R, message=\"m\"".to_owned();
    for (conditions, expected) in [
        (is("up", "True"), Readiness::Ready),
        (is("up", "False"), Readiness::Pending),
        (json!([]), Readiness::Pending),
        (is("broken", "True"), Readiness::Failed(failed)),
    ] {
        assert_eq!(readiness(&claim(conditions, early)), expected);
    }
    let after = |seconds: i64| Timestamp::from_second(seconds).unwrap();
    let pending = claim(json!([]), early);
    assert!(waits_for_devices(&pending) && !is_failed(&pending, after(600)) && is_failed(&pending, after(601)));
    assert!(!is_failed(&claim(is("up", "True"), early), after(601)));
    assert!(is_failed(&claim(is("broken", "True"), early), after(0)));
}
