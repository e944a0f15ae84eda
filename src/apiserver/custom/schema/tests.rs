//! Tests of schemas: what definitions may say, and what objects make of it.

use serde_json::json;
use types::field::Path;

use super::*;

fn schema(value: Value) -> Schema {
    Schema::read(&value)
}

#[test]
fn pruning() {
    let schema = schema(json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "a": {"type": "string"},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "integer"}}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer"}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {"y": {"type": "string"}}}}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true,
                "properties": {"spec": {"type": "object"}}},
        }},
    }}));
    let mut object = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n", "x": 1}, "other": 1,
        "spec": {"a": "1", "b": 2, "map": {"m": {"x": 1, "y": 2}}, "list": [{"x": 1}, {"z": 3}],
            "free": {"u": {"v": 1}, "known": {"y": "", "n": 1}},
            "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"q": 1}, "status": {}}}});
    let unknown = prune(&mut object, &schema, true, 100);
    assert_eq!(
        unknown,
        [
            "other",
            "spec.b",
            "spec.free.known.n",
            "spec.list[1].z",
            "spec.map.m.y",
            "spec.pod.spec.q",
            "spec.pod.status"
        ]
    );
    let expected = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n", "x": 1},
        "spec": {"a": "1", "map": {"m": {"x": 1}}, "list": [{"x": 1}, {}], "free": {"u": {"v": 1}, "known": {"y": ""}},
            "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}}}});
    assert_eq!(object, expected);
}

#[test]
fn defaulting() {
    let schema = schema(json!({"type": "object", "properties": {
        "a": {"type": "string", "default": "A"},
        "b": {"type": "object", "default": {}, "properties": {"c": {"type": "integer", "default": 5}}},
        "n": {"type": "string", "nullable": true, "default": "N"},
        "gone": {"type": "string"},
        "kept": {"type": "string", "nullable": true},
        "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer", "default": 1}}}},
        "map": {"type": "object", "additionalProperties": {"type": "string", "default": "M"}},
    }}));
    let mut object =
        json!({"a": null, "n": null, "gone": null, "kept": null, "list": [{}, {"x": 2}], "map": {"m": null}});
    default(&mut object, &schema);
    let expected =
        json!({"a": "A", "b": {"c": 5}, "n": null, "kept": null, "list": [{"x": 1}, {"x": 2}], "map": {"m": "M"}});
    assert_eq!(object, expected);
    let mut again = object.clone();
    default(&mut again, &schema);
    assert_eq!(again, object);
}

#[test]
fn defaults_do_not_multiply() {
    let schema = schema(json!({"type": "object", "properties": {"list": {"type": "array", "items": {
        "type": "object", "properties": {"x": {"type": "string", "default": "x".repeat(1000)}}}}}}));
    let mut object = json!({"list": vec![json!({}); 2_000]});
    assert!(default(&mut object, &schema));
    assert!(default(&mut object, &schema), "nothing is left to be added");
    let mut object = json!({"list": vec![json!({}); 4_000]});
    assert!(!default(&mut object, &schema));
    let filled = object["list"].as_array().unwrap().iter().filter(|item| item.get("x").is_some()).count();
    assert!((2_500..3_500).contains(&filled), "{filled}");
}

#[track_caller]
fn check(given: Value, rows: &[(Value, &[&str])]) {
    let schema = schema(given);
    for (value, expected) in rows {
        let found: Vec<String> =
            validate(value, None, &schema, &Path::root()).iter().map(ToString::to_string).collect();
        assert_eq!(found, *expected, "{value}");
    }
}

