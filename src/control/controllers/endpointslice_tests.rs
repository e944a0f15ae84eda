//! Tests of the EndpointSlice controller: plans as tables, and slices that follow pods over the in-memory API.

use serde_json::{Value, json};

use super::*;
use crate::controllers::harness::{Cluster, Kubelet};

fn service(change: Value) -> Service {
    let mut value = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "svc"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
    for (k, v) in change.as_object().unwrap() {
        value["spec"][k] = v.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn pod(i: usize, ready: bool, terminating: bool) -> Arc<Pod> {
    let mut value = json!({"metadata": {"name": format!("p{i}"), "uid": format!("p{i}"), "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.1.{}.{}", i / 200, i % 200)}, {"ip": format!("fd00::{i:x}")}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
    if terminating {
        value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

/// Plans and applies until nothing is left to do; returns the slices and the actions of the first plan.
fn settle(
    service: &Service,
    pods: &[Arc<Pod>],
    mut slices: Vec<Arc<EndpointSlice>>,
) -> (Vec<Arc<EndpointSlice>>, usize) {
    let zone = |_: &str| Some("z1".to_owned());
    let observe = |slices: &[Arc<EndpointSlice>]| plan(&Observed { service, pods, slices, zone: &zone });
    let first = observe(&slices);
    let count = first.actions.len();
    for action in first.actions {
        match action {
            Action::Create(mut s) => {
                let name = format!("web-{}", slices.len());
                s.metadata.uid = Some(name.clone());
                s.metadata.name = Some(name);
                slices.push(Arc::new(*s));
            }
            Action::Update(s) => {
                slices.retain(|o| o.key() != s.key());
                slices.push(Arc::new(*s));
            }
            Action::Delete(key, _) => slices.retain(|o| o.key() != key),
        }
    }
    assert_eq!(observe(&slices), Plan::nothing(), "applied, nothing is left");
    (slices, count)
}

fn total(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    let mut sizes: Vec<usize> = slices.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn conditions_say_ready_serving_terminating() {
    let rows = [
        (json!({}), pod(1, true, false), (true, true, false)),
        (json!({}), pod(1, false, false), (false, false, false)),
        (json!({}), pod(1, true, true), (false, true, true)),
        (json!({"publishNotReadyAddresses": true}), pod(1, false, true), (true, false, true)),
    ];
    for (change, pod, expected) in rows {
        let (slices, _) = settle(&service(change), &[pod], vec![]);
        let e = &slices[0].endpoints.as_ref().unwrap()[0];
        let c = e.conditions.clone().unwrap();
        assert_eq!((c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap()), expected);
        assert_eq!((e.zone.as_deref(), e.node_name.as_deref()), (Some("z1"), Some("n1")));
    }
}

#[test]
fn slices_are_filled_kept_and_dropped() {
    let web = service(json!({}));
    let pods: Vec<_> = (0..250).map(|i| pod(i, true, false)).collect();
    let (slices, _) = settle(&web, &pods, vec![]);
    assert_eq!(total(&slices), [50, 100, 100]);
    // One pod replaced: one slice changes, the others are left alone.
    let mut changed = pods.clone();
    changed[7] = pod(300, true, false);
    let (slices, writes) = settle(&web, &changed, slices);
    assert_eq!((total(&slices).iter().sum::<usize>(), writes <= 2), (250, true));
    let (slices, _) = settle(&web, &[], slices);
    assert_eq!(total(&slices), [0], "one empty slice says that nothing is behind it");
    let (slices, _) = settle(&web, &pods[..3], slices);
    assert_eq!(total(&slices), [3]);
}

#[test]
fn families_ports_and_services_without_endpoints() {
    let dual = service(json!({"ipFamilies": ["IPv6", "IPv4"]}));
    let (slices, _) = settle(&dual, &[pod(1, true, false)], vec![]);
    let mut kinds: Vec<_> = slices
        .iter()
        .map(|s| (s.address_type.clone(), s.endpoints.as_ref().unwrap()[0].addresses[0].clone()))
        .collect();
    kinds.sort();
    assert_eq!(kinds, [("IPv4".to_owned(), "10.1.0.1".to_owned()), ("IPv6".to_owned(), "fd00::1".to_owned())]);
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
    // Two versions of a pod name their port differently: a slice for each.
    let named = service(json!({"ports": [{"port": 80, "targetPort": "http"}]}));
    let with_port = |i: usize, port: i32| {
        let mut p = (*pod(i, true, false)).clone();
        let c = json!([{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]);
        p.spec.as_mut().unwrap().containers = serde_json::from_value(c).unwrap();
        Arc::new(p)
    };
    let (slices, _) = settle(&named, &[with_port(1, 80), with_port(2, 81)], vec![]);
    assert_eq!(total(&slices), [1, 1]);
    let headless = service(json!({"clusterIP": "None", "ports": null}));
    let (slices, _) = settle(&headless, &[pod(1, true, false)], vec![]);
    assert_eq!((total(&slices), slices[0].label(HEADLESS)), (vec![1], Some("")));
    for change in [json!({"selector": null}), json!({"type": "ExternalName"})] {
        let none = service(change);
        assert_eq!(settle(&none, &[pod(1, true, false)], vec![]).1, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn slices_and_endpoints_follow_pods() {
    let c = Cluster::start(Kubelet::Works).await;
    let mut web = serde_json::to_value(service(json!({}))).unwrap();
    web["metadata"] = json!({"name": "web", "namespace": "shop"});
    c.create::<Service>(web).await;
    let of_web = |all: &[Arc<EndpointSlice>]| -> Vec<Arc<EndpointSlice>> {
        all.iter().filter(|s| s.label(SERVICE_NAME) == Some("web")).cloned().collect()
    };
    c.until::<EndpointSlice>("placeholder", |all| total(&of_web(all)) == [0]).await;
    for name in ["a", "b"] {
        let pod = json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}});
        c.create::<Pod>(pod).await;
    }
    c.until::<EndpointSlice>("both", |all| total(&of_web(all)) == [2]).await;
    c.until::<k8s_openapi::api::core::v1::Endpoints>("both", |all| {
        let web = all.iter().find(|e| e.name() == "web");
        web.and_then(|e| e.subsets.as_ref()?.first()?.addresses.as_ref()).is_some_and(|a| a.len() == 2)
    })
    .await;
    c.patch::<Pod>("a", json!({"metadata": {"labels": {"app": "other"}}})).await;
    c.until::<EndpointSlice>("one", |all| total(&of_web(all)) == [1]).await;
    let own: EndpointSlice = c.client.get("default", "kubernetes").await.unwrap();
    assert_eq!(own.endpoints.unwrap()[0].addresses, ["192.0.2.1"]);
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    c.client.delete::<Service>("shop", "web", &DeleteParams::default()).await.unwrap();
    c.until::<EndpointSlice>("gone with its service", |all| of_web(all).is_empty()).await;
    c.until::<k8s_openapi::api::core::v1::Endpoints>("gone with its service", |all| {
        all.iter().all(|e| e.name() != "web")
    })
    .await;
    c.stop().await;
}
