//! Part of the build script: the OpenAPI definitions of k8s-openapi's types with the facts that they lack, compressed as one
//! (most groups share most of theirs), and which of them belong to each group and version.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::tables::Facts;

type Definitions = Map<String, Value>;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const REF: &str = "#/components/schemas/";

macro_rules! definitions_of {
    ($($ty:ty,)*) => {
        fn generate() -> Definitions {
            let mut generator = schemars::generate::SchemaSettings::openapi3().into_generator();
            $(let _ = generator.subschema_for::<$ty>();)*
            generator.take_definitions(true)
        }
    };
}

definitions_of! {
    k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicy,
    k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicyBinding,
    k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration,
    k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy,
    k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
    k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration,
    k8s_openapi::api::apps::v1::ControllerRevision,
    k8s_openapi::api::apps::v1::DaemonSet,
    k8s_openapi::api::apps::v1::Deployment,
    k8s_openapi::api::apps::v1::ReplicaSet,
    k8s_openapi::api::apps::v1::StatefulSet,
    k8s_openapi::api::authentication::v1::SelfSubjectReview,
    k8s_openapi::api::authentication::v1::TokenRequest,
    k8s_openapi::api::authentication::v1::TokenReview,
    k8s_openapi::api::authorization::v1::LocalSubjectAccessReview,
    k8s_openapi::api::authorization::v1::SelfSubjectAccessReview,
    k8s_openapi::api::authorization::v1::SelfSubjectRulesReview,
    k8s_openapi::api::authorization::v1::SubjectAccessReview,
    k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler,
    k8s_openapi::api::autoscaling::v1::Scale,
    k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler,
    k8s_openapi::api::batch::v1::CronJob,
    k8s_openapi::api::batch::v1::Job,
    k8s_openapi::api::certificates::v1::CertificateSigningRequest,
    k8s_openapi::api::coordination::v1::Lease,
    k8s_openapi::api::core::v1::Binding,
    k8s_openapi::api::core::v1::ComponentStatus,
    k8s_openapi::api::core::v1::ConfigMap,
    k8s_openapi::api::core::v1::Endpoints,
    k8s_openapi::api::core::v1::Event,
    k8s_openapi::api::core::v1::LimitRange,
    k8s_openapi::api::core::v1::Namespace,
    k8s_openapi::api::core::v1::Node,
    k8s_openapi::api::core::v1::PersistentVolume,
    k8s_openapi::api::core::v1::PersistentVolumeClaim,
    k8s_openapi::api::core::v1::Pod,
    k8s_openapi::api::core::v1::PodTemplate,
    k8s_openapi::api::core::v1::ReplicationController,
    k8s_openapi::api::core::v1::ResourceQuota,
    k8s_openapi::api::core::v1::Secret,
    k8s_openapi::api::core::v1::Service,
    k8s_openapi::api::core::v1::ServiceAccount,
    k8s_openapi::api::discovery::v1::EndpointSlice,
    k8s_openapi::api::events::v1::Event,
    k8s_openapi::api::flowcontrol::v1::FlowSchema,
    k8s_openapi::api::flowcontrol::v1::PriorityLevelConfiguration,
    k8s_openapi::api::networking::v1::Ingress,
    k8s_openapi::api::networking::v1::IngressClass,
    k8s_openapi::api::networking::v1::IPAddress,
    k8s_openapi::api::networking::v1::NetworkPolicy,
    k8s_openapi::api::networking::v1::ServiceCIDR,
    k8s_openapi::api::node::v1::RuntimeClass,
    k8s_openapi::api::policy::v1::Eviction,
    k8s_openapi::api::policy::v1::PodDisruptionBudget,
    k8s_openapi::api::rbac::v1::ClusterRole,
    k8s_openapi::api::rbac::v1::ClusterRoleBinding,
    k8s_openapi::api::rbac::v1::Role,
    k8s_openapi::api::rbac::v1::RoleBinding,
    k8s_openapi::api::resource::v1::DeviceClass,
    k8s_openapi::api::resource::v1::ResourceClaim,
    k8s_openapi::api::resource::v1::ResourceClaimTemplate,
    k8s_openapi::api::resource::v1::ResourceSlice,
    k8s_openapi::api::scheduling::v1::PriorityClass,
    k8s_openapi::api::storage::v1::CSIDriver,
    k8s_openapi::api::storage::v1::CSINode,
    k8s_openapi::api::storage::v1::CSIStorageCapacity,
    k8s_openapi::api::storage::v1::StorageClass,
    k8s_openapi::api::storage::v1::VolumeAttachment,
    k8s_openapi::api::storage::v1::VolumeAttributesClass,
    k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService,
    k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList,
    k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup,
    k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroupList,
    k8s_openapi::apimachinery::pkg::apis::meta::v1::APIVersions,
    k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions,
    k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta,
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Status,
}

