//! The entries of `metadata.managedFields`: read, told apart, capped, put in order and written.
//!
//! Source: apimachinery `pkg/util/managedfields/internal/{managedfields,capmanagers}.go`.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::set::{Set, Text};

/// Update entries of one object. Source: `DefaultMaxUpdateManagers`.
const UPDATE_MANAGERS_MAX: usize = 10;
/// Who owns what the oldest of too many managers owned.
const ANCIENT: &str = "ancient-changes";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    const fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Entry<'a> {
    pub manager: Cow<'a, str>,
    pub operation: Operation,
    pub api_version: Cow<'a, str>,
    pub subresource: Cow<'a, str>,
    pub time: Option<Cow<'a, str>>,
    pub fields: Set<'a>,
    /// The fields as they are stored, while they are as they were read.
    pub text: Option<&'a str>,
}

/// An entry as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(borrow, default)]
    manager: Option<Text<'a>>,
    #[serde(borrow, default)]
    operation: Option<Text<'a>>,
    #[serde(borrow, default)]
    api_version: Option<Text<'a>>,
    #[serde(borrow, default)]
    subresource: Option<Text<'a>>,
    #[serde(borrow, default)]
    time: Option<Text<'a>>,
    #[serde(borrow, default)]
    fields_type: Option<Text<'a>>,
    #[serde(borrow, default, rename = "fieldsV1")]
    fields: Option<&'a RawValue>,
}

/// Reads entries.
///
/// Errors: for a text that is none, an operation, version or type of fields that upstream does not take.
pub fn read(text: &str) -> Result<Vec<Entry<'_>>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let written: Vec<Written<'_>> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    written.into_iter().map(entry).collect()
}

fn entry(written: Written<'_>) -> Result<Entry<'_>, String> {
    let operation = match written.operation.as_ref().map(|t| &*t.0) {
        Some("Apply") => Operation::Apply,
        Some("Update") => Operation::Update,
        _ => return Err("operation must be `Apply` or `Update`".into()),
    };
    let api_version =
        written.api_version.map(|t| t.0).filter(|v| !v.is_empty()).ok_or("apiVersion must not be empty")?;
    match written.fields_type.as_ref().map(|t| &*t.0) {
        Some("FieldsV1") => {}
        other => return Err(format!("invalid fieldsType {:?} in managed fields entry", other.unwrap_or_default())),
    }
    let text = written.fields.map_or("{}", RawValue::get);
    let fields = serde_json::from_str(text).map_err(|e| e.to_string())?;
    Ok(Entry {
        manager: written.manager.map(|t| t.0).unwrap_or_default(),
        operation,
        api_version,
        subresource: written.subresource.map(|t| t.0).unwrap_or_default(),
        time: written.time.map(|t| t.0),
        fields,
        text: Some(text),
    })
}

impl Entry<'_> {
    /// Who it is: an applier has one entry whatever the version.
    pub fn is(&self, other: &Entry<'_>) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As conflicts name it.
    pub fn shown(&self) -> String {
        let mut shown = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            shown.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            shown.push_str(&format!(" using {}", self.api_version));
        }
        shown
    }
}

/// Folds the oldest managers into one for each version while there are too many that updated.
pub fn cap(entries: &mut Vec<Entry<'_>>) {
    let mut count = entries.iter().filter(|e| e.operation == Operation::Update).count();
    if count <= UPDATE_MANAGERS_MAX {
        return;
    }
    entries.sort_by(order);
    let mut first: Vec<usize> = Vec::new();
    let mut at = 0;
    while at < entries.len() && count > UPDATE_MANAGERS_MAX {
        if entries[at].operation != Operation::Update {
            at += 1;
            continue;
        }
        match first.iter().copied().find(|f| entries[*f].api_version == entries[at].api_version) {
            None => {
                first.push(at);
                at += 1;
            }
            Some(bucket) => {
                let merged = entries.remove(at);
                let into = &mut entries[bucket];
                into.manager = Cow::Borrowed(ANCIENT);
                into.subresource = Cow::Borrowed("");
                into.fields = std::mem::take(&mut into.fields).union(merged.fields);
                into.text = None;
                into.time = merged.time;
                count -= 1;
            }
        }
    }
}

fn order(a: &Entry<'_>, b: &Entry<'_>) -> Ordering {
    // Times are all written alike, so that their texts are in their order.
    (a.operation, &a.time, &a.manager, &a.api_version, &a.subresource).cmp(&(
        b.operation,
        &b.time,
        &b.manager,
        &b.api_version,
        &b.subresource,
    ))
}

/// Puts the entries in order and writes them; nothing for none.
pub fn write(mut entries: Vec<Entry<'_>>) -> Vec<u8> {
    if entries.is_empty() {
        return Vec::new();
    }
    entries.sort_by(order);
    let mut out = Vec::with_capacity(512);
    for (i, entry) in entries.iter().enumerate() {
        out.push(if i == 0 { b'[' } else { b',' });
        out.extend_from_slice(b"{\"apiVersion\":");
        string(&mut out, &entry.api_version);
        out.extend_from_slice(b",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":");
        match entry.text {
            Some(text) => out.extend_from_slice(text.as_bytes()),
            None => entry.fields.write(&mut out),
        }
        out.extend_from_slice(b",\"manager\":");
        string(&mut out, &entry.manager);
        out.extend_from_slice(b",\"operation\":");
        string(&mut out, entry.operation.as_str());
        if !entry.subresource.is_empty() {
            out.extend_from_slice(b",\"subresource\":");
            string(&mut out, &entry.subresource);
        }
        if let Some(time) = &entry.time {
            out.extend_from_slice(b",\"time\":");
            string(&mut out, time);
        }
        out.push(b'}');
    }
    out.push(b']');
    out
}

fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a text is written to memory");
}
