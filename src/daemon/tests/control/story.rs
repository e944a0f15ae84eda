//! The life of an application, as kubectl would drive it.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::{Autoscaler, DeleteParams, Object as _, Patch, Propagation};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolumeClaim, Pod, ReplicationController, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::cluster::{Cluster, NODE};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/shop/deployments";
const AUTOSCALERS: &str = "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers";
const WEB: &str = "/apis/apps/v1/namespaces/shop/deployments/web";

fn shop<K: client::Object>(all: &[Arc<K>]) -> impl Iterator<Item = &Arc<K>> {
    all.iter().filter(|o| o.namespace() == "shop")
}

/// The addresses of the service that get traffic.
fn ready(slices: &[Arc<EndpointSlice>]) -> BTreeSet<String> {
    let of_web = shop(slices).filter(|s| s.label("kubernetes.io/service-name") == Some("web"));
    let endpoints = of_web.flat_map(|s| s.endpoints.iter().flatten()).filter(|e| {
        let conditions = e.conditions.as_ref();
        conditions.is_some_and(|c| c.ready == Some(true))
    });
    endpoints.flat_map(|e| e.addresses.clone()).collect()
}

/// Sizes of the ReplicaSets by image.
fn sizes(sets: &[Arc<ReplicaSet>]) -> Vec<(String, i32)> {
    let mut sizes: Vec<_> = shop(sets)
        .map(|s| {
            let spec = s.spec.as_ref().unwrap();
            let image = spec.template.as_ref().unwrap().spec.as_ref().unwrap().containers[0].image.clone();
            (image.unwrap(), spec.replicas.unwrap())
        })
        .collect();
    sizes.sort();
    sizes
}

