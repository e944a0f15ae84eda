//! What a writer may not set through a path: the strategy puts it back, so that nobody comes to own it there.
//!
//! Source: `GetResetFields` and `GetResetFieldsFilter` in `pkg/registry/<group>/<kind>/strategy.go`.

use types::registry::Kind;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Fields of the object.
    pub root: &'static [&'static str],
    /// Fields of its metadata.
    pub metadata: &'static [&'static str],
    /// The only paths that may be set at all, in which `*` is any element; none: all.
    pub only: &'static [&'static [&'static str]],
}

pub const NOTHING: Reset = Reset { root: &[], metadata: &[], only: &[] };

const EPHEMERAL: &[&[&str]] = &[&["spec", "ephemeralContainers"]];
const RESIZE: &[&[&str]] = &[
    &["spec", "containers", "*", "resources"],
    &["spec", "containers", "*", "resizePolicy"],
    &["spec", "initContainers", "*", "resources"],
    &["spec", "initContainers", "*", "resizePolicy"],
];

pub fn of(kind: &Kind, subresource: &str) -> Reset {
    let has_status = kind.subresources.iter().any(|s| s.name == "status");
    match subresource {
        "status" => match &*kind.kind {
            "Pod" => Reset { root: &["spec"], metadata: &["deletionTimestamp", "ownerReferences"], ..NOTHING },
            "Deployment" => Reset { root: &["spec"], metadata: &["labels"], ..NOTHING },
            _ => Reset { root: &["spec"], ..NOTHING },
        },
        "ephemeralcontainers" => Reset { only: EPHEMERAL, ..NOTHING },
        "resize" => Reset { only: RESIZE, ..NOTHING },
        _ if has_status => Reset { root: &["status"], ..NOTHING },
        _ => NOTHING,
    }
}
