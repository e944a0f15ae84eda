//! Delete and deletecollection: preconditions, grace, finalizers.
//!
//! Source: apiserver `pkg/registry/rest/delete.go`, `pkg/registry/generic/registry/store.go`,
//! `pkg/registry/core/namespace/storage/storage.go`.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use store::{Entry, Expect, Op};
use types::registry::Kind;
use types::status::Status;

use super::allocates;
use super::ask::{Answer, Ask, Change, uid};
use super::object::{self, finalizers, meta, meta_mut};
use super::options::{DeleteOptions, Propagation, Selection, place};
use super::update::{CONFLICT_RETRIES, Unchanged};
use crate::admission::{self, Operation};
use crate::custom;
use crate::hooks::{self, Dependents};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// A longer grace is as good as this one, and its end is a time that can be written.
const GRACE_SECONDS_MAX: i64 = i32::MAX as i64;

pub async fn delete(ask: &mut Ask<'_>, body: &Bytes) -> Result<Answer, Status> {
    let options = DeleteOptions::parse(ask.content_type(), body, ask.query)?;
    delete_one(ask, &options).await
}

/// Deletes the object that the ask names, or begins to.
pub async fn delete_one(ask: &mut Ask<'_>, options: &DeleteOptions) -> Result<Answer, Status> {
    attempts(ask, options, true).await
}

/// The same without admission, which the caller has asked about the request as it came.
pub async fn delete_admitted(ask: &mut Ask<'_>, options: &DeleteOptions) -> Result<Answer, Status> {
    attempts(ask, options, false).await
}

async fn attempts(ask: &mut Ask<'_>, options: &DeleteOptions, admit: bool) -> Result<Answer, Status> {
    for _ in 0..=CONFLICT_RETRIES {
        let entry = ask.current().await?;
        let view = ask.view();
        let (old, managed) = object::open(&entry)?;
        check_preconditions(ask, options, &old)?;
        let change = Change {
            operation: Operation::Delete,
            name: ask.name,
            old: Some(&old),
            dry_run: options.dry_run,
            options: admission::Options::Delete(options),
        };
        if admit {
            ask.admit(change, None, &*view).await?;
        }
        let step = plan(ask.kind, &old, options, ask.now);
        let returns_object = hooks::of(ask.kind).delete_returns_object;
        let unfinished = if options.accepts { 202 } else { 200 };
        let result = match step {
            Step::Nothing => return Ok(Answer::Entry { code: unfinished, entry }),
            Step::Mark(mut marked) if options.dry_run => {
                managed.put_into(&mut marked);
                return Ok(Answer::Object { code: unfinished, value: marked });
            }
            Step::Remove if options.dry_run => {
                return Ok(if returns_object { Answer::Entry { code: 200, entry } } else { gone(ask, uid(&entry)) });
            }
            Step::Mark(marked) => {
                let value = ask.to_store(&marked, &managed).await?;
                let written = ask.write(entry.key().into(), Expect::At(entry.modified()), Op::Put(value)).await;
                match written {
                    Ok(entry) => Ok(Answer::Entry { code: unfinished, entry }),
                    Err(store::Error::Precondition { .. }) => Err(Unchanged::Raced),
                    Err(other) => Err(Unchanged::Refused(ask.store_error(&other))),
                }
            }
            Step::Remove => match remove(ask, &entry, &old).await {
                Ok(removed) if returns_object => Ok(Answer::Entry { code: 200, entry: removed }),
                Ok(removed) => Ok(gone(ask, uid(&removed))),
                Err(why) => Err(why),
            },
        };
        match result {
            Ok(answer) => return Ok(answer),
            Err(Unchanged::Refused(status)) => return Err(status),
            Err(Unchanged::Raced) => {}
        }
    }
    Err(Status::conflict(ask.kind, ask.name, types::status::OBJECT_MODIFIED))
}

/// Takes the entry out of the store, and what was allocated for it back.
pub async fn remove(ask: &Ask<'_>, entry: &Entry, object: &Value) -> Result<Entry, Unchanged> {
    let others =
        if allocates(ask.kind) { ask.shared.allocator.objects_of_deleted(object, &*ask.view()) } else { Vec::new() };
    let removed = ask.write_with(others, entry.key().into(), Expect::At(entry.modified()), Op::Delete).await;
    let removed = removed.map_err(|error| match error {
        store::Error::Precondition { current: None, key, .. } if *key == *entry.key() => {
            Unchanged::Refused(Status::not_found(ask.kind, place(entry.key()).1))
        }
        store::Error::Precondition { .. } => Unchanged::Raced,
        other => Unchanged::Refused(ask.store_error(&other)),
    })?;
    if allocates(ask.kind) {
        ask.shared.allocator.release(object);
    }
    Ok(removed)
}

