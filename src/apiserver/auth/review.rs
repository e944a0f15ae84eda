//! Reviews: objects that are posted as a question and come back with the answer, never stored.
//!
//! Source: `pkg/registry/authentication`, `pkg/registry/authorization`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use store::View;
use types::field::{FieldError, Path};
use types::registry::Kind;
use types::selector::FieldSelector;
use types::status::Status;

use super::Authorizer;
use super::attributes::{Attributes, Target};
use super::authenticate::Authenticator;
use super::identity::Identity;
use super::rbac::Rule;

/// What a review is answered from.
pub struct Desk<'a> {
    pub authorizer: &'a Authorizer,
    pub authenticator: &'a Authenticator,
    pub view: &'a dyn View,
    pub identity: &'a Identity,
    pub now: Timestamp,
}

/// Fills in the `status` of a review.
///
/// # Errors
/// 422 for a question that makes no sense.
pub async fn answer(desk: &Desk<'_>, kind: &Kind, namespace: &str, mut object: Value) -> Result<Value, Status> {
    let status = match &*kind.kind {
        "SelfSubjectReview" => json!({"userInfo": user_info(desk.identity)}),
        "TokenReview" => token_review(desk, kind, &object).await?,
        "SelfSubjectAccessReview" => access(desk, kind, desk.identity, &object["spec"])?,
        "SelfSubjectRulesReview" => rules_review(desk, kind, &object["spec"])?,
        "LocalSubjectAccessReview" => {
            let asked = object["spec"]["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
            if asked != namespace {
                return Err(Status::bad_request(format!(
                    "spec.resourceAttributes.namespace must match namespace: {namespace}"
                )));
            }
            access(desk, kind, &subject(&object["spec"]), &object["spec"])?
        }
        _ => {
            let spec = &object["spec"];
            if spec["user"].as_str().unwrap_or_default().is_empty()
                && spec["groups"].as_array().is_none_or(Vec::is_empty)
            {
                let error =
                    FieldError::invalid(&Path::new("spec.user"), "", "at least one of user or group must be specified");
                return Err(Status::invalid(kind, "", &[error]));
            }
            access(desk, kind, &subject(spec), spec)?
        }
    };
    object["status"] = status;
    Ok(object)
}

/// `authentication.k8s.io/v1` `UserInfo`.
pub fn user_info(identity: &Identity) -> Value {
    let mut info = json!({"username": identity.user});
    if !identity.uid.is_empty() {
        info["uid"] = json!(identity.uid);
    }
    if !identity.groups.is_empty() {
        info["groups"] = json!(identity.groups);
    }
    if !identity.extra.is_empty() {
        info["extra"] = json!(identity.extra);
    }
    info
}

fn subject(spec: &Value) -> Identity {
    let texts = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(|t| t.as_str().map(str::to_owned)).collect()
    };
    let extra: BTreeMap<_, _> =
        spec["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), texts(v))).collect();
    Identity {
        user: spec["user"].as_str().unwrap_or_default().to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups: texts(&spec["groups"]),
        extra,
    }
}

fn access(desk: &Desk<'_>, kind: &Kind, identity: &Identity, spec: &Value) -> Result<Value, Status> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |v: &'_ Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    if resource.is_object() == path.is_object() {
        let (at, detail) = if resource.is_object() {
            ("spec.nonResourceAttributes", "cannot be specified in combination with resourceAttributes")
        } else {
            ("spec.resourceAttributes", "exactly one of nonResourceAttributes or resourceAttributes must be specified")
        };
        let error = FieldError::invalid(&Path::new(at), if resource.is_object() { path } else { resource }, detail);
        return Err(Status::invalid(kind, "", &[error]));
    }
    let decision = if resource.is_object() {
        let fields = field_requirements(&resource["fieldSelector"]);
        let [verb, group, version, plural, subresource, namespace, name] =
            ["verb", "group", "version", "resource", "subresource", "namespace", "name"].map(|k| text(resource, k));
        let target = Target::Resource {
            group: &group,
            version: &version,
            resource: &plural,
            subresource: &subresource,
            namespace: &namespace,
            name: &name,
            fields: fields.as_ref(),
        };
        desk.authorizer.authorize(&Attributes { identity, verb: &verb, target }, desk.view)
    } else {
        let (verb, path) = (text(path, "verb"), text(path, "path"));
        desk.authorizer.authorize(&Attributes { identity, verb: &verb, target: Target::Path(&path) }, desk.view)
    };
    Ok(match decision {
        Ok(()) => json!({"allowed": true}),
        Err(why) if why.is_empty() => json!({"allowed": false}),
        Err(why) => json!({"allowed": false, "reason": why}),
    })
}

fn field_requirements(selector: &Value) -> Option<FieldSelector> {
    if let Some(raw) = selector["rawSelector"].as_str() {
        return FieldSelector::parse(raw).ok();
    }
    let terms = selector["requirements"].as_array()?.iter().filter_map(|r| {
        let value = r["values"].as_array()?.first()?.as_str()?.to_owned();
        let equal = r["operator"] == "In";
        Some(types::selector::FieldTerm { field: r["key"].as_str()?.to_owned(), value, equal })
    });
    Some(FieldSelector { terms: terms.collect() })
}

fn rules_review(desk: &Desk<'_>, kind: &Kind, spec: &Value) -> Result<Value, Status> {
    let namespace = spec["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        let _ = kind;
        return Err(Status::bad_request("no namespace on request"));
    }
    let everything =
        Rule { verbs: vec!["*".into()], groups: vec!["*".into()], resources: vec!["*".into()], ..Rule::default() };
    let every_path = Rule { verbs: vec!["*".into()], paths: vec!["*".into()], ..Rule::default() };
    let rules = if desk.identity.in_group(super::identity::GROUP_MASTERS) {
        vec![everything, every_path]
    } else {
        desk.authorizer.rbac.rules(desk.identity, namespace)
    };
    let (mut resource_rules, mut path_rules) = (Vec::new(), Vec::new());
    for rule in &rules {
        if rule.paths.is_empty() {
            let mut one = json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
            if !rule.names.is_empty() {
                one["resourceNames"] = json!(rule.names);
            }
            resource_rules.push(one);
        } else {
            path_rules.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}));
        }
    }
    let node = desk.identity.node_name().is_some();
    let mut status = json!({"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": node});
    if node {
        status["evaluationError"] = json!("node authorizer does not support user rule resolution");
    }
    Ok(status)
}

async fn token_review(desk: &Desk<'_>, kind: &Kind, object: &Value) -> Result<Value, Status> {
    let spec = &object["spec"];
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request(format!("token is required for {} in authentication", kind.kind)));
    }
    let audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    Ok(match desk.authenticator.token(token, &audiences, desk.now, desk.view).await {
        Ok(accepted) => {
            json!({"authenticated": true, "user": user_info(&accepted.identity), "audiences": accepted.audiences})
        }
        Err(why) => json!({"user": {}, "error": format!("[invalid bearer token, {why}]")}),
    })
}
