//! Tests of the EndpointSlice mirroring controller: plans as tables, and slices that follow Endpoints over the in-memory API.

use serde_json::{Value, json};

use super::*;
use crate::controllers::harness::{Cluster, Kubelet};

fn endpoints(subsets: Value) -> Endpoints {
    serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "shop", "uid": "e1"}, "subsets": subsets}))
        .unwrap()
}

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "shop", "uid": "s1"}, "spec": spec})).unwrap()
}

fn ips(all: &[&str]) -> Value {
    all.iter().map(|ip| json!({"ip": ip})).collect()
}

fn ports(all: &[(&str, i32)]) -> Value {
    all.iter().map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"})).collect()
}

/// Plans and applies, after which nothing may be left to do but to warn. Returns the slices, and what was done first.
fn settle(
    endpoints: Option<&Endpoints>,
    service: Option<&Service>,
    mut slices: Vec<Arc<EndpointSlice>>,
) -> (Vec<Arc<EndpointSlice>>, Vec<&'static str>) {
    let first = plan(endpoints, service, &slices);
    let mut done = Vec::new();
    for action in first.actions {
        match action {
            Action::Create(mut s) => {
                let name = format!("{}{}", s.metadata.generate_name.take().unwrap(), slices.len());
                s.metadata.uid = Some(name.clone());
                s.metadata.name = Some(name);
                slices.push(Arc::new(*s));
                done.push("create");
            }
            Action::Update(s) => {
                let at = slices.iter().position(|o| o.key() == s.key()).unwrap();
                slices[at] = Arc::new(*s);
                done.push("update");
            }
            Action::Delete(key, _) => {
                slices.retain(|o| o.key() != key);
                done.push("delete");
            }
            Action::Say(reason, _) => done.push(reason),
        }
    }
    let left = plan(endpoints, service, &slices).actions;
    assert!(left.iter().all(|a| matches!(a, Action::Say(..))), "applied, nothing is left: {left:?}");
    (slices, done)
}

/// `IPv4 a:1 b:2 | 10.0.0.1 10.0.0.2!`: family, ports, addresses, with a mark at those that are not ready.
fn shown(slices: &[Arc<EndpointSlice>]) -> Vec<String> {
    let one = |s: &Arc<EndpointSlice>| {
        let ports: Vec<String> = ports_of(s).iter().map(|(name, port, ..)| format!("{name}:{port}")).collect();
        let endpoint = |e: &Endpoint| {
            let ready = e.conditions.as_ref().unwrap().ready.unwrap();
            format!("{}{}", e.addresses[0], if ready { "" } else { "!" })
        };
        let all: Vec<String> = s.endpoints.iter().flatten().map(endpoint).collect();
        format!("{} {} | {}", s.address_type, ports.join(" "), all.join(" "))
    };
    let mut all: Vec<String> = slices.iter().map(one).collect();
    all.sort_unstable();
    all
}

#[test]
fn a_slice_for_each_subset_and_family() {
    for (name, subsets, expected) in [
        ("nothing", json!([]), vec![]),
        (
            "one",
            json!([{"addresses": ips(&["10.0.0.1"]), "notReadyAddresses": ips(&["10.0.0.2"]), "ports": ports(&[("a", 1)])}]),
            vec!["IPv4 a:1 | 10.0.0.1 10.0.0.2!"],
        ),
        (
            "two families",
            json!([{"addresses": ips(&["10.0.0.1", "fd00::1", "::ffff:10.0.0.3"]), "ports": ports(&[("a", 1)])}]),
            vec!["IPv4 a:1 | 10.0.0.1 10.0.0.3", "IPv6 a:1 | fd00::1"],
        ),
        (
            "no ports",
            json!([{"addresses": ips(&["10.0.0.1"])}, {"addresses": ips(&["10.0.0.2"]), "ports": ports(&[("a", 1)])}]),
            vec!["IPv4  | 10.0.0.1", "IPv4 a:1 | 10.0.0.2"],
        ),
        (
            "the same hosts with other ports are one",
            json!([{"addresses": ips(&["10.0.0.1"]), "ports": ports(&[("b", 2)])},
                {"addresses": ips(&["10.0.0.1"]), "ports": ports(&[("a", 1)])}]),
            vec!["IPv4 a:1 b:2 | 10.0.0.1"],
        ),
        (
            "the same ports of other hosts too",
            json!([{"addresses": ips(&["10.0.0.1"]), "ports": ports(&[("a", 1)])},
                {"notReadyAddresses": ips(&["10.0.0.1", "10.0.0.2"]), "ports": ports(&[("a", 1)])}]),
            vec!["IPv4 a:1 | 10.0.0.1! 10.0.0.2!"],
        ),
        ("zeros", json!([{"addresses": ips(&["010.000.0.1"])}]), vec!["IPv4  | 10.0.0.1"]),
    ] {
        let (slices, done) = settle(Some(&endpoints(subsets)), Some(&service(json!({}))), vec![]);
        assert_eq!(shown(&slices), expected, "{name}");
        assert_eq!(done, vec!["create"; expected.len()], "{name}");
    }
}

