//! Properties of the decoders over objects that the type table makes up: every field of every kind is met.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::fields::{FieldValidation, Raw, check};
use super::*;
use crate::schema::{Container, Field, Item, KINDS, TYPES, Type, WireField};

/// Chance by seed: the same seed makes the same object.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn text(&mut self) -> String {
        const PARTS: [&str; 8] = ["a", "B-7", "é", "\"", "\\", "\n", "<&>", "\u{1F600}"];
        (0..=self.below(3)).map(|_| PARTS[self.below(8) as usize]).collect()
    }
}

/// Deeper than this only what must be there is made.
const DEPTH_MAX: usize = 5;

/// An object as Go would write it: optional fields are absent or not empty, so that nothing of it is lost in protobuf.
fn object(ty: &'static Type, chance: &mut Chance, depth: usize) -> Value {
    let mut out = Map::new();
    for field in ty.fields {
        let owed = !field.omitempty && !field.pointer;
        let wanted = chance.below(if depth == 0 { 2 } else { 4 }) == 0 && depth < DEPTH_MAX;
        if !(owed || wanted) || depth > DEPTH_MAX + 2 || !on_wire(ty, field.name) {
            continue;
        }
        let value = match field.container {
            Container::Single => item(field, chance, depth),
            Container::List => (0..=chance.below(2)).map(|_| item(field, chance, depth)).collect(),
            Container::Map => {
                let keys = (0..=chance.below(2)).map(|n| format!("{}{n}", chance.text()));
                let keys: Vec<String> = keys.collect();
                Value::Object(keys.into_iter().map(|key| (key, item(field, chance, depth))).collect())
            }
        };
        out.insert(field.name.into(), value);
    }
    Value::Object(out)
}

/// Whether protobuf has the field; it has no kind and version but those of the envelope.
fn on_wire(ty: &Type, name: &str) -> bool {
    ty.wire.iter().any(|wire| match wire.field {
        WireField::Own(index) => ty.fields[usize::from(index)].name == name,
        WireField::Inline(id) => on_wire(&TYPES[usize::from(id)], name),
    })
}

fn item(field: &'static Field, chance: &mut Chance, depth: usize) -> Value {
    match field.item {
        Item::String => chance.text().into(),
        Item::Int32 => (1 + chance.below(1 << 30) as i64).into(),
        Item::Int64 => (1 + chance.below(1 << 60) as i64).into(),
        Item::Bool => true.into(),
        Item::Double => 1.5.into(),
        Item::Bytes => STANDARD.encode(chance.text()).into(),
        Item::Time => format!("2026-{:02}-{:02}T01:02:03Z", 1 + chance.below(12), 1 + chance.below(28)).into(),
        Item::MicroTime => format!("2026-01-02T03:04:05.{:06}Z", chance.below(1_000_000)).into(),
        Item::Duration => ["15.034s", "1m0.5s", "20ms"][chance.below(3) as usize].into(),
        Item::Quantity => ["1", "1500m", "64Mi", "1e3"][chance.below(3) as usize].into(),
        Item::IntOrString => {
            if chance.below(2) == 0 {
                (1 + chance.below(99) as i64).into()
            } else {
                "50%".into()
            }
        }
        Item::Raw => json!({"apiVersion": "v1", "kind": "X", "a": [chance.text()]}),
        Item::FieldsV1 => json!({"f:a": {}, "f:b": {".": {}}}),
        Item::Json => json!({"a": [1, null, chance.text()]}),
        Item::Strings => json!([chance.text()]),
        Item::SchemaOrArray => json!({"type": "string"}),
        Item::SchemaOrBool => json!({"type": "string"}),
        Item::SchemaOrStrings => json!(["a"]),
        Item::Message(_) => field.message().map_or(Value::Null, |ty| object(ty, chance, depth + 1)),
    }
}

/// An object of any kind that says itself what it is.
fn made(at: usize, seed: u64) -> (GroupVersionKind, Value) {
    let named = |id: u16| TYPES[usize::from(id)].field("kind").is_some();
    let kinds: Vec<_> = KINDS.iter().filter(|(_, _, _, id)| named(*id)).collect();
    let (group, version, kind, id) = *kinds[at % kinds.len()];
    let gvk = GroupVersionKind::new(group, version, kind);
    let ty = &TYPES[usize::from(id)];
    let mut value = object(ty, &mut Chance(seed | 1), 0);
    value["apiVersion"] = gvk.api_version().into();
    value["kind"] = kind.into();
    (gvk, value)
}

