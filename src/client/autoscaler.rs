//! HorizontalPodAutoscaler, as far as clients need its type: what it says is read field by field.
//!
//! Source: `staging/src/k8s.io/api/autoscaling/v2/types.go`.

use k8s_openapi::NamespaceResourceScope;
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

impl k8s_openapi::Resource for Autoscaler {
    const API_VERSION: &'static str = "autoscaling/v2";
    const GROUP: &'static str = "autoscaling";
    const KIND: &'static str = "HorizontalPodAutoscaler";
    const VERSION: &'static str = "v2";
    const URL_PATH_SEGMENT: &'static str = "horizontalpodautoscalers";
    type Scope = NamespaceResourceScope;
}

impl k8s_openapi::Metadata for Autoscaler {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
