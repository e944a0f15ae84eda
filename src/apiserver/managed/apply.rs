//! Server-side apply: a configuration onto a live object, by who owns what.
//!
//! Source: structured-merge-diff `merge/update.go`; apimachinery
//! `pkg/util/managedfields/internal/{structuredmerge,skipnonapplied,lastappliedmanager,lastappliedupdater,conflict}.go`.

use std::borrow::Cow;

use serde_json::Value;
use types::registry::{GroupVersionKind, Kind};
use types::status::{Cause, Reason, Status};

use super::compare::{UNOWNED, UNOWNED_METADATA, compare};
use super::entries::{self, Entry, Operation};
use super::merge::{fields, merge, remove, wholes, with_named};
use super::reset::{NOTHING, Reset};
use super::set::{Element, Set};
use super::shape::Shape;
use super::versions::Versions;
use super::{Managed, Writer, check, served};

/// The manager whose applies keep the annotation of client-side apply in step, and may take over what it says.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Who owns what was there before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// What an apply makes.
#[derive(Debug)]
pub struct Applied {
    pub object: Value,
    pub managed: Managed,
}

/// Applies `config` to the live object, or to nothing when there is none. Neither holds managed fields.
///
/// Errors: 400 for another version or managed fields in the configuration; 409 with a cause for each field that somebody
/// else owns and that would change, unless `force`; a status without a reason for a configuration that does not fit the
/// kind, as upstream answers.
pub fn applied(
    live: Option<(&Value, &Managed)>,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Applied, Status> {
    check_kind(config, writer.kind)?;
    let shape = Shape::of_kind(writer.kind);
    if let Some(problems) = check::problems(shape, config) {
        return Err(unfit(format!("failed to create typed patch object ({}): {problems}", shown(config))));
    }
    let empty = Value::Object(serde_json::Map::new());
    let (object, managed) = match live {
        None => (&empty, Managed::default()),
        Some((object, managed)) if managed.is_empty() => (object, before_first_apply(object, writer)),
        Some((object, managed)) => (object, managed.clone()),
    };
    let attempt = Attempt { live: live.map(|(object, _)| object), object, managed: &managed, config, shape, writer };
    let mut done = match attempt.run(force) {
        Ok(applied) => applied,
        Err(conflicts) => {
            // What client-side apply said and still holds is kubectl's own.
            let own = if writer.manager == KUBECTL { attempt.last_applied(object) } else { Set::new() };
            let left: Conflicts = conflicts
                .into_iter()
                .map(|(who, set)| (who, set.difference(&own)))
                .filter(|(_, s)| !s.is_empty())
                .collect();
            if !left.is_empty() {
                return Err(conflict(&left));
            }
            attempt.run(true).map_err(|left| conflict(&left))?
        }
    };
    if writer.manager == KUBECTL {
        keep_annotation(&mut done.object, config);
    }
    Ok(done)
}

/// The configuration merged into the live object without regard to who owns what: what a mutating policy does.
///
/// Errors: upstream's text for a configuration that does not fit the kind, or would replace what has one owner as a whole.
/// Source: apiserver `pkg/admission/plugin/policy/mutating/patch/smd.go`.
pub fn merged(kind: &GroupVersionKind, live: &Value, config: &Value) -> Result<Value, String> {
    let ty = crate::schema::type_of(&kind.group, &kind.version, &kind.kind);
    let shape = ty.map_or(Shape::Any, Shape::Struct);
    if let Some(problems) = check::problems(shape, config) {
        return Err(format!("failed to convert patch object to typed object: {problems}"));
    }
    let mut whole = Vec::new();
    wholes(shape, config, "", &mut whole);
    if !whole.is_empty() {
        let whole = whole.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {whole}"));
    }
    Ok(merge(shape, live, config))
}

fn check_kind(config: &Value, kind: &Kind) -> Result<(), Status> {
    let text = |key: &str| config[key].as_str().unwrap_or_default();
    if text("apiVersion") != kind.gvk().api_version() || text("kind") != kind.kind {
        return Err(Status::bad_request(format!("invalid object type: {}", gvk_text(config))));
    }
    if config["metadata"].get("managedFields").is_some_and(|m| !m.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
}

/// 500 without a reason, which is what upstream makes of a configuration that it cannot read.
fn unfit(why: String) -> Status {
    Status { reason: String::new(), ..Status::new(Reason::InternalError, why) }
}

fn shown(config: &Value) -> String {
    let text = |key: &str| config["metadata"][key].as_str().unwrap_or_default();
    format!("{}/{}; {}", text("namespace"), text("name"), gvk_text(config))
}

/// As Go prints a group, version and kind.
fn gvk_text(config: &Value) -> String {
    let api_version = config["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    format!("{group}/{version}, Kind={}", config["kind"].as_str().unwrap_or_default())
}

/// An object that was not tracked belongs to one manager as it is.
fn before_first_apply(object: &Value, writer: &Writer<'_>) -> Managed {
    let first = Writer { manager: BEFORE_FIRST_APPLY, ..*writer };
    super::created(object, super::Given::Nothing, &first)
}

type Conflicts = Vec<(String, Set<'static>)>;

struct Attempt<'a> {
    live: Option<&'a Value>,
    /// The live object, or an empty one.
    object: &'a Value,
    managed: &'a Managed,
    config: &'a Value,
    shape: Shape<'a>,
    writer: &'a Writer<'a>,
}

impl Attempt<'_> {
    fn run(&self, force: bool) -> Result<Applied, Conflicts> {
        let writer = self.writer;
        let reset = writer.reset();
        let api_version = writer.kind.gvk().api_version();
        let mut others = self.managed.entries();
        others.retain(|entry| served(writer.kind, &entry.api_version, &api_version));
        let mut own = writer.entry(Operation::Apply);
        let last = others.iter().position(|entry| entry.is(&own)).map(|at| others.remove(at));
        own.fields = without_reset(fields(self.shape, self.config), &reset);
        let mut new = merge(self.shape, self.object, self.config);
        if let Some(last) = last.as_ref().filter(|last| !last.fields.is_empty()) {
            new = self.prune(new, &last.fields, &others, &own.fields);
        }
        let difference = compare(self.shape, self.live, &new, &reset);
        let versions = Versions::of(&others, self.live, &new, writer);
        let mut conflicts: Conflicts = Vec::new();
        for entry in &mut others {
            let difference = versions.of_entry(entry).unwrap_or(&difference);
            let lost = entry.fields.intersection(&difference.changed);
            if !lost.is_empty() && !force {
                conflicts.push((entry.shown(), lost.into_owned()));
            }
            if entry.fields.subtract(&difference.changed) | entry.fields.subtract(&difference.removed) {
                entry.text = None;
            }
        }
        if !conflicts.is_empty() {
            conflicts.sort_by(|a, b| a.0.cmp(&b.0));
            return Err(conflicts);
        }
        others.retain(|entry| !entry.fields.is_empty());
        own.fields = without_unowned(std::mem::take(&mut own.fields));
        let same = difference.is_empty() && self.live.is_some();
        drop(difference);
        drop_nulls(&mut new);
        // An apply that changes neither the object nor what is owned is not seen in the times.
        if let Some(last) = last.filter(|last| same && last.fields == own.fields && last.api_version == own.api_version)
        {
            own.time = last.time;
        }
        if !own.fields.is_empty() {
            others.push(own);
        }
        Ok(Applied { object: new, managed: Managed(entries::write(others).into()) })
    }

    /// Takes out of `merged` what the applier owned, does not apply any more and nobody else owns.
    fn prune(&self, merged: Value, last: &Set<'_>, others: &[Entry<'_>], own: &Set<'_>) -> Value {
        let shape = self.shape;
        let last = with_named(shape, last);
        let pruned = remove(shape, &merged, &last);
        // Add back what is owned …
        let owned = others.iter().map(|e| e.fields.clone()).fold(own.clone(), Set::union);
        let merged_set = with_named(shape, &fields(shape, &merged));
        let kept = with_named(shape, &fields(shape, &pruned)).union(with_named(shape, &owned));
        let pruned = remove(shape, &merged, &merged_set.clone().difference(&kept));
        // … and what fell with it but had never been the applier's.
        let lost = merged_set.difference(&with_named(shape, &fields(shape, &pruned)));
        remove(shape, &merged, &lost.intersection(&last))
    }

    /// The fields that the annotation of client-side apply names and whose values are still so.
    fn last_applied(&self, live: &Value) -> Set<'static> {
        let text = live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or_default();
        let Ok(last @ Value::Object(_)) = serde_json::from_str::<Value>(text) else { return Set::new() };
        let difference = compare(self.shape, Some(&last), live, &NOTHING);
        fields(self.shape, &last).difference(&difference.changed).difference(&difference.removed).into_owned()
    }
}

