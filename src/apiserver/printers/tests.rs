//! Goldens of printed rows: one file per kind under `goldens/`, an object and the line that is printed of it.
//!
//! `UPDATE_GOLDENS=1` rewrites the lines; read the difference before committing.

use serde_json::{Value, json};
use types::registry::{BUILT_IN, by_kind};

use super::*;

fn now() -> jiff::Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

/// Each case of a golden file: what it shows, the object, the cells.
fn golden(file: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("printers/goldens").join(format!("{file}.json"));
    let mut cases: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut changed = false;
    for case in &mut cases {
        let (group, kind) = (case["group"].as_str().unwrap(), case["kind"].as_str().unwrap());
        let mut object = case["object"].clone();
        object["metadata"]["name"] = json!("web");
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        let row = rows::named(group, kind, &object, now());
        if let Some(kind) = by_kind(group, "v1", kind) {
            // What a row is made from in a list, without the rest.
            object["metadata"]["managedFields"] = json!([{"manager": "m"}]);
            let (text, mut tape) = (object.to_string(), crate::codec::tape::Tape::default());
            let kept = keep::value(kind, tape.read(text.as_bytes()).unwrap());
            assert_eq!(rows::row(kind, &kept, now()), row, "{}: {}", path.display(), case["shows"]);
            assert!(!kept.to_string().contains("managedFields"));
        }
        assert_eq!(row.cells.len(), columns::named(group, kind).len(), "{kind}");
        let cells = Value::Array(row.cells);
        if std::env::var_os("UPDATE_GOLDENS").is_some() {
            changed |= case["cells"] != cells;
            case["cells"] = cells;
        } else {
            assert_eq!(case["cells"], cells, "{}: {}", path.display(), case["shows"]);
        }
    }
    if changed {
        let text: Vec<String> = cases.iter().map(|c| serde_json::to_string(c).unwrap()).collect();
        std::fs::write(&path, format!("[\n{}\n]\n", text.join(",\n"))).unwrap();
    }
}

#[test]
fn pods() {
    golden("pods");
}

#[test]
fn others() {
    golden("others");
}

#[test]
fn every_row_fits_its_columns_whatever_the_object() {
    for kind in BUILT_IN.iter() {
        for object in [json!({}), json!({"spec": 1, "status": [], "metadata": null}), json!(null)] {
            assert_eq!(row(kind, &object, now()).cells.len(), columns(kind).len(), "{}", kind.kind);
        }
        assert!(columns(kind).iter().any(|c| c.format == "name"), "{}", kind.kind);
    }
    assert!(!printable(by_kind("", "v1", "Binding").unwrap()));
}

#[test]
fn finished_pods_are_marked() {
    let pod = by_kind("", "v1", "Pod").unwrap();
    let row = row(pod, &json!({"status": {"phase": "Succeeded"}}), now());
    assert_eq!(
        row.conditions,
        [json!({"type": "Completed", "status": "True", "reason": "Succeeded",
            "message": "The pod has completed successfully."})]
    );
}

#[test]
fn tables() {
    let kind = by_kind("", "v1", "ConfigMap").unwrap();
    let object = json!({"kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n"}, "data": {"k": "v"}});
    for (include, shown) in [
        (
            IncludeObject::Metadata,
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"name": "a", "namespace": "n"}}),
        ),
        (IncludeObject::Object, object.clone()),
        (IncludeObject::None, Value::Null),
    ] {
        let mut table = Table::new(kind, "v1", include, now());
        table.push(object.to_string().as_bytes()).unwrap();
        let text = table.finish(&json!({"resourceVersion": "7"}), true).concat();
        let table: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(table["apiVersion"], "meta.k8s.io/v1");
        assert_eq!(table["columnDefinitions"][0]["format"], "name");
        assert_eq!(table["rows"][0]["cells"], json!(["a", 1, "<unknown>"]));
        assert_eq!(*table["rows"][0].get("object").unwrap_or(&Value::Null), shown);
    }
    assert_eq!(IncludeObject::parse("Some"), None);
}