/// The answer about an object that is gone.
fn gone(ask: &Ask<'_>, uid: &str) -> Answer {
    let mut status = Status::success().about(ask.kind, ask.name);
    status.details.get_or_insert_default().uid = uid.to_owned();
    Answer::Object { code: 200, value: serde_json::to_value(status).unwrap_or(Value::Null) }
}

pub fn check_preconditions(ask: &Ask<'_>, options: &DeleteOptions, old: &Value) -> Result<(), Status> {
    if let Some(wanted) = options.uid.as_deref().filter(|u| *u != meta(old, "uid")) {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({}). The object might have been \
             deleted and then recreated",
            meta(old, "uid")
        );
        return Err(Status::conflict(ask.kind, ask.name, &why));
    }
    if let Some(wanted) = options.resource_version.as_deref().filter(|v| *v != meta(old, "resourceVersion")) {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({}). The \
             object might have been modified",
            meta(old, "resourceVersion")
        );
        return Err(Status::conflict(ask.kind, ask.name, &why));
    }
    Ok(())
}

/// What a DELETE does to an object.
#[derive(Debug, PartialEq)]
enum Step {
    /// It is being deleted already and nothing about that changes.
    Nothing,
    /// It stays until its grace is over or its finalizers are gone.
    Mark(Value),
    Remove,
}

fn is_namespace(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.kind == "Namespace"
}

/// Whether nothing holds an object that is being deleted: no finalizer, no grace.
pub fn released(kind: &Kind, object: &Value) -> bool {
    let held = is_namespace(kind) && !hooks::core::namespace::finalized(object);
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    finalizers(object).is_empty() && !held && grace == 0
}

/// Pure: the object as it is and what is asked, to what is done.
fn plan(kind: &Kind, old: &Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let hooks = hooks::of(kind);
    let mut new = old.clone();
    match propagation(hooks.dependents, old, options) {
        None => {}
        Some(policy) => {
            let mut list = finalizers(old);
            list.retain(|f| f != FOREGROUND && f != ORPHAN);
            match policy {
                Propagation::Foreground => list.push(FOREGROUND.into()),
                Propagation::Orphan => list.push(ORPHAN.into()),
                Propagation::Background => {}
            }
            if list.is_empty() {
                meta_mut(&mut new).remove("finalizers");
            } else {
                meta_mut(&mut new).insert("finalizers".into(), json!(list));
            }
        }
    }
    if object::is_deleting(old) {
        let before = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
        let shorter = match (hooks.grace_seconds, before, options.grace_period_seconds) {
            (Some(grace), Some(before), Some(_)) => {
                Some(grace(old, options.grace_period_seconds).min(GRACE_SECONDS_MAX))
                    .filter(|seconds| *seconds < before)
                    .map(|s| (s, before))
            }
            _ => None,
        };
        if let Some((seconds, before)) = shorter {
            // A later DELETE may only shorten what is left.
            let deadline = meta(old, "deletionTimestamp").parse::<Timestamp>().unwrap_or(now);
            let deadline = deadline.saturating_sub(SignedDuration::from_secs(before - seconds)).unwrap_or(now);
            mark(&mut new, deadline, seconds);
        }
        return if released(kind, &new) {
            Step::Remove
        } else if new == *old {
            Step::Nothing
        } else {
            Step::Mark(new)
        };
    }
    let seconds =
        hooks.grace_seconds.map_or(0, |grace| grace(old, options.grace_period_seconds)).min(GRACE_SECONDS_MAX);
    let deadline = now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
    mark(&mut new, deadline, seconds);
    if kind.group == custom::GROUP && kind.kind == "CustomResourceDefinition" {
        hooks::apiextensions::begin_deletion(&mut new, now);
    }
    if released(kind, &new) {
        return Step::Remove;
    }
    if is_namespace(kind) {
        hooks::core::namespace::begin_deletion(&mut new);
    }
    let metadata = meta_mut(&mut new);
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|g| *g > 0) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
    Step::Mark(new)
}

/// What becomes of the dependents: what the request says, else what a finalizer says already (`None`), else the kind's rule.
///
/// Source: store.go `shouldOrphanDependents`, `shouldDeleteDependents`.
fn propagation(rule: Dependents, old: &Value, options: &DeleteOptions) -> Option<Propagation> {
    match (rule, options.propagation) {
        (Dependents::Unsupported, _) => None,
        (_, Some(policy)) => Some(policy),
        (Dependents::Collected, None) => None,
        (Dependents::Orphaned, None) => {
            let said = finalizers(old).iter().any(|f| f == FOREGROUND || f == ORPHAN);
            (!said).then_some(Propagation::Orphan)
        }
    }
}

fn mark(object: &mut Value, deadline: Timestamp, seconds: i64) {
    let metadata = meta_mut(object);
    metadata.insert("deletionTimestamp".into(), types::time::rfc3339(deadline).into());
    metadata.insert("deletionGracePeriodSeconds".into(), seconds.into());
}

