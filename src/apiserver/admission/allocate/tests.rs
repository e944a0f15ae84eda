//! The allocator against small ranges.

use serde_json::json;

use super::*;
use crate::admission::tests::Fixed;
use crate::hooks::core::service::defaults;

fn allocator(cidrs: &[&str]) -> Allocator {
    Allocator::new(Allocation {
        service_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
        node_ports: 30000..=30003,
    })
    .unwrap()
}

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    if service["spec"].get("ports").is_none() {
        service["spec"]["ports"] = json!([{"port": 80}]);
    }
    defaults::service(&mut service);
    defaults::normalize_create(&mut service);
    service
}

fn create(allocator: &Allocator, service: &mut Value) -> Result<(), String> {
    allocator.reserve_create(service, &Fixed::default()).map(Reservation::commit).map_err(|status| status.message)
}

#[test]
fn configuration_is_checked() {
    let new = |cidrs: &[&str]| {
        Allocator::new(Allocation {
            service_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
            node_ports: 1..=9,
        })
        .err()
    };
    assert_eq!(new(&["10.0.0.0/24"]), None);
    assert_eq!(new(&["fd00::/112", "10.0.0.0/24"]), None);
    assert_eq!(new(&[]), Some(ConfigError::Ranges(0)));
    assert_eq!(new(&["10.0.0.0/24", "10.1.0.0/24"]), Some(ConfigError::SameFamily));
    assert_eq!(new(&["fd00::/56"]), Some(ConfigError::TooLarge("fd00::/56".parse().unwrap())));
    assert_eq!(new(&["10.0.0.0/32"]), Some(ConfigError::TooSmall("10.0.0.0/32".parse().unwrap())));
}

#[test]
fn dynamic_addresses_leave_the_lower_band_for_people() {
    let allocator = allocator(&["10.43.0.0/24"]);
    assert_eq!(allocator.kubernetes_service_ip().to_string(), "10.43.0.1");
    for i in 0..40 {
        let mut one = service(&format!("s{i}"), json!({}));
        create(&allocator, &mut one).unwrap();
        let last: u8 = one["spec"]["clusterIP"].as_str().unwrap().rsplit('.').next().unwrap().parse().unwrap();
        assert!((17..=254).contains(&last), "{last}");
        assert_eq!(one["spec"]["clusterIPs"], json!([one["spec"]["clusterIP"]]));
        assert_eq!(
            (&one["spec"]["ipFamilies"], &one["spec"]["ipFamilyPolicy"]),
            (&json!(["IPv4"]), &json!("SingleStack"))
        );
    }
}

#[test]
fn a_small_range_is_used_up_and_given_back() {
    let allocator = allocator(&["10.43.0.0/30"]);
    let (mut a, mut b, mut c) = (service("a", json!({})), service("b", json!({})), service("c", json!({})));
    create(&allocator, &mut a).unwrap();
    create(&allocator, &mut b).unwrap();
    let full = create(&allocator, &mut c).unwrap_err();
    assert_eq!(full, "Internal error occurred: failed to allocate a serviceIP: range is full");
    // somebody else cannot free what is not his
    let mut stranger = a.clone();
    stranger["metadata"]["name"] = json!("x");
    allocator.release(&stranger);
    assert!(create(&allocator, &mut c).is_err());
    allocator.release(&a);
    allocator.release(&a);
    create(&allocator, &mut c).unwrap();
    assert_eq!(c["spec"]["clusterIP"], a["spec"]["clusterIP"]);
}

#[test]
fn a_dropped_reservation_takes_nothing() {
    let allocator = allocator(&["10.43.0.0/24"]);
    let spec = json!({"type": "NodePort", "clusterIP": "10.43.0.9", "ports": [{"port": 80, "nodePort": 30001}]});
    let mut a = service("a", spec.clone());
    drop(allocator.reserve_create(&mut a, &Fixed::default()).unwrap());
    let mut b = service("b", spec.clone());
    create(&allocator, &mut b).unwrap();
    let mut c = service("c", spec.clone());
    assert_eq!(
        create(&allocator, &mut c).unwrap_err(),
        "Service \"c\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.0.9\"]: failed to allocate IP 10.43.0.9: \
         provided IP is already allocated"
    );
    // a failure after the address gives the address back
    let mut d = service(
        "d",
        json!({"type": "NodePort", "clusterIP": "10.43.0.10", "ports": [{"port": 80, "nodePort": 30001}]}),
    );
    assert_eq!(
        create(&allocator, &mut d).unwrap_err(),
        "Service \"d\" is invalid: spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"
    );
    let mut e = service("e", json!({"clusterIP": "10.43.0.10"}));
    create(&allocator, &mut e).unwrap();
}

