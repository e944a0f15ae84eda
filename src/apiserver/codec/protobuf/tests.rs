//! The protobuf codec against Go's encoder.

use super::*;
use bytes::Bytes;
use serde_json::json;

#[test]
fn every_list_has_its_metadata_and_items_where_the_encoder_puts_them() {
    for (group, version, kind, _) in &schema::KINDS {
        let Some(ty) = schema::type_of(group, version, kind) else { continue };
        let (Some(_), Some(items)) = (ty.field("metadata"), ty.field("items")) else { continue };
        if items.container != schema::Container::List {
            continue;
        }
        let name = |number| match ty.wire(number) {
            Some(schema::WireField::Own(i)) => ty.fields[usize::from(i)].name,
            _ => "",
        };
        assert_eq!((name(1), name(2)), ("metadata", "items"), "{}", ty.name);
    }
}

#[test]
fn malformed_bodies() {
    let pod = GroupVersionKind::new("", "v1", "Pod");
    for (body, message) in [
        (&b""[..], "the object provided is unrecognized (must be of type Pod): empty data (<empty>)"),
        (
            b"{}",
            "the object provided is unrecognized (must be of type Pod): provided data does not appear to be a protobuf \
             message, expected prefix [107 56 115 0] ({})",
        ),
        (b"k8s\0", "the object provided is unrecognized (must be of type Pod): empty body (6b387300)"),
        (b"k8s\0\x0a", "the object provided is unrecognized (must be of type Pod): unexpected EOF (6b3873000a)"),
        (b"k8s\0\x12\x02\x0a\x7f", "Pod in version \"v1\" cannot be handled as a Pod: unexpected EOF"),
    ] {
        let error = decode(body, &pod).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (400, message));
    }
}

#[test]
fn an_envelope_of_another_kind_is_refused() {
    let body = encode(&GroupVersionKind::new("", "v1", "Secret"), &json!({"metadata": {"name": "a"}})).unwrap();
    let error = decode(&body, &GroupVersionKind::new("", "v1", "ConfigMap")).unwrap_err();
    assert_eq!(
        error.message,
        "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion"
    );
    let custom = GroupVersionKind::new("example.com", "v1", "Widget");
    assert_eq!(encode(&custom, &json!({})).unwrap_err().code, 406);
}

#[test]
fn options_of_any_group_version() {
    for api_version in ["v1", "apps/v1", "meta.k8s.io/v1", ""] {
        let mut body = Vec::new();
        let ty = schema::type_of("meta.k8s.io", "v1", "DeleteOptions").unwrap();
        let options =
            json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}, "propagationPolicy": "Foreground"});
        let text = options.to_string();
        let (mut tape, mut slots) = (Tape::default(), encode::Slots::default());
        let value = tape.read(text.as_bytes()).unwrap();
        encode::enveloped(api_version, "DeleteOptions", &mut body, |out| encode::message(ty, value, &mut slots, out))
            .unwrap();
        let media = Some("application/vnd.kubernetes.protobuf");
        let decoded = crate::codec::decode_options(media, &Bytes::from(body), "DeleteOptions").unwrap().unwrap();
        assert_eq!(decoded["gracePeriodSeconds"], 0);
        assert_eq!(decoded["preconditions"]["uid"], "u");
        assert_eq!(decoded["propagationPolicy"], "Foreground");
    }
    let json = Bytes::from_static(br#"{"kind":"DeleteOptions","apiVersion":"apps/v1","gracePeriodSeconds":30}"#);
    assert_eq!(crate::codec::decode_options(None, &json, "DeleteOptions").unwrap().unwrap()["gracePeriodSeconds"], 30);
    assert!(crate::codec::decode_options(None, &Bytes::new(), "DeleteOptions").unwrap().is_none());
}

proptest::proptest! {
    #[test]
    fn encoding_never_panics(text: Vec<u8>, at in 0usize..schema::KINDS.len()) {
        let (group, version, kind, _) = schema::KINDS[at];
        let _ = Transcoder::default().object(&GroupVersionKind::new(group, version, kind), &text);
    }

    #[test]
    fn decoding_never_panics(bytes: Vec<u8>, at in 0usize..schema::KINDS.len()) {
        let (group, version, kind, _) = schema::KINDS[at];
        let gvk = GroupVersionKind::new(group, version, kind);
        let _ = object(&bytes, &gvk);
        let _ = decode(&[MAGIC, &bytes].concat(), &gvk);
    }
}

/// A line of testdata/*.jsonl: an object as Go's libraries write it in both formats.
#[derive(serde::Deserialize)]
struct Golden {
    name: String,
    gvk: (String, String, String),
    json: Value,
    proto: String,
}

fn goldens(text: &str) -> impl Iterator<Item = (String, GroupVersionKind, Value, Vec<u8>)> {
    text.lines().map(|line| {
        let Golden { name, gvk: (group, version, kind), json, proto } = serde_json::from_str(line).unwrap();
        let gvk = GroupVersionKind { group: group.into(), version: version.into(), kind: kind.into() };
        let bytes = (0..proto.len()).step_by(2).map(|i| u8::from_str_radix(&proto[i..i + 2], 16).unwrap()).collect();
        (name, gvk, json, bytes)
    })
}

/// Go writes null for nil lists and maps that are not optional; here they are absent. Zero IntOrStrings that are optional
/// are unset.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|key, v| !(v.is_null() || key == "targetPort" && *v == 0));
            object.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

#[test]
fn both_directions_agree_with_go() {
    let objects = concat!(include_str!("../testdata/objects.jsonl"), include_str!("../testdata/filled.jsonl"));
    let mut wrong = Vec::new();
    for (name, gvk, mut json, bytes) in goldens(objects) {
        let encoded = encode(&gvk, &json).unwrap_or_else(|e| panic!("{name}: {e}"));
        if encoded != bytes {
            wrong.push(format!(
                "{name}: encoding differs\n  ours {}\n  go   {}",
                encoded.escape_ascii(),
                bytes.escape_ascii()
            ));
        }
        without_nulls(&mut json);
        let decoded = decode(&bytes, &gvk).unwrap_or_else(|e| panic!("{name}: {e}"));
        if decoded != json {
            wrong.push(format!("{name}: decoding differs\n  ours {decoded}\n  go   {json}"));
        }
        let mut checked = decoded.clone();
        let problems =
            crate::codec::fields::check(&gvk, &mut checked, None, crate::codec::fields::FieldValidation::Strict);
        if problems.as_ref().ok().is_none_or(|p| !p.is_empty()) || checked != decoded {
            wrong.push(format!("{name}: the check changes what was decoded: {problems:?}\n  {checked}\n  {decoded}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn lists_are_encoded_from_their_items() {
    let (_, gvk, json, bytes) = goldens(include_str!("../testdata/objects.jsonl")).find(|(n, ..)| n == "pods").unwrap();
    let meta = ListMeta { resource_version: "7", continue_token: "c", remaining_item_count: Some(3) };
    let items: Vec<String> = json["items"].as_array().unwrap().iter().map(Value::to_string).collect();
    let encoded = Transcoder::default().list(&gvk, &meta, items.iter().map(String::as_bytes)).unwrap();
    assert_eq!(encoded.concat(), bytes);
}

#[test]
fn watch_frames_agree_with_go() {
    for (event, gvk, json, bytes) in goldens(include_str!("../testdata/frames.jsonl")) {
        let text = json.to_string();
        assert_eq!(Transcoder::default().watch_event(&event, &gvk, text.as_bytes()).unwrap(), bytes);
    }
}
