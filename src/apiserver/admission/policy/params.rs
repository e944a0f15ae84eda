//! The parameter objects of a binding.
//!
//! Source: apiserver `pkg/admission/plugin/policy/generic/policy_dispatcher.go` `CollectParams`.

use serde_json::Value as Json;
use store::View;
use types::registry::by_kind;
use types::selector::LabelSelector;

use crate::hooks::json::{get, has, list, text};
use crate::verbs::facts::facts;

/// Where the objects of a `paramKind` lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    namespaced: bool,
    prefix: String,
}

impl Source {
    /// Of a policy's `paramKind`, built in or defined in the view; `None` of none.
    ///
    /// # Errors
    /// There is no such kind.
    pub fn find(param_kind: &Json, view: &dyn View) -> Result<Option<Self>, String> {
        if param_kind.is_null() {
            return Ok(None);
        }
        let (api_version, kind) = (text(param_kind, "apiVersion"), text(param_kind, "kind"));
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let built_in =
            by_kind(group, version, kind).map(|k| Source { namespaced: k.namespaced(), prefix: k.store_prefix() });
        built_in
            .or_else(|| Self::custom(group, version, kind, view))
            .map(Some)
            .ok_or_else(|| format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={kind}'"))
    }
    fn custom(group: &str, version: &str, kind: &str, view: &dyn View) -> Option<Self> {
        let definitions = by_kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition")?;
        view.range(&definitions.store_prefix(), None).find_map(|entry| {
            let definition: Json = serde_json::from_slice(entry.value()).ok()?;
            let (spec, names) = (get(&definition, "spec"), get(get(&definition, "spec"), "names"));
            let wanted = text(spec, "group") == group
                && text(names, "kind") == kind
                && list(spec, "versions").iter().any(|v| text(v, "name") == version);
            wanted.then(|| Source {
                namespaced: text(spec, "scope") == "Namespaced",
                prefix: format!("{group}/{}/", text(names, "plural")),
            })
        })
    }
}

/// The parameter objects, each of which the policy is evaluated with; one `None` for a policy or a binding without.
///
/// # Errors
/// The reference cannot be followed, or leads to nothing where that denies.
pub fn collect(
    source: Option<&Source>,
    reference: &Json,
    namespace: &str,
    view: &dyn View,
) -> Result<Vec<Option<Json>>, String> {
    let (Some(source), false) = (source, reference.is_null()) else { return Ok(vec![None]) };
    let own_namespace = text(reference, "namespace");
    let namespace = match (source.namespaced, own_namespace.is_empty()) {
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
    let read = |entry: &store::Entry| serde_json::from_slice::<Json>(entry.value()).ok();
    let name = text(reference, "name");
    let mut params = Vec::new();
    if !name.is_empty() {
        if has(reference, "selector") {
            return Err("paramRef.name and paramRef.selector are mutually exclusive".into());
        }
        params.extend(view.get(&format!("{}{namespace}/{name}", source.prefix)).and_then(|entry| read(&entry)));
    } else if has(reference, "selector") {
        let selector = LabelSelector::from_object(get(reference, "selector")).map_err(|e| e.to_string())?;
        let selected = view.range(&format!("{}{namespace}/", source.prefix), None);
        params.extend(selected.filter(|entry| selector.matches(&facts(entry))).filter_map(read));
    } else {
        return Err("one of name or selector must be provided".into());
    }
    if params.is_empty() && text(reference, "parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    Ok(params.into_iter().map(Some).collect())
}