/// `null` in a configuration, and what lost all that it held, is absent in the object.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => object.retain(|_, value| {
            drop_nulls(value);
            !value.is_null()
        }),
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn without_reset<'a>(mut set: Set<'a>, reset: &Reset) -> Set<'a> {
    let named = |node: &super::set::Node<'_>, names: &[&str]| names.contains(&&*node.element.text);
    set.0.retain_mut(|node| {
        if node.element.text == "metadata" {
            node.children.0.retain(|child| !named(child, reset.metadata));
        }
        !named(node, reset.root) && (node.member || !node.children.is_empty())
    });
    if !reset.only.is_empty() {
        set.retain_below(reset.only);
    }
    set
}

/// Without what nobody owns: the object's identity.
fn without_unowned(set: Set<'_>) -> Set<'_> {
    let members = |names: &[&'static str]| {
        let mut set = Set::new();
        names.iter().for_each(|name| set.push(Element::field(name), true, Set::new()));
        set.sort();
        set
    };
    let mut unowned = members(UNOWNED);
    unowned.push(Element::field("metadata"), true, members(UNOWNED_METADATA));
    set.difference(&unowned)
}

/// Writes what is applied into the annotation of client-side apply, where there is one.
fn keep_annotation(object: &mut Value, config: &Value) {
    let Some(annotations) = object["metadata"]["annotations"].as_object_mut() else { return };
    if annotations.get(LAST_APPLIED).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config["metadata"].get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    annotations.insert(LAST_APPLIED.into(), Value::String(format!("{config}\n")));
    let bytes: usize = annotations.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if bytes > types::names::ANNOTATIONS_MAX_BYTES {
        annotations.remove(LAST_APPLIED);
    }
}

/// Source: `internal/conflict.go` `NewConflictError`.
fn conflict(conflicts: &Conflicts) -> Status {
    let mut causes = Vec::new();
    for (who, set) in conflicts {
        set.paths(&mut |path| {
            causes.push(Cause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {who}"),
                field: path.to_owned(),
            });
        });
    }
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => {
            let mut lines: Vec<Cow<'_, str>> = Vec::new();
            let mut who = "";
            for cause in many {
                if cause.message != who {
                    who = &cause.message;
                    lines.push(format!("{}:", cause.message.replacen("conflict", "conflicts", 1)).into());
                }
                lines.push(format!("- {}", cause.field).into());
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let mut status = Status::new(Reason::Conflict, message);
    status.details.get_or_insert_default().causes = causes;
    status
}
