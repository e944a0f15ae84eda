//! A request as another version of its kind shows it: for those whose rules name that version only.
//!
//! What never lives here: whether anybody wants that version; see [`super::matching`].
//!
//! Source: apiserver `pkg/admission/conversion.go`, `pkg/admission/plugin/webhook/generic/webhook.go` `ShouldCallHook`.

use std::borrow::Cow;

use serde_json::Value;
use store::Store;
use types::registry::{GroupVersionKind, KindRef};
use types::status::Status;

use super::Request;
use crate::codec::fields;
use crate::{conversion, custom, hooks};

/// The objects of a request in one of the versions of its kind.
pub struct Seen<'r> {
    /// The resource in that version.
    pub kind: KindRef,
    /// The kind of the objects: of a subresource, what is exchanged there.
    pub of: GroupVersionKind,
    pub object: Option<Cow<'r, Value>>,
    pub old: Option<Cow<'r, Value>>,
}

impl<'r> Seen<'r> {
    /// The request as `kind` shows it, which is one of its versions. Nothing is copied when the objects are in it already.
    ///
    /// # Errors
    /// 500 when the webhook that converts custom objects does not.
    pub async fn of(request: &'r Request<'_>, kind: &KindRef, store: &dyn Store) -> Result<Self, Status> {
        let (object, old) = (request.object.as_deref(), request.old);
        let mut seen = Self { kind: kind.clone(), of: request.kind_in(kind), object: None, old: None };
        if seen.of != kind.gvk() {
            // What subresources exchange has one version.
            (seen.object, seen.old) = (object.map(Cow::Borrowed), old.map(Cow::Borrowed));
        } else if custom::of(kind).is_some() && kind.version != request.served.version {
            let mut objects: Vec<Value> = object.into_iter().chain(old).cloned().collect();
            custom::in_version(store, kind, &mut objects).await?;
            let mut objects = objects.into_iter().map(Cow::Owned);
            seen.object = object.and_then(|_| objects.next());
            seen.old = old.and_then(|_| objects.next());
        } else {
            let shown = |object| conversion::shown(kind, object);
            (seen.object, seen.old) = (object.map(shown), old.map(shown));
        }
        Ok(seen)
    }

    /// The place of that view among those that there are, made when it is not there yet.
    ///
    /// # Errors
    /// As [`Seen::of`].
    pub async fn among(
        views: &mut Vec<Self>,
        request: &'r Request<'_>,
        kind: &KindRef,
        store: &dyn Store,
    ) -> Result<usize, Status> {
        if let Some(at) = views.iter().position(|view| view.kind.gvk() == kind.gvk()) {
            return Ok(at);
        }
        views.push(Self::of(request, kind, store).await?);
        Ok(views.len() - 1)
    }
}

/// An object that was changed in the version `kind`, as the request has its own: with the fields that its kind knows, and
/// defaults for what was left out.
///
/// # Errors
/// 500 for what is no object of the kind, and when the webhook that converts custom objects does not.
pub async fn taken_back(
    request: &Request<'_>,
    kind: &KindRef,
    mut object: Value,
    store: &dyn Store,
) -> Result<Value, Status> {
    let of = request.kind_in(kind);
    if of != kind.gvk() {
        fields::canonicalize(&of, &mut object, false).map_err(Status::internal)?;
        if let Some(hooks) = hooks::named(&of.group, &of.kind) {
            (hooks.default)(&mut object);
        }
        return Ok(object);
    }
    fields::canonicalize_kind(kind, &mut object, false).map_err(Status::internal)?;
    object = conversion::keep(kind, object);
    hooks::of(kind).default(&mut object)?;
    if custom::of(kind).is_some() && kind.version != request.served.version {
        custom::in_version(store, request.served, std::slice::from_mut(&mut object)).await?;
    }
    Ok(object)
}
