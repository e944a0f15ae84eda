//! What a definition may be called, and whether it is served: the names that are accepted and the conditions. Pure.
//!
//! Upstream works this out in controllers, some moments after the write. Here it is a part of the write, so that a definition
//! is established when its writer is answered and 200 of them cost 200 writes; [`super::keeper`] looks again at definitions
//! whose names were taken when others give theirs up.
//!
//! Source: apiextensions-apiserver `pkg/controller/{status,establish,apiapproval}`, `pkg/apihelpers/helpers.go`.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Served;
use crate::hooks::json::{at, ensure_list, ensure_object, get, list, set, text, texts};

const APPROVED: &str = "api-approved.kubernetes.io";

/// Completes the status of a definition that is being written. A definition that is being deleted keeps what it has.
pub fn settle(definition: &mut Value, served: &Served, now: Timestamp) {
    if crate::verbs::object::is_deleting(definition) {
        return;
    }
    approval(definition, now);
    names(definition, served, now);
}

fn names(definition: &mut Value, served: &Served, now: Timestamp) {
    let wanted = at(definition, &["spec", "names"]).clone();
    let accepted = at(definition, &["status", "acceptedNames"]).clone();
    let known = condition(definition, "NamesAccepted").is_some();
    if known && crate::hooks::json::same(&wanted, &accepted) {
        return;
    }
    let (resources, kinds) = taken(definition, served);
    let free = |name: &str, own: &str, used: &HashSet<&str>| {
        if name == own || !used.contains(name) { Ok(()) } else { Err(format!("{name:?} is already in use")) }
    };
    let mut names = if accepted.is_object() { accepted.clone() } else { json!({}) };
    let mut conflict: Option<(&str, String)> = None;
    for (field, reason, used) in
        [("plural", "PluralConflict", &resources), ("singular", "SingularConflict", &resources)]
    {
        match free(text(&wanted, field), text(&accepted, field), used) {
            Ok(()) => take(&mut names, &wanted, field),
            Err(why) => conflict = Some((reason, why)),
        }
    }
    let own: HashSet<&str> = texts(&accepted, "shortNames").collect();
    let wrong: Vec<String> = texts(&wanted, "shortNames")
        .filter(|name| !own.contains(name))
        .filter_map(|name| free(name, "", &resources).err())
        .collect();
    if wrong.is_empty() {
        take(&mut names, &wanted, "shortNames");
    } else {
        conflict = Some(("ShortNamesConflict", aggregate(&wrong)));
    }
    for (field, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        match free(text(&wanted, field), text(&accepted, field), &kinds) {
            Ok(()) => take(&mut names, &wanted, field),
            Err(why) => conflict = Some((reason, why)),
        }
    }
    take(&mut names, &wanted, "categories");

    let is_established = condition(definition, "Established").is_some_and(|c| text(c, "status") == "True");
    let names_accepted = match &conflict {
        None => ("True", "NoConflicts", "no conflicts found"),
        Some((reason, why)) => ("False", *reason, &**why),
    };
    let established = match (&conflict, is_established) {
        (_, true) => None,
        (Some(_), false) => Some(("False", "NotAccepted", "not all names are accepted")),
        (None, false) => Some(("True", "InitialNamesAccepted", "the initial names have been accepted")),
    };
    if let Some(status) = ensure_object(definition, "status") {
        set(status, "acceptedNames", names);
    }
    set_condition(definition, "NamesAccepted", names_accepted, now);
    if let Some(established) = established {
        set_condition(definition, "Established", established, now);
    }
}

/// The name that is accepted from now on; one that is not asked for any more is given up.
fn take(names: &mut Value, wanted: &Value, field: &str) {
    crate::hooks::json::copy(names, wanted, field);
}

/// The names of resources and of kinds that other definitions of the group hold.
fn taken<'a>(definition: &Value, served: &'a Served) -> (HashSet<&'a str>, HashSet<&'a str>) {
    let group = text(get(definition, "spec"), "group");
    let own = text(get(definition, "metadata"), "name");
    let (mut resources, mut kinds) = (HashSet::new(), HashSet::new());
    for other in served.definitions().filter(|d| d.group == group && d.name != own) {
        let names = &other.accepted;
        resources.extend([&*names.plural, &*names.singular].into_iter().filter(|n| !n.is_empty()));
        resources.extend(names.short_names.iter().map(String::as_str));
        kinds.extend([&*names.kind, &*names.list_kind].into_iter().filter(|n| !n.is_empty()));
    }
    (resources, kinds)
}

