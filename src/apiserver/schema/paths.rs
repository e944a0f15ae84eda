//! The paths of the OpenAPI documents, read from the kind registry.
//!
//! Source: apiserver `pkg/endpoints/installer.go`; what clients read of them: operations with
//! `x-kubernetes-group-version-kind`, their parameters and the media types of their bodies.

use std::borrow::Cow;

use serde_json::{Map, Value, json};
use types::registry::{BUILT_IN, GroupVersionKind, Kind, Verb};

use super::openapi::push_member;
use crate::patch::media_types as patch_types;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const MEDIA: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// The definitions that paths refer to, whatever kinds they are about, and those of metadata.
pub const REFERRED: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta",
    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
];

/// The members of a JSON object of path items, without the braces around them. Each is written as soon as it is made: a tree of all of them would take megabytes.
struct Paths {
    text: String,
    swagger_2: bool,
}

impl Paths {
    fn insert(&mut self, path: String, mut item: Value) {
        if self.swagger_2 {
            to_swagger_2(&mut item);
        }
        push_member(&mut self.text, &path, &item);
    }
}

/// Parameters of a query: name, type, what it does.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "Indents the output when it is 'true'.");
const DRY_RUN: Parameter = ("dryRun", "string", "With 'All', every stage runs and nothing is stored.");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "Name of the actor that makes the change.");
const FIELD_VALIDATION: Parameter =
    ("fieldValidation", "string", "What is done about unknown and duplicate fields: Ignore, Warn or Strict.");
const WRITE: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const FORCE: Parameter = ("force", "boolean", "Takes over fields that other managers own; server-side apply only.");
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "Asks a watch for BOOKMARK events."),
    ("continue", "string", "The token with which the previous page ended."),
    ("fieldSelector", "string", "Restricts the objects by their fields."),
    ("labelSelector", "string", "Restricts the objects by their labels."),
    ("limit", "integer", "The largest number of objects in one answer."),
    ("resourceVersion", "string", "The version from which, or at which, objects are served."),
    ("resourceVersionMatch", "string", "How resourceVersion is meant: NotOlderThan or Exact."),
    ("sendInitialEvents", "boolean", "Begins a watch with the objects that exist."),
    ("timeoutSeconds", "integer", "How long the request may last."),
    ("watch", "boolean", "Streams changes instead of listing."),
];
const DELETE: &[Parameter] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds until the object is deleted; zero is at once."),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "Deletes an object that cannot be read."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "What happens to dependents: Orphan, Background or Foreground."),
];

fn parameter(&(name, kind, description): &Parameter) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": true}})
}

fn path_parameter(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": description, "schema": {"type": "string", "uniqueItems": true}})
}

fn reference(definition: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{definition}")})
}

fn content(types: &[&str], schema: &Value) -> Value {
    Value::Object(types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect())
}

/// One operation; verbs are upstream's names of actions.
struct Operation<'a> {
    action: &'a str,
    gvk: &'a GroupVersionKind,
    id: String,
    parameters: Vec<Value>,
    body: Option<Value>,
    answer: Option<Value>,
}

impl Operation<'_> {
    fn json(self) -> Value {
        let GroupVersionKind { group, version, kind } = self.gvk;
        let tag = format!("{}_{version}", if group.is_empty() { "core" } else { short(group) });
        let mut operation = json!({
            "operationId": self.id,
            "tags": [tag],
            "responses": {"401": {"description": "Unauthorized"}},
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
        });
        if !self.parameters.is_empty() {
            operation["parameters"] = Value::Array(self.parameters);
        }
        if let Some(body) = self.body {
            operation["requestBody"] = json!({"content": body});
        }
        operation["responses"]["200"] = match self.answer {
            Some(answer) => json!({"description": "OK", "content": answer}),
            None => json!({"description": "OK"}),
        };
        operation
    }
}

fn short(group: &str) -> &str {
    group.strip_suffix(".k8s.io").unwrap_or(group)
}

