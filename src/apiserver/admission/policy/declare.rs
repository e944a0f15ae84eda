//! The declared types of kinds, for checking policies against them: built-in kinds from the type table, custom ones from their
//! definitions in the store.
//!
//! Source: apiserver `pkg/cel/openapi/resolver`.

use serde_json::Value as Json;
use store::View;
use types::registry::{GroupVersionKind, by_kind, by_resource};

use crate::hooks::json::{at, boolean, get, list, text};
use crate::schema::{self, Container, Field, Item};
use cel::schema::{Decl, escape, of_schema};
use cel::types::Type;

/// A kind and, if it is known, the type of its objects.
pub struct Declared {
    pub kind: GroupVersionKind,
    pub decl: Option<Decl>,
}

/// The kind behind a resource.
pub fn resource(group: &str, version: &str, plural: &str, view: &dyn View) -> Option<Declared> {
    if let Some(kind) = by_resource(group, version, plural) {
        return Some(built_in(kind.gvk()));
    }
    custom(group, version, view, |names| text(names, "plural") == plural)
}
/// A kind by its own name.
pub fn kind(group: &str, version: &str, kind: &str, view: &dyn View) -> Option<Declared> {
    if let Some(kind) = by_kind(group, version, kind) {
        return Some(built_in(kind.gvk()));
    }
    custom(group, version, view, |names| text(names, "kind") == kind)
}

fn built_in(kind: GroupVersionKind) -> Declared {
    let of = schema::type_of(&kind.group, &kind.version, &kind.kind);
    let decl = of.map(|of| message(of, &kind.kind, &mut Vec::new()));
    Declared { kind, decl }
}

fn custom(group: &str, version: &str, view: &dyn View, wanted: impl Fn(&Json) -> bool) -> Option<Declared> {
    let definitions = by_kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition")?;
    for entry in view.range(&definitions.store_prefix(), None) {
        let definition: Json = serde_json::from_slice(entry.value()).unwrap_or_default();
        let spec = get(&definition, "spec");
        if text(spec, "group") != group || !wanted(get(spec, "names")) {
            continue;
        }
        let served = |v: &&Json| text(v, "name") == version && boolean(v, "served");
        let of_version = list(spec, "versions").iter().find(served)?;
        let name = text(get(spec, "names"), "kind").to_owned();
        let decl = of_schema(at(of_version, &["schema", "openAPIV3Schema"]), true, &name, &|_| None);
        let kind =
            GroupVersionKind { group: group.to_owned().into(), version: version.to_owned().into(), kind: name.into() };
        return Some(Declared { kind, decl });
    }
    None
}

/// `above`: the types that this one is inside of; one of them again is declared no further.
fn message(of: &'static schema::Type, name: &str, above: &mut Vec<&'static str>) -> Decl {
    above.push(of.name);
    let mut fields = Vec::new();
    for declared in of.fields {
        let Some(escaped) = escape(declared.name) else { continue };
        if let Some(decl) = field(declared, &format!("{name}.{}", declared.name), above) {
            fields.push((escaped, decl));
        }
    }
    above.pop();
    Decl::object(name, fields.iter().map(|(name, decl)| (name.as_str(), decl.clone())))
}
fn field(of: &'static Field, name: &str, above: &mut Vec<&'static str>) -> Option<Decl> {
    match of.container {
        Container::Single => item(of, name, above),
        Container::List => item(of, &format!("{name}.@idx"), above).map(Decl::list),
        Container::Map => item(of, &format!("{name}.@elem"), above).map(Decl::map),
    }
}
fn item(of: &'static Field, name: &str, above: &mut Vec<&'static str>) -> Option<Decl> {
    Some(Decl::scalar(match of.item {
        Item::String | Item::Quantity | Item::Duration => Type::String,
        Item::Int32 | Item::Int64 => Type::Int,
        Item::Bool => Type::Bool,
        Item::Double => Type::Double,
        Item::Bytes => Type::Bytes,
        Item::Time | Item::MicroTime => Type::Timestamp,
        Item::IntOrString => return Some(Decl::dynamic()),
        Item::Strings => return Some(Decl::list(Decl::scalar(Type::String))),
        Item::Raw | Item::FieldsV1 => return Some(Decl::object(name, [])),
        Item::Json | Item::SchemaOrArray | Item::SchemaOrBool | Item::SchemaOrStrings => return None,
        Item::Message(_) => {
            return Some(match of.message() {
                Some(inner) if !above.contains(&inner.name) => message(inner, name, above),
                _ => Decl::object(name, []),
            });
        }
    }))
}
