//! Who set which field of an object: `metadata.managedFields` kept with every write, and server-side apply, which rests on it.
//! Pure: objects and entries in, entries (and for apply an object) out.
//!
//! ```text
//! create, update, patch   live, new ──► compare ──► the writer takes what changed, others lose it ──► entries
//! apply                   live, configuration ──► merge ──► prune what the applier dropped ──► compare
//!                                             ──► conflicts with other owners, or the new object and entries
//! ```
//!
//! Entries travel beside the object as the text in which they are stored ([`Managed`]): no write builds a value of them, and
//! those that do not change are copied as they are. They are worked out where upstream does it, after defaulting and before
//! the strategy and admission, so that what those set has no owner.
//!
//! Objects come in the version of the request. Entries of another version that the same objects are served in are compared in
//! that version; entries of versions that are not served are dropped.
//!
//! What never lives here: HTTP, the store, a rule of conversion.
//!
//! Source: KEP-555; apimachinery `pkg/util/managedfields`; sigs.k8s.io/structured-merge-diff.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use types::registry::Kind;

use crate::{custom, schema};

mod apply;
mod check;
mod compare;
mod entries;
mod merge;
mod reset;
mod set;
mod shape;
#[cfg(test)]
mod tests;
mod versions;

pub use apply::{Applied, applied, merged};
use compare::compare;
use entries::{Entry, Operation};
use reset::Reset;
use set::Set;
use shape::Shape;
use versions::Versions;

/// Bytes of a manager's name. Source: apimachinery `pkg/apis/meta/v1/validation` `FieldManagerMaxLength`.
pub const MANAGER_BYTES_MAX: usize = 128;
/// The manager of a writer who does not say who it is.
const UNKNOWN: &str = "unknown";
const FIELD: &str = "managedFields";

/// The `metadata.managedFields` of an object as they are stored, apart from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Managed(Bytes);

impl Managed {
    /// The JSON text of the entries, which has been read from a stored object.
    pub fn stored(text: Bytes) -> Self {
        if &*text == b"[]" || &*text == b"null" { Self::default() } else { Self(text) }
    }

    /// Nobody owns anything, or the object is not tracked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is stored: a list in JSON, or nothing.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Writes the entries into an object that is answered.
    pub fn put_into(&self, object: &mut Value) {
        if let (false, Some(metadata)) = (self.is_empty(), object.get_mut("metadata").and_then(Value::as_object_mut)) {
            metadata.insert(FIELD.into(), serde_json::from_slice(&self.0).unwrap_or(Value::Null));
        }
    }

    fn entries(&self) -> Vec<Entry<'_>> {
        entries::read(self.text()).unwrap_or_default()
    }

    /// Whether the entries differ in nothing but their times.
    pub fn same_but_times(&self, other: &Managed) -> bool {
        if self == other {
            return true;
        }
        let (ours, theirs) = (self.entries(), other.entries());
        ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| a.is(b) && a.fields == b.fields)
    }
}

/// What a request says about the entries itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// Nothing, or nothing that can be read: the live ones count.
    Nothing,
    /// A list without entries, or with an empty one: the object is not tracked any more.
    Reset,
    Entries(Managed),
}

impl Given {
    /// Takes the entries out of a request's object.
    pub fn take(object: &mut Value) -> Self {
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
        let Some(Value::Array(list)) = metadata.and_then(|m| m.remove(FIELD)) else { return Given::Nothing };
        match list.as_slice() {
            [] => return Given::Reset,
            [Value::Object(one)] if one.is_empty() => return Given::Reset,
            _ => {}
        }
        let text = Value::Array(list).to_string();
        match canonical(&text) {
            Ok(written) if !written.is_empty() => Given::Entries(Managed(written.into())),
            _ => Given::Nothing,
        }
    }
}

/// Entries that somebody else wrote, as we write them.
fn canonical(text: &str) -> Result<Vec<u8>, String> {
    let mut read = entries::read(text)?;
    for entry in &mut read {
        entry.fields = std::mem::take(&mut entry.fields).canonical()?;
        entry.text = None;
    }
    Ok(entries::write(read))
}

/// Who writes, through which path.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    /// In the version of the request.
    pub kind: &'a Kind,
    pub subresource: &'a str,
    /// As [`manager`] has it.
    pub manager: &'a str,
    pub now: Timestamp,
}