async fn rolled_out(cluster: &Cluster, replicas: i32, revision: &str) {
    cluster
        .until::<Deployment>(&format!("{replicas} of revision {revision}"), |all| {
            shop(all).any(|d| {
                let status = d.status.clone().unwrap_or_default();
                let progress = status.conditions.iter().flatten().find(|c| c.type_ == "Progressing");
                d.annotation("deployment.kubernetes.io/revision") == Some(revision)
                    && status.observed_generation == d.metadata.generation
                    && status.replicas == Some(replicas)
                    && status.updated_replicas == Some(replicas)
                    && status.available_replicas == Some(replicas)
                    && progress.is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"))
            })
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_lives_and_goes() {
    let cluster = Cluster::start().await;
    let admin = &cluster.admin;

    cluster.namespace("shop").await;
    cluster.until::<ServiceAccount>("the default account", |all| shop(all).any(|a| a.name() == "default")).await;
    cluster
        .until::<ConfigMap>("the root certificate", |all| {
            shop(all).any(|m| m.name() == "kube-root-ca.crt" && m.data.as_ref().is_some_and(|d| d["ca.crt"] == "PEM"))
        })
        .await;

    // Asked for before there is a node: it waits.
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 3,
        "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
            "containers": [{"name": "c", "image": "one", "ports": [{"name": "http", "containerPort": 8080}]}]}}}});
    cluster.post(DEPLOYMENTS, &web).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": "http"}]}});
    cluster.post("/api/v1/namespaces/shop/services", &service).await;
    cluster
        .until::<Pod>("three pods that no node takes", |all| {
            let unschedulable = |p: &&Arc<Pod>| {
                let conditions = p.status.iter().flat_map(|s| s.conditions.iter().flatten());
                conditions.into_iter().any(|c| c.type_ == "PodScheduled" && c.status == "False")
            };
            shop(all).filter(unschedulable).count() == 3
        })
        .await;
    cluster.node().await;
    cluster
        .until::<Node>("the node without taints", |all| {
            all.iter().any(|n| n.name() == NODE && n.spec.as_ref().is_none_or(|s| s.taints.is_none()))
        })
        .await;
    rolled_out(&cluster, 3, "1").await;
    cluster.until::<EndpointSlice>("three ready endpoints", |all| ready(all).len() == 3).await;
    cluster
        .until::<Endpoints>("three addresses", |all| {
            let subsets = shop(all).flat_map(|e| e.subsets.iter().flatten());
            subsets.flat_map(|s| s.addresses.iter().flatten()).count() == 3
        })
        .await;

    // kubectl autoscale: below the fewest that it leaves. Here nobody measures what pods use, which it says.
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let autoscaler =
        json!({"metadata": {"name": "web"}, "spec": {"minReplicas": 4, "maxReplicas": 4, "scaleTargetRef": target}});
    cluster.post(AUTOSCALERS, &autoscaler).await;
    rolled_out(&cluster, 4, "1").await;
    let said = |reason: &'static str, message: &'static str| {
        move |all: &[Arc<Autoscaler>]| {
            let conditions = shop(all).flat_map(|a| a.status["conditions"].as_array().into_iter().flatten());
            let text = |c: &Value| c["message"].as_str().is_some_and(|m| m.contains(message));
            conditions.into_iter().any(|c| c["reason"] == reason && text(c))
        }
    };
    cluster.until::<Autoscaler>("it is scaled", said("SucceededRescale", "to 4")).await;
    let _: Autoscaler = admin.patch("shop", "web", Patch::Merge(&json!({"spec": {"maxReplicas": 9}}))).await.unwrap();
    let nothing = said("FailedGetResourceMetric", "no metrics returned from resource metrics API");
    cluster.until::<Autoscaler>("nothing is known", nothing).await;
    admin.delete::<Autoscaler>("shop", "web", &DeleteParams::default()).await.unwrap();

    // kubectl scale
    let scale: Value = admin
        .patch_path(&format!("{WEB}/scale"), Patch::Merge(&json!({"spec": {"replicas": 5}})), &Default::default())
        .await
        .unwrap();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(5)));
    rolled_out(&cluster, 5, "1").await;
    cluster.until::<EndpointSlice>("five ready endpoints", |all| ready(all).len() == 5).await;

    // kubectl set image
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    let _: Deployment = admin.patch("shop", "web", Patch::Strategic(&image)).await.unwrap();
    rolled_out(&cluster, 5, "2").await;
    cluster
        .until::<ReplicaSet>("all pods are new", |all| sizes(all) == [("one".to_owned(), 0), ("two".to_owned(), 5)])
        .await;

    // kubectl rollout undo
    let old = cluster.informers.cache::<ReplicaSet>(Default::default()).all();
    let old = shop(&old).find(|s| s.annotation("deployment.kubernetes.io/revision") == Some("1")).unwrap().clone();
    let mut template = serde_json::to_value(old.spec.as_ref().unwrap().template.as_ref().unwrap()).unwrap();
    template["metadata"]["labels"].as_object_mut().unwrap().remove("pod-template-hash");
    let live: Value = admin.get_path(WEB).await.unwrap();
    let undo = json!([{"op": "replace", "path": "/spec/template", "value": template},
        {"op": "replace", "path": "/metadata/annotations", "value": live["metadata"]["annotations"]}]);
    let _: Deployment = admin.patch("shop", "web", Patch::Json(&undo)).await.unwrap();
    rolled_out(&cluster, 5, "3").await;
    cluster
        .until::<ReplicaSet>("the old pods again", |all| sizes(all) == [("one".to_owned(), 5), ("two".to_owned(), 0)])
        .await;

    // A rollout that does not get ready keeps the old pods in the service.
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "broken"}]}}}});
    let _: Deployment = admin.patch("shop", "web", Patch::Strategic(&image)).await.unwrap();
    cluster
        .until::<ReplicaSet>("a new set that is stuck", |all| {
            sizes(all) == [("broken".to_owned(), 3), ("one".to_owned(), 4), ("two".to_owned(), 0)]
        })
        .await;
    cluster.until::<EndpointSlice>("four ready endpoints", |all| ready(all).len() == 4).await;
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    let _: Deployment = admin.patch("shop", "web", Patch::Strategic(&image)).await.unwrap();
    rolled_out(&cluster, 5, "5").await;

    // A pod that is deleted is replaced.
    let pods = cluster.informers.cache::<Pod>(Default::default());
    let victim = shop(&pods.all()).next().unwrap().clone();
    admin.delete::<Pod>("shop", victim.name(), &DeleteParams::uid(victim.uid())).await.unwrap();
    cluster
        .until::<Pod>("a replacement", |all| {
            shop(all).all(|p| p.uid() != victim.uid()) && shop(all).filter(|p| control::pods::is_ready(p)).count() == 5
        })
        .await;

    for reason in [
        "Scheduled",
        "SuccessfulCreate",
        "SuccessfulDelete",
        "ScalingReplicaSet",
        "FailedScheduling",
        "SuccessfulRescale",
    ] {
        cluster.until::<Event>(reason, |all| shop(all).any(|e| e.reason.as_deref() == Some(reason))).await;
    }

    // kubectl delete --cascade=foreground
    let params = DeleteParams::default().propagation(Propagation::Foreground);
    admin.delete::<Deployment>("shop", "web", &params).await.unwrap();
    cluster.until::<Deployment>("no deployment", |all| shop(all).count() == 0).await;
    assert_eq!(shop(&cluster.informers.cache::<Pod>(Default::default()).all()).count(), 0);
    cluster.until::<ReplicaSet>("no set", |all| shop(all).count() == 0).await;
    let params = DeleteParams::default();
    admin.delete::<Service>("shop", "web", &params).await.unwrap();
    cluster.until::<EndpointSlice>("no slice", |all| shop(all).count() == 0).await;
    cluster.until::<Endpoints>("no endpoints", |all| shop(all).count() == 0).await;

    // Background, through the owners, with what is left going with the namespace.
    cluster.post(DEPLOYMENTS, &web).await;
    rolled_out(&cluster, 3, "1").await;
    let params = DeleteParams::default().propagation(Propagation::Background);
    admin.delete::<Deployment>("shop", "web", &params).await.unwrap();
    cluster.until::<Pod>("no pod", |all| shop(all).count() == 0).await;
    cluster.post(DEPLOYMENTS, &web).await;
    rolled_out(&cluster, 3, "1").await;
    admin.delete::<Namespace>("", "shop", &DeleteParams::default()).await.unwrap();
    cluster.until::<Namespace>("no namespace", |all| all.iter().all(|n| n.name() != "shop")).await;
    for path in ["/api/v1/pods", "/apis/apps/v1/replicasets", "/api/v1/serviceaccounts", "/api/v1/configmaps"] {
        let left: client::List<Value> = admin.list_path(path, &Default::default()).await.unwrap();
        assert!(left.items.iter().all(|o| o["metadata"]["namespace"] != "shop"), "{path}: {:?}", left.items);
    }

    let mut metrics = String::new();
    cluster.control.write_metrics(&mut metrics);
    crate::local::write_metrics(&mut metrics);
    assert!(
        metrics.contains("rest_client_requests_total{code=\"201\",host=\"in-process\",method=\"POST\"} "),
        "{metrics}"
    );
    for name in ["deployment", "replicaset", "namespace", "garbage_collector_attempt_to_delete"] {
        let line = format!("workqueue_adds_total{{name=\"{name}\"}} ");
        let count = metrics.lines().find_map(|l| l.strip_prefix(&line)).and_then(|n| n.parse::<u64>().ok());
        assert!(count.is_some_and(|n| n > 0), "{name}: {metrics}");
    }

    let complaints = cluster.stop().await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_drained_of_its_pods() {
    let cluster = Cluster::start().await;
    let admin = &cluster.admin;
    cluster.node().await;
    cluster.namespace("shop").await;
    // At once after its namespace: it waits for the account.
    let pod = json!({"metadata": {"name": "bare"}, "spec": {"containers": [{"name": "c", "image": "one"}]}});
    cluster.post("/api/v1/namespaces/shop/pods", &pod).await;
    cluster.until::<Pod>("the pod runs", |all| shop(all).any(|p| control::pods::is_ready(p))).await;
    let taint = json!({"spec": {"taints": [{"key": "example.com/away", "effect": "NoExecute"}]}});
    let _: Node = admin.patch("", NODE, Patch::Merge(&taint)).await.unwrap();
    cluster.until::<Pod>("the pod is evicted", |all| shop(all).count() == 0).await;
    cluster
        .until::<Event>("an event says so", |all| {
            shop(all).any(|e| e.reason.as_deref() == Some("TaintManagerEviction"))
        })
        .await;

    // The pods of a node that is gone are cleaned up.
    let taint = json!({"spec": {"taints": null}});
    let _: Node = admin.patch("", NODE, Patch::Merge(&taint)).await.unwrap();
    let mut held = pod;
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.post("/api/v1/namespaces/shop/pods", &held).await;
    cluster.until::<Pod>("the pod runs again", |all| shop(all).any(|p| control::pods::is_ready(p))).await;
    admin.delete::<Node>("", NODE, &DeleteParams::default()).await.unwrap();
    let _: Pod = admin.patch("shop", "bare", Patch::Merge(&json!({"metadata": {"finalizers": null}}))).await.unwrap();
    let complaints = cluster.stop().await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// All pods of the set are of its newest template, and available.
async fn stateful(cluster: &Cluster, name: &str, replicas: i32) {
    cluster
        .until::<StatefulSet>(&format!("{replicas} of {name}"), |all| {
            shop(all).filter(|s| s.name() == name).any(|s| {
                let status = s.status.clone().unwrap_or_default();
                status.observed_generation == s.metadata.generation
                    && status.replicas == replicas
                    && status.available_replicas == Some(replicas)
                    && status.updated_replicas == Some(replicas)
                    && status.current_revision == status.update_revision
            })
        })
        .await;
}

/// (name, image, uid) of the pods that have a label app.
fn apps(pods: &[Arc<Pod>], app: &str) -> Vec<(String, String, String)> {
    let of_app = shop(pods).filter(|p| p.label("app") == Some(app) && !p.is_terminating());
    let image = |p: &Pod| p.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    of_app.map(|p| (p.name().to_owned(), image(p), p.uid().to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_keep_their_names() {
    let cluster = Cluster::start().await;
    let admin = &cluster.admin;
    cluster.node().await;
    cluster.namespace("shop").await;
    let service = json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "None", "selector": {"app": "db"},
        "ports": [{"port": 5432}]}});
    cluster.post("/api/v1/namespaces/shop/services", &service).await;
    let sets = "/apis/apps/v1/namespaces/shop/statefulsets";
    let db = json!({"metadata": {"name": "db"}, "spec": {"replicas": 3, "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}}, "template": {"metadata": {"labels": {"app": "db"}}, "spec": {
            "containers": [{"name": "c", "image": "one"}]}}}});
    cluster.post(sets, &db).await;
    stateful(&cluster, "db", 3).await;
    cluster
        .until::<EndpointSlice>("host names", |all| {
            let endpoints = shop(all).flat_map(|s| s.endpoints.iter().flatten());
            let names: BTreeSet<&str> = endpoints.filter_map(|e| e.hostname.as_deref()).collect();
            names == BTreeSet::from(["db-0", "db-1", "db-2"])
        })
        .await;

    // kubectl set image, then kubectl rollout undo, which applies what the revision keeps.
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    let _: StatefulSet = admin.patch("shop", "db", Patch::Strategic(&image)).await.unwrap();
    let pods = cluster.informers.cache::<Pod>(Default::default());
    let all_of = |image: &'static str| {
        move |all: &[Arc<Pod>]| {
            let db = apps(all, "db");
            db.len() == 3 && db.iter().all(|(_, i, _)| i == image)
        }
    };
    cluster.until::<Pod>("all are new", all_of("two")).await;
    stateful(&cluster, "db", 3).await;
    let revisions = cluster.informers.cache::<ControllerRevision>(Default::default());
    cluster.until::<ControllerRevision>("two revisions", |all| shop(all).count() == 2).await;
    let first = shop(&revisions.all()).find(|r| r.revision == 1).unwrap().clone();
    let undo = first.data.as_ref().unwrap().0.clone();
    let _: StatefulSet = admin.patch("shop", "db", Patch::Strategic(&undo)).await.unwrap();
    cluster.until::<Pod>("all are old again", all_of("one")).await;
    stateful(&cluster, "db", 3).await;
    cluster
        .until::<ControllerRevision>("the first revision is the newest", |all| {
            shop(all).count() == 2 && shop(all).any(|r| r.uid() == first.uid() && r.revision == 3)
        })
        .await;

    // Scaled down, then deleted without its pods, and made again: it takes them as they are.
    let scale: Value = admin
        .patch_path(&format!("{sets}/db/scale"), Patch::Merge(&json!({"spec": {"replicas": 2}})), &Default::default())
        .await
        .unwrap();
    assert_eq!(scale["spec"]["replicas"], 2);
    stateful(&cluster, "db", 2).await;
    let before = apps(&pods.all(), "db");
    let orphan = DeleteParams::default().propagation(Propagation::Orphan);
    admin.delete::<StatefulSet>("shop", "db", &orphan).await.unwrap();
    cluster.until::<StatefulSet>("no set", |all| shop(all).count() == 0).await;
    let mut db = db;
    db["spec"]["replicas"] = json!(2);
    cluster.post(sets, &db).await;
    stateful(&cluster, "db", 2).await;
    cluster.until::<Pod>("adopted", |all| shop(all).all(|p| p.controller_owner().is_some())).await;
    assert_eq!(apps(&pods.all(), "db"), before);

    // Claims are made with the pods, and go with their set when it says so.
    let mut keeper = db.clone();
    keeper["metadata"]["name"] = json!("keeper");
    keeper["spec"]["replicas"] = json!(1);
    keeper["spec"]["selector"] = json!({"matchLabels": {"app": "keeper"}});
    keeper["spec"]["template"]["metadata"]["labels"] = json!({"app": "keeper"});
    keeper["spec"]["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": "Delete"});
    keeper["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}}]);
    cluster.post(sets, &keeper).await;
    cluster
        .until::<PersistentVolumeClaim>("the claim belongs to the set", |all| {
            shop(all).any(|c| c.name() == "data-keeper-0" && c.controller_owner().is_some_and(|o| o.name == "keeper"))
        })
        .await;
    admin.delete::<StatefulSet>("shop", "keeper", &DeleteParams::default()).await.unwrap();
    // Going: its protection may hold it until its pod is gone.
    cluster.until::<PersistentVolumeClaim>("no claim", |all| shop(all).all(|c| c.is_terminating())).await;

    for text in ["Create Pod db-0 in StatefulSet db successful", "Delete Pod db-2 in StatefulSet db successful"] {
        cluster.until::<Event>(text, |all| shop(all).any(|e| e.message.as_deref() == Some(text))).await;
    }
    let complaints = cluster.stop().await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// (meant for, ready, of the newest template, where they should not be).
fn daemons(set: &DaemonSet) -> (i32, i32, i32, i32) {
    let s = set.status.clone().unwrap_or_default();
    let seen = s.observed_generation == set.metadata.generation;
    let updated = s.updated_number_scheduled.unwrap_or(0);
    if seen { (s.desired_number_scheduled, s.number_ready, updated, s.number_misscheduled) } else { (-1, -1, -1, -1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_on_every_node() {
    let cluster = Cluster::start().await;
    let admin = &cluster.admin;
    cluster.node().await;
    cluster.namespace("shop").await;
    let is = |numbers: (i32, i32, i32, i32)| {
        move |all: &[Arc<DaemonSet>]| shop(all).any(|d| d.name() == "log" && daemons(d) == numbers)
    };
    let log = json!({"metadata": {"name": "log"}, "spec": {"selector": {"matchLabels": {"app": "log"}},
        "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    cluster.post("/apis/apps/v1/namespaces/shop/daemonsets", &log).await;
    cluster.until("one", is((1, 1, 1, 0))).await;
    // A node that is cordoned, and whose agent never comes: its pod is bound to it and waits there.
    let other = json!({"metadata": {"name": "n2"}, "spec": {"unschedulable": true}, "status": {
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}});
    cluster.post("/api/v1/nodes", &other).await;
    cluster.until("two", is((2, 1, 2, 0))).await;
    cluster.until::<Pod>("bound there", |all| shop(all).any(|p| control::pods::node_name(p) == "n2")).await;
    admin.delete::<Node>("", "n2", &DeleteParams::default()).await.unwrap();
    cluster.until("one again", is((1, 1, 1, 0))).await;
    cluster.until::<Pod>("cleaned up", |all| shop(all).count() == 1).await;

    // kubectl set image, then kubectl rollout undo, which applies what the revision keeps.
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    let _: DaemonSet = admin.patch("shop", "log", Patch::Strategic(&image)).await.unwrap();
    let all_of = |image: &'static str| {
        move |all: &[Arc<Pod>]| {
            let log = apps(all, "log");
            log.len() == 1 && log.iter().all(|(_, i, _)| i == image)
        }
    };
    cluster.until::<Pod>("new", all_of("two")).await;
    cluster.until("rolled out", is((1, 1, 1, 0))).await;
    cluster.until::<ControllerRevision>("two revisions", |all| shop(all).count() == 2).await;
    let revisions = cluster.informers.cache::<ControllerRevision>(Default::default());
    let first = shop(&revisions.all()).find(|r| r.revision == 1).unwrap().clone();
    let undo = first.data.as_ref().unwrap().0.clone();
    let _: DaemonSet = admin.patch("shop", "log", Patch::Strategic(&undo)).await.unwrap();
    cluster.until::<Pod>("old again", all_of("one")).await;
    cluster.until("rolled out", is((1, 1, 1, 0))).await;
    cluster
        .until::<ControllerRevision>("the first revision is the newest", |all| {
            shop(all).any(|r| r.uid() == first.uid() && r.revision == 3)
        })
        .await;

    // New pods first.
    let surge = json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"spec": {"containers": [{"name": "c", "image": "three"}]}}}});
    let _: DaemonSet = admin.patch("shop", "log", Patch::Strategic(&surge)).await.unwrap();
    cluster.until::<Pod>("newest", all_of("three")).await;
    cluster.until("rolled out", is((1, 1, 1, 0))).await;

    // Deleted without its pod and made again, it takes the pod as it is, and its history.
    let pods = cluster.informers.cache::<Pod>(Default::default());
    let before = apps(&pods.all(), "log");
    let orphan = DeleteParams::default().propagation(Propagation::Orphan);
    admin.delete::<DaemonSet>("shop", "log", &orphan).await.unwrap();
    cluster.until::<DaemonSet>("no set", |all| shop(all).count() == 0).await;
    let mut log = log;
    log["spec"]["template"]["spec"]["containers"][0]["image"] = json!("three");
    cluster.post("/apis/apps/v1/namespaces/shop/daemonsets", &log).await;
    cluster.until("adopted", is((1, 1, 1, 0))).await;
    cluster.until::<Pod>("with an owner", |all| shop(all).all(|p| p.controller_owner().is_some())).await;
    assert_eq!(apps(&pods.all(), "log"), before);
    cluster
        .until::<ControllerRevision>("with its history", |all| {
            shop(all).count() == 3 && shop(all).all(|r| r.controller_owner().is_some())
        })
        .await;

    let taint = |taints: Value| json!({"spec": {"taints": taints}});
    let away = taint(json!([{"key": "example.com/away", "effect": "NoExecute"}]));
    let _: Node = admin.patch("", NODE, Patch::Merge(&away)).await.unwrap();
    cluster.until("none", is((0, 0, 0, 0))).await;
    cluster.until::<Pod>("gone", |all| shop(all).count() == 0).await;
    let _: Node = admin.patch("", NODE, Patch::Merge(&taint(Value::Null))).await.unwrap();
    cluster.until("back", is((1, 1, 1, 0))).await;
    let params = DeleteParams::default().propagation(Propagation::Foreground);
    admin.delete::<DaemonSet>("shop", "log", &params).await.unwrap();
    cluster.until::<DaemonSet>("no set", |all| shop(all).count() == 0).await;
    cluster.until::<ControllerRevision>("no history", |all| shop(all).count() == 0).await;
    assert_eq!(shop(&pods.all()).count(), 0);
    let complaints = cluster.stop().await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_before_replica_sets() {
    let cluster = Cluster::start().await;
    let admin = &cluster.admin;
    cluster.node().await;
    cluster.namespace("shop").await;
    let controllers = "/api/v1/namespaces/shop/replicationcontrollers";
    let old = json!({"metadata": {"name": "old"}, "spec": {"replicas": 2, "selector": {"app": "old"},
        "template": {"metadata": {"labels": {"app": "old"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    let has = |n: i32| {
        move |all: &[Arc<ReplicationController>]| {
            shop(all).any(|rc| {
                let s = rc.status.clone().unwrap_or_default();
                s.replicas == n && s.available_replicas.unwrap_or(0) == n
            })
        }
    };
    cluster.post(controllers, &old).await;
    cluster.until("two", has(2)).await;
    let scale: Value = admin
        .patch_path(
            &format!("{controllers}/old/scale"),
            Patch::Merge(&json!({"spec": {"replicas": 3}})),
            &Default::default(),
        )
        .await
        .unwrap();
    assert_eq!(scale["spec"]["replicas"], 3);
    cluster.until("three", has(3)).await;
    let pods = cluster.informers.cache::<Pod>(Default::default());
    cluster.until::<Pod>("three pods", |all| apps(all, "old").len() == 3).await;
    let (name, _, uid) = apps(&pods.all(), "old").swap_remove(0);
    admin.delete::<Pod>("shop", &name, &DeleteParams::uid(&uid)).await.unwrap();
    cluster
        .until::<Pod>("a replacement", |all| {
            let old = apps(all, "old");
            old.len() == 3 && old.iter().all(|(_, _, other)| *other != uid)
        })
        .await;
    let free = json!({"metadata": {"labels": {"app": "free"}}});
    let (name, ..) = apps(&pods.all(), "old").swap_remove(0);
    let _: Pod = admin.patch("shop", &name, Patch::Merge(&free)).await.unwrap();
    cluster.until::<Pod>("released", |all| shop(all).any(|p| p.name() == name && p.controller_owner().is_none())).await;
    // The status may still be that of before the release: the pods tell.
    cluster.until::<Pod>("three again", |all| apps(all, "old").len() == 3).await;
    cluster.until("counted", has(3)).await;
    let orphan = DeleteParams::default().propagation(Propagation::Orphan);
    admin.delete::<ReplicationController>("shop", "old", &orphan).await.unwrap();
    cluster.until::<ReplicationController>("none", |all| shop(all).count() == 0).await;
    let before = apps(&pods.all(), "old");
    let mut old = old;
    old["spec"]["replicas"] = json!(3);
    cluster.post(controllers, &old).await;
    cluster.until("adopted", has(3)).await;
    assert_eq!(apps(&pods.all(), "old"), before);
    // Unless asked otherwise its pods stay.
    let background = DeleteParams::default().propagation(Propagation::Background);
    admin.delete::<ReplicationController>("shop", "old", &background).await.unwrap();
    cluster.until::<Pod>("only the free one", |all| shop(all).count() == 1).await;
    let complaints = cluster.stop().await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
