//! The AdmissionReview that a webhook is sent, and what may be made of the one that it answers.
//!
//! Source: `staging/src/k8s.io/api/admission/v1/types.go`, apiserver `pkg/admission/plugin/webhook/request/admissionreview.go`.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Serialize;
use serde_json::Value;
use types::registry::{GroupVersionKind, Kind};
use types::status::Status;

use super::config::ReviewVersion;
use crate::admission::versions::Seen;
use crate::admission::{Operation, Request};
use crate::hooks::json::{boolean, get, has, map, text, texts};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    kind: &'static str,
    api_version: &'static str,
    request: Asked<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked<'a> {
    uid: &'a str,
    kind: KindOf<'a>,
    resource: Resource<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    sub_resource: &'a str,
    request_kind: KindOf<'a>,
    request_resource: Resource<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_sub_resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    operation: &'static str,
    user_info: UserInfo<'a>,
    object: Option<&'a Value>,
    old_object: Option<&'a Value>,
    dry_run: bool,
    options: Value,
}

#[derive(Serialize)]
struct KindOf<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

impl<'a> From<&'a GroupVersionKind> for KindOf<'a> {
    fn from(kind: &'a GroupVersionKind) -> Self {
        Self { group: &kind.group, version: &kind.version, kind: &kind.kind }
    }
}

#[derive(Serialize)]
struct Resource<'a> {
    group: &'a str,
    version: &'a str,
    resource: &'a str,
}

impl<'a> From<&'a Kind> for Resource<'a> {
    fn from(kind: &'a Kind) -> Self {
        Self { group: &kind.group, version: &kind.version, resource: &kind.plural }
    }
}

#[derive(Serialize)]
struct UserInfo<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'a BTreeMap<String, Vec<String>>,
}

fn api_version(version: ReviewVersion) -> &'static str {
    match version {
        ReviewVersion::V1 => "admission.k8s.io/v1",
        ReviewVersion::V1beta1 => "admission.k8s.io/v1beta1",
    }
}

/// The document to be posted.
pub fn request(request: &Request, seen: &Seen, version: ReviewVersion, uid: &str) -> Vec<u8> {
    let own = request.kind_in(request.served);
    let is_namespace = request.kind.group.is_empty() && request.kind.plural == "namespaces";
    let review = Review {
        kind: "AdmissionReview",
        api_version: api_version(version),
        request: Asked {
            uid,
            kind: (&seen.of).into(),
            resource: (&*seen.kind).into(),
            sub_resource: request.subresource,
            request_kind: (&own).into(),
            request_resource: (&**request.served).into(),
            request_sub_resource: request.subresource,
            name: request.name,
            // Requests about a namespace are in it, but for the one that makes it.
            namespace: if is_namespace && request.operation != Operation::Create {
                request.name
            } else {
                request.namespace
            },
            operation: request.operation.as_str(),
            user_info: UserInfo {
                username: &request.user.user,
                uid: &request.user.uid,
                groups: &request.user.groups,
                extra: &request.user.extra,
            },
            object: seen.object.as_deref(),
            old_object: seen.old.as_deref(),
            dry_run: request.dry_run,
            options: request.options_value(),
        },
    };
    serde_json::to_vec(&review).unwrap_or_default()
}

/// What a webhook says.
#[derive(Debug, PartialEq)]
pub struct Response {
    pub allowed: bool,
    /// The JSON patch, empty when there is none.
    pub patch: Vec<u8>,
    pub patch_type: String,
    pub warnings: Vec<String>,
    /// By keys without the webhook's name.
    pub annotations: Vec<(String, String)>,
    result: Option<Status>,
}

