//! One event of a watch as it goes over the wire, made once for all watchers that want it in the same form.
//!
//! What never lives here: a stream, a selector, the store's feed.
//!
//! Source: apiserver `pkg/endpoints/handlers/response.go` `watchEncoder`, `pkg/storage/cacher` caching objects.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use store::Revision;
use types::registry::{GroupVersionKind, KindRef};
use types::status::Status;

use crate::codec::tape::Tape;
use crate::codec::{Accepted, As, Media, protobuf};
use crate::http::respond;
use crate::printers::{self, IncludeObject, Table};

/// Frames that are kept for the other watchers of the same event, which ask for it within milliseconds: one for each form
/// of the newest few events. A larger frame is made anew, so that all of them together hold 4 MiB at most.
const FRAMES_KEPT: usize = 64;
const FRAME_KEPT_BYTES_MAX: usize = 64 * 1024;

/// Which bytes a frame is: there is one event of a type at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    revision: Revision,
    event: &'static str,
    form: u64,
}

/// The frames of the newest events, shared by all watches of a server.
pub struct Frames {
    // One lock for each place: watchers of different events do not meet.
    kept: [Mutex<Option<(Key, Bytes)>>; FRAMES_KEPT],
}

impl Default for Frames {
    fn default() -> Self {
        Self { kept: std::array::from_fn(|_| Mutex::new(None)) }
    }
}

impl Frames {
    /// The frame of that key, made when nobody has wanted it lately. Whoever else wants it meanwhile waits.
    fn of(&self, key: Key, make: impl FnOnce() -> Result<Bytes, Status>) -> Result<Bytes, Status> {
        let place = (key.revision.0 ^ key.form) % FRAMES_KEPT as u64;
        let mut kept = self.kept[place as usize].lock();
        if let Some((_, frame)) = kept.as_ref().filter(|(of, _)| *of == key) {
            return Ok(frame.clone());
        }
        let frame = make()?;
        if frame.len() <= FRAME_KEPT_BYTES_MAX {
            *kept = Some((key, frame.clone()));
        }
        Ok(frame)
    }
}

/// In what form a watcher wants events.
pub struct Form {
    kind: KindRef,
    accepted: Accepted,
    include: IncludeObject,
    hash: u64,
}

impl Form {
    pub fn new(kind: &KindRef, accepted: Accepted, include: IncludeObject) -> Self {
        let mut hasher = DefaultHasher::new();
        (&kind.group, &kind.version, &kind.kind, kind.extension.id()).hash(&mut hasher);
        (accepted.media as u8, accepted.as_ as u8, include as u8).hash(&mut hasher);
        Self { kind: kind.clone(), accepted, include, hash: hasher.finish() }
    }

    fn is_table(&self) -> bool {
        matches!(self.accepted.as_, As::TableV1 | As::TableV1beta1)
    }

    /// The frame of an object as it became at a revision, shared with whoever wants the same.
    pub fn shared(&self, frames: &Frames, event: &Event<'_>) -> Result<Bytes, Status> {
        let mut form = self.hash;
        if self.is_table() {
            // Cells tell ages, and the first event of a watch its columns.
            let mut hasher = DefaultHasher::new();
            (form, event.now.as_second(), event.columns).hash(&mut hasher);
            form = hasher.finish();
        }
        let key = Key { revision: event.revision, event: event.name, form };
        frames.of(key, || self.frame(event).map(Bytes::from))
    }

    /// The frame of an object.
    pub fn frame(&self, event: &Event<'_>) -> Result<Vec<u8>, Status> {
        let text = event.text;
        let mut tape = Tape::default();
        match (self.accepted.as_, self.accepted.media) {
            (As::TableV1 | As::TableV1beta1, _) => {
                let mut table = self.table(self.include, event.now);
                table.push(text).map_err(Status::internal)?;
                let metadata = json!({"resourceVersion": event.revision.to_string()});
                Ok(json_frame(event.name, &table.finish(&metadata, event.columns).concat()))
            }
            (As::Object, Media::Protobuf) => {
                protobuf::Transcoder::default().watch_event(event.name, &self.kind.gvk(), text)
            }
            (As::Object, _) => Ok(json_frame(event.name, text)),
            (_, Media::Protobuf) => {
                protobuf::Transcoder::default().watch_event(event.name, &respond::PARTIAL_GVK, text)
            }
            (_, _) => {
                let mut partial = Vec::with_capacity(text.len() / 2);
                printers::partial(&mut partial, "v1", tape.read(text).map_err(Status::internal)?);
                Ok(json_frame(event.name, &partial))
            }
        }
    }