#[test]
fn a_write_whose_caller_went_away_keeps_its_address() {
    let allocator = allocator(&["10.43.0.0/24"]);
    let fixed = |name: &str| service(name, json!({"clusterIP": "10.43.0.9"}));
    let mut reservation = allocator.reserve_create(&mut fixed("a"), &Fixed::default()).unwrap();
    reservation.sent();
    drop(reservation);
    assert!(create(&allocator, &mut fixed("b")).is_err());
    // the write did happen, and now the service is deleted
    allocator.release(&fixed("a"));
    let mut reservation = allocator.reserve_create(&mut fixed("b"), &Fixed::default()).unwrap();
    reservation.sent();
    reservation.undo();
    create(&allocator, &mut fixed("c")).unwrap();
}

#[test]
fn what_is_out_of_range_is_refused() {
    let allocator = allocator(&["10.43.0.0/24"]);
    for (spec, words) in [
        (
            json!({"clusterIP": "10.44.0.1"}),
            "spec.clusterIPs: Invalid value: [\"10.44.0.1\"]: failed to allocate IP 10.44.0.1: the provided network \
             does not match the current range",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid \
             ports is 30000-30003",
        ),
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack \
             services",
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (
            json!({"clusterIP": "fd00::1"}),
            "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster",
        ),
    ] {
        let mut one = service("s", spec);
        assert_eq!(create(&allocator, &mut one).unwrap_err(), format!("Service \"s\" is invalid: {words}"));
    }
}

#[test]
fn two_stacks() {
    let allocator = allocator(&["10.43.0.0/24", "fd43::/112"]);
    for (spec, families) in [
        (json!({}), json!(["IPv4"])),
        (json!({"ipFamilyPolicy": "PreferDualStack"}), json!(["IPv4", "IPv6"])),
        (json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}), json!(["IPv6", "IPv4"])),
        (json!({"ipFamilies": ["IPv6"]}), json!(["IPv6"])),
        (json!({"clusterIP": "None", "selector": {"a": "b"}}), json!(["IPv4"])),
        (json!({"clusterIP": "None"}), json!(["IPv4", "IPv6"])),
    ] {
        let mut one = service("s", spec.clone());
        create(&allocator, &mut one).unwrap();
        assert_eq!(one["spec"]["ipFamilies"], families, "{spec}");
        let ips = one["spec"]["clusterIPs"].as_array().unwrap().len();
        assert_eq!(ips, if spec["clusterIP"] == "None" { 1 } else { families.as_array().unwrap().len() });
        let errors = (crate::hooks::core::service::HOOKS.validate)(&one);
        assert_eq!(errors, Vec::new(), "{spec}");
    }
    // up to two stacks and down again
    let mut old = service("t", json!({}));
    create(&allocator, &mut old).unwrap();
    let mut new = old.clone();
    new["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
    allocator.reserve_update(&mut new, &old, &Fixed::default()).unwrap().commit();
    assert_eq!(new["spec"]["clusterIPs"].as_array().unwrap().len(), 2);
    assert_eq!(new["spec"]["clusterIPs"][0], old["spec"]["clusterIP"]);
    let second = new["spec"]["clusterIPs"][1].clone();
    let mut down = new.clone();
    down["spec"]["ipFamilyPolicy"] = json!("SingleStack");
    allocator.reserve_update(&mut down, &new, &Fixed::default()).unwrap().commit();
    assert_eq!(down["spec"]["clusterIPs"], json!([old["spec"]["clusterIP"]]));
    let mut other = service("u", json!({"clusterIP": second}));
    create(&allocator, &mut other).unwrap();
}

