//! What a writer may not set through a path: the strategy puts it back, so that nobody comes to own it there.
//!
//! Source: `GetResetFields` in `pkg/registry/<group>/<kind>/strategy.go`.

use types::registry::Kind;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Fields of the object.
    pub root: &'static [&'static str],
    /// Fields of its metadata.
    pub metadata: &'static [&'static str],
}

const NOTHING: Reset = Reset { root: &[], metadata: &[] };

pub fn of(kind: &Kind, subresource: &str) -> Reset {
    let has_status = kind.subresources.iter().any(|s| s.name == "status");
    match subresource {
        "status" => match &*kind.kind {
            "Pod" => Reset { root: &["spec"], metadata: &["deletionTimestamp", "ownerReferences"] },
            "Deployment" => Reset { root: &["spec"], metadata: &["labels"] },
            _ => Reset { root: &["spec"], metadata: &[] },
        },
        _ if has_status => Reset { root: &["status"], ..NOTHING },
        _ => NOTHING,
    }
}
