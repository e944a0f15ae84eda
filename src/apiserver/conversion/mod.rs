//! One set of objects in several versions: how a version that is served is made of the one that is kept, and back.
//!
//! ```text
//! write   decode, patch, apply (as served) ──► keep ──► default, admit, validate, store (as kept)
//! read    stored bytes (as kept) ──► serve ──► encode; the version that is kept is served from its bytes
//! ```
//!
//! Pure: a value in, a value out, nothing lost on the way there and back. Whether there is anything to do is known from the
//! kinds alone ([`Kind::kept_as`]), so that kinds with one version pay nothing. `managedFields` stay as they are: each
//! entry says in which version it speaks, and `managed` compares in that version.
//!
//! What never lives here: a webhook (which is no function), a default, a check. A kind of custom resources with the strategy
//! None needs no rule: its versions differ in their names only.
//!
//! Source: apimachinery `pkg/conversion`, `pkg/runtime/scheme.go` (the hub is the internal type there, the kept one here).

use std::borrow::Cow;

use serde_json::Value;
use store::Entry;
use types::registry::{BUILT_IN, GroupVersionKind, Kind, KindRef, by_kind};
use types::status::Status;

use crate::http::router;

mod autoscaler;
mod event;
#[cfg(test)]
mod tests;

/// The two ways between a served version and the kept one, but for `apiVersion` and `kind`.
struct Rule {
    /// From the served version to the kept one.
    keep: fn(&mut Value),
    /// From the kept version to the served one.
    serve: fn(&mut Value),
}

/// The versions have the same fields.
static SAME: Rule = Rule { keep: |_| {}, serve: |_| {} };

fn rule(served: &Kind) -> &'static Rule {
    match (&*served.group, &*served.version, &*served.kind) {
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => &autoscaler::V1,
        ("events.k8s.io", "v1", "Event") => &event::EVENTS,
        _ => &SAME,
    }
}

/// The kind as which objects of a served kind are kept: itself, for most.
pub fn keeper(served: &KindRef) -> KindRef {
    let kept = served.kept_as.as_ref().and_then(|kept| by_kind(&kept.group, &kept.version, &kept.kind));
    kept.map_or_else(|| served.clone(), KindRef::from)
}

/// The other built-in kinds as which the objects of a kind are served.
pub fn others(served: &Kind) -> Vec<KindRef> {
    let kept = |kind: &Kind| kind.kept_as.clone().unwrap_or_else(|| kind.gvk());
    let same = |kind: &&Kind| kind.plural == served.plural && kept(kind) == kept(served) && kind.gvk() != served.gvk();
    BUILT_IN.iter().filter(same).map(KindRef::from).collect()
}

fn name(object: &mut Value, kind: GroupVersionKind) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".into(), kind.api_version().into());
        fields.insert("kind".into(), kind.kind.as_ref().into());
    }
}

/// An object of the served kind as it is kept.
pub fn keep(served: &Kind, mut object: Value) -> Value {
    if let Some(kept) = &served.kept_as {
        (rule(served).keep)(&mut object);
        name(&mut object, kept.clone());
    }
    object
}

/// A kept object as the served kind shows it.
pub fn serve(served: &Kind, mut object: Value) -> Value {
    if served.kept_as.is_some() {
        (rule(served).serve)(&mut object);
        name(&mut object, served.gvk());
    }
    object
}

/// The same of an object that stays; it is not copied when there is nothing to do.
pub fn shown<'a>(served: &Kind, object: &'a Value) -> Cow<'a, Value> {
    if served.kept_as.is_none() { Cow::Borrowed(object) } else { Cow::Owned(serve(served, object.clone())) }
}

/// The text of a stored object as the served kind shows it: the very text for the version that is kept.
///
/// # Errors
/// 500 for a text that is none.
pub fn text<'a>(served: &Kind, stored: Cow<'a, [u8]>) -> Result<Cow<'a, [u8]>, Status> {
    if served.kept_as.is_none() {
        return Ok(stored);
    }
    let object = serde_json::from_slice(&stored).map_err(Status::internal)?;
    serde_json::to_vec(&serve(served, object)).map(Cow::Owned).map_err(Status::internal)
}

/// Stored entries with the texts that the served kind shows.
///
/// # Errors
/// 500 for an entry that cannot be read.
pub fn entries<'a>(served: &Kind, stored: &'a [Entry]) -> Result<Cow<'a, [Entry]>, Status> {
    if served.kept_as.is_none() {
        return Ok(Cow::Borrowed(stored));
    }
    let shown = stored.iter().map(|entry| Ok(entry.with_value(&text(served, Cow::Borrowed(entry.value()))?)));
    shown.collect::<Result<Vec<_>, Status>>().map(Cow::Owned)
}

/// An object of a served kind in another version that the same objects are served in; `None` when there is no such version.
pub fn translate(from: &Kind, object: &Value, api_version: &str) -> Option<Value> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let to = router::kind(group, version, &from.plural).filter(|to| to.store_prefix() == from.store_prefix())?;
    Some(serve(to, keep(from, object.clone())))
}
