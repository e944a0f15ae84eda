//! Wire formats: JSON, YAML and protobuf to one untyped value and back.
//!
//! ```text
//! body → decode (syntax, apiVersion and kind) → fields::check (known fields, types, canonical form) → the value
//! ```
//!
//! What never lives here: a rule about one kind, HTTP, the store.

pub mod fields;
mod gojson;
mod gojson_scan;
pub mod media;
pub mod negotiate;
pub mod pieces;
pub mod protobuf;
mod scalar;
pub(crate) use scalar::duration_text;
mod strict;
pub mod tape;
mod trail;
mod yaml;

use bytes::Bytes;
use serde_json::Value;
use types::registry::GroupVersionKind;
use types::status::Status;

pub(crate) use gojson::{parse as parse_json, type_of as json_type};
pub use media::Media;
pub use negotiate::{Accepted, As, negotiate};

/// Decodes the body of a create or update into one value with `apiVersion` and `kind` set.
///
/// No content type means JSON. Fields are not looked at beyond `apiVersion` and `kind`; call [`fields::check`] next, with the
/// raw body when it was JSON or YAML ([`fields::Raw::of`]).
///
/// Errors: 415 for a media type that is not served, 400 for anything that cannot be read or is of another kind than
/// `expected`, worded as upstream. Source: apiserver `pkg/endpoints/handlers/create.go`, `rest.go`.
pub fn decode(content_type: Option<&str>, body: &Bytes, expected: &GroupVersionKind) -> Result<Value, Status> {
    let mut value = match Media::of(content_type)? {
        Media::Json => object_of(body).map_err(|e| unrecognized(body, expected, &e))?,
        Media::Yaml => yaml::parse(body).map_err(|e| unrecognized(body, expected, &e))?,
        Media::Protobuf => return protobuf::decode(body, expected),
    };
    claim(&mut value, body, expected)?;
    Ok(value)
}

/// Decodes the options that may come as the body of a request (`DeleteOptions`) or another kind that upstream registers in
/// every group: the kind must be `kind`, the version is not compared. An empty body gives `None`.
///
/// Errors: as [`decode`].
pub fn decode_options(content_type: Option<&str>, body: &Bytes, kind: &'static str) -> Result<Option<Value>, Status> {
    if body.is_empty() {
        return Ok(None);
    }
    let expected = GroupVersionKind::new("meta.k8s.io", "v1", kind);
    let mut value = match Media::of(content_type)? {
        Media::Json => object_of(body).map_err(|e| unrecognized(body, &expected, &e))?,
        Media::Yaml => yaml::parse(body).map_err(|e| unrecognized(body, &expected, &e))?,
        Media::Protobuf => protobuf::decode_options(body, &expected)?,
    };
    if value.get("kind").and_then(Value::as_str).is_none_or(|k| k.is_empty() || k == kind) {
        value["apiVersion"] = Value::String("meta.k8s.io/v1".into());
    }
    claim(&mut value, body, &expected)?;
    fields::check(&expected, &mut value, None, fields::FieldValidation::Ignore)?;
    Ok(Some(value))
}

/// Any JSON or YAML text, with the words of upstream's YAML library when it is neither.
pub(crate) fn parse_yaml(body: &[u8]) -> Result<Value, String> {
    match body.trim_ascii_start().first() {
        // JSON is the commoner, and read the faster.
        Some(b'{') => gojson::parse(body).or_else(|_| yaml::parse(body)),
        _ => yaml::parse(body),
    }
    .map_err(|why| format!("error converting YAML to JSON: {why}"))
}

fn object_of(body: &[u8]) -> Result<Value, String> {
    gojson::parse(body).map_err(|why| format!("couldn't get version/kind; json parse error: {why}"))
}

/// Duplicate fields anywhere in a JSON text.
pub(crate) fn strict_problems(body: &[u8]) -> Vec<String> {
    strict::problems(body, None)
}

/// Keys that are set twice anywhere in a YAML text, and one error that says so.
pub(crate) use yaml::{duplicates as yaml_duplicates, duplicates_error as yaml_duplicates_error};

/// Fills in `apiVersion` and `kind` where the body has none and refuses others.
fn claim(value: &mut Value, body: &[u8], expected: &GroupVersionKind) -> Result<(), Status> {
    if value.is_null() {
        *value = Value::Object(serde_json::Map::new()); // Go reads null into a struct as nothing at all
    }
    let Some(object) = value.as_object_mut() else {
        let what = gojson::type_of(value);
        let why = format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {what} into Go value of type struct {{ \
             APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
        );
        return Err(unrecognized(body, expected, &why));
    };
    let text = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(s)) => Ok(s.clone()),
        Some(other) => Err(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{key} of type string",
            gojson::type_of(other)
        )),
    };
    let api_version = text("apiVersion").map_err(|e| unrecognized(body, expected, &e))?;
    let kind = text("kind").map_err(|e| unrecognized(body, expected, &e))?;
    if api_version.is_empty() {
        object.insert("apiVersion".into(), Value::String(expected.api_version()));
    }
    if kind.is_empty() {
        object.insert("kind".into(), Value::String(expected.kind.to_string()));
    }
    check_kind(&api_version, &kind, expected)
}

