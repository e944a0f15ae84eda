//! Claims of devices: administrators' access, and who may say what in a claim's status.

use super::*;

const GROUP: &str = "resource.k8s.io";

fn namespaces() -> Fixed {
    let labels = json!({"resource.kubernetes.io/admin-access": "true"});
    Fixed::default().with("", "Namespace", json!({"metadata": {"name": "shop"}, "status": {"phase": "Active"}})).with(
        "",
        "Namespace",
        json!({"metadata": {"name": "ops", "labels": labels}, "status": {"phase": "Active"}}),
    )
}

#[test]
fn administrators_have_a_namespace_of_their_own() {
    let devices = json!({"devices": {"requests": [{"name": "a", "exactly": {}}, {"name": "b", "exactly": {"adminAccess": true}}]}});
    let words = "spec.devices.requests[1].adminAccess: Forbidden: admin access to devices requires the \
                 `resource.kubernetes.io/admin-access: true` label on the containing namespace";
    for (kind, spec) in [("ResourceClaim", devices.clone()), ("ResourceClaimTemplate", json!({"spec": devices}))] {
        let mut object = json!({"metadata": {"name": "x"}, "spec": spec});
        let refused = create(&namespaces(), GROUP, kind, "shop", &mut object).unwrap_err();
        assert_eq!((refused.code, refused.message), (422, format!("{kind}.{GROUP} \"x\" is invalid: {words}")));
        assert_eq!(create(&namespaces(), GROUP, kind, "ops", &mut object), Ok(()));
    }
}

/// Of somebody who may do nothing else: every part of a status that has an owner is refused by name.
#[test]
fn parts_of_a_status_have_owners() {
    let update = |old: Value, new: Value| {
        let (old, mut new) = (json!({"status": old}), json!({"status": new}));
        let what = (GROUP, "ResourceClaim", "status");
        let said = run(&namespaces(), Operation::Update, what, ("shop", "c"), "ann", Some(&mut new), Some(&old));
        said.err().map_or(String::new(), |status| status.message)
    };
    let result = json!({"driver": "a.io", "pool": "p", "device": "d"});
    let allocated = json!({"allocation": {"devices": {"results": [result]}}});
    assert_eq!(update(allocated.clone(), allocated.clone()), "");
    let said = update(json!({}), allocated.clone());
    assert!(said.contains("status.allocation: Forbidden: changing status.allocation or status.reservedFor"), "{said}");
    let mut reserved = allocated.clone();
    reserved["reservedFor"] = json!([{"resource": "pods", "name": "p", "uid": "u"}]);
    assert!(update(allocated.clone(), reserved).contains("resource=\"resourceclaims/binding\", verb=\"update\""));
    let mut spoken = allocated.clone();
    spoken["devices"] = json!([{"driver": "a.io", "pool": "p", "device": "d", "data": {"x": 1}}]);
    let said = update(allocated.clone(), spoken.clone());
    assert!(said.contains("resource=\"resourceclaims/driver\", verb=\"[arbitrary-node:update]\""), "{said}");
    assert_eq!(update(spoken.clone(), spoken.clone()), "");
    assert!(!update(spoken, json!({})).contains("resourceclaims/driver"), "it goes with the device");
    let mut admin = allocated;
    admin["allocation"]["devices"]["results"][0]["adminAccess"] = json!(true);
    assert!(update(json!({}), admin).contains("status.allocation.devices.results[0].adminAccess: Forbidden"));
}