#[test]
fn a_slice_says_whose_it_is() {
    let mut all = endpoints(json!([{"addresses": [{"ip": "10.0.0.1", "hostname": "h", "nodeName": "n1",
        "targetRef": {"kind": "Pod", "name": "p", "namespace": "shop", "uid": "u"}}]}]));
    all.metadata.labels = Some([("team".into(), "a".into())].into());
    let annotations = [("note", "x"), (OWN_ANNOTATIONS[0], "now"), (OWN_ANNOTATIONS[1], "{}")];
    all.metadata.annotations = Some(annotations.map(|(k, v)| (k.into(), v.into())).into());
    let (slices, _) = settle(Some(&all), Some(&service(json!({}))), vec![]);
    let slice = serde_json::to_value(&*slices[0]).unwrap();
    assert_eq!(
        slice["metadata"],
        json!({"name": "db-0", "namespace": "shop", "uid": "db-0", "annotations": {"note": "x"},
            "labels": {"team": "a", SERVICE_NAME: "db", MANAGED_BY: MANAGER},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Endpoints", "name": "db", "uid": "e1", "controller": true,
                "blockOwnerDeletion": true}]})
    );
    assert_eq!(
        slice["endpoints"],
        json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "hostname": "h", "nodeName": "n1",
            "targetRef": {"kind": "Pod", "name": "p", "namespace": "shop", "uid": "u"}}])
    );
}

#[test]
fn slices_follow() {
    let subset = |addresses: &[&str], port: i32| json!([{"addresses": ips(addresses), "ports": ports(&[("a", port)])}]);
    let base = endpoints(subset(&["10.0.0.1"], 1));
    let plain = service(json!({}));
    let (there, _) = settle(Some(&base), Some(&plain), vec![]);
    let changed = |change: &dyn Fn(&mut Endpoints)| {
        let mut new = base.clone();
        change(&mut new);
        Some(new)
    };
    let with = |subsets: Value| changed(&|e| e.subsets = endpoints(subsets.clone()).subsets);
    let twice = vec![Arc::clone(&there[0]), {
        let mut other = (*there[0]).clone();
        (other.metadata.name, other.metadata.uid) = (Some("db-9".into()), Some("db-9".into()));
        Arc::new(other)
    }];
    for (name, endpoints, service, slices, expected) in [
        ("all well", Some(base.clone()), Some(plain.clone()), &there, &[][..]),
        ("another address", with(subset(&["10.0.0.2"], 1)), Some(plain.clone()), &there, &["update"]),
        ("another port", with(subset(&["10.0.0.1"], 2)), Some(plain.clone()), &there, &["update"]),
        ("another family", with(subset(&["fd00::1"], 1)), Some(plain.clone()), &there, &["create", "delete"]),
        ("one family more", with(subset(&["10.0.0.1", "fd00::1"], 1)), Some(plain.clone()), &there, &["create"]),
        ("no address", with(json!([])), Some(plain.clone()), &there, &["delete"]),
        ("another slice of the same", Some(base.clone()), Some(plain.clone()), &twice, &["delete"]),
        (
            "a label",
            changed(&|e| e.metadata.labels = Some([("a".into(), "b".into())].into())),
            Some(plain.clone()),
            &there,
            &["update"],
        ),
        ("made anew", changed(&|e| e.metadata.uid = Some("e2".into())), Some(plain.clone()), &there, &["update"]),
        ("gone", None, Some(plain.clone()), &there, &["delete"]),
        ("no service", Some(base.clone()), None, &there, &["delete"]),
        ("selects pods", Some(base.clone()), Some(service(json!({"selector": {"a": "b"}}))), &there, &["delete"]),
        (
            "not to be mirrored",
            changed(&|e| e.metadata.labels = Some([(SKIP.into(), "true".into())].into())),
            Some(plain.clone()),
            &there,
            &["delete"],
        ),
        (
            "a lock",
            changed(&|e| e.metadata.annotations = Some([(LEADER.into(), "{}".into())].into())),
            Some(plain.clone()),
            &there,
            &["delete"],
        ),
    ] {
        let (slices, done) = settle(endpoints.as_ref(), service.as_ref(), slices.clone());
        assert_eq!(done, expected, "{name}");
        assert!(slices.iter().all(|s| s.metadata.owner_references.as_ref().unwrap().len() == 1), "{name}");
    }
}