/// Writes the compressed documents and `openapi.rs`, which lists them.
pub fn write(facts: &Facts, out: &Path) {
    let mut all = generate();
    let patch = json!({"description": "The body of a PATCH request: a patch of one of the types that the request names.", "type": "object"});
    all.insert(format!("{META}.Patch"), patch);
    let event = json!({
        "description": "One event of a watch.", "type": "object", "required": ["type", "object"],
        "properties": {
            "type": {"description": "ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.", "type": "string"},
            "object": {"description": "The object after the change; a Status for ERROR.", "type": "object"}
        }
    });
    all.insert(format!("{META}.WatchEvent"), event);
    all.extend(measures());
    add_lists(facts, &mut all);
    for (name, definition) in &mut all {
        annotate(facts, name, definition);
    }
    for ((group, version, kind), name) in &facts.kinds {
        if let Some(definition) = all.get_mut(name).and_then(Value::as_object_mut) {
            let kinds = definition.entry("x-kubernetes-group-version-kind").or_insert_with(|| json!([]));
            if let Value::Array(kinds) = kinds {
                kinds.push(json!({"group": group, "version": version, "kind": kind}));
            }
        }
    }
    let mut table = String::from("pub static COMPONENTS: &[Components] = &[\n");
    let group_versions: BTreeSet<(&String, &String)> = facts.kinds.keys().map(|(g, v, _)| (g, v)).collect();
    for (group, version) in group_versions {
        let own = facts.kinds.iter().filter(|((g, v, _), _)| g == group && v == version).map(|(_, name)| name.as_str());
        let shared =
            ["APIResourceList", "DeleteOptions", "Status", "WatchEvent", "Patch"].map(|n| format!("{META}.{n}"));
        let mut roots: Vec<&str> = own.chain(shared.iter().map(String::as_str)).collect();
        match group.as_str() {
            "" => roots.extend([
                "io.k8s.api.autoscaling.v1.Scale",
                "io.k8s.api.policy.v1.Eviction",
                "io.k8s.api.authentication.v1.TokenRequest",
            ]),
            "apps" => roots.push("io.k8s.api.autoscaling.v1.Scale"),
            _ => {}
        }
        let reached = closure(&all, &roots);
        let chosen: Vec<usize> =
            all.keys().enumerate().filter(|(_, name)| reached.contains(name.as_str())).map(|(i, _)| i).collect();
        let _ = writeln!(table, "Components {{ group: {group:?}, version: {version:?}, definitions: &{chosen:?} }},");
    }
    table.push_str("];\n");
    let length = compress(&Value::Object(all), &out.join("openapi.deflate"));
    let _ = writeln!(
        table,
        "/// Of the JSON text, in bytes.\nconst LENGTH: usize = {length};\nstatic DEFLATED: &[u8] = include_bytes!(concat!(env!(\"OUT_DIR\"), \"/openapi.deflate\"));"
    );
    std::fs::write(out.join("openapi.rs"), table).expect("OUT_DIR is writable");
}

/// The kinds of metrics.k8s.io, which k8s-openapi does not have.
fn measures() -> Definitions {
    let metrics = "io.k8s.metrics.pkg.apis.metrics.v1beta1";
    let text = |description: &str| json!({"description": description, "type": "string"});
    let quantity = json!({"$ref": format!("{REF}io.k8s.apimachinery.pkg.api.resource.Quantity")});
    let usage = json!({"description": "What was used: cpu as the rate over the window, memory as the working set.",
        "type": "object", "additionalProperties": quantity});
    let measured = |description: &str, what: &str, schema: Value| {
        let mut properties = json!({
            "apiVersion": text("The group and version of this object."), "kind": text("The kind of this object."),
            "metadata": {"description": "Name, namespace and labels of what was measured.",
                "allOf": [{"$ref": format!("{REF}{META}.ObjectMeta")}]},
            "timestamp": {"description": "When the window ended.", "type": "string", "format": "date-time"},
            "window": text("How long the window was.")
        });
        properties[what] = schema;
        json!({"description": description, "type": "object", "properties": properties})
    };
    let containers = json!({"description": "What each container that runs uses.", "type": "array",
        "items": {"$ref": format!("{REF}{metrics}.ContainerMetrics")}});
    let container = json!({"description": "What a container uses.", "type": "object",
        "properties": {"name": text("The container's name."), "usage": usage}});
    Definitions::from_iter([
        (format!("{metrics}.ContainerMetrics"), container),
        (format!("{metrics}.NodeMetrics"), measured("What a node uses.", "usage", usage.clone())),
        (format!("{metrics}.PodMetrics"), measured("What a pod uses.", "containers", containers)),
    ])
}

