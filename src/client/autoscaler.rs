//! HorizontalPodAutoscaler, as far as clients need its type: what it says is read field by field.
//!
//! Source: `staging/src/k8s.io/api/autoscaling/v2/types.go`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Autoscaler {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    pub spec: Value,
    pub status: Value,
}

crate::kinds::kinds! {
    Autoscaler: "autoscaling" "v2" "HorizontalPodAutoscaler" "horizontalpodautoscalers" NamespaceResourceScope;
}