#[test]
fn what_cannot_be_mirrored_is_said() {
    let plain = service(json!({}));
    let (slices, done) =
        settle(Some(&endpoints(json!([{"addresses": ips(&["10.0.0.1", "x", ""])}]))), Some(&plain), vec![]);
    assert_eq!((shown(&slices), done), (vec!["IPv4  | 10.0.0.1".to_owned()], vec!["InvalidIPAddress", "create"]));
    let many: Vec<String> = (0..ADDRESSES_MAX + 5).map(|i| format!("10.0.{}.{}", i / 250, i % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let all = endpoints(json!([{"addresses": ips(&["bad"]), "notReadyAddresses": ips(&many)}]));
    let said: Vec<_> = plan(Some(&all), Some(&plain), &[])
        .actions
        .into_iter()
        .filter_map(|a| if let Action::Say(_, text) = a { Some(text) } else { None })
        .collect();
    assert_eq!(
        said,
        [
            "Skipped 1 invalid IP addresses when mirroring to EndpointSlices",
            "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 6 addresses were skipped"
        ]
    );
    // Who is ready comes first.
    let mut all = endpoints(json!([{"addresses": ips(&["9.9.9.9"]), "notReadyAddresses": ips(&many)}]));
    let (slices, _) = settle(Some(&all), Some(&plain), vec![]);
    assert_eq!(slices[0].endpoints.as_ref().unwrap().len(), ADDRESSES_MAX);
    assert!(shown(&slices)[0].contains(" 9.9.9.9"));
    // One that is being deleted gets no new slices.
    all.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    assert_eq!(settle(Some(&all), Some(&plain), vec![]).1, ["TooManyAddressesToMirror"]);
}

#[tokio::test(start_paused = true)]
async fn endpoints_written_by_hand_are_mirrored() {
    let cluster = Cluster::start(Kubelet::Absent).await;
    let meta = json!({"name": "db", "namespace": "shop"});
    cluster.create::<Service>(json!({"metadata": meta, "spec": {"ports": [{"name": "a", "port": 1}]}})).await;
    let subsets = json!([{"addresses": ips(&["10.0.0.1"]), "ports": ports(&[("a", 1)])}]);
    cluster.create::<Endpoints>(json!({"metadata": meta, "subsets": subsets})).await;
    let mirrors = |all: &[Arc<EndpointSlice>]| {
        let ours: Vec<_> = all.iter().filter(|s| is_ours(s)).cloned().collect();
        shown(&ours)
    };
    cluster.until::<EndpointSlice>("a mirror", |all| mirrors(all) == ["IPv4 a:1 | 10.0.0.1"]).await;
    let subsets = json!({"subsets": [{"addresses": ips(&["10.0.0.2"]), "ports": ports(&[("a", 1)])}]});
    cluster.patch::<Endpoints>("db", subsets).await;
    cluster.until::<EndpointSlice>("the new address", |all| mirrors(all) == ["IPv4 a:1 | 10.0.0.2"]).await;
    assert_eq!(cluster.writes_at_rest().await, Vec::<String>::new());
    cluster.patch::<Service>("db", json!({"spec": {"selector": {"app": "db"}}})).await;
    cluster.until::<EndpointSlice>("no mirror", |all| mirrors(all).is_empty()).await;
    cluster.stop().await;
}