#[test]
fn texts_are_upstreams() {
    check(
        json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "required": ["a"],
            "maxProperties": 3, "properties": {
            "a": {"type": "string", "maxLength": 3, "minLength": 2, "pattern": "^a"},
            "n": {"type": "integer", "minimum": 1, "maximum": 10, "multipleOf": 2, "format": "int32"},
            "f": {"type": "number", "minimum": 0.5, "exclusiveMinimum": true},
            "e": {"type": "string", "enum": ["b", "a"]},
            "l": {"type": "array", "items": {"type": "string"}, "maxItems": 1},
            "p": {"x-kubernetes-int-or-string": true},
            "d": {"type": "string", "format": "date-time"},
            "z": {"type": "boolean", "nullable": true},
        }}}}),
        &[
            (json!({"spec": {"a": "ab"}}), &[]),
            (json!({"spec": {"a": "ab", "p": 1}}), &[]),
            (json!({"spec": {"a": "ab", "p": "1", "z": null}}), &[]),
            (json!({"spec": {"a": "ab", "n": 4.0}}), &[]),
            (json!({}), &["spec: Required value"]),
            (json!({"spec": {}}), &["spec.a: Required value"]),
            (
                json!({"spec": 3}),
                &[r#"spec: Invalid value: "integer": spec in body must be of type object: "integer""#],
            ),
            (json!({"spec": {"a": "abcd"}}), &["spec.a: Too long: may not be more than 3 bytes"]),
            (
                json!({"spec": {"a": "a"}}),
                &[r#"spec.a: Invalid value: "a": spec.a in body should be at least 2 chars long"#],
            ),
            (json!({"spec": {"a": "ba"}}), &[r#"spec.a: Invalid value: "ba": spec.a in body should match '^a'"#]),
            (
                json!({"spec": {"a": null}}),
                &[r#"spec.a: Invalid value: "null": spec.a in body must be of type string: "null""#],
            ),
            (
                json!({"spec": {"a": "ab", "n": 12}}),
                &["spec.n: Invalid value: 12: spec.n in body should be less than or equal to 10"],
            ),
            (
                json!({"spec": {"a": "ab", "n": 3}}),
                &["spec.n: Invalid value: 3: spec.n in body should be a multiple of 2"],
            ),
            (
                json!({"spec": {"a": "ab", "f": 0.5}}),
                &["spec.f: Invalid value: 0.5: spec.f in body should be greater than 0.5"],
            ),
            (
                json!({"spec": {"a": "ab", "e": "c"}}),
                &[r#"spec.e: Unsupported value: "c": supported values: "a", "b""#],
            ),
            (
                json!({"spec": {"a": "ab", "l": ["x", 1]}}),
                &[
                    r#"spec.l[1]: Invalid value: "integer": spec.l[1] in body must be of type string: "integer""#,
                    "spec.l: Too many: 2: must have at most 1 items",
                ],
            ),
            (
                json!({"spec": {"a": "ab", "p": true}}),
                &[r#"spec.p: Invalid value: "boolean": spec.p in body must be of type integer,string: "boolean""#],
            ),
            (
                json!({"spec": {"a": "ab", "d": "yesterday"}}),
                &[r#"spec.d: Invalid value: "yesterday": spec.d in body must be of type date-time: "yesterday""#],
            ),
            (json!({"spec": {"a": "ab", "b": 1, "c": 1, "x": 1}}), &["spec: Too many: 4: must have at most 3 items"]),
        ],
    );
}

#[test]
fn junctors() {
    check(
        json!({"type": "object", "properties": {"v": {"type": "integer", "not": {"enum": [3]},
            "oneOf": [{"minimum": 5}, {"maximum": 9}], "anyOf": [{"maximum": 100}, {"enum": [200]}]}}}),
        &[
            (json!({"v": 1}), &[]),
            (
                json!({"v": 7}),
                &[
                    r#"<nil>: Invalid value: "": "v" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
                ],
            ),
            (json!({"v": 3}), &[r#"<nil>: Invalid value: "": "v" must not validate the schema (not)"#]),
            (
                json!({"v": 150}),
                &[
                    r#"<nil>: Invalid value: "": "v" must validate at least one schema (anyOf)"#,
                    "v: Invalid value: 150: v in body should be less than or equal to 100",
                ],
            ),
        ],
    );
}

#[test]
fn lists_without_duplicates() {
    let schema = schema(json!({"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
            "items": {"type": "object"}},
    }}));
    for (value, expected) in [
        (json!({"set": ["x", "y"], "map": [{"a": 1, "b": 1}, {"a": 1, "b": 2}]}), Vec::new()),
        (json!({"set": ["x", "y", "x", "x"]}), vec![r#"set[2]: Duplicate value: "x""#]),
        (json!({"map": [{"a": 1}, {"a": 1, "c": 3}]}), vec![r#"map[1]: Duplicate value: {"a":1}"#]),
        (
            json!({"map": [{"a": 1}, 3]}),
            vec!["map[1]: Invalid value: 3: must be an object for an array of list-type map"],
        ),
    ] {
        let found: Vec<String> = duplicates(&value, &schema, &Path::root()).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{value}");
    }
}

#[test]
fn formats() {
    for (name, good, bad) in [
        ("date", &["2024-02-29"][..], &["2023-02-29", "2024-2-9", ""][..]),
        (
            "date-time",
            &["2024-02-29T10:00:00Z", "2024-02-29t10:00:00.123+01:00"],
            &["2024-02-29", "2024-02-29T24:00:00Z"],
        ),
        ("duration", &["1h30m", "-1.5s", "22 ns", "3 days", "0"], &["", "x", "5 parsecs"]),
        ("email", &["a@example.com", "Ann <a@b>"], &["a", "@b", "a@"]),
        ("hostname", &["a", "a-b.example.com"], &["-a", "a..b", "a_b", "a.b.c1"]),
        ("ipv4", &["10.0.0.1", "010.0.0.1"], &["10.0.0", "::1", "256.1.1.1"]),
        ("ipv6", &["::1", "fd00::"], &["10.0.0.1", "x::"]),
        ("cidr", &["10.0.0.0/8", "::/0"], &["10.0.0.0", "10.0.0.0/33"]),
        ("mac", &["00:00:5e:00:53:01", "0000.5e00.5301"], &["00:00", "00-00:5e:00:53:01"]),
        ("uuid", &["2e1cd4a0-7b56-4c2f-9d0a-000000000000", "2E1CD4A07B564C2F9D0A000000000000"], &["2e1c", "g"]),
        ("uuid4", &["2e1cd4a0-7b56-4c2f-9d0a-000000000000"], &["2e1cd4a0-7b56-3c2f-9d0a-000000000000"]),
        ("byte", &["YQ==", "YWJj"], &["YQ=", "?", ""]),
        ("uri", &["https://a/b", "/a"], &["a", ""]),
        ("isbn", &["0321751043", "978-0321751041"], &["0321751044"]),
        ("creditcard", &["4012888888881881"], &["4012888888881882"]),
        ("hexcolor", &["#FFF", "a0b1c2"], &["#ffff"]),
        ("rgbcolor", &["rgb(1, 2,255)"], &["rgb(1,2,256)", "rgb(01,2,3)"]),
        ("ssn", &["123-45-6789"], &["123456789"]),
        ("k8s-short-name", &["a-b"], &["A", "a.b"]),
    ] {
        for text in good {
            assert!(format::matches(name, text), "{name} {text}");
        }
        for text in bad {
            assert!(!format::matches(name, text), "{name} {text}");
        }
    }
    assert_eq!((format::checked("string", "semver", false), format::checked("integer", "int32", false)), ("", "int32"));
}

/// A schema as a definition could hold it if nobody had checked it.
fn any_schema() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let kind = "object|array|string|integer|number|boolean|none";
    let leaf = (kind, any_object(), 0u8..12, -2i64..4).prop_map(|(kind, default, which, n)| {
        let mut schema = json!({"type": kind});
        let (name, value) = match which {
            0 => ("default", default),
            1 => ("enum", json!([default, 1])),
            2 => ("pattern", json!("^a+$")),
            3 => ("maxLength", json!(n)),
            4 => ("minimum", json!(n)),
            5 => ("multipleOf", json!(n)),
            6 => ("format", json!("date-time")),
            7 => ("nullable", json!(true)),
            8 => ("x-kubernetes-int-or-string", json!(true)),
            9 => ("x-kubernetes-preserve-unknown-fields", json!(true)),
            10 => ("x-kubernetes-embedded-resource", json!(true)),
            _ => ("uniqueItems", json!(true)),
        };
        schema[name] = value;
        schema
    });
    leaf.prop_recursive(4, 24, 3, move |inner| {
        let within =
            ("properties|items|additionalProperties|allOf|anyOf|oneOf|not", inner.clone(), inner.clone(), kind);
        within.prop_map(|(name, a, b, kind)| {
            let mut schema = json!({"type": kind, "required": ["a"], "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["a"]});
            schema[&name] = match name.as_str() {
                "properties" => json!({"a": a, "metadata": b}),
                "allOf" | "anyOf" | "oneOf" => json!([a, b]),
                _ => a,
            };
            schema
        })
    })
}

fn any_object() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..4).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a1]{0,3}|2026-01-01T00:00:00Z".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("a|b|kind|metadata", inner, 0..3).prop_map(|m| json!(m)),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn any_object_under_any_schema(schema in any_schema(), object in any_object(), old in any_object()) {
        let schema = Schema::root(&schema);
        let mut object = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}, "a": object});
        prune(&mut object, &schema, true, 100);
        let pruned = object.clone();
        proptest::prop_assert_eq!(prune(&mut object, &schema, true, 100), Vec::<String>::new());
        proptest::prop_assert_eq!(&object, &pruned);
        if default(&mut object, &schema) {
            let defaulted = object.clone();
            proptest::prop_assert!(default(&mut object, &schema));
            proptest::prop_assert_eq!(&object, &defaulted);
        }
        let path = Path::root();
        let _ = coerce(&mut object, &schema, &path, true);
        let old = json!({"a": old});
        for old in [None, Some(&old)] {
            let _ = (validate(&object, old, &schema, &path), rules::check(&object, old, &schema));
        }
        let _ = (embedded(&object, &schema, &path), duplicates(&object, &schema, &path));
    }
}
