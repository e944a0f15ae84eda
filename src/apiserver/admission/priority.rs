//! Priority: a pod gets the number of its class; one class at most is the default.
//! Source: `plugin/pkg/admission/priority/admission.go`.

use serde::Deserialize;
use serde_json::Value;
use types::registry::{Kind, by_kind};
use types::status::Status;

use super::{Operation, Request};
use crate::hooks::json::{boolean, copy, get, has, int, set, text};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Class {
    metadata: Name,
    #[serde(default)]
    value: i64,
    #[serde(default)]
    global_default: bool,
    #[serde(default)]
    preemption_policy: Option<String>,
}
#[derive(Deserialize)]
struct Name {
    name: String,
}

fn kind() -> &'static Kind {
    by_kind("scheduling.k8s.io", "v1", "PriorityClass").expect("the registry serves priority classes")
}

pub fn pod(request: &mut Request) -> Result<(), Status> {
    let (operation, view, pods, name) = (request.operation, request.view, request.kind, request.name);
    let old = request.old;
    let Some(spec) = request.object.as_deref_mut().and_then(|o| o.get_mut("spec")).filter(|s| s.is_object()) else {
        return Ok(());
    };
    if operation == Operation::Update {
        // what admission once wrote is kept when the writer left it out
        let before = get(old.unwrap_or(&Value::Null), "spec");
        for field in ["priority", "preemptionPolicy"] {
            if !has(spec, field) && has(before, field) {
                copy(spec, before, field);
            }
        }
        return Ok(());
    }
    if operation != Operation::Create {
        return Ok(());
    }
    let named = text(spec, "priorityClassName").to_owned();
    let class = if named.is_empty() {
        // the lowest of several defaults, so that the choice does not depend on their order
        let class = default_class(view);
        if let Some(class) = &class {
            set(spec, "priorityClassName", class.metadata.name.clone());
        }
        class
    } else {
        let Some(class) = super::read::<Class>(view, &kind().store_key("", &named)) else {
            return Err(Status::forbidden(pods, name, &format!("no PriorityClass with name {named} was found")));
        };
        Some(class)
    };
    let (value, policy) = match &class {
        Some(class) => (class.value, class.preemption_policy.as_deref()),
        None => (0, None),
    };
    if let Some(given) = int(spec, "priority")
        && given != value
    {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        );
        return Err(Status::forbidden(pods, name, &why));
    }
    set(spec, "priority", value);
    let policy = policy.unwrap_or("PreemptLowerPriority");
    let given = text(spec, "preemptionPolicy");
    if !given.is_empty() && given != policy {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        );
        return Err(Status::forbidden(pods, name, &why));
    }
    set(spec, "preemptionPolicy", policy);
    Ok(())
}

fn default_class(view: &dyn store::View) -> Option<Class> {
    view.range(&kind().store_prefix(), None)
        .filter_map(|entry| serde_json::from_slice::<Class>(entry.value()).ok())
        .filter(|class| class.global_default)
        .min_by_key(|class| class.value)
}

/// Refuses a second default class.
pub fn class(request: &Request) -> Result<(), Status> {
    let Some(object) = request.object.as_deref() else { return Ok(()) };
    let claims = boolean(object, "globalDefault");
    let claimed = request.old.is_some_and(|old| boolean(old, "globalDefault"));
    if !claims || (request.operation == Operation::Update && claimed) {
        return Ok(());
    }
    let other = default_class(request.view).filter(|c| c.metadata.name != request.name);
    match other {
        None => Ok(()),
        Some(other) => {
            let why = format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other.metadata.name
            );
            Err(Status::forbidden(request.kind, request.name, &why))
        }
    }
}
