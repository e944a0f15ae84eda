//! One change seen in the versions of those who own fields in another one than the request's.
//!
//! Source: structured-merge-diff `merge/update.go` `update`, which converts for each version of a manager.

use serde_json::Value;

use super::Writer;
use super::compare::{Difference, compare};
use super::entries::Entry;
use super::shape::Shape;
use crate::{conversion, schema};

/// The difference in each of the other versions; empty for nearly every object.
pub struct Versions(Vec<(String, Difference<'static>)>);

impl Versions {
    pub fn of(entries: &[Entry<'_>], live: Option<&Value>, new: &Value, writer: &Writer<'_>) -> Self {
        let own = writer.kind.api_version();
        let mut found: Vec<(String, Difference<'static>)> = Vec::new();
        for entry in entries.iter().filter(|entry| entry.api_version != own) {
            if found.iter().any(|(version, _)| *version == entry.api_version) {
                continue;
            }
            let translated = |object: &Value| conversion::translate(writer.kind, object, &entry.api_version);
            let Some(new) = translated(new) else { continue };
            let live = live.and_then(translated);
            let (group, version) = entry.api_version.split_once('/').unwrap_or(("", &entry.api_version));
            let shape = schema::type_of(group, version, &writer.kind.kind).map_or(Shape::Any, Shape::Struct);
            let difference = compare(shape, live.as_ref(), &new, &writer.reset());
            let owned =
                Difference { changed: difference.changed.into_owned(), removed: difference.removed.into_owned() };
            found.push((entry.api_version.to_string(), owned));
        }
        Self(found)
    }

    /// The difference in the version of an entry, when it is another one than the request's.
    pub fn of_entry(&self, entry: &Entry<'_>) -> Option<&Difference<'static>> {
        self.0.iter().find(|(version, _)| *version == entry.api_version).map(|(_, difference)| difference)
    }
}
