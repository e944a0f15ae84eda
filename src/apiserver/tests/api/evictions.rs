//! Evictions and the budgets that refuse them.

use serde_json::{Value, json};

use crate::harness::{Client, Server};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

async fn pod(admin: &Client<'_>, name: &str, phase: &str, ready: &str) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let mut pod = admin.post(PODS, &pod).await.expect(201).json();
    pod["status"] = json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]});
    admin.put(&format!("{PODS}/{name}/status"), &pod).await.expect(200);
}

async fn budget(admin: &Client<'_>, name: &str, status: &Value) {
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    let mut budget = admin.post(BUDGETS, &budget).await.expect(201).json();
    budget["status"] = status.clone();
    admin.put(&format!("{BUDGETS}/{name}/status"), &budget).await.expect(200);
}

fn eviction(name: &str) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}})
}

#[tokio::test]
async fn budgets_refuse_evictions() {
    let server = Server::start().await;
    let admin = server.admin();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    for name in ["a", "b"] {
        pod(&admin, name, "Running", "True").await;
    }
    pod(&admin, "sick", "Running", "False").await;
    pod(&admin, "waiting", "Pending", "False").await;

    // one that its controller has not seen yet allows nothing
    budget(
        &admin,
        "web",
        &json!({"disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}),
    )
    .await;
    let refused = admin.post(&format!("{PODS}/a/eviction"), &eviction("a")).await.expect(429).json();
    assert_eq!(refused["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(
        refused["details"]["causes"],
        json!([{"reason": "DisruptionBudget",
            "message": "The disruption budget web is still being processed by the server."}])
    );
    let mut seen = admin.get(&format!("{BUDGETS}/web")).await.expect(200).json();
    seen["status"]["observedGeneration"] = json!(1);
    admin.put(&format!("{BUDGETS}/web/status"), &seen).await.expect(200);

    // a rehearsal takes nothing; the real one takes the only disruption
    admin.post(&format!("{PODS}/a/eviction?dryRun=All"), &eviction("a")).await.expect(201);
    admin.post(&format!("{PODS}/a/eviction"), &eviction("a")).await.expect(201);
    admin.get(&format!("{PODS}/a")).await.expect(404);
    let after = admin.get(&format!("{BUDGETS}/web")).await.expect(200).json();
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
    assert!(after["status"]["disruptedPods"]["a"].is_string());
    assert_eq!(after["status"]["conditions"][0]["reason"], "InsufficientPods");
    assert_eq!(after["metadata"]["generation"], 1);

    let refused = admin.post(&format!("{PODS}/b/eviction"), &eviction("b")).await.expect(429).json();
    assert_eq!(
        refused["details"]["causes"][0]["message"], "The disruption budget web does not allow evicting pods currently",
        "{refused}"
    );
    // what does not run is not protected, and what is not ready only while enough others are
    admin.post(&format!("{PODS}/waiting/eviction"), &eviction("waiting")).await.expect(201);
    admin.post(&format!("{PODS}/sick/eviction"), &eviction("sick")).await.expect(201);

    budget(&admin, "again", &json!({"observedGeneration": 1})).await;
    let several = admin.post(&format!("{PODS}/b/eviction"), &eviction("b")).await.json();
    assert_eq!((&several["status"], &several["code"]), (&json!("Failure"), &json!(500)));
    admin.get(&format!("{PODS}/b")).await.expect(200);
}
