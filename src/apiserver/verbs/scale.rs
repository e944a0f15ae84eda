//! The scale subresource: a workload seen as a number of replicas.
//!
//! Source: `pkg/registry/apps/deployment/storage/storage.go` `ScaleREST`.

use std::borrow::Cow;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use types::registry::{Extension, GroupVersionKind, Kind, Scope, WriteClass};
use types::status::Status;

use super::ask::{Answer, Ask, Owners};
use super::object;
use super::update::{CONFLICT_RETRIES, Live, Unchanged, replace};
use crate::custom;
use crate::hooks;
use crate::hooks::autoscaling;
use crate::managed::{self, Given, Writer};

const SCALE: GroupVersionKind = GroupVersionKind::new("autoscaling", "v1", "Scale");

/// What patches and field checks want to know of a kind that has no path of its own.
pub static SCALE_KIND: Kind = Kind {
    group: Cow::Borrowed("autoscaling"),
    version: Cow::Borrowed("v1"),
    kind: Cow::Borrowed("Scale"),
    plural: Cow::Borrowed("scales"),
    singular: Cow::Borrowed("scale"),
    short_names: Cow::Borrowed(&[]),
    categories: Cow::Borrowed(&[]),
    scope: Scope::Namespaced,
    verbs: Cow::Borrowed(&[]),
    subresources: Cow::Borrowed(&[]),
    write_class: WriteClass::Durable,
    selectable_fields: Cow::Borrowed(&[]),
    storage_version_hash: Cow::Borrowed(""),
    stored: false,
    kept_as: None,
    extension: Extension::NONE,
};

pub async fn scale(ask: &mut Ask<'_>, method: &Method, body: &Bytes) -> Result<Answer, Status> {
    if matches!(*method, Method::GET | Method::HEAD) {
        let value = scale_of(ask.kind, &object::read(&ask.current().await?)?)?;
        return Ok(Answer::Object { code: 200, value });
    }
    let put = *method == Method::PUT;
    let dry_run = ask.dry_run(if put { "UpdateOptions" } else { "PatchOptions" })?;
    if !put && crate::patch::is_apply(ask.content_type()) {
        return apply(ask, body, dry_run).await;
    }
    if !put {
        super::patch::check_force(ask)?;
    }
    for _ in 0..=CONFLICT_RETRIES {
        let live = Live::open(ask.current().await?)?;
        let scale = if put {
            ask.decode(body, &SCALE)?
        } else {
            super::patch::patched(ask, &SCALE_KIND, &scale_of(ask.kind, &live.object)?, body)?
        };
        check(ask, &scale, true)?;
        let conditional = put && !object::meta(&scale, "resourceVersion").is_empty();
        let mut new = live.object.clone();
        apply_to(ask.kind, &mut new, &scale);
        match replace(ask, live, new, Owners::Track(Given::Nothing), dry_run).await {
            Ok(answer) => return seen(ask, answer).await,
            Err(Unchanged::Refused(status)) => return Err(status),
            Err(Unchanged::Raced) if conditional => break,
            Err(Unchanged::Raced) => {}
        }
    }
    Err(Status::conflict(ask.kind, ask.name, types::status::OBJECT_MODIFIED))
}

/// What admission is asked about when the subresource is this one: the Scale of the object, never the object itself.
pub fn exchanged(ask: &Ask<'_>, object: &Value) -> Result<Option<Value>, Status> {
    if ask.subresource == "scale" { scale_of(ask.kind, object).map(Some) } else { Ok(None) }
}

/// Writes what admission made of the Scale into the object.
///
/// # Errors
/// 422 when that is not valid.
pub fn take(ask: &Ask<'_>, object: &mut Value, scale: &Value) -> Result<(), Status> {
    check(ask, scale, true)?;
    apply_to(ask.kind, object, scale);
    Ok(())
}