#[test]
fn node_ports_are_shared_by_protocols_and_follow_updates() {
    let allocator = allocator(&["10.43.0.0/24"]);
    let mut dns = service(
        "dns",
        json!({"type": "NodePort", "ports": [
            {"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "tcp", "port": 53, "protocol": "TCP"}, {"name": "m", "port": 99},
        ]}),
    );
    create(&allocator, &mut dns).unwrap();
    let port = |s: &Value, i: usize| s["spec"]["ports"][i]["nodePort"].as_i64().unwrap();
    assert_eq!(port(&dns, 0), port(&dns, 1));
    assert_ne!(port(&dns, 0), port(&dns, 2));
    // to ClusterIP: the ports are free again, but only once the write has happened
    let mut plain = dns.clone();
    plain["spec"]["type"] = json!("ClusterIP");
    for i in 0..3 {
        plain["spec"]["ports"][i].as_object_mut().unwrap().remove("nodePort");
    }
    let wanted = port(&dns, 0);
    let mut other = service("o", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": wanted}]}));
    let reservation = allocator.reserve_update(&mut plain, &dns, &Fixed::default()).unwrap();
    assert!(create(&allocator, &mut other).is_err());
    reservation.commit();
    create(&allocator, &mut other).unwrap();
    assert_eq!(plain["spec"]["clusterIP"], dns["spec"]["clusterIP"]);
    // to ExternalName and back
    let mut external = plain.clone();
    external["spec"] = json!({"type": "ExternalName", "externalName": "a.b"});
    allocator.reserve_update(&mut external, &plain, &Fixed::default()).unwrap().commit();
    let mut again = service("dns", json!({"clusterIP": plain["spec"]["clusterIP"]}));
    allocator.reserve_update(&mut again, &external, &Fixed::default()).unwrap().commit();
}

#[test]
fn no_two_services_ever_get_the_same() {
    let allocator = allocator(&["10.43.0.0/24"]);
    let all = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for t in 0..4 {
            let (allocator, all) = (&allocator, &all);
            scope.spawn(move || {
                for i in 0..60 {
                    let mut one = service(&format!("s{t}-{i}"), json!({}));
                    let reservation = allocator.reserve_create(&mut one, &Fixed::default()).unwrap();
                    if i % 2 == 0 {
                        reservation.commit();
                        all.lock().push(one["spec"]["clusterIP"].as_str().unwrap().to_owned());
                    }
                }
            });
        }
    });
    let mut ips = all.into_inner();
    ips.sort_unstable();
    let count = ips.len();
    ips.dedup();
    assert_eq!((ips.len(), count), (120, 120));
}

#[test]
fn objects_of_addresses_are_repaired() {
    let ip = |name: &str, owner: &str, manager: &str| {
        json!({"metadata": {"name": name, "labels": {"ipaddress.kubernetes.io/managed-by": manager}},
            "spec": {"parentRef": {"resource": "services", "namespace": "shop", "name": owner}}})
    };
    let ours = "ipallocator.k8s.io";
    let view = Fixed::default()
        .with("", "Service", service("a", json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5"]})))
        .with("", "Service", service("b", json!({"clusterIP": "10.43.0.6", "clusterIPs": ["10.43.0.6"]})))
        .with("", "Service", service("c", json!({"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"]})))
        .with("networking.k8s.io", "IPAddress", ip("10.43.0.5", "a", ours))
        .with("networking.k8s.io", "IPAddress", ip("10.43.0.6", "gone", ours))
        .with("networking.k8s.io", "IPAddress", ip("10.43.0.8", "gone", ours))
        .with("networking.k8s.io", "IPAddress", ip("10.43.0.9", "gone", "somebody"));
    let allocator = allocator(&["10.43.0.0/24"]);
    allocator.load(&view);
    let repairs = allocator.repairs(&view, jiff::Timestamp::UNIX_EPOCH);
    let told: Vec<String> = repairs
        .iter()
        .map(|write| match &write.op {
            store::Op::Put(value) => {
                let object: Value = serde_json::from_slice(&value.bytes).unwrap();
                format!("{} of {}", object["metadata"]["name"], object["spec"]["parentRef"]["name"])
            }
            store::Op::Delete => format!("not {}", write.key),
        })
        .collect();
    assert_eq!(
        told,
        ["not networking.k8s.io/ipaddresses//10.43.0.8", "\"10.43.0.6\" of \"b\"", "\"10.43.0.7\" of \"c\""]
    );
}

#[test]
fn addresses_with_an_object_of_somebody_are_held() {
    let ip =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"parentRef": {"resource": "gateways", "name": "g"}}});
    let view = Fixed::default().with("networking.k8s.io", "IPAddress", ip("10.43.0.1"));
    let allocator = allocator(&["10.43.0.0/30"]);
    let mut named = service("named", json!({"clusterIP": "10.43.0.1"}));
    assert_eq!(
        allocator.reserve_create(&mut named, &view).err().unwrap().message,
        "Service \"named\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.0.1\"]: failed to allocate IP 10.43.0.1: \
         provided IP is already allocated"
    );
    let mut any = service("any", json!({}));
    let reservation = allocator.reserve_create(&mut any, &view).unwrap();
    assert_eq!(any["spec"]["clusterIP"], "10.43.0.2");
    // what somebody writes for it from now on is not overwritten either
    let written = reservation.objects(&view, jiff::Timestamp::UNIX_EPOCH);
    assert!(written.iter().all(|write| matches!(write.expect, store::Expect::Absent)));
    reservation.commit();
    let full = allocator.reserve_create(&mut service("full", json!({})), &view).err().unwrap();
    assert_eq!(full.message, "Internal error occurred: failed to allocate a serviceIP: range is full");
    // the refusal has left nothing behind: when the object goes, the address is free
    allocator.reserve_create(&mut named, &Fixed::default()).unwrap().commit();
}

