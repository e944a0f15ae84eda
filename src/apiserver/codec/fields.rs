//! Checks a decoded object against the type table: unknown and duplicate fields, wrong types, canonical form.
//!
//! Source: KEP-2885 (server-side field validation); sigs.k8s.io/json; apiserver `pkg/endpoints/handlers`.

use serde_json::{Map, Value};
use types::registry::{GroupVersionKind, Kind};
use types::status::Status;

use super::gojson::type_of as json_type;
use super::scalar::{self, Wrong};
use super::trail::{Step, Trail, go_path, strict_path};
use super::{Media, strict, yaml};
use crate::custom;
use crate::schema::{self, Container, Field, Item, Type};

/// What the `fieldValidation` query parameter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    /// The parameter's value; absent is Warn, as upstream. `None` for a word that is none of the three.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "Warn") => Some(Self::Warn),
            Some("Ignore") => Some(Self::Ignore),
            Some("Strict") => Some(Self::Strict),
            Some(_) => None,
        }
    }
}

/// The body that a value was read from, where what it says twice can still be seen.
#[derive(Debug, Clone, Copy)]
pub enum Raw<'a> {
    Json(&'a [u8]),
    Yaml(&'a [u8]),
}

impl<'a> Raw<'a> {
    /// `None` for a format in which nothing can be said twice.
    pub fn of(media: Media, body: &'a [u8]) -> Option<Self> {
        match media {
            Media::Json => Some(Raw::Json(body)),
            Media::Yaml => Some(Raw::Yaml(body)),
            Media::Protobuf => None,
        }
    }
}

/// Brings an object into the form in which upstream's typed decoding would have left it: unknown fields, nulls and zero
/// values of optional fields are gone, quantities and times are in canonical form, every field has its type. Returns
/// warnings (mode Warn) such as `unknown field "spec.foo"`.
///
/// Only in the raw body can duplicate fields be seen; problems of JSON are listed in its order. Kinds that the type table does not have (custom kinds) keep their value; duplicates are found.
///
/// Errors: 400 as upstream for a field of the wrong type in every mode, and for unknown or duplicate fields in Strict.
pub fn check(
    gvk: &GroupVersionKind,
    value: &mut Value,
    raw: Option<Raw<'_>>,
    mode: FieldValidation,
) -> Result<Vec<String>, Status> {
    let cannot = |why: &str| {
        let GroupVersionKind { kind, version, .. } = gvk;
        Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
    };
    let collect = mode != FieldValidation::Ignore;
    let json = match raw {
        Some(Raw::Json(text)) if collect => Some(text),
        _ => None,
    };
    let mut problems = canonicalize(gvk, value, collect && json.is_none()).map_err(|why| cannot(&why))?;
    if let Some(text) = json {
        problems = strict::problems(text, schema::type_of(&gvk.group, &gvk.version, &gvk.kind));
    }
    settled(problems, raw, mode).map_err(|why| cannot(&why))
}

/// The problems as warnings, with the keys that a YAML body sets twice; in Strict the one error that is made of them.
fn settled(mut problems: Vec<String>, raw: Option<Raw<'_>>, mode: FieldValidation) -> Result<Vec<String>, String> {
    let twice = match raw {
        Some(Raw::Yaml(text)) if mode != FieldValidation::Ignore => yaml::duplicates(text),
        _ => Vec::new(),
    };
    if mode == FieldValidation::Strict {
        if !twice.is_empty() {
            problems.insert(0, yaml::duplicates_error(&twice));
        }
        return if problems.is_empty() { Ok(problems) } else { Err(strict_error(&problems)) };
    }
    problems.splice(0..0, twice);
    Ok(problems)
}

/// [`check`] without its envelope: unknown fields when they are to be collected, or Go's text for a wrong type.
pub(crate) fn canonicalize(gvk: &GroupVersionKind, value: &mut Value, collect: bool) -> Result<Vec<String>, String> {
    let mut walker = Walker { collect, problems: Vec::new() };
    let ty = schema::type_of(&gvk.group, &gvk.version, &gvk.kind);
    if let (Some(ty), Value::Object(object)) = (ty, value) {
        walker.message(ty, object, None)?;
    }
    Ok(walker.problems)
}

/// [`canonicalize`] for an object of a kind, built in or custom.
pub(crate) fn canonicalize_kind(kind: &Kind, value: &mut Value, collect: bool) -> Result<Vec<String>, String> {
    match custom::of(kind) {
        Some(custom) => custom.canonicalize(value, collect),
        None => canonicalize(&kind.gvk(), value, collect),
    }
}

/// [`canonicalize`] for metadata alone; unknown fields are bare paths in it.
pub(crate) fn canonicalize_metadata(value: &mut Value, collect: bool) -> Result<Vec<String>, String> {
    const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let mut walker = Walker { collect, problems: Vec::new() };
    match (schema::type_named(OBJECT_META), value) {
        (Some(ty), Value::Object(object)) => walker.message(ty, object, None)?,
        (_, Value::Null) => {}
        (_, other) => {
            let what = json_type(other);
            return Err(format!("json: cannot unmarshal {what} into Go value of type v1.ObjectMeta"));
        }
    }
    let bare = |problem: String| {
        problem.strip_prefix("unknown field \"").and_then(|p| p.strip_suffix('"')).map(str::to_owned).unwrap_or(problem)
    };
    Ok(walker.problems.into_iter().map(bare).collect())
}

/// [`check`] for an object of a custom kind.
pub(crate) fn check_custom(
    kind: &Kind,
    value: &mut Value,
    raw: Option<Raw<'_>>,
    mode: FieldValidation,
) -> Result<Vec<String>, Status> {
    let cannot = |why: &str| {
        let Kind { kind, version, .. } = kind;
        Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
    };
    let collect = mode != FieldValidation::Ignore;
    let mut problems = match raw {
        Some(Raw::Json(text)) if collect => strict::problems(text, None),
        _ => Vec::new(),
    };
    problems.extend(canonicalize_kind(kind, value, collect).map_err(|why| cannot(&why))?);
    settled(problems, raw, mode).map_err(|why| cannot(&why))
}

/// The text that upstream makes of unknown and duplicate fields; a PATCH carries it in a 422 about the field `patch`.
pub fn strict_error(problems: &[String]) -> String {
    format!("strict decoding error: {}", problems.join(", "))
}

struct Walker {
    collect: bool,
    problems: Vec<String>,
}

impl Walker {
    fn message(
        &mut self,
        ty: &'static Type,
        object: &mut Map<String, Value>,
        at: Option<&Trail<'_>>,
    ) -> Result<(), String> {
        let mut failed = None;
        object.retain(|key, value| {
            if failed.is_some() {
                return true;
            }
            let Some(field) = ty.field(key) else {
                if self.collect && self.problems.len() < strict::PROBLEMS_MAX {
                    self.problems.push(format!("unknown field {:?}", strict_path(at, key)));
                }
                return false;
            };
            let trail = Trail { parent: at, step: Step::Field(field) };
            match self.field(ty, field, value, &trail) {
                Ok(keep) => keep,
                Err(why) => {
                    failed = Some(why);
                    true
                }
            }
        });
        failed.map_or(Ok(()), Err)
    }

    /// Whether the field stays.
    fn field(
        &mut self,
        owner: &Type,
        field: &'static Field,
        value: &mut Value,
        at: &Trail<'_>,
    ) -> Result<bool, String> {
        if value.is_null() {
            return Ok(false);
        }
        match (field.container, &mut *value) {
            (Container::Single, value) => self.item(owner, field, value, at)?,
            (Container::List, Value::Array(items)) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.item(owner, field, item, &Trail { parent: Some(at), step: Step::Index(i) })?;
                }
            }
            (Container::Map, Value::Object(entries)) => {
                for (key, item) in entries.iter_mut() {
                    self.item(owner, field, item, &Trail { parent: Some(at), step: Step::Key(key) })?;
                }
            }
            (_, other) => return Err(mismatch(json_type(other), owner, field.go, at)),
        }
        // An explicit empty list of managed fields asks for something.
        let means = field.name == "managedFields";
        Ok(means || !(field.omitempty && !field.pointer && is_zero(field, value)))
    }

    fn item(&mut self, owner: &Type, field: &'static Field, value: &mut Value, at: &Trail<'_>) -> Result<(), String> {
        if value.is_null() {
            *value = scalar::zero(field.item);
            return Ok(());
        }
        let wrong = |value: &Value| Err(mismatch(json_type(value), owner, field.element_go(), at));
        let place = |wrong| match wrong {
            Wrong::Type { what, go } => mismatch(&what, owner, go, at),
            Wrong::Text(text) => text,
        };
        match (field.item, &mut *value) {
            (Item::Message(_), Value::Object(object)) => {
                if let Some(ty) = field.message() {
                    self.message(ty, object, Some(at))?;
                }
                Ok(())
            }
            (Item::String | Item::Duration, Value::String(_))
            | (Item::Bool, Value::Bool(_))
            | (Item::Double, Value::Number(_)) => Ok(()),
            (Item::Int32, Value::Number(n)) => match n.as_i64() {
                Some(i) if i32::try_from(i).is_ok() => Ok(()),
                _ => Err(mismatch(&format!("number {n}"), owner, field.element_go(), at)),
            },
            (Item::Int64, Value::Number(n)) => match n.as_i64() {
                Some(_) => Ok(()),
                None => Err(mismatch(&format!("number {n}"), owner, field.element_go(), at)),
            },
            (Item::Bytes, Value::String(text)) => scalar::check_base64(text).map_err(place),
            (Item::Strings, Value::Array(items)) => match items.iter().find(|i| !i.is_string()) {
                None => Ok(()),
                Some(other) => Err(mismatch(json_type(other), owner, "string", at)),
            },
            (Item::Time, value) => scalar::canonical_time(value).map_err(place),
            (Item::MicroTime, value) => scalar::canonical_micro_time(value).map_err(place),
            (Item::Quantity, value) => scalar::canonical_quantity(value).map_err(place),
            (Item::IntOrString, value) => scalar::check_int_or_string(value).map_err(place),
            (Item::Raw | Item::FieldsV1 | Item::Json, _) => Ok(()),
            (Item::SchemaOrArray | Item::SchemaOrBool | Item::SchemaOrStrings, _) => Ok(()),
            (
                Item::Message(_)
                | Item::String
                | Item::Duration
                | Item::Bool
                | Item::Double
                | Item::Int32
                | Item::Int64
                | Item::Bytes
                | Item::Strings,
                other,
            ) => wrong(other),
        }
    }
}