/// `apps` → `Apps`, `rbac.authorization` → `RbacAuthorization`, as operation ids have it.
fn title(group: &str) -> String {
    let group = if group.is_empty() { "core" } else { short(group) };
    group.split('.').map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|c| c.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

/// The name of a built-in kind's definition.
pub fn model_name_of(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    super::type_of(group, version, kind).map(|t| t.name)
}

/// The name of a custom kind's definition. Source: apiextensions-apiserver `pkg/controller/openapi/builder` `gvkToModelName`.
pub fn model_name(group: &str, version: &str, kind: &str) -> String {
    let group: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", group.join("."))
}

/// The name of the definition of a kind, or of what a subresource of it exchanges.
fn definition(of: &Kind, gvk: &GroupVersionKind) -> Option<Cow<'static, str>> {
    if of.extension.is_some() && gvk.group == of.group {
        return Some(model_name(&gvk.group, &gvk.version, &gvk.kind).into());
    }
    model_name_of(&gvk.group, &gvk.version, &gvk.kind).map(Cow::Borrowed)
}

/// The paths of custom kinds, which come with the names of their lists.
pub fn custom(kinds: &[(&Kind, &str)], swagger_2: bool) -> String {
    let mut paths = Paths { text: String::new(), swagger_2 };
    kinds.iter().for_each(|(kind, list_kind)| of_kind(kind, list_kind, &mut paths));
    paths.text
}

/// The paths of one group and version; `None` when it has no kinds.
pub fn v3(group: &str, version: &str) -> Option<String> {
    text(&[(group, version)], false)
}

/// The paths of several groups and versions, in the form of Swagger 2.0.
pub fn v2(group_versions: &[(&str, &str)]) -> Option<String> {
    text(group_versions, true)
}

fn text(group_versions: &[(&str, &str)], swagger_2: bool) -> Option<String> {
    let mut paths = Paths { text: String::new(), swagger_2 };
    for (group, version) in group_versions {
        of_group_version(group, version, &mut paths);
    }
    Some(paths.text).filter(|text| !text.is_empty())
}

fn of_group_version(group: &str, version: &str, paths: &mut Paths) {
    let kinds: Vec<&Kind> = BUILT_IN.iter().filter(|k| k.group == group && k.version == version).collect();
    if kinds.is_empty() {
        return;
    }
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let resources = json!({"get": {
        "operationId": format!("get{}{}APIResources", title(group), capital(version)),
        "responses": {"200": {"description": "OK", "content": content(&MEDIA, &reference(&format!("{META}.APIResourceList")))}},
    }});
    paths.insert(format!("{root}/"), resources);
    for kind in kinds {
        of_kind(kind, &format!("{}List", kind.kind), paths);
    }
}

