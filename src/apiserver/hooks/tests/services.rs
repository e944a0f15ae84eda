//! Services: defaults, errors, what an update inherits.

use serde_json::json;

use super::*;

#[test]
fn errors_are_upstreams() {
    check(
        "",
        "Service",
        &[
            (json!({"spec": {"type": "NodePort", "ports": {"0": {"nodePort": 30080}}}}), &[]),
            (json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"], "ports": null}}), &[]),
            (json!({"spec": {"type": "ExternalName", "externalName": "db.example.com", "ports": null}}), &[]),
            (json!({"spec": {"ports": null}}), &["spec.ports: Required value"]),
            (
                json!({"spec": {"type": "Foo"}}),
                &[
                    "spec.type: Unsupported value: \"Foo\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \
             \"NodePort\"",
                ],
            ),
            (json!({"spec": {"type": "ExternalName"}}), &["spec.externalName: Required value"]),
            (
                json!({"spec": {"ports": {"0": {"port": 0, "targetPort": 80}}}}),
                &["spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"],
            ),
            (
                json!({"spec": {"ports": [{"port": 80}, {"port": 81, "name": "b"}]}}),
                &["spec.ports[0].name: Required value"],
            ),
            (
                json!({"spec": {"ports": {"0": {"nodePort": 30080}}}}),
                &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
            ),
            (
                json!({"spec": {"ports": {"0": {"protocol": "ICMP"}}}}),
                &["spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\""],
            ),
            (
                json!({"spec": {"sessionAffinity": "Sticky"}}),
                &["spec.sessionAffinity: Unsupported value: \"Sticky\": supported values: \"ClientIP\", \"None\""],
            ),
            (
                json!({"spec": {"clusterIP": "10.0.0.x", "clusterIPs": ["10.0.0.x"]}}),
                &["spec.clusterIPs[0]: Invalid value: \"10.0.0.x\": must be a valid IP address, (e.g. 10.9.8.7 or \
             2001:db8::ffff)"],
            ),
            (
                json!({"spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}}),
                &[
                    "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP \
             family",
                ],
            ),
            (
                json!({"spec": {"externalTrafficPolicy": "Local"}}),
                &[
                    "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
                ],
            ),
            (
                json!({"spec": {"type": "NodePort", "clusterIP": "None", "clusterIPs": ["None"]}}),
                &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
            ),
        ],
    );
}

#[test]
fn updates_inherit_what_was_allocated() {
    let hooks = named("", "Service").unwrap();
    let mut old = good("", "Service");
    merge(
        &mut old,
        &json!({"spec": {
            "type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "ports": {"0": {"nodePort": 30111}},
        }}),
    );
    (hooks.default)(&mut old);
    let update = |change: Value| {
        let mut new = good("", "Service");
        merge(&mut new, &json!({"spec": {"type": "NodePort"}}));
        merge(&mut new, &change);
        (hooks.default)(&mut new);
        (hooks.prepare_update)(&mut new, &old, &context(""));
        let errors: Vec<String> =
            (hooks.validate_update)(&new, &old, &context("")).iter().map(ToString::to_string).collect();
        (new, errors)
    };
    let (new, errors) = update(json!({}));
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(
        (new["spec"]["clusterIP"].as_str(), new["spec"]["ports"][0]["nodePort"].as_i64()),
        (Some("10.0.0.5"), Some(30111))
    );
    let (_, errors) = update(json!({"spec": {"clusterIP": "10.0.0.6"}}));
    assert_eq!(errors, ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.6\"]: may not change once set"]);
    let mut external = old.clone();
    merge(&mut external, &json!({"spec": {"type": "ExternalName", "externalName": "a.b"}}));
    (hooks.default)(&mut external);
    (hooks.prepare_update)(&mut external, &old, &context(""));
    let spec = &external["spec"];
    assert!(spec.get("clusterIP").is_none() && spec["ports"][0].get("nodePort").is_none(), "{spec}");
    assert_eq!((hooks.validate)(&external), Vec::new());
}