/// Whether Go would leave an optional field with this value out.
pub(super) fn is_zero(field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty() && field.item != Item::Quantity,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty() && field.container == Container::Map,
    }
}

fn mismatch(what: &str, owner: &Type, go: &str, at: &Trail<'_>) -> String {
    let owner = owner.go.rsplit('.').next().unwrap_or(owner.go);
    format!("json: cannot unmarshal {what} into Go struct field {owner}.{} of type {go}", go_path(Some(at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment() -> GroupVersionKind {
        GroupVersionKind::new("apps", "v1", "Deployment")
    }

    #[test]
    fn canonical_form() {
        let pod = GroupVersionKind::new("", "v1", "Pod");
        let mut value = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "generateName": "", "labels": {}, "annotations": {"k": null}, "creationTimestamp": null},
            "spec": {"hostNetwork": false, "nodeSelector": null, "terminationGracePeriodSeconds": 0, "containers": [
                {"name": "c", "args": [null], "resources": {"limits": {"cpu": 0.5, "memory": "1024Ki"}}}]},
            "status": {"startTime": "2024-05-06T09:08:09+02:00"}
        });
        assert_eq!(check(&pod, &mut value, None, FieldValidation::Strict).unwrap(), [""; 0]);
        assert_eq!(
            value,
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "a", "annotations": {"k": ""}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                    {"name": "c", "args": [""], "resources": {"limits": {"cpu": "500m", "memory": "1Mi"}}}]},
                "status": {"startTime": "2024-05-06T07:08:09Z"}
            })
        );
    }

    #[test]
    fn modes() {
        let raw = br#"{"spec":{"replicas":1,"foo":1,"replicas":2,"template":{"spec":{"containers":[{"name":"a","bar":{"x":1}}]}}}}"#;
        let expected = [
            r#"unknown field "spec.foo""#,
            r#"duplicate field "spec.replicas""#,
            r#"unknown field "spec.template.spec.containers[0].bar""#,
        ];
        let value: Value = serde_json::from_slice(raw).unwrap();
        let mut warned = value.clone();
        assert_eq!(check(&deployment(), &mut warned, Some(Raw::Json(raw)), FieldValidation::Warn).unwrap(), expected);
        assert_eq!(
            warned,
            json!({"spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "a"}]}}}}),
            "unknown fields are dropped"
        );
        let error =
            check(&deployment(), &mut value.clone(), Some(Raw::Json(raw)), FieldValidation::Strict).unwrap_err();
        assert_eq!(error.code, 400);
        assert_eq!(
            error.message,
            format!(
                "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: {}",
                expected.join(", ")
            )
        );
        assert!(
            check(&deployment(), &mut value.clone(), Some(Raw::Json(raw)), FieldValidation::Ignore).unwrap().is_empty()
        );
        let without_raw = check(&deployment(), &mut value.clone(), None, FieldValidation::Warn).unwrap();
        assert_eq!(without_raw, [expected[0], expected[2]], "duplicates show only in the raw body");
        let yaml = Some(Raw::Yaml(b"spec:\n  replicas: 1\n  replicas: 2\n  replicas: 3\n"));
        let twice = [3, 4].map(|line| format!("line {line}: key \"replicas\" already set in map"));
        let warned = check(&deployment(), &mut value.clone(), yaml, FieldValidation::Warn).unwrap();
        assert_eq!(warned, [&twice[0], &twice[1], expected[0], expected[2]]);
        let error = check(&deployment(), &mut value.clone(), yaml, FieldValidation::Strict).unwrap_err();
        let words =
            format!("strict decoding error: yaml: unmarshal errors:\n  {}\n  {}, {}", twice[0], twice[1], expected[0]);
        assert!(error.message.contains(&words), "{error}");
    }

    #[test]
    fn wrong_types_read_as_in_go() {
        for (value, why) in [
            (
                json!({"spec": {"replicas": "3"}}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"replicas": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": {"name": "a"}}}}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
            ),
        ] {
            for mode in [FieldValidation::Ignore, FieldValidation::Warn, FieldValidation::Strict] {
                let error = check(&deployment(), &mut value.clone(), None, mode).unwrap_err();
                assert_eq!(
                    error.message,
                    format!("Deployment in version \"v1\" cannot be handled as a Deployment: {why}")
                );
            }
        }
    }
}