fn of_kind(kind: &Kind, list_kind: &str, paths: &mut Paths) {
    let gvk = kind.gvk();
    let collection = kind.path(if kind.namespaced() { "{namespace}" } else { "" });
    let id = |verb: &str, suffix: &str| {
        let scope = if kind.namespaced() { "Namespaced" } else { "" };
        format!("{verb}{}{}{scope}{}{suffix}", title(&kind.group), capital(&kind.version), kind.kind)
    };
    let refer = |gvk: &GroupVersionKind| definition(kind, gvk).map(|name| reference(&name));
    let own = refer(&gvk);
    let list = refer(&GroupVersionKind { kind: list_kind.to_owned().into(), ..gvk.clone() });
    let status = reference(&format!("{META}.Status"));
    // Custom kinds have no protobuf.
    let own_media = if kind.extension.is_some() { 2 } else { MEDIA.len() };
    let media = &MEDIA[..own_media];
    let answer = |schema: &Option<Value>| schema.as_ref().map(|s| content(media, s));
    let parameters = |of: &[Parameter]| of.iter().map(parameter).collect::<Vec<_>>();
    let streams = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
    let list_types: Vec<&str> = MEDIA.into_iter().chain(streams).collect();
    let list_types = if kind.extension.is_some() { media } else { &list_types };

    let mut item = Map::new();
    let mut many = Map::new();
    for verb in kind.verbs.iter() {
        let (into, method, operation) = match verb {
            Verb::List => (
                &mut many,
                "get",
                Operation {
                    action: "list",
                    gvk: &gvk,
                    id: id("list", ""),
                    parameters: parameters(LIST),
                    body: None,
                    answer: list.as_ref().map(|s| content(list_types, s)),
                },
            ),
            Verb::Create => (
                &mut many,
                "post",
                Operation {
                    action: "post",
                    gvk: &gvk,
                    id: id("create", ""),
                    parameters: parameters(WRITE),
                    body: own.as_ref().map(|s| content(&["*/*"], s)),
                    answer: answer(&own),
                },
            ),
            Verb::DeleteCollection => (
                &mut many,
                "delete",
                Operation {
                    action: "deletecollection",
                    gvk: &gvk,
                    id: id("deleteCollection", "")
                        .replacen("deleteCollection", "delete", 1)
                        .replace("Namespaced", "CollectionNamespaced"),
                    parameters: [parameters(DELETE), parameters(&LIST[1..9])].concat(),
                    body: Some(content(&["*/*"], &reference(&format!("{META}.DeleteOptions")))),
                    answer: Some(content(media, &status)),
                },
            ),
            Verb::Get => (
                &mut item,
                "get",
                Operation {
                    action: "get",
                    gvk: &gvk,
                    id: id("read", ""),
                    parameters: Vec::new(),
                    body: None,
                    answer: answer(&own),
                },
            ),
            Verb::Update => (
                &mut item,
                "put",
                Operation {
                    action: "put",
                    gvk: &gvk,
                    id: id("replace", ""),
                    parameters: parameters(WRITE),
                    body: own.as_ref().map(|s| content(&["*/*"], s)),
                    answer: answer(&own),
                },
            ),
            Verb::Patch => (
                &mut item,
                "patch",
                Operation {
                    action: "patch",
                    gvk: &gvk,
                    id: id("patch", ""),
                    parameters: [parameters(WRITE), parameters(&[FORCE])].concat(),
                    body: Some(content(patch_types(kind), &reference(&format!("{META}.Patch")))),
                    answer: answer(&own),
                },
            ),
            Verb::Delete => (
                &mut item,
                "delete",
                Operation {
                    action: "delete",
                    gvk: &gvk,
                    id: id("delete", ""),
                    parameters: parameters(DELETE),
                    body: Some(content(&["*/*"], &reference(&format!("{META}.DeleteOptions")))),
                    answer: Some(content(media, &status)),
                },
            ),
            Verb::Watch => continue, // a parameter of list
        };
        into.insert(method.into(), operation.json());
    }
    let mut shared = vec![parameter(&PRETTY)];
    if kind.namespaced() {
        shared.push(path_parameter("namespace", "The namespace of the object."));
        if kind.allows(Verb::List) {
            let across = Operation {
                action: "list",
                gvk: &gvk,
                id: id("list", "ForAllNamespaces").replacen("Namespaced", "", 1),
                parameters: parameters(LIST),
                body: None,
                answer: list.as_ref().map(|s| content(list_types, s)),
            };
            paths.insert(kind.path(""), json!({"get": across.json(), "parameters": [parameter(&PRETTY)]}));
        }
    }
    if !many.is_empty() {
        many.insert("parameters".into(), Value::Array(shared.clone()));
        paths.insert(collection.clone(), Value::Object(many));
    }
    shared.push(path_parameter("name", &format!("The name of the {}.", kind.kind)));
    if !item.is_empty() {
        item.insert("parameters".into(), Value::Array(shared.clone()));
        paths.insert(format!("{collection}/{{name}}"), Value::Object(item));
    }
    for sub in kind.subresources.iter() {
        let sub_gvk = sub.response.clone().unwrap_or_else(|| gvk.clone());
        // Options of connections are parameters, not bodies.
        let connects = sub_gvk.kind.ends_with("Options");
        let schema = refer(&sub_gvk).filter(|_| !connects && sub.name != "log");
        let suffix = capital(&sub.name);
        let mut item = Map::new();
        for verb in sub.verbs.iter() {
            let (method, action, name) = match verb {
                Verb::Get if connects => ("get", "connect", "connectGet"),
                Verb::Create if connects => ("post", "connect", "connectPost"),
                Verb::Update if connects => ("put", "connect", "connectPut"),
                Verb::Patch if connects => ("patch", "connect", "connectPatch"),
                Verb::Delete if connects => ("delete", "connect", "connectDelete"),
                Verb::Get => ("get", "get", "read"),
                Verb::Create => ("post", "post", "create"),
                Verb::Update => ("put", "put", "replace"),
                Verb::Patch => ("patch", "patch", "patch"),
                _ => continue,
            };
            let writes = !connects && *verb != Verb::Get;
            let body = match verb {
                Verb::Patch if !connects => Some(content(patch_types(kind), &reference(&format!("{META}.Patch")))),
                _ if writes => schema.as_ref().map(|s| content(&["*/*"], s)),
                _ => None,
            };
            let operation = Operation {
                action,
                gvk: &sub_gvk,
                id: id(name, &suffix),
                parameters: if writes { parameters(WRITE) } else { Vec::new() },
                body,
                answer: answer(&schema),
            };
            item.insert(method.into(), operation.json());
        }
        item.insert("parameters".into(), Value::Array(shared.clone()));
        paths.insert(format!("{collection}/{{name}}/{}", sub.name), Value::Object(item));
    }
}

