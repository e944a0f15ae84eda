//! Devices: what drivers offer, what pods claim, what was allocated. Kinds of resource.k8s.io/v1.
//!
//! Fields that only drivers understand stay JSON. Who writes a claim patches it, so that nothing is lost that is not read here.
//!
//! Source: kubernetes resource/v1 `types.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use types::quantity::Quantity;

/// Keeps an allocated claim until it is given back. Source: resource/v1 `types.go` (`Finalizer`).
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Names the entry of the pod's list for which a claim was made. Source: there, `PodResourceClaimAnnotation`.
pub const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// Devices that one claim may get. Source: there, `AllocationResultsMaxSize`.
pub const RESULTS_MAX: usize = 32;
/// Alternatives of one request. Source: there, `FirstAvailableDeviceRequestMaxSize`.
pub const ALTERNATIVES_MAX: usize = 8;

fn is_false(b: &bool) -> bool {
    !b
}

/// A ResourceClaim.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    pub metadata: ObjectMeta,
    pub spec: ClaimSpec,
    pub status: ClaimStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimSpec {
    pub devices: Requests,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    pub requests: Vec<Request>,
    pub constraints: Vec<Constraint>,
    pub config: Vec<Configuration>,
}

/// Exactly one way, or the first of several that can be had.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    pub name: String,
    pub exactly: Option<Wanted>,
    pub first_available: Vec<Wanted>,
}

/// What is asked for. `name`: of an alternative.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Wanted {
    pub name: String,
    pub device_class_name: String,
    pub selectors: Vec<Selector>,
    pub allocation_mode: String,
    pub count: i64,
    pub admin_access: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    pub capacity: Amounts,
}

/// How much of a capacity.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Amounts {
    pub requests: BTreeMap<String, Quantity>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selector {
    pub cel: Option<Expression>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Expression {
    pub expression: String,
}

/// What the devices of some requests, or of all, must have in common, or not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Constraint {
    pub requests: Vec<String>,
    pub match_attribute: Option<String>,
    pub distinct_attribute: Option<String>,
}

/// For drivers. `source`: only of what was allocated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<String>,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub opaque: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub effect: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimStatus {
    pub allocation: Option<Allocation>,
    pub reserved_for: Vec<Consumer>,
    pub devices: Vec<DeviceStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Allocation {
    pub devices: Allocated,
    /// Where the claim can be used; `None`: everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<NodeSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation_timestamp: Option<Time>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Allocated {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<Picked>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<Configuration>,
}

/// A device that was allocated for a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Picked {
    /// `request`, or `request/alternative`.
    pub request: String,
    pub driver: String,
    pub pool: String,
    pub device: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_access: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub binding_conditions: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub binding_failure_conditions: Vec<String>,
    #[serde(rename = "shareID", skip_serializing_if = "Option::is_none")]
    pub share_id: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub consumed_capacity: BTreeMap<String, Quantity>,
}

/// Who uses a claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Consumer {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    pub resource: String,
    pub name: String,
    pub uid: String,
}

/// What a driver says of an allocated device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceStatus {
    pub driver: String,
    pub pool: String,
    pub device: String,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

/// A ResourceClaimTemplate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Template {
    pub metadata: ObjectMeta,
    pub spec: TemplateSpec,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateSpec {
    pub metadata: ObjectMeta,
    /// Of the claims, as it is.
    pub spec: Value,
}

/// A DeviceClass.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Class {
    pub metadata: ObjectMeta,
    pub spec: ClassSpec,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClassSpec {
    pub selectors: Vec<Selector>,
    pub config: Vec<Configuration>,
    pub extended_resource_name: Option<String>,
}

/// A ResourceSlice: some of the devices of a pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slice {
    pub metadata: ObjectMeta,
    pub spec: SliceSpec,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceSpec {
    pub driver: String,
    pub pool: Pool,
    pub node_name: Option<String>,
    pub node_selector: Option<NodeSelector>,
    pub all_nodes: bool,
    pub per_device_node_selection: bool,
    pub devices: Vec<Device>,
    pub shared_counters: Vec<Counters>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pool {
    pub name: String,
    pub generation: i64,
    pub resource_slice_count: i64,
}

/// A device that is offered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    pub name: String,
    pub attributes: BTreeMap<String, Attribute>,
    pub capacity: BTreeMap<String, Capacity>,
    pub consumes_counters: Vec<Counters>,
    pub node_name: Option<String>,
    pub node_selector: Option<NodeSelector>,
    pub all_nodes: bool,
    pub taints: Vec<Taint>,
    pub binds_to_node: bool,
    pub binding_conditions: Vec<String>,
    pub binding_failure_conditions: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub allow_multiple_allocations: bool,
}

/// A value; exactly one field is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attribute {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bool: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub int: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub string: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capacity {
    pub value: Quantity,
    pub request_policy: Option<RequestPolicy>,
}

/// How much of a capacity a request may take.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestPolicy {
    pub default: Option<Quantity>,
    pub valid_values: Vec<Quantity>,
    pub valid_range: Option<Range>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Range {
    pub min: Option<Quantity>,
    pub max: Option<Quantity>,
    pub step: Option<Quantity>,
}

/// A set of counters that devices share, or what a device takes of one (`counter_set`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counters {
    pub name: String,
    pub counter_set: String,
    pub counters: BTreeMap<String, Counter>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counter {
    pub value: Quantity,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
    pub time_added: Option<Time>,
}

crate::kinds::kinds! {
    Claim: "resource.k8s.io" "v1" "ResourceClaim" "resourceclaims" NamespaceResourceScope;
    Template: "resource.k8s.io" "v1" "ResourceClaimTemplate" "resourceclaimtemplates" NamespaceResourceScope;
    Class: "resource.k8s.io" "v1" "DeviceClass" "deviceclasses" ClusterResourceScope;
    Slice: "resource.k8s.io" "v1" "ResourceSlice" "resourceslices" ClusterResourceScope;
}
