//! RuntimeClass. Source: `pkg/apis/node/validation/validation.go`, `pkg/registry/node/runtimeclass/strategy.go`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::check::{self, Errors, items};
use super::core::pod::{container, placement, warnings};
use super::json::{canonical_resources, get, list, map, object_mut, text};
use super::{Context, Hooks};

pub static RUNTIME_CLASS: Hooks = Hooks {
    default,
    validate,
    validate_update,
    warnings: old_labels,
    create_on_update: true,
    unconditional_update: false,
    ..Hooks::NEUTRAL
};

fn default(class: &mut Value) {
    if let Some(overhead) = object_mut(class, "overhead") {
        canonical_resources(overhead, "podFixed");
    }
}

fn validate(class: &Value) -> Errors {
    let mut errors = Vec::new();
    let root = Path::root();
    let handler = check::required(&mut errors, class, "handler", &root);
    if !handler.is_empty() {
        check::wrong(&mut errors, &root.child("handler"), handler, names::dns1123_label(handler));
    }
    let overhead = get(get(class, "overhead"), "podFixed");
    container::quantities(overhead, &Path::new("overhead.limits"), &mut errors);
    let (scheduling, path) = (get(class, "scheduling"), Path::new("scheduling"));
    let labels = map(scheduling, "nodeSelector").map(|(k, v)| (k, v.as_str()));
    errors.extend(names::labels(&path.child("nodeSelector"), labels));
    for (path, toleration) in items(scheduling, "tolerations", &path) {
        placement::toleration(toleration, &path, &mut errors);
    }
    let all = list(scheduling, "tolerations");
    let key = |t: &Value| ["key", "operator", "value", "effect"].map(|field| text(t, field).to_owned());
    for (i, one) in all.iter().enumerate() {
        if all[..i].iter().any(|other| key(other) == key(one)) {
            errors.push(FieldError::duplicate(&path.child("tolerations").index(i), one));
        }
    }
    errors
}

fn validate_update(new: &Value, old: &Value, _: &Context) -> Errors {
    let mut errors = Vec::new();
    check::immutable(&mut errors, new, old, "handler", &Path::root());
    errors
}

fn old_labels(class: &Value) -> Vec<String> {
    map(get(class, "scheduling"), "nodeSelector")
        .filter_map(|(key, _)| warnings::old_node_label(key).map(|words| format!("scheduling.nodeSelector: {words}")))
        .collect()
}