/// Empty texts stand for the expected ones.
fn check_kind(api_version: &str, kind: &str, expected: &GroupVersionKind) -> Result<(), Status> {
    let expected_version = expected.api_version();
    let api_version = if api_version.is_empty() { &expected_version } else { api_version };
    let kind = if kind.is_empty() { &*expected.kind } else { kind };
    if kind == expected.kind && api_version == expected_version {
        return Ok(());
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let known = crate::schema::type_of(group, version, kind).is_some();
    if kind == expected.kind && (known || group == expected.group) {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected_version})"
        )));
    }
    let why = if known {
        let package = internal_package(&expected.group);
        format!("converting ({version}.{kind}) to ({package}.{}): unknown conversion", expected.kind)
    } else {
        format!(
            "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        )
    };
    Err(Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {}: {why}", expected.kind)))
}

/// The Go package of a group's internal types, which upstream's conversion error names.
pub(crate) fn internal_package(group: &str) -> &str {
    match group.split('.').next() {
        None | Some("") => "core",
        Some(first) => first,
    }
}

/// 400 for a body whose kind could not even be found out.
fn unrecognized(body: &[u8], expected: &GroupVersionKind, why: &str) -> Status {
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {why} ({})",
        expected.kind,
        summary(body)
    ))
}

/// The first bytes of a body: as text when it looks like JSON, else in hexadecimal.
fn summary(body: &[u8]) -> String {
    const LENGTH_MAX: usize = 30; // upstream's
    let head = &body[..body.len().min(LENGTH_MAX)];
    let dots = if body.len() > LENGTH_MAX { " ..." } else { "" };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{dots}", String::from_utf8_lossy(head)),
        Some(_) => head.iter().map(|b| format!("{b:02x}")).collect::<String>() + dots,
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::fields::{FieldValidation, check};
    use super::*;

    /// A line of testdata/decodes.jsonl: what upstream's strict JSON decoder says about a body.
    #[derive(serde::Deserialize)]
    struct Golden {
        gvk: (String, String, String),
        body: String,
        #[serde(default)]
        strict: Vec<String>,
        #[serde(default)]
        error: String,
    }

    #[test]
    fn decode_errors_are_upstreams() {
        let mut wrong = Vec::new();
        for line in include_str!("testdata/decodes.jsonl").lines() {
            let Golden { gvk: (group, version, kind), body, strict, error } = serde_json::from_str(line).unwrap();
            if kind.is_empty() {
                let pod = GroupVersionKind::new("", "v1", "Pod");
                let got = decode(None, &Bytes::from(body.clone()), &pod).err().map(|e| e.message).unwrap_or_default();
                let expected = if error.is_empty() {
                    String::new()
                } else {
                    format!(
                        "the object provided is unrecognized (must be of type Pod): {error} ({})",
                        summary(body.as_bytes())
                    )
                };
                if got != expected {
                    wrong.push(format!("{body}\n  ours {got}\n  go   {expected}"));
                }
                continue;
            }
            let gvk = GroupVersionKind { group: group.into(), version: version.into(), kind: kind.into() };
            let mut value = decode(None, &Bytes::from(body.clone()), &gvk).unwrap();
            let (got_strict, got) =
                match check(&gvk, &mut value, Some(fields::Raw::Json(body.as_bytes())), FieldValidation::Warn) {
                    Ok(problems) => (problems, String::new()),
                    Err(status) => (Vec::new(), status.message.split_once(": ").unwrap().1.to_owned()),
                };
            if got_strict != strict || got != error {
                wrong.push(format!("{body}\n  ours {got_strict:?} {got}\n  go   {strict:?} {error}"));
            }
        }
        assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn kinds_and_versions_must_match() {
        let deployment = GroupVersionKind::new("apps", "v1", "Deployment");
        for (body, message) in [
            (r#"{"apiVersion":"apps/v1","kind":"Deployment"}"#, ""),
            (r#"{"metadata":{}}"#, ""),
            (
                r#"{"apiVersion":"apps/v1beta1","kind":"Deployment"}"#,
                "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)",
            ),
            (
                r#"{"apiVersion":"apps/v1","kind":"Foo"}"#,
                r#"Foo in version "v1" cannot be handled as a Deployment: no kind "Foo" is registered for version "apps/v1" in scheme "pkg/api/legacyscheme/scheme.go:30""#,
            ),
            (
                r#"{"apiVersion":"v1","kind":"Pod"}"#,
                r#"Pod in version "v1" cannot be handled as a Deployment: converting (v1.Pod) to (apps.Deployment): unknown conversion"#,
            ),
        ] {
            let got = decode(Some("application/json"), &Bytes::from(body), &deployment);
            assert_eq!(got.err().map(|e| e.message).unwrap_or_default(), message);
        }
        let unsupported = decode(Some("application/cbor"), &Bytes::new(), &deployment).unwrap_err();
        assert_eq!(unsupported.code, 415);
    }

    #[test]
    fn yaml_reads_as_json() {
        let config = GroupVersionKind::new("", "v1", "ConfigMap");
        let body = "kind: ConfigMap\ndata:\n  a: \"1\"\n  1: x\n  multi: |\n    line\nimmutable: true\n";
        let value = decode(Some("application/yaml"), &Bytes::from(body), &config).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "immutable": true,
                "data": {"a": "1", "1": "x", "multi": "line\n"}})
        );
        let bad = decode(Some("application/yaml"), &Bytes::from("a: [1"), &config).unwrap_err();
        assert!(
            bad.message.starts_with("the object provided is unrecognized (must be of type ConfigMap): yaml: "),
            "{bad}"
        );
    }
}