/// Several errors in one text, each once. Source: apimachinery `pkg/util/errors` `Aggregate`.
pub fn aggregate(errors: &[String]) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for error in errors {
        if !seen.contains(&error.as_str()) {
            seen.push(error);
        }
    }
    if let [one] = seen.as_slice() { (*one).to_owned() } else { format!("[{}]", seen.join(", ")) }
}

/// Groups of the Kubernetes community are for what it has approved.
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|own| group.strip_suffix(own).is_some_and(|g| g.is_empty() || g.ends_with('.')))
}

/// What the annotation of approval says: the condition's status, reason and message.
pub fn approved(annotation: &str) -> (&'static str, &'static str, String) {
    const POLICY: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    if annotation.is_empty() {
        let why = format!("protected groups must have approval annotation {APPROVED:?}, {POLICY}");
        ("False", "MissingAnnotation", why)
    } else if annotation.starts_with("unapproved") {
        ("False", "UnapprovedAnnotation", format!("not approved: {annotation:?}"))
    } else if is_url(annotation) {
        ("True", "ApprovedAnnotation", format!("approved in {annotation}"))
    } else {
        let why = format!(
            "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \
             \"unapproved\", {POLICY}"
        );
        ("False", "InvalidAnnotation", why)
    }
}

fn is_url(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some_and(|h| !h.is_empty()))
}

/// The annotation of approval.
pub fn annotation(definition: &Value) -> &str {
    at(definition, &["metadata", "annotations", APPROVED]).as_str().unwrap_or_default()
}

fn approval(definition: &mut Value, now: Timestamp) {
    if !is_protected(text(get(definition, "spec"), "group")) {
        return;
    }
    let (status, reason, message) = approved(annotation(definition));
    set_condition(definition, "KubernetesAPIApprovalPolicyConformant", (status, reason, &message), now);
}

pub fn condition<'a>(definition: &'a Value, kind: &str) -> Option<&'a Value> {
    list(get(definition, "status"), "conditions").iter().find(|c| text(c, "type") == kind)
}

/// Sets a condition by its status, reason and message. The time of its last transition stays while its status does.
pub fn set_condition(
    definition: &mut Value,
    kind: &str,
    (status, reason, message): (&str, &str, &str),
    now: Timestamp,
) {
    let Some(conditions) = ensure_object(definition, "status").and_then(|s| ensure_list(s, "conditions")) else {
        return;
    };
    let mut new = json!({"type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": types::time::rfc3339(now)});
    match conditions.iter_mut().find(|c| text(c, "type") == kind) {
        Some(old) => {
            if text(old, "status") == status {
                new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            if let Some(observed) = old.get("observedGeneration") {
                new["observedGeneration"] = observed.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    #[test]
    fn a_definition_alone_is_established() {
        let names = json!({"plural": "cars", "singular": "car", "kind": "Car", "listKind": "CarList"});
        let mut car =
            json!({"metadata": {"name": "cars.example.com"}, "spec": {"group": "example.com", "names": names}});
        settle(&mut car, &Served::default(), now());
        assert_eq!(car["status"]["acceptedNames"], names);
        let states: Vec<_> = list(&car["status"], "conditions").iter().map(|c| (&c["type"], &c["status"])).collect();
        assert_eq!(states, [(&json!("NamesAccepted"), &json!("True")), (&json!("Established"), &json!("True"))]);
        let before = car.clone();
        settle(&mut car, &Served::default(), now().saturating_add(jiff::SignedDuration::from_secs(9)).unwrap());
        assert_eq!(car, before, "nothing changes any more");
    }

    #[test]
    fn approvals() {
        for (group, annotation, expected) in [
            ("example.com", "", None),
            ("a.k8s.io", "", Some("MissingAnnotation")),
            ("k8s.io", "unapproved, a test", Some("UnapprovedAnnotation")),
            ("kubernetes.io", "https://github.com/kubernetes/kubernetes/pull/1", Some("ApprovedAnnotation")),
            ("kubernetes.io", "yes", Some("InvalidAnnotation")),
            ("notk8s.io", "", None),
        ] {
            let mut definition = json!({"metadata": {"annotations": {APPROVED: annotation}}, "spec": {"group": group}});
            approval(&mut definition, now());
            let condition = condition(&definition, "KubernetesAPIApprovalPolicyConformant");
            assert_eq!(condition.map(|c| text(c, "reason")), expected, "{group} {annotation}");
        }
    }
}