/// Deletes every object that the query selects, one by one; objects that go meanwhile do not matter.
pub async fn delete_collection(ask: &mut Ask<'_>, body: &Bytes) -> Result<Answer, Status> {
    let options = DeleteOptions::parse(ask.content_type(), body, ask.query)?;
    let selection = Selection::parse(ask.served, ask.query)?;
    let (prefix, told) = (super::read::prefix(ask), selection.of_any_version());
    let view = ask.view();
    let mut chosen: Vec<Entry> = view.range(&prefix, None).filter(|e| told.matches(e)).cloned().collect();
    if selection.reads_objects() {
        chosen = super::read::select(ask, &selection, chosen, None).await?.0;
    }
    for entry in &chosen {
        let (namespace, name) = place(entry.key());
        let mut one = Ask { namespace, name, warnings: Vec::new(), annotations: ask.no_annotations(), ..*ask };
        let deleted = delete_one(&mut one, &options).await;
        let said = one.annotations;
        ask.annotations.append(said);
        match deleted {
            Err(status) if !status.is(types::status::Reason::NotFound) => return Err(status),
            _ => {}
        }
    }
    // What was deleted, as a list, as upstream answers.
    let chosen = custom::present_all(&*ask.shared.store, ask.kind, chosen).await?;
    Ok(Answer::Response(super::read::respond_list(ask, &chosen, view.revision().0, None, None)?))
}

#[cfg(test)]
mod tests {
    use types::registry::by_kind;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn who_says_what_becomes_of_dependents() {
        let plain = json!({"metadata": {}});
        let foreground = json!({"metadata": {"finalizers": [FOREGROUND]}});
        let asked = |propagation| DeleteOptions { propagation, ..DeleteOptions::default() };
        let (background, orphan) = (Some(Propagation::Background), Some(Propagation::Orphan));
        for (rule, old, options, expected) in [
            (Dependents::Collected, &plain, asked(None), None),
            (Dependents::Collected, &plain, asked(orphan), orphan),
            (Dependents::Orphaned, &plain, asked(None), orphan),
            (Dependents::Orphaned, &plain, asked(background), background),
            (Dependents::Orphaned, &foreground, asked(None), None),
            (Dependents::Unsupported, &plain, asked(orphan), None),
        ] {
            assert_eq!(propagation(rule, old, &options), expected, "{rule:?} {old} {options:?}");
        }
    }

    #[test]
    fn steps() {
        let config_map = by_kind("", "v1", "ConfigMap").unwrap();
        let namespace = by_kind("", "v1", "Namespace").unwrap();
        let pod = by_kind("", "v1", "Pod").unwrap();
        let none = DeleteOptions::default();
        let with = |propagation| DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        let grace = |n| DeleteOptions { grace_period_seconds: Some(n), ..DeleteOptions::default() };
        let plain = json!({"metadata": {"name": "a", "generation": 1}});
        assert_eq!(plan(config_map, &plain, &none, now()), Step::Remove);
        let Step::Mark(marked) = plan(config_map, &plain, &with(Propagation::Foreground), now()) else { panic!() };
        assert_eq!(marked["metadata"]["finalizers"], json!([FOREGROUND]));
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
        assert_eq!(marked["metadata"]["generation"], 2);
        assert_eq!(plan(config_map, &marked, &none, now()), Step::Nothing);
        assert_eq!(plan(config_map, &marked, &with(Propagation::Background), now()), Step::Remove);
        let held =
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let Step::Mark(marked) = plan(namespace, &held, &none, now()) else { panic!() };
        assert_eq!(marked["status"]["phase"], "Terminating");

        let job = by_kind("batch", "v1", "Job").unwrap();
        let Step::Mark(orphaning) = plan(job, &plain, &none, now()) else { panic!() };
        assert_eq!(orphaning["metadata"]["finalizers"], json!([ORPHAN]));
        assert_eq!(plan(job, &plain, &with(Propagation::Background), now()), Step::Remove);
        let event = by_kind("", "v1", "Event").unwrap();
        assert_eq!(plan(event, &plain, &with(Propagation::Foreground), now()), Step::Remove);

        let running = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30},
            "status": {"phase": "Running"}});
        let Step::Mark(marked) = plan(pod, &running, &none, now()) else { panic!() };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
        assert_eq!(plan(pod, &marked, &none, now()), Step::Nothing);
        assert_eq!(plan(pod, &marked, &grace(60), now()), Step::Nothing);
        let Step::Mark(shorter) = plan(pod, &marked, &grace(10), now()) else { panic!() };
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:10Z");
        assert_eq!(plan(pod, &marked, &grace(0), now()), Step::Remove);
        let unbound = json!({"metadata": {"name": "p"}, "spec": {"terminationGracePeriodSeconds": 30}});
        assert_eq!(plan(pod, &unbound, &none, now()), Step::Remove);
    }
}
