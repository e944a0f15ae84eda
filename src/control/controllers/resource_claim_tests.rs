//! Which claims pods get, and who is put down as their user.

use super::super::harness::{Cluster, Kubelet};
use super::*;

fn pod(change: fn(&mut Value)) -> Pod {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "shop", "uid": "u"},
        "spec": {"containers": [], "resourceClaims": [
            {"name": "own", "resourceClaimTemplateName": "t"}, {"name": "shared", "resourceClaimName": "c"}]},
        "status": {"resourceClaimStatuses": [{"name": "own", "resourceClaimName": "p-own-x"}]}});
    change(&mut pod);
    serde_json::from_value(pod).unwrap()
}

fn claim(name: &str, change: fn(&mut Value)) -> Arc<Claim> {
    let mut claim = json!({"metadata": {"name": name, "namespace": "shop", "resourceVersion": "7"}});
    change(&mut claim);
    Arc::new(serde_json::from_value(claim).unwrap())
}

fn owned(claim: &mut Value) {
    claim["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
    claim["metadata"]["annotations"] = json!({POD_CLAIM: "own"});
}

fn template() -> Arc<Template> {
    let spec = json!({"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}}]}});
    let metadata = json!({"labels": {"a": "b"}, "annotations": {"c": "d"}});
    Arc::new(serde_json::from_value(json!({"spec": {"metadata": metadata, "spec": spec}})).unwrap())
}

/// What is done, with the one claim, in a world that has the template.
fn check(name: &str, change: fn(&mut Value), claims: &[Arc<Claim>], expected: &[&str]) {
    let pod = pod(change);
    let own: Vec<Arc<Claim>> = claims.iter().filter(|c| owner(c).is_some()).cloned().collect();
    let observed = Observed {
        claim: &|name| claims.iter().find(|c| c.name() == name).cloned(),
        own: &own,
        template: &|name| (name == "t").then(template),
    };
    let shown: Vec<String> = plan(&pod, &observed)
        .actions
        .iter()
        .map(|action| match action {
            Action::Create { entry, claim } => {
                format!("create {entry} {}", claim["metadata"]["generateName"].as_str().unwrap())
            }
            Action::Name { statuses } => format!("name {statuses}"),
            Action::Reserve { claim, consumers, .. } => format!("reserve {claim} for {}", consumers.len()),
            Action::Tell { message } => message.clone(),
        })
        .collect();
    assert_eq!(shown, expected, "{name}");
}

#[test]
fn pods_get_what_they_ask_for() {
    let made = || claim("p-own-x", owned);
    let allocated = |claim: &mut Value| claim["status"] = json!({"allocation": {}});
    check("all is well", |_| (), &[made(), claim("c", allocated)], &[]);
    check("it has none yet", |p| p["status"] = json!({}), &[], &["create own p-own-"]);
    check("its claim is gone", |_| (), &[], &["create own p-own-"]);
    check(
        "it was made, but its name was not written",
        |p| p["status"] = json!({"resourceClaimStatuses": [{"name": "x", "resourceClaimName": "y"}]}),
        &[made()],
        &[r#"name [{"name":"x","resourceClaimName":"y"},{"name":"own","resourceClaimName":"p-own-x"}]"#],
    );
    check("somebody else's claim has that name", |_| (), &[claim("p-own-x", |_| ())], &["create own p-own-"]);
    check("none is needed", |p| p["status"]["resourceClaimStatuses"] = json!([{"name": "own"}]), &[], &[]);
    check("it goes", |p| p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"), &[], &[]);
    check(
        "the template is missing",
        |p| p["spec"]["resourceClaims"][0]["resourceClaimTemplateName"] = json!("none"),
        &[],
        &[
            "PodResourceClaim own: resource claim template \"none\": resourceclaimtemplate.resource.k8s.io \"none\" not \
           found",
        ],
    );
    check(
        "bound without the scheduler",
        |p| p["spec"]["nodeName"] = json!("n"),
        &[made(), claim("c", |c| c["status"] = json!({"allocation": {}, "reservedFor": [{"uid": "other"}]}))],
        &["reserve c for 2"],
    );
    check("nothing is allocated", |p| p["spec"]["nodeName"] = json!("n"), &[made(), claim("c", |_| ())], &[]);
    check(
        "it is put down already",
        |p| p["spec"]["nodeName"] = json!("n"),
        &[made(), claim("c", |c| c["status"] = json!({"allocation": {}, "reservedFor": [{"uid": "u"}]}))],
        &[],
    );
    check(
        "it is done",
        |p| {
            p["spec"]["nodeName"] = json!("n");
            p["status"]["phase"] = json!("Succeeded");
        },
        &[made(), claim("c", allocated)],
        &[],
    );
}

#[test]
fn claims_are_as_their_template_says() {
    let made = from_template(&pod(|_| ()), "own", &template());
    assert_eq!(
        made,
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {
            "generateName": "p-own-", "namespace": "shop", "labels": {"a": "b"},
            "annotations": {"c": "d", POD_CLAIM: "own"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]},
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}}]}}})
    );
    let long = base(&"p".repeat(60), &"c".repeat(20));
    assert_eq!((long.len(), long.matches('p').count(), long.matches('c').count()), (55, 41, 13));
}

#[tokio::test(start_paused = true)]
async fn claims_come_and_go_with_their_pods() {
    let cluster = Cluster::start(Kubelet::Works).await;
    let template = json!({"metadata": {"name": "t", "namespace": "shop"}, "spec": {"spec": {"devices": {}}}});
    let pod = |name: &str, image: &str| {
        json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {
            "containers": [{"name": "c", "image": image}],
            "resourceClaims": [{"name": "own", "resourceClaimTemplateName": "t"}]}})
    };
    let _: Pod = cluster.create(pod("early", "works")).await;
    cluster
        .until::<k8s_openapi::api::core::v1::Event>("it is told", |all| {
            all.iter().any(|e| e.reason.as_deref() == Some(FAILED))
        })
        .await;
    let _: Template = cluster.create(template).await;
    let _: Pod = cluster.create(pod("late", "works")).await;
    cluster
        .until::<Pod>("both have a claim", |all| {
            let named =
                |p: &&Arc<Pod>| matches!(claims::named(p, &claims::entries(p)[0]), Ok(Named::Is { own: true, .. }));
            all.iter().filter(named).count() == 2
        })
        .await;
    assert_eq!(cluster.writes_at_rest().await, Vec::<String>::new());

    // As the scheduler would have written it.
    let claims = cluster.client.list::<Claim>("shop", &Default::default()).await.unwrap().items;
    let early: Pod = cluster.client.get("shop", "early").await.unwrap();
    let of_early = claims.iter().find(|c| claims::is_for_pod(&early, c).is_ok()).unwrap();
    let finalizers = json!({"metadata": {"finalizers": [client::devices::FINALIZER]}});
    let _: Claim = cluster.patch(of_early.name(), finalizers).await;
    let status = json!({"status": {"allocation": {"devices": {}}, "reservedFor": [claims::consumer(&early)]}});
    let _: Claim = cluster.client.patch_status("shop", of_early.name(), Patch::Merge(&status)).await.unwrap();
    let ended = json!({"status": {"phase": "Succeeded"}});
    let _: Pod = cluster.client.patch_status("shop", "early", Patch::Merge(&ended)).await.unwrap();
    cluster.until::<Claim>("only the other's is left", |all| all.len() == 1 && all[0].name() != of_early.name()).await;
    cluster.stop().await;
}
