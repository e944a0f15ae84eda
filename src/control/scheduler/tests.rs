//! The scheduler over the fake API: pods get nodes, the others are told why and come back when something changes.

use std::time::Duration;

use client::WriteParams;
use client::fake::Fake;
use serde_json::{Value, json};

use super::act::condition_patch;
use super::*;

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
    let patch = condition_patch(&pod, "Unschedulable", "no", None, now).unwrap();
    pod.status = serde_json::from_value(patch["status"].clone()).unwrap();
    assert_eq!(condition_patch(&pod, "Unschedulable", "no", None, now), None);
    let later = condition_patch(&pod, "Unschedulable", "other", None, now + Duration::from_secs(5)).unwrap();
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
    let running = tokio::spawn(run(
        client.clone(),
        informers.clone(),
        Recorder::silent(),
        clock,
        Configuration::default(),
        stop.clone(),
    ));
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

/// A scheduler over an API in memory with one node of two cores.
struct World {
    client: Client,
    pods: Arc<Cache<Pod>>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl World {
    async fn start() -> Self {
        let clock = Clock::fake(jiff::Timestamp::UNIX_EPOCH);
        let client = Fake::new(clock).client();
        let informers = Informers::new(client.clone());
        create(&client, "/api/v1/nodes", node("n", "2")).await;
        let (pods, stop) = (informers.cache::<Pod>(Selector::all()), CancellationToken::new());
        let how = Configuration::default();
        let running = tokio::spawn(run(client.clone(), informers, Recorder::silent(), clock, how, stop.clone()));
        Self { client, pods, stop, running }
    }

    async fn pod(&self, name: &str, cpu: &str, more: Value) {
        let mut pod = pod(name, cpu);
        for (k, v) in more.as_object().unwrap() {
            pod["spec"][k] = v.clone();
        }
        create(&self.client, "/api/v1/namespaces/d/pods", pod).await;
    }

    async fn until(&self, name: &str, holds: impl Fn(&Pod) -> bool) {
        wait_for(&self.pods, || self.pods.get(&Key::new("d", name)).is_some_and(|p| holds(&p))).await;
    }

    async fn gone(&self, name: &str) {
        let params = client::DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
        self.client.delete::<Pod>("d", name, &params).await.unwrap();
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

fn is_bound(pod: &Pod) -> bool {
    !crate::pods::node_name(pod).is_empty()
}

fn says(pod: &Pod, condition: &str, text: &str) -> bool {
    crate::pods::condition(pod, condition).is_some_and(|c| c.message.as_deref() == Some(text))
}

#[tokio::test(start_paused = true)]
async fn room_is_made_for_those_that_matter_more() {
    let world = World::start().await;
    world.pod("low", "2", json!({"priority": 1})).await;
    world.until("low", is_bound).await;
    world.pod("never", "1", json!({"priority": 5, "preemptionPolicy": "Never"})).await;
    let text = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.";
    world.until("never", |p| says(p, "PodScheduled", text)).await;
    world.pod("same", "1", json!({"priority": 1})).await;
    let text = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: \
        1 No preemption victims found for incoming pod.";
    world.until("same", |p| says(p, "PodScheduled", text)).await;
    world.pod("vip", "2", json!({"priority": 9})).await;
    let nominated = |p: &Pod| p.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()) == Some("n");
    world
        .until("vip", |p| nominated(p) && says(p, "PodScheduled", "0/1 nodes are available: 1 Insufficient cpu."))
        .await;
    let text = "default-scheduler: preempting to accommodate a higher priority pod";
    world.until("low", |p| p.is_terminating() && says(p, "DisruptionTarget", text)).await;
    world.gone("low").await;
    world.until("vip", is_bound).await;
    assert!(!is_bound(&world.pods.get(&Key::new("d", "never")).unwrap()), "the room was for another");
    world.gone("vip").await;
    world.until("never", is_bound).await;
    world.until("same", is_bound).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn gates_and_strangers_are_left_alone() {
    let world = World::start().await;
    world.pod("gated", "1", json!({"schedulingGates": [{"name": "x"}]})).await;
    world.pod("other", "1", json!({"schedulerName": "mine"})).await;
    world.pod("plain", "1", json!({})).await;
    world.until("plain", is_bound).await;
    for name in ["gated", "other"] {
        let pod = world.pods.get(&Key::new("d", name)).unwrap();
        assert!(!is_bound(&pod) && crate::pods::condition(&pod, "PodScheduled").is_none(), "{name}");
    }
    let free = json!({"spec": {"schedulingGates": null}});
    world.client.patch::<Pod>("d", "gated", client::Patch::Merge(&free)).await.unwrap();
    world.until("gated", is_bound).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn company_that_comes_brings_a_pod_back() {
    let world = World::start().await;
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    world.pod("guest", "100m", near).await;
    let text = "0/1 nodes are available: 1 node(s) didn't match pod affinity rules. no new claims to deallocate, preemption: 0/1 nodes are available: \
        1 Preemption is not helpful for scheduling.";
    world.until("guest", |p| says(p, "PodScheduled", text)).await;
    let labels = json!({"metadata": {"labels": {"zone": "a"}}});
    world.client.patch::<Node>("", "n", client::Patch::Merge(&labels)).await.unwrap();
    let mut host = pod("host", "100m");
    host["metadata"]["labels"] = json!({"app": "web"});
    create(&world.client, "/api/v1/namespaces/d/pods", host).await;
    world.until("guest", is_bound).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_the_volume_that_is_made_for_its_node() {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim as Claim;

    let world = World::start().await;
    let client = &world.client;
    let informers = Informers::new(client.clone());
    let claims = informers.cache::<Claim>(Selector::all());
    world.pod("a", "1", json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]})).await;
    let text = "0/1 nodes are available: persistentvolumeclaim \"c\" not found. no new claims to deallocate, preemption: 0/1 nodes are available: \
        1 Preemption is not helpful for scheduling.";
    world.until("a", |p| says(p, "PodScheduled", text)).await;
    let class =
        json!({"metadata": {"name": "k"}, "provisioner": "x.io/y", "volumeBindingMode": "WaitForFirstConsumer"});
    create(client, "/apis/storage.k8s.io/v1/storageclasses", class).await;
    let claim = json!({"metadata": {"name": "c", "namespace": "d"}, "status": {"phase": "Pending"},
        "spec": {"storageClassName": "k", "accessModes": ["ReadWriteOnce"]}});
    create(client, "/api/v1/namespaces/d/persistentvolumeclaims", claim).await;
    let selected = || claims.all().first().and_then(|c| c.annotation(crate::storage::SELECTED_NODE).map(str::to_owned));
    let (limit, mut dirty) = (Duration::from_secs(60), claims.dirty());
    while selected().as_deref() != Some("n") {
        tokio::time::timeout(limit, dirty.next()).await.expect("the claim has a node");
    }
    tokio::time::sleep(limit).await;
    assert!(!is_bound(&world.pods.get(&Key::new("d", "a")).unwrap()), "it waits");
    let bound =
        json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v"}});
    let _: Claim = client.patch("d", "c", client::Patch::Merge(&bound)).await.unwrap();
    let bound = json!({"status": {"phase": "Bound"}});
    let _: Claim = client.patch_status("d", "c", client::Patch::Merge(&bound)).await.unwrap();
    world.until("a", is_bound).await;
    world.stop().await;
}

async fn wait_for(pods: &Arc<Cache<Pod>>, holds: impl Fn() -> bool) {
    let mut dirty = pods.dirty();
    let limit = Duration::from_secs(60);
    while !holds() {
        tokio::time::timeout(limit, dirty.next()).await.expect("the pods reach the state in time");
    }
}