/// Length of the JSON text.
fn compress(value: &Value, path: &Path) -> usize {
    let text = serde_json::to_vec(value).expect("definitions are JSON");
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&text).expect("writing to memory succeeds");
    std::fs::write(path, encoder.finish().expect("writing to memory succeeds")).expect("OUT_DIR is writable");
    text.len()
}

/// Lists are one generic type in k8s-openapi, without schemas.
fn add_lists(facts: &Facts, all: &mut Definitions) {
    for ((_, _, kind), name) in &facts.kinds {
        let Some(element) = name.strip_suffix("List") else { continue };
        if !kind.ends_with("List") || !all.contains_key(element) {
            continue;
        }
        let element_kind = kind.trim_end_matches("List");
        let mut properties = Map::new();
        if let Some(Value::Object(own)) = all[element].get("properties") {
            for shared in ["apiVersion", "kind"] {
                properties.extend(own.get(shared).map(|schema| (shared.to_owned(), schema.clone())));
            }
        }
        properties.insert("items".into(), json!({
            "description": format!("The {element_kind} objects of the list."), "type": "array", "items": {"$ref": format!("{REF}{element}")}
        }));
        properties.insert(
            "metadata".into(),
            json!({
                "description": "Standard list metadata.", "allOf": [{"$ref": format!("{REF}{META}.ListMeta")}]
            }),
        );
        let list = json!({
            "description": format!("{kind} is a list of {element_kind} objects."),
            "type": "object", "required": ["items"], "properties": properties
        });
        all.insert(name.clone(), list);
    }
}

/// Adds what the facts know and the schema does not say.
fn annotate(facts: &Facts, name: &str, definition: &mut Value) {
    let Some(ty) = facts.types.get(name) else { return };
    if !ty.map_type.is_empty() {
        definition["x-kubernetes-map-type"] = json!(ty.map_type);
    }
    let fields = facts.flattened(name);
    let required: Vec<&str> = fields.values().filter(|f| f.flags.contains('r')).map(|f| f.name.as_str()).collect();
    if !required.is_empty() {
        definition["required"] = json!(required);
    }
    let Some(Value::Object(properties)) = definition.get_mut("properties") else { return };
    for (property, schema) in properties {
        let (Some(field), Some(schema)) = (fields.get(property), schema.as_object_mut()) else { continue };
        let mut put = |key: &str, value: Value| {
            schema.insert(key.to_owned(), value);
        };
        if field.shape.starts_with("[]") {
            let list_type = if field.list_type.is_empty() { "atomic" } else { &field.list_type };
            put("x-kubernetes-list-type", json!(list_type));
        }
        if !field.keys.is_empty() {
            put("x-kubernetes-list-map-keys", json!(field.keys));
        }
        if !field.map_type.is_empty() {
            put("x-kubernetes-map-type", json!(field.map_type));
        }
        if !field.strategy.is_empty() {
            put("x-kubernetes-patch-strategy", json!(field.strategy));
        }
        if !field.merge_key.is_empty() {
            put("x-kubernetes-patch-merge-key", json!(field.merge_key));
        }
        if let Ok(default) = serde_json::from_str::<Value>(&field.default) {
            put("default", default);
        }
        if !field.choices.is_empty() && field.shape == "string" {
            put("enum", json!(field.choices));
        }
        match field.shape.as_str() {
            "int32" => put("format", json!("int32")),
            "int64" => put("format", json!("int64")),
            _ => {}
        }
    }
}

fn closure<'a>(all: &'a Definitions, roots: &[&'a str]) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut todo: Vec<&str> = roots.to_vec();
    while let Some(name) = todo.pop() {
        if let Some((name, definition)) = all.get_key_value(name)
            && reached.insert(name.as_str())
        {
            references(definition, &mut todo);
        }
    }
    reached
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(target)) = object.get("$ref") {
                found.extend(target.strip_prefix(REF));
            }
            object.values().for_each(|v| references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}
