//! The webhook that converts objects between the versions of a custom kind: a ConversionReview is posted, the same objects come
//! back in the version that is wanted.
//!
//! What a webhook may change is its answer's to say, but for what identifies an object: of the metadata only labels and
//! annotations are taken over.
//!
//! What never lives here: when an object is converted (that is [`super::present`]), pruning, defaults.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/conversion/webhook_converter.go`.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use store::Store;
use types::field::{FieldError, Path};
use types::names;
use types::status::{Reason, Status};

use super::settle::aggregate;
use crate::hooks::json::{get, text, texts};
use crate::hooks::metadata;
use crate::verbs::object::meta;
use crate::webhook::Endpoint;

/// How long one call may last. Source: client-go's default for webhooks without a timeout of their own.
const TIMEOUT: Duration = Duration::from_secs(30);
const GROUP: &str = "apiextensions.k8s.io";
/// The versions of ConversionReview that this server speaks.
const REVIEWS: &[&str] = &["v1", "v1beta1"];

/// A definition's `spec.conversion.webhook`.
#[derive(Debug)]
pub struct Webhook {
    endpoint: Result<Endpoint, String>,
    /// The first version of reviews that both sides speak.
    review: Option<&'static str>,
}

impl Webhook {
    pub fn read(config: &Value) -> Self {
        let mut spoken = texts(config, "conversionReviewVersions");
        Self {
            endpoint: Endpoint::parse(get(config, "clientConfig")),
            review: spoken.find_map(|version| REVIEWS.iter().find(|known| **known == version).copied()),
        }
    }

    /// Brings objects of other versions into the version `wanted`, in one call.
    ///
    /// Errors: 500 without a reason and with upstream's text; the objects are as they were then.
    pub async fn convert(&self, store: &dyn Store, wanted: &str, objects: &mut [&mut Value]) -> Result<(), Status> {
        let Some(first) = objects.first() else { return Ok(()) };
        let about = format!("{}, Kind={}", text(first, "apiVersion"), text(first, "kind"));
        let failed = |why: &str| failure(format!("conversion webhook for {about} {why}"));
        let Some(version) = self.review else { return Err(failure("no supported conversion review versions".into())) };
        let uid = types::random::uuid();
        let endpoint = self.endpoint.as_ref().map_err(|why| failed(&format!("failed: {why}")))?;
        let answer = endpoint.post(store, review(version, &uid, wanted, objects), TIMEOUT).await;
        let answer = answer.map_err(|error| failed(&format!("failed: {error}")))?;
        let converted = read_answer(version, &uid, &answer).map_err(|why| failed(&format!("failed: {why}")))?;
        if converted.len() != objects.len() {
            return Err(failed(&format!("returned {} objects, expected {}", converted.len(), objects.len())));
        }
        let mut made = Vec::with_capacity(converted.len());
        for (at, (old, new)) in objects.iter().zip(converted).enumerate() {
            let place = if objects.len() == 1 { String::new() } else { format!(" at index {at}") };
            made.push(accept(old, new, wanted, &place).map_err(|why| failed(&format!("returned {why}")))?);
        }
        objects.iter_mut().zip(made).for_each(|(object, new)| **object = new);
        Ok(())
    }
}

/// Upstream has no reason for an error that a converter made.
fn failure(message: String) -> Status {
    Status { reason: String::new(), ..Status::new(Reason::InternalError, message) }
}

fn review(version: &str, uid: &str, wanted: &str, objects: &[&mut Value]) -> Bytes {
    let objects: Vec<&Value> = objects.iter().map(|object| &**object).collect();
    let review = json!({
        "kind": "ConversionReview",
        "apiVersion": format!("{GROUP}/{version}"),
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
        "response": {"uid": "", "convertedObjects": null, "result": {"metadata": {}}},
    });
    Bytes::from(review.to_string())
}