impl Writer<'_> {
    fn reset(&self) -> Reset {
        reset::of(self.kind, self.subresource)
    }
    fn time(&self) -> Cow<'static, str> {
        types::time::rfc3339(self.now).into()
    }

    /// The writer's own entry, with nothing in it.
    fn entry(&self, operation: Operation) -> Entry<'_> {
        Entry {
            manager: Cow::Borrowed(if self.manager.is_empty() { UNKNOWN } else { self.manager }),
            operation,
            api_version: self.kind.gvk().api_version().into(),
            subresource: Cow::Borrowed(self.subresource),
            time: Some(self.time()),
            fields: Set::new(),
            text: None,
        }
    }
}

/// The manager that a request names, else the part of its user agent before the slash: printable, [`MANAGER_BYTES_MAX`] at
/// most. Source: apiserver `pkg/endpoints/handlers/create.go` `managerOrUserAgent`.
pub fn manager<'a>(named: Option<&'a str>, user_agent: &'a str) -> Cow<'a, str> {
    if let Some(named) = named.filter(|n| !n.is_empty()) {
        return Cow::Borrowed(named);
    }
    let prefix = user_agent.split('/').next().unwrap_or_default();
    if prefix.len() <= MANAGER_BYTES_MAX && prefix.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Cow::Borrowed(prefix);
    }
    let mut out = String::new();
    for c in prefix.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > MANAGER_BYTES_MAX {
            break;
        }
        out.push(c);
    }
    Cow::Owned(out)
}

/// The entries of a new object.
pub fn created(new: &Value, given: Given, writer: &Writer<'_>) -> Managed {
    match given {
        Given::Nothing | Given::Reset => {
            let changed = compare(Shape::of_kind(writer.kind), None, new, &writer.reset()).changed;
            if changed.is_empty() {
                return Managed::default();
            }
            let entry = Entry { fields: changed, ..writer.entry(Operation::Update) };
            Managed(entries::write(vec![entry]).into())
        }
        Given::Entries(entries) => track(entries, None, new, writer),
    }
}

/// The entries after a change of a live object: `new` is as the writer wants it, defaults filled in.
///
/// An object that is not tracked stays so until it is applied, as upstream has it.
pub fn updated(live: &Value, managed: &Managed, new: &Value, given: Given, writer: &Writer<'_>) -> Managed {
    let entries = match given {
        // What a subresource's object says of them does not count.
        Given::Entries(entries) if writer.subresource.is_empty() => entries,
        Given::Reset if writer.subresource.is_empty() => return Managed::default(),
        _ => managed.clone(),
    };
    if entries.is_empty() {
        return entries;
    }
    track(entries, Some(live), new, writer)
}

fn track(managed: Managed, live: Option<&Value>, new: &Value, writer: &Writer<'_>) -> Managed {
    let difference = compare(Shape::of_kind(writer.kind), live, new, &writer.reset());
    if difference.is_empty() {
        return managed;
    }
    let mut entries = managed.entries();
    let api_version = writer.kind.gvk().api_version();
    let versions = Versions::of(&entries, live, new, writer);
    let mut own = writer.entry(Operation::Update);
    let mut had = None;
    entries.retain_mut(|entry| {
        if entry.is(&own) {
            had = Some(std::mem::replace(entry, writer.entry(Operation::Update)));
            return false;
        }
        let difference = versions.of_entry(entry).unwrap_or(&difference);
        let lost = entry.fields.subtract(&difference.changed) | entry.fields.subtract(&difference.removed);
        if lost {
            entry.text = None;
        }
        !entry.fields.is_empty() && served(writer.kind, &entry.api_version, &api_version)
    });
    let takes = !difference.changed.is_empty();
    if let Some(mut had) = had {
        if had.fields.subtract(&difference.removed) {
            had.text = None;
        }
        if takes && had.fields.covers(&difference.changed) {
            own = Entry { time: own.time, ..had };
        } else if takes {
            own.fields = had.fields.union(difference.changed);
        } else {
            own = had;
        }
    } else {
        own.fields = difference.changed;
    }
    if !own.fields.is_empty() {
        entries.push(own);
    }
    entries::cap(&mut entries);
    Managed(entries::write(entries).into())
}

/// Whether entries of that version mean something to the kind.
fn served(kind: &Kind, api_version: &str, own: &str) -> bool {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if let Some(custom) = custom::of(kind) {
        return group == kind.group && custom.definition().serves(version);
    }
    api_version == own || schema::type_of(group, version, &kind.kind).is_some()
}