    /// A bookmark; the one that ends the initial events says so.
    pub fn bookmark(
        &self,
        revision: Revision,
        initial_end: bool,
        columns: bool,
        now: Timestamp,
    ) -> Result<Vec<u8>, Status> {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let object = json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata});
        let text = object.to_string();
        if self.is_table() {
            let mut table = self.table(IncludeObject::Metadata, now);
            if initial_end {
                table.push(text.as_bytes()).map_err(Status::internal)?;
            }
            let metadata = json!({"resourceVersion": revision.to_string()});
            return Ok(json_frame(BOOKMARK, &table.finish(&metadata, columns).concat()));
        }
        self.frame(&Event { name: BOOKMARK, revision, text: text.as_bytes(), columns, now })
    }

    /// What went wrong, after which the stream ends.
    pub fn error(&self, status: &Status) -> Result<Vec<u8>, Status> {
        const STATUS_GVK: GroupVersionKind = GroupVersionKind::new("", "v1", "Status");
        let text = serde_json::to_vec(status).map_err(Status::internal)?;
        match self.accepted.media {
            Media::Protobuf => protobuf::Transcoder::default().watch_event("ERROR", &STATUS_GVK, &text),
            Media::Json | Media::Yaml => Ok(json_frame("ERROR", &text)),
        }
    }

    fn table(&self, include: IncludeObject, now: Timestamp) -> Table<'_> {
        Table::new(&self.kind, respond::table_version(self.accepted.as_), include, now)
    }
}

const BOOKMARK: &str = "BOOKMARK";
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What happened to an object.
pub struct Event<'a> {
    /// `ADDED`, `MODIFIED`, `DELETED`.
    pub name: &'static str,
    pub revision: Revision,
    /// The object's JSON.
    pub text: &'a [u8],
    /// A Table's first event of a watch says what its columns are.
    pub columns: bool,
    pub now: Timestamp,
}

fn json_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let (before, between, after) = (b"{\"type\":\"", b"\",\"object\":", b"}\n");
    let length = before.len() + event.len() + between.len() + object.len() + after.len();
    let mut out = Vec::with_capacity(length);
    for part in [&before[..], event.as_bytes(), between, object, after] {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use types::registry::by_kind;

    use super::*;

    fn object_of(frame: &[u8]) -> Value {
        serde_json::from_slice::<Value>(frame).unwrap()["object"].take()
    }

    fn form(as_: As) -> Form {
        let accepted = Accepted { as_, ..Accepted::JSON };
        Form::new(&by_kind("", "v1", "ConfigMap").unwrap().into(), accepted, IncludeObject::Metadata)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_frame_is_made_once_for_a_form() {
        let frames = Frames::default();
        let text = |n: u32| {
            format!(r#"{{"metadata":{{"name":"a","creationTimestamp":"1970-01-01T00:00:00Z"}},"data":{{"n":"{n}"}}}}"#)
        };
        // The texts differ, so that it shows which of them a frame was made from.
        let get = |as_: As, revision: u64, name: &'static str, n: u32, second: i64| {
            let text = text(n);
            let event =
                Event { name, revision: Revision(revision), text: text.as_bytes(), columns: false, now: at(second) };
            object_of(&form(as_).shared(&frames, &event).unwrap())
        };
        assert_eq!(get(As::Object, 1, "ADDED", 1, 0)["data"]["n"], "1");
        assert_eq!(get(As::Object, 1, "ADDED", 2, 9)["data"]["n"], "1");
        assert_eq!(get(As::Object, 1, "MODIFIED", 3, 0)["data"]["n"], "3");
        assert_eq!(get(As::Object, 2, "ADDED", 4, 0)["data"]["n"], "4");
        assert_eq!(get(As::PartialObjectMetadata, 1, "ADDED", 5, 0)["kind"], "PartialObjectMetadata");
        // Ages go on.
        assert_eq!(get(As::TableV1, 1, "ADDED", 6, 10)["rows"][0]["cells"], json!(["a", 1, "10s"]));
        assert_eq!(get(As::TableV1, 1, "ADDED", 6, 20)["rows"][0]["cells"], json!(["a", 1, "20s"]));
    }

    #[test]
    fn large_frames_are_not_kept() {
        let frames = Frames::default();
        let text = format!("{{\"a\":\"{}\"}}", "x".repeat(FRAME_KEPT_BYTES_MAX));
        for revision in 0..100 {
            let event = Event {
                name: "ADDED",
                revision: Revision(revision),
                text: text.as_bytes(),
                columns: false,
                now: at(0),
            };
            form(As::Object).shared(&frames, &event).unwrap();
        }
        assert!(frames.kept.iter().all(|kept| kept.lock().is_none()));
    }

    #[test]
    fn bookmarks() {
        let object = object_of(&form(As::Object).bookmark(Revision(7), true, false, at(0)).unwrap());
        assert_eq!((&object["kind"], &object["metadata"]["resourceVersion"]), (&json!("ConfigMap"), &json!("7")));
        assert_eq!(object["metadata"]["annotations"][INITIAL_EVENTS_END], "true");
        let table = |end| object_of(&form(As::TableV1).bookmark(Revision(7), end, true, at(0)).unwrap());
        assert_eq!((&table(false)["rows"], &table(false)["metadata"]["resourceVersion"]), (&json!([]), &json!("7")));
        assert_eq!(table(true)["rows"][0]["object"]["metadata"]["annotations"][INITIAL_EVENTS_END], "true");
    }
}