/// The paths of the documents that describe discovery: `api`, `apis`, `apis/<group>`, `version`.
pub fn discovery(document: &str) -> String {
    let id: String = document.split(['/', '.']).map(capital).collect();
    let path = format!("/{document}/");
    let item = json!({"get": {"operationId": format!("get{id}"), "responses": {"200": {"description": "OK"}}}});
    let mut text = String::new();
    push_member(&mut text, &path, &item);
    text
}

/// A path item in the form of Swagger 2.0.
fn to_swagger_2(item: &mut Value) {
    for (method, operation) in item.as_object_mut().into_iter().flatten() {
        if method == "parameters" {
            flatten(operation);
            continue;
        }
        let Some(operation) = operation.as_object_mut() else { continue };
        if let Some(parameters) = operation.get_mut("parameters") {
            flatten(parameters);
        }
        if let Some(body) = operation.remove("requestBody") {
            let (consumes, schema) = types_and_schema(&body["content"]);
            operation.insert("consumes".into(), consumes);
            let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
            if let Value::Array(parameters) = parameters {
                parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
            }
        }
        let ok = operation.get_mut("responses").and_then(|r| r.get_mut("200")).and_then(Value::as_object_mut);
        let Some(ok) = ok else { continue };
        if let Some(content) = ok.remove("content") {
            let (produces, schema) = types_and_schema(&content);
            ok.insert("schema".into(), schema);
            operation.insert("produces".into(), produces);
        }
    }
    to_definitions(item);
}

/// The media types of a `content`, and the schema that they share.
fn types_and_schema(content: &Value) -> (Value, Value) {
    let entries = content.as_object().into_iter().flatten();
    let types: Vec<&String> = entries.clone().map(|(media, _)| media).collect();
    let schema = entries.map(|(_, entry)| entry["schema"].clone()).next();
    (json!(types), schema.unwrap_or_default())
}

/// Parameters carry their type themselves.
fn flatten(parameters: &mut Value) {
    for parameter in parameters.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(Value::Object(schema)) = parameter.remove("schema") {
            parameter.extend(schema);
        }
    }
}

fn to_definitions(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(target)) = object.get_mut("$ref") {
                *target = target.replace("#/components/schemas/", "#/definitions/");
            }
            object.values_mut().for_each(to_definitions);
        }
        Value::Array(items) => items.iter_mut().for_each(to_definitions),
        _ => {}
    }
}
