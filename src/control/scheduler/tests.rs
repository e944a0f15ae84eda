//! The scheduler over the fake API: pods get nodes, the others are told why and come back when something changes.

use std::time::Duration;

use super::*;
use client::fake::Fake;

fn pod(name: &str, cpu: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d"},
        "spec": {"schedulerName": NAME, "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn node(name: &str, cpu: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"allocatable": {"cpu": cpu, "pods": "10", "memory": "1Gi"}}})
}

async fn create(client: &Client, path: &str, object: Value) {
    client.create_path::<Value>(path, &object, &WriteParams::default()).await.unwrap();
}

#[test]
fn the_condition_is_written_once() {
    let now = jiff::Timestamp::UNIX_EPOCH;
    let mut pod: Pod = serde_json::from_value(pod("p", "1")).unwrap();
    let patch = condition_patch(&pod, "Unschedulable", "no", now).unwrap();
    pod.status = serde_json::from_value(patch["status"].clone()).unwrap();
    assert_eq!(condition_patch(&pod, "Unschedulable", "no", now), None);
    let later = condition_patch(&pod, "Unschedulable", "other", now + Duration::from_secs(5)).unwrap();
    assert_eq!(later["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
}

#[tokio::test(start_paused = true)]
async fn pods_get_nodes_and_room_is_not_given_twice() {
    let clock = Clock::fake(jiff::Timestamp::UNIX_EPOCH);
    let client = Fake::new(clock).client();
    let informers = Informers::new(client.clone());
    let pods = informers.cache::<Pod>(Selector::all());
    let stop = CancellationToken::new();
    for name in ["a", "b", "c"] {
        create(&client, "/api/v1/namespaces/d/pods", pod(name, "1")).await;
    }
    let running = tokio::spawn(run(client.clone(), informers.clone(), Recorder::silent(), clock, stop.clone()));
    let bound = || pods.all().iter().filter(|p| p.spec.as_ref().is_some_and(|s| s.node_name.is_some())).count();
    let reported = || {
        let says =
            |p: &Pod| p.status.as_ref().and_then(|s| s.conditions.as_ref()).is_some_and(|c| c[0].status == "False");
        pods.all().iter().filter(|p| says(p)).count()
    };
    wait_for(&pods, || reported() == 3).await;
    create(&client, "/api/v1/nodes", node("n", "2")).await;
    wait_for(&pods, || bound() == 2).await;
    let name =
        pods.all().iter().find(|p| p.spec.as_ref().is_some_and(|s| s.node_name.is_some())).unwrap().name().to_owned();
    client
        .delete::<Pod>("d", &name, &client::DeleteParams { grace_period_seconds: Some(0), ..Default::default() })
        .await
        .unwrap();
    wait_for(&pods, || pods.len() == 2 && bound() == 2).await;
    stop.cancel();
    running.await.unwrap();
}

async fn wait_for(pods: &Arc<Cache<Pod>>, holds: impl Fn() -> bool) {
    let mut dirty = pods.dirty();
    let limit = Duration::from_secs(60);
    while !holds() {
        tokio::time::timeout(limit, dirty.next()).await.expect("the pods reach the state in time");
    }
}