/// The objects of an answer, or why it is none.
fn read_answer(version: &str, uid: &str, body: &[u8]) -> Result<Vec<Value>, String> {
    let mut answer: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    // The older version has never been held to these.
    let strict = version == "v1";
    let named = (text(&answer, "apiVersion"), text(&answer, "kind"));
    if strict && named != (&*format!("{GROUP}/v1"), "ConversionReview") {
        let (group_version, kind) = named;
        return Err(format!(
            "expected webhook response of {GROUP}/v1, Kind=ConversionReview, got {group_version}, Kind={kind}"
        ));
    }
    let response = &mut answer["response"];
    if !response.is_object() {
        return Err("no response provided".into());
    }
    let given = text(response, "uid");
    if strict && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let result = get(response, "result");
    let (status, message) = (text(result, "status"), text(result, "message"));
    if status != "Success" {
        return Err(match message {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            message => message.to_owned(),
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// The converted object with the metadata of the one that was sent, or what is wrong with it.
fn accept(old: &Value, mut new: Value, wanted: &str, place: &str) -> Result<Value, String> {
    let named =
        if place.is_empty() { "invalid object at index 0".into() } else { format!("invalid converted object{place}") };
    let version = text(&new, "apiVersion");
    if version != wanted {
        return Err(format!("{named}: invalid groupVersion (expected {wanted}, received {version})"));
    }
    let (expected, kind) = (text(old, "kind"), text(&new, "kind"));
    if kind != expected {
        return Err(format!("{named}: invalid kind (expected {expected}, received {kind})"));
    }
    let named = if place.is_empty() { "invalid object".into() } else { named };
    for (field, word) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (expected, got) = (meta(old, field), meta(&new, field));
        if expected != got {
            return Err(format!("{named}: must have the same {word}: {expected} != {got}"));
        }
    }
    let metadata = restored(get(old, "metadata"), get(&new, "metadata"));
    let place = if place.is_empty() { String::new() } else { format!(" in object{place}") };
    new["metadata"] = metadata.map_err(|why| format!("invalid metadata{place}: {why}"))?;
    Ok(new)
}

/// The metadata as it was, with the labels and annotations that the webhook says.
fn restored(old: &Value, new: &Value) -> Result<Value, String> {
    let said = match new {
        Value::Null => return Err("missing metadata in converted object".into()),
        Value::Object(said) => said,
        _ => return Err("invalid metadata of type string in converted object".into()),
    };
    let mut metadata = old.as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        let Some(texts) = said.get(field).filter(|texts| !texts.is_null()) else {
            metadata.remove(field);
            continue;
        };
        let Value::Object(members) = texts else {
            return Err(format!("invalid metadata.{field} of type string in converted object"));
        };
        if let Some((name, _)) = members.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!("metadata.{field}[{name}] must be a string, but is not in converted object"));
        }
        if metadata.get(field) != Some(texts) {
            let errors: Vec<String> = checked(field, members, new).iter().map(ToString::to_string).collect();
            if !errors.is_empty() {
                return Err(aggregate(&errors));
            }
        }
        metadata.insert(field.into(), texts.clone());
    }
    Ok(Value::Object(metadata))
}

fn checked(field: &str, members: &Map<String, Value>, metadata: &Value) -> Vec<FieldError> {
    if field == "labels" {
        return names::labels(&Path::new("metadata.labels"), members.iter().map(|(k, v)| (k, v.as_str())));
    }
    let mut errors = Vec::new();
    metadata::annotations(metadata, &Path::new("metadata.annotation"), &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let of = |response: &Value| json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
        let success = json!({"status": "Success"});
        for (version, answer, expected) in [
            ("v1", of(&json!({"uid": "u", "result": success, "convertedObjects": [{"a": 1}]})), Ok(1)),
            ("v1", of(&json!({"uid": "u", "result": success})), Ok(0)),
            ("v1beta1", json!({"response": {"result": success, "convertedObjects": [{}, {}]}}), Ok(2)),
            ("v1", of(&json!({"uid": "w", "result": success})), Err("expected response.uid=\"u\", got \"w\"")),
            ("v1", of(&Value::Null), Err("no response provided")),
            ("v1", of(&json!({"uid": "u", "result": {"status": "Failure", "message": "no"}})), Err("no")),
            ("v1", of(&json!({"uid": "u"})), Err("response.result.status was '', not 'Success'")),
            (
                "v1",
                json!({"apiVersion": "a/v1", "kind": "B", "response": {}}),
                Err("expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got a/v1, Kind=B"),
            ),
        ] {
            let read = read_answer(version, "u", answer.to_string().as_bytes()).map(|objects| objects.len());
            assert_eq!(read, expected.map_err(str::to_owned), "{answer}");
        }
        assert!(read_answer("v1", "u", b"no").is_err());
    }

    #[test]
    fn only_labels_and_annotations_are_the_webhooks() {
        let old = json!({"apiVersion": "e/v1", "kind": "Car",
            "metadata": {"name": "a", "uid": "u", "labels": {"a": "b"}, "finalizers": ["x"]}, "old": 1});
        let new = |change: &dyn Fn(&mut Value)| {
            let mut new = json!({"apiVersion": "e/v2", "kind": "Car",
                "metadata": {"name": "a", "uid": "u", "annotations": {"c": "d"}, "generation": 9}, "new": 1});
            change(&mut new);
            new
        };
        let taken = json!({"apiVersion": "e/v2", "kind": "Car",
            "metadata": {"name": "a", "uid": "u", "annotations": {"c": "d"}, "finalizers": ["x"]}, "new": 1});
        for (change, expected) in [
            (&(|_: &mut Value| {}) as &dyn Fn(&mut Value), Ok(taken)),
            (
                &|v: &mut Value| v["apiVersion"] = json!("e/v3"),
                Err("invalid object at index 0: invalid groupVersion (expected e/v2, received e/v3)"),
            ),
            (
                &|v: &mut Value| v["kind"] = json!("Bus"),
                Err("invalid object at index 0: invalid kind (expected Car, received Bus)"),
            ),
            (
                &|v: &mut Value| v["metadata"]["name"] = json!("b"),
                Err("invalid object: must have the same name: a != b"),
            ),
            (&|v: &mut Value| v["metadata"]["uid"] = json!("w"), Err("invalid object: must have the same UID: u != w")),
        ] {
            assert_eq!(accept(&old, new(change), "e/v2", ""), expected.map_err(str::to_owned));
        }
        let bad = accept(&old, new(&|v| v["metadata"]["labels"] = json!({"a": "no good"})), "e/v2", "").unwrap_err();
        assert!(bad.starts_with("invalid metadata: metadata.labels: Invalid value: \"no good\""), "{bad}");
    }
}
