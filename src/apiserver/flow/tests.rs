//! What belongs where, by the objects that every cluster starts with.

use serde_json::Value;

use super::rules::{Request, Rules, Target};
use crate::auth::Identity;
use crate::hooks::flowcontrol::bootstrap;

fn rules() -> Rules {
    let of = |kind: &str| -> Vec<Value> { bootstrap::objects().into_iter().filter(|o| o["kind"] == kind).collect() };
    Rules::compile(&of("PriorityLevelConfiguration"), &of("FlowSchema"))
}

#[test]
fn requests_belong_to_the_first_schema_that_they_match() {
    let rules = rules();
    let resource =
        |group, resource, subresource, namespace| Target::Resource { group, resource, subresource, namespace };
    let leases = resource("coordination.k8s.io", "leases", "", "kube-node-lease");
    for (identity, verb, target, schema, level) in [
        (Identity::admin(), "list", resource("", "pods", "", ""), "exempt", "exempt"),
        (Identity::anonymous(), "get", Target::Path("/livez"), "probes", "exempt"),
        (Identity::node("n"), "update", leases, "system-node-high", "node-high"),
        (Identity::node("n"), "patch", resource("", "nodes", "status", ""), "system-node-high", "node-high"),
        (Identity::node("n"), "list", resource("", "pods", "", "a"), "system-nodes", "system"),
        (Identity::service_account("a", "b"), "get", resource("", "pods", "", "a"), "service-accounts", "workload-low"),
        (
            Identity::service_account("kube-system", "b"),
            "get",
            resource("", "pods", "", "a"),
            "kube-system-service-accounts",
            "workload-high",
        ),
        (Identity::new("ann", &[]), "get", resource("", "pods", "", "a"), "global-default", "global-default"),
        (Identity::new("ann", &[]), "get", Target::Path("/apis"), "global-default", "global-default"),
    ] {
        let class = rules.classify(&Request { identity: &identity, verb, target });
        assert_eq!((&*class.schema, &*class.level), (schema, level), "{} {verb} {target:?}", identity.user);
    }
}

#[test]
fn flows_are_told_apart_as_the_schema_says() {
    let rules = rules();
    let flow = |identity: &Identity, namespace| {
        let target = Target::Resource { group: "", resource: "pods", subresource: "", namespace };
        rules.classify(&Request { identity, verb: "get", target }).flow
    };
    let (ann, bob) = (Identity::new("ann", &[]), Identity::new("bob", &[]));
    assert_eq!(flow(&ann, "a"), flow(&ann, "b"));
    assert_ne!(flow(&ann, "a"), flow(&bob, "a"));
    let controller = Identity::service_account("kube-system", "c");
    assert_ne!(flow(&controller, "a"), flow(&controller, "b"));
}
