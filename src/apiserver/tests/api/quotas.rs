//! Quotas are charged by what is created, and never by more than they have.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Server, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const QUOTA: &str = "/api/v1/namespaces/default/resourcequotas/q";

#[tokio::test]
async fn concurrent_creations_do_not_exceed_a_quota() {
    let server = Server::start().await;
    let admin = server.admin();
    let hard = json!({"count/configmaps": "3"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    admin.post("/api/v1/namespaces/default/resourcequotas", &quota).await.expect(201);
    // what nobody has counted yet limits nothing; what is counted in part cannot be told
    admin.post(MAPS, &config_map("before", &json!({}))).await.expect(201);
    let status = |used: Value| json!({"status": {"hard": hard, "used": used}});
    admin.patch(&format!("{QUOTA}/status"), "merge", &status(json!({}))).await.expect(200);
    admin
        .post(MAPS, &config_map("unknown", &json!({})))
        .await
        .refused(403, "configmaps \"unknown\" is forbidden: status unknown for quota: q, resources: count/configmaps");
    admin.patch(&format!("{QUOTA}/status"), "merge", &status(json!({"count/configmaps": "1"}))).await.expect(200);

    let dry = format!("{MAPS}?dryRun=All");
    admin.post(&dry, &config_map("dry", &json!({}))).await.expect(201);
    let objects: Vec<Value> = (0..8).map(|n| config_map(&format!("m{n}"), &json!({}))).collect();
    let answers = join_all(objects.iter().map(|object| admin.post(MAPS, object))).await;
    let made = answers.iter().filter(|answer| answer.code == 201).count();
    assert_eq!(made, 2, "one of three is used");
    for refused in answers.iter().filter(|answer| answer.code != 201) {
        let message = refused.message();
        let why = "is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=3, limited: \
                   count/configmaps=3";
        assert!(refused.code == 403 && message.ends_with(why), "{message}");
    }
    let quota = admin.get(QUOTA).await.expect(200).json();
    assert_eq!(quota["status"]["used"], json!({"count/configmaps": "3"}));
    // other namespaces and other kinds are free
    admin.post("/api/v1/namespaces/kube-system/configmaps", &config_map("free", &json!({}))).await.expect(201);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    admin.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
}