impl Response {
    /// Reads an answer to the review `uid`.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn read(body: &[u8], version: ReviewVersion, uid: &str, mutating: bool) -> Result<Self, String> {
        let review: Value =
            serde_json::from_slice(body).map_err(|e| format!("couldn't get version/kind; json parse error: {e}"))?;
        let response = get(&review, "response");
        if !response.is_object() {
            return Err("webhook response was absent".into());
        }
        let patch = text(response, "patch");
        let typed = has(response, "patchType");
        let mut patch_type = text(response, "patchType");
        if version == ReviewVersion::V1 {
            let answered = text(response, "uid");
            if answered != uid {
                return Err(format!("expected response.uid={uid:?}, got {answered:?}"));
            }
            let (api, kind) = (text(&review, "apiVersion"), text(&review, "kind"));
            if (api, kind) != (api_version(version), "AdmissionReview") {
                return Err(format!(
                    "expected webhook response of {}, Kind=AdmissionReview, got {api}, Kind={kind}",
                    api_version(version)
                ));
            }
            match (mutating, !patch.is_empty(), typed) {
                (true, true, false) => {
                    return Err("webhook returned response.patch but not response.patchType".into());
                }
                (true, false, true) => {
                    return Err("webhook returned response.patchType but not response.patch".into());
                }
                (true, true, true) if patch_type.is_empty() => {
                    return Err("webhook returned invalid response.patchType of \"\"".into());
                }
                (false, true, _) => return Err("validating webhook may not return response.patch".into()),
                (false, _, true) => return Err("validating webhook may not return response.patchType".into()),
                _ => {}
            }
        } else if !patch.is_empty() {
            patch_type = "JSONPatch";
        }
        let patch = if mutating { patch } else { "" };
        Ok(Self {
            allowed: boolean(response, "allowed"),
            patch: base64::engine::general_purpose::STANDARD.decode(patch).map_err(|e| e.to_string())?,
            patch_type: patch_type.to_owned(),
            warnings: texts(response, "warnings").map(str::to_owned).collect(),
            annotations: map(response, "auditAnnotations")
                .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
                .collect(),
            result: serde_json::from_value(get(response, "status").clone()).ok(),
        })
    }

    /// The answer to the client when the webhook does not allow the request.
    ///
    /// Source: apiserver `pkg/admission/plugin/webhook/errors/statuserror.go`.
    pub fn rejection(self, webhook: &str) -> Status {
        let mut status = self.result.unwrap_or_default();
        let denied = format!("admission webhook {webhook:?} denied the request");
        status.code = status.code.max(400);
        status.status = "Failure".into();
        status.message = match (status.message.as_str(), status.reason.as_str()) {
            ("", "") => format!("{denied} without explanation"),
            ("", reason) => format!("{denied}: {reason}"),
            (message, _) => format!("{denied}: {message}"),
        };
        status
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_checked() {
        let review = |response: Value| {
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}).to_string()
        };
        let check = |body: &str, mutating: bool, expected: Result<bool, &str>| {
            let read = Response::read(body.as_bytes(), ReviewVersion::V1, "u", mutating).map(|r| r.allowed);
            assert_eq!(read, expected.map_err(str::to_owned), "{body}");
        };
        check(&review(json!({"uid": "u", "allowed": true})), false, Ok(true));
        check(&review(json!({"uid": "u"})), true, Ok(false));
        check(&review(json!({"uid": "v"})), true, Err("expected response.uid=\"u\", got \"v\""));
        check(&review(Value::Null), true, Err("webhook response was absent"));
        check(
            &json!({"response": {"uid": "u"}}).to_string(),
            true,
            Err("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got , Kind="),
        );
        let patch = json!({"uid": "u", "patch": "W10=", "patchType": "JSONPatch"});
        check(&review(patch.clone()), true, Ok(false));
        check(&review(patch), false, Err("validating webhook may not return response.patch"));
        check(
            &review(json!({"uid": "u", "patch": "W10="})),
            true,
            Err("webhook returned response.patch but not response.patchType"),
        );
    }

    #[test]
    fn rejections() {
        for (result, code, message) in [
            (Value::Null, 400, "admission webhook \"w\" denied the request without explanation"),
            (json!({"message": "no", "code": 403}), 403, "admission webhook \"w\" denied the request: no"),
            (
                json!({"reason": "Forbidden", "status": "Success"}),
                400,
                "admission webhook \"w\" denied the request: Forbidden",
            ),
        ] {
            let body = json!({"response": {"allowed": false, "status": result}}).to_string();
            let status = Response::read(body.as_bytes(), ReviewVersion::V1beta1, "u", true).unwrap().rejection("w");
            assert_eq!((status.code, status.message.as_str(), status.status.as_str()), (code, message, "Failure"));
        }
    }
}