#[test]
fn further_ranges_are_tried_after_the_default_one() {
    let range = |name: &str, cidrs: Value| json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
    let with = |mut range: Value, pointer: &str, value: Value| {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        if range.pointer(parent).is_none() {
            range["status"] = json!({});
        }
        range.pointer_mut(parent).unwrap()[field] = value;
        range
    };
    let ready = |range: Value, status: &str| {
        with(range, "/status/conditions", json!([{"type": "Other"}, {"type": "Ready", "status": status}]))
    };
    let going = |range: Value| with(range, "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"));
    let default = range("kubernetes", json!(["10.43.0.0/30"]));
    let more = range("a", json!(["10.44.0.0/30"]));
    // The addresses that three services get, and the fourth.
    for (case, ranges, expected) in [
        ("no objects yet", vec![], "1 2 - -"),
        ("the default one", vec![default.clone()], "1 2 - -"),
        ("another", vec![default.clone(), more.clone()], "1 2 4 4"),
        ("said to be ready", vec![default.clone(), ready(more.clone(), "True")], "1 2 4 4"),
        ("not ready", vec![default.clone(), ready(more.clone(), "False")], "1 2 - -"),
        ("going", vec![default.clone(), going(ready(more.clone(), "True"))], "1 2 - -"),
        ("the default one going", vec![going(default.clone()), more.clone()], "4 4 - -"),
        (
            "of another family, or none",
            vec![default.clone(), range("a", json!(["fd00::/112", "10.44.0.0/32"]))],
            "1 2 - -",
        ),
        (
            "by name",
            vec![default.clone(), range("b", json!(["10.45.0.0/31", "10.45.0.0/30"])), more.clone()],
            "1 2 4 4",
        ),
        ("the configured one is not the stored one", vec![range("kubernetes", json!(["10.45.0.0/30"]))], "5 5 - -"),
    ] {
        let view = ranges
            .iter()
            .fold(Fixed::default(), |view, range| view.with("networking.k8s.io", "ServiceCIDR", range.clone()));
        let allocator = allocator(&["10.43.0.0/30"]);
        let mut got = Vec::new();
        for name in ["s0", "s1", "s2", "s3"] {
            let mut one = service(name, json!({}));
            let reserved = allocator.reserve_create(&mut one, &view).map(Reservation::commit);
            let ip = one["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
            got.push(match (reserved.is_ok(), ip.as_str()) {
                (false, _) => "-",
                (true, "10.43.0.1" | "10.43.0.2") if got.is_empty() => "1",
                (true, "10.43.0.1" | "10.43.0.2") => "2",
                (true, "10.44.0.1" | "10.44.0.2") => "4",
                (true, "10.45.0.1" | "10.45.0.2") => "5",
                (true, other) => panic!("{case}: {other}"),
            });
        }
        assert_eq!(got.join(" "), expected, "{case}");
        // What is named must be in one of them, and is no network's own address.
        for (i, ip) in ["10.44.0.3", "10.44.0.0", "10.46.0.1"].into_iter().enumerate() {
            let mut named = service(&format!("n{i}"), json!({"clusterIP": ip}));
            let refused = allocator.reserve_create(&mut named, &view).map(Reservation::commit).unwrap_err();
            assert!(refused.message.ends_with("the provided network does not match the current range"), "{case}: {ip}");
        }
    }
    let view = Fixed::default().with("networking.k8s.io", "ServiceCIDR", more);
    let allocator = allocator(&["10.43.0.0/30"]);
    let mut named = service("n", json!({"clusterIP": "10.44.0.2"}));
    allocator.reserve_create(&mut named, &view).unwrap().commit();
    assert_eq!(named["spec"]["clusterIPs"], json!(["10.44.0.2"]));
    // It keeps the address when the range goes.
    let mut changed = named.clone();
    changed["spec"]["ports"][0]["port"] = json!(81);
    allocator.reserve_update(&mut changed, &named, &Fixed::default()).unwrap().commit();
    assert_eq!(changed["spec"]["clusterIPs"], named["spec"]["clusterIPs"]);
}
