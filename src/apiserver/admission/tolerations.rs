//! Tolerations and taints that admission writes: how long pods outlive an unreachable node, what new nodes repel.
//! Source: `plugin/pkg/admission/{defaulttolerationseconds,nodetaint}`.

use serde_json::{Value, json};

use super::{Operation, Request};
use crate::hooks::json::{ensure_list, ensure_object, list, text};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Five minutes, upstream's default: long enough for a reboot.
const SECONDS: i64 = 300;

/// DefaultTolerationSeconds.
pub fn default_seconds(request: &mut Request) {
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return;
    }
    let Some(spec) = request.object.as_deref_mut().and_then(|o| o.get_mut("spec")) else { return };
    let tolerates = |key: &str| {
        list(spec, "tolerations").iter().any(|t| {
            matches!(text(t, "key"), k if k == key || k.is_empty()) && matches!(text(t, "effect"), "NoExecute" | "")
        })
    };
    let missing: Vec<_> = [NOT_READY, UNREACHABLE].into_iter().filter(|key| !tolerates(key)).collect();
    if missing.is_empty() {
        return;
    }
    if let Some(tolerations) = ensure_list(spec, "tolerations") {
        for key in missing {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
    }
}

/// TaintNodesByCondition: a node is not ready until its conditions say so.
pub fn taint_new_node(request: &mut Request) {
    if request.operation != Operation::Create {
        return;
    }
    let Some(node) = request.object.as_deref_mut() else { return };
    let Some(taints) = ensure_object(node, "spec").and_then(|spec| ensure_list(spec, "taints")) else { return };
    let tainted = |t: &Value| text(t, "key") == NOT_READY && text(t, "effect") == "NoSchedule";
    if !taints.iter().any(tainted) {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}
