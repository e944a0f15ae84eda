//! The parameter objects of a binding.
//!
//! Source: apiserver `pkg/admission/plugin/policy/generic/policy_dispatcher.go` `CollectParams`.

use serde_json::Value as Json;
use types::registry::{Kind, by_kind};
use types::selector::LabelSelector;

use crate::hooks::json::{get, has, text};
use crate::verbs::facts::facts;

/// The kind that `paramKind` names.
///
/// # Errors
/// There is none.
pub fn kind(param_kind: &Json) -> Result<&'static Kind, String> {
    let (api_version, kind) = (text(param_kind, "apiVersion"), text(param_kind, "kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    by_kind(group, version, kind).ok_or_else(|| {
        let named = if group.is_empty() { format!("/{version}") } else { format!("{group}/{version}") };
        format!("failed to find resource referenced by paramKind: '{named}, Kind={kind}'")
    })
}

/// The parameter objects, each of which the policy is evaluated with; one `None` for a policy or a binding without.
///
/// # Errors
/// The reference cannot be followed, or leads to nothing where that denies.
pub fn collect(
    kind: Option<&Kind>,
    reference: &Json,
    namespace: &str,
    view: &dyn store::View,
) -> Result<Vec<Option<Json>>, String> {
    let (Some(kind), false) = (kind, reference.is_null()) else { return Ok(vec![None]) };
    let own_namespace = text(reference, "namespace");
    let namespace = match (kind.namespaced(), own_namespace.is_empty()) {
        (false, false) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into());
        }
        (false, true) => "",
        (true, false) => own_namespace,
        (true, true) if namespace.is_empty() => {
            return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
        }
        (true, true) => namespace,
    };
    let read = |entry: &store::Entry| serde_json::from_slice::<Json>(&entry.value).ok();
    let name = text(reference, "name");
    let mut params = Vec::new();
    if !name.is_empty() {
        if has(reference, "selector") {
            return Err("paramRef.name and paramRef.selector are mutually exclusive".into());
        }
        params.extend(view.get(&kind.store_key(namespace, name)).and_then(|entry| read(&entry)));
    } else if has(reference, "selector") {
        let selector = LabelSelector::from_object(get(reference, "selector")).map_err(|e| e.to_string())?;
        let selected = view.range(&kind.store_namespace_prefix(namespace), None);
        params.extend(selected.filter(|entry| selector.matches(facts(entry))).filter_map(|entry| read(entry)));
    } else {
        return Err("one of name or selector must be provided".into());
    }
    if params.is_empty() && text(reference, "parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    Ok(params.into_iter().map(Some).collect())
}