/// Go's own form: what is not a pointer is there, what is empty is not.
fn canonical(gvk: &GroupVersionKind, value: &Value) -> Value {
    let mut value = value.clone();
    let problems = check(gvk, &mut value, None, FieldValidation::Strict).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    value
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn canonical_form_is_canonical(at: usize, seed: u64) {
        let (gvk, value) = made(at, seed);
        let once = canonical(&gvk, &value);
        prop_assert_eq!(&canonical(&gvk, &once), &once);
    }

    #[test]
    fn json_and_yaml_read_alike(at: usize, seed: u64) {
        let (gvk, value) = made(at, seed);
        let json = decode(None, &Bytes::from(value.to_string()), &gvk).unwrap();
        prop_assert_eq!(&json, &value);
        let text = serde_yaml_ng::to_string(&value).unwrap();
        let yaml = decode(Some("application/yaml"), &Bytes::from(text), &gvk).unwrap();
        prop_assert_eq!(&yaml, &value);
    }

    #[test]
    fn protobuf_loses_nothing(at: usize, seed: u64) {
        let (gvk, value) = made(at, seed);
        let sent = canonical(&gvk, &value);
        let Ok(bytes) = protobuf::encode(&gvk, &sent) else { return Ok(()) };
        let back = protobuf::decode(&bytes, &gvk).unwrap();
        // What Go always shows of a struct is there now, empty or not; sent again it is the same.
        let shown = canonical(&gvk, &back);
        prop_assert_eq!(protobuf::encode(&gvk, &shown).unwrap(), bytes);
        prop_assert!(covers(&shown, &sent), "{}\n{}", shown, sent);
    }

    #[test]
    fn whatever_comes_is_read_or_refused(at: usize, seed: u64, noise: Vec<u8>, cut in any::<prop::sample::Index>()) {
        let (gvk, value) = made(at, seed);
        let mut text = value.to_string().into_bytes();
        let place = cut.index(text.len());
        text.splice(place..place, noise);
        for media in ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"] {
            let body = Bytes::from(text.clone());
            if let Ok(mut value) = decode(Some(media), &body, &gvk) {
                let raw = Raw::of(Media::of(Some(media)).unwrap(), &text);
                for mode in [FieldValidation::Ignore, FieldValidation::Warn, FieldValidation::Strict] {
                    let _ = check(&gvk, &mut value, raw, mode);
                }
            }
            let _ = decode_options(Some(media), &body, "DeleteOptions");
        }
    }

    #[test]
    fn any_value_in_any_field_is_kept_or_refused(at: usize, seed: u64, wrong in 0usize..8) {
        let (gvk, mut value) = made(at, seed);
        let wrong = [json!(null), json!(true), json!(-1), json!(1.5), json!("x"), json!([]), json!([{}]), json!({"a": {}})]
            [wrong].clone();
        let fields: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        let field = &fields[seed as usize % fields.len()];
        value[field] = wrong;
        if check(&gvk, &mut value, None, FieldValidation::Ignore).is_ok() {
            // What is accepted can be sent in protobuf, or says why not.
            if let Ok(bytes) = protobuf::encode(&gvk, &value) {
                prop_assert!(protobuf::decode(&bytes, &gvk).is_ok());
            }
        }
    }

    #[test]
    fn changed_protobuf_is_read_or_refused(at: usize, seed: u64, noise: Vec<u8>, cut in any::<prop::sample::Index>()) {
        let (gvk, value) = made(at, seed);
        let Ok(mut bytes) = protobuf::encode(&gvk, &canonical(&gvk, &value)).map(|b| b.to_vec()) else { return Ok(()) };
        let place = cut.index(bytes.len());
        let end = (place + seed as usize % 3).min(bytes.len());
        bytes.splice(place..end, noise);
        if let Ok(mut value) = protobuf::decode(&bytes, &gvk) {
            let _ = check(&gvk, &mut value, None, FieldValidation::Strict);
        }
    }

    /// One object of a kind as a patch of another, in each form that a patch may have.
    #[test]
    fn an_object_patches_another(at: usize, seed: u64, other: u64) {
        let (gvk, value) = made(at, seed);
        let Some(kind) = types::registry::by_kind(&gvk.group, &gvk.version, &gvk.kind) else { return Ok(()) };
        let (value, patch) = (canonical(&gvk, &value), made(at, other).1);
        let body = Bytes::from(patch.to_string());
        let apply = |media: &str, to: &Value| crate::patch::apply(kind, media, to, &body);
        let merge = "application/merge-patch+json";
        if let Ok(once) = apply(merge, &value) {
            let twice = apply(merge, &once);
            prop_assert_eq!(twice.ok(), Some(once), "merged twice");
        }
        // Lists merge by keys that need not be told apart or be there at all: nothing but single values is the patch's for sure.
        if let Ok(patched) = apply("application/strategic-merge-patch+json", &value) {
            for (key, single) in patch.as_object().into_iter().flatten().filter(|(_, v)| v.is_string() || v.is_boolean()) {
                prop_assert_eq!(patched.get(key), Some(single), "{}", key);
            }
        }
    }

    #[test]
    fn accept_headers_do_no_harm(header in "[a-z*/;=,. 0-9]{0,60}") {
        let _ = negotiate(Some(&header));
        let _ = negotiate::choose(&header, &["application/json"]);
        let _ = Media::of(Some(&header));
    }
}

/// Whether everything of `part` is in `whole`.
fn covers(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|w| covers(w, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(w, p)| covers(w, p))
        }
        _ => whole == part,
    }
}