/// The Scale of an object.
fn scale_of(kind: &Kind, object: &Value) -> Result<Value, Status> {
    match custom::of(kind) {
        Some(custom) => custom.scale_of(object),
        None => Ok(autoscaling::scale_of(object)),
    }
}

/// Writes the replicas of a valid Scale into the object.
fn apply_to(kind: &Kind, object: &mut Value, scale: &Value) {
    match custom::of(kind) {
        Some(custom) => custom.apply_scale(object, scale),
        None => autoscaling::apply(object, scale),
    }
}

/// Where the object has its replicas.
fn replicas_path(kind: &Kind) -> Vec<&str> {
    custom::of(kind).map_or_else(|| vec!["spec", "replicas"], custom::Custom::replicas_path)
}

/// The value at a path, made when it is absent.
fn at_path<'v>(object: &'v mut Value, path: &[&str]) -> &'v mut Value {
    path.iter().fold(object, |at, step| {
        if !at.is_object() {
            *at = json!({});
        }
        &mut at[*step]
    })
}

/// A Scale that was given is the URL's and valid. `nameless`: the name may be left out.
fn check(ask: &Ask<'_>, scale: &Value, nameless: bool) -> Result<(), Status> {
    let named = object::meta(scale, "name");
    if named != ask.name && !(nameless && named.is_empty()) {
        return Err(Status::bad_request(format!(
            "the name of the object ({named}) does not match the name on the URL ({})",
            ask.name
        )));
    }
    let hooks = hooks::named("autoscaling", "Scale").unwrap_or(&hooks::Hooks::NEUTRAL);
    let errors = (hooks.validate)(scale);
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&SCALE_KIND, ask.name, &errors)) }
}

/// The Scale of an answered workload.
async fn seen(ask: &Ask<'_>, answer: Answer) -> Result<Answer, Status> {
    let kind = ask.kind;
    Ok(match answer {
        Answer::Entry { code, entry } => {
            let entry = custom::present(&*ask.shared.store, kind, entry).await?;
            Answer::Object { code, value: scale_of(kind, &object::read(&entry)?)? }
        }
        Answer::Object { code, value } => Answer::Object { code, value: scale_of(kind, &value)? },
        other => other,
    })
}

/// An applied Scale owns the replicas of the workload through this subresource.
///
/// Source: apimachinery `pkg/util/managedfields/scalehandler.go`.
async fn apply(ask: &mut Ask<'_>, body: &Bytes, dry_run: bool) -> Result<Answer, Status> {
    let (config, force) = super::apply::configuration(ask, body)?;
    let manager = ask.manager();
    for _ in 0..=CONFLICT_RETRIES {
        let live = Live::open(ask.current().await?)?;
        let scale =
            managed::applied(None, &config, &Writer { kind: &SCALE_KIND, ..ask.writer(&manager) }, true)?.object;
        check(ask, &scale, false)?;
        // What the configuration says of the workload itself.
        let mut parent = json!({"apiVersion": ask.kind.gvk().api_version(), "kind": ask.kind.kind});
        let path = replicas_path(ask.kind);
        if let Some(replicas) = config["spec"].get("replicas") {
            *at_path(&mut parent, &path) = replicas.clone();
        }
        let applied = managed::applied(Some((&live.object, &live.managed)), &parent, &ask.writer(&manager), force)?;
        let mut new = live.object.clone();
        let mut made = applied.object;
        let replicas = json!({"metadata": {}, "spec": {"replicas": at_path(&mut made, &path).take()}});
        apply_to(ask.kind, &mut new, &replicas);
        match replace(ask, live, new, Owners::Known(applied.managed), dry_run).await {
            Ok(answer) => return seen(ask, answer).await,
            Err(Unchanged::Refused(status)) => return Err(status),
            Err(Unchanged::Raced) => {}
        }
    }
    Err(Status::conflict(ask.kind, ask.name, types::status::OBJECT_MODIFIED))
}
