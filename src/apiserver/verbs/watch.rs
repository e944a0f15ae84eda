//! Watch: a stream of events made from stored bytes, pulled by the client.
//!
//! A watch is no task and no queue: the response's body asks the store's feed when the connection can take more. A client
//! that does not keep up falls out of the bounded history and is told 410. One timer a watch, for whichever of bookmark and
//! end comes first.
//!
//! Source: apiserver `pkg/endpoints/handlers/watch.go`, `pkg/storage/cacher`; KEP-3157 (watch list), KEP-956 (bookmarks).

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Entry, Event, Revision, Watcher};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::registry::{GroupVersionKind, Kind};
use types::status::Status;

use super::ask::{Answer, Ask, store_error};
use super::object;
use super::options::{ListOptions, Selection};
use super::read::{fresh, include_object, prefix};
use crate::Body;
use crate::codec::{Accepted, As, Media, protobuf};
use crate::http::metrics::OpenWatch;
use crate::http::respond;
use crate::printers::{IncludeObject, Table};

/// A watch without `timeoutSeconds` ends at random between these, so that clients spread out. Source: apiserver
/// `MinRequestTimeout` 1800.
const TIMEOUT_SECONDS_MIN: u64 = 1800;
/// How often an idle watcher is told how far the store is. Source: apiserver `pkg/storage/cacher`, "about a minute".
const BOOKMARK_SECONDS: u64 = 60;
/// The last bookmark comes this long before the end, so that the next watch begins where this one ended.
const BOOKMARK_BEFORE_END_SECONDS: u64 = 2;
/// Entries of the initial state that are put into one frame.
const INITIAL_BATCH: usize = 64;
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

struct Watch {
    kind: &'static Kind,
    selection: Selection,
    accepted: Accepted,
    include: IncludeObject,
    clock: crate::Clock,
    /// Columns are sent with the first event alone.
    columns_sent: bool,
    feed: Box<dyn Watcher>,
    events: Vec<Event>,
    initial: std::vec::IntoIter<Arc<Entry>>,
    /// A bookmark with this revision closes the initial events.
    initial_end: Option<Revision>,
    bookmarks: bool,
    bookmark_at: Instant,
    ends_at: Instant,
    last_sent: Revision,
    reached: Revision,
    over: bool,
    /// The server stops.
    stop: CancellationToken,
    _open: OpenWatch,
}

pub async fn watch(ask: &Ask<'_>) -> Result<Answer, Status> {
    let mut selection = Selection::parse(ask.kind, ask.query)?;
    let options = ListOptions::parse(ask.query, true)?;
    if !ask.name.is_empty() {
        // The deprecated path of one object.
        let term = types::selector::FieldTerm { field: "metadata.name".into(), value: ask.name.into(), equal: true };
        selection.fields.terms.push(term);
    }
    let store = &ask.shared.store;
    let prefix = prefix(ask);
    let version = options.resource_version.filter(|v| *v != 0);
    let initial_wanted = options.send_initial_events.unwrap_or(version.is_none());
    let expired = |error: &store::Error| match error {
        store::Error::Compacted { requested, oldest } => {
            Status::expired(format!("too old resource version: {requested} ({oldest})"))
        }
        other => store_error(ask.kind, ask.name, other),
    };
    let (start, initial) = if initial_wanted {
        if let Some(version) = version {
            fresh(ask, Revision(version)).await?;
        }
        let view = store.snapshot();
        let entries: Vec<_> = view.range(&prefix, None).filter(|e| selection.matches(e)).cloned().collect();
        (view.revision(), entries)
    } else {
        let start = version.map_or_else(|| store.snapshot().revision(), Revision);
        // A watch may be opened a moment before its revision is there; further ahead is a mistake.
        fresh(ask, start).await?;
        (start, Vec::new())
    };
    let feed = store.watch(&prefix, start).map_err(|e| expired(&e))?;
    let seconds = options.timeout_seconds.unwrap_or_else(|| {
        let mut random = [0u8; 2];
        types::random::fill(&mut random);
        TIMEOUT_SECONDS_MIN + u64::from(u16::from_le_bytes(random)) % TIMEOUT_SECONDS_MIN
    });
    let now = Instant::now();
    let accepted = ask.accepted;
    let state = Watch {
        kind: ask.kind,
        selection,
        accepted,
        include: include_object(ask)?,
        clock: ask.shared.config.clock.clone(),
        columns_sent: false,
        feed,
        events: Vec::new(),
        initial: initial.into_iter(),
        initial_end: (options.send_initial_events == Some(true) && options.bookmarks).then_some(start),
        bookmarks: options.bookmarks,
        bookmark_at: now + Duration::from_secs(BOOKMARK_SECONDS),
        ends_at: now + Duration::from_secs(seconds),
        last_sent: start,
        reached: start,
        over: false,
        stop: ask.shared.stop.clone(),
        _open: ask.shared.metrics.open_watch(),
    };
    let pieces = futures_util::stream::unfold(state, |mut state| async move {
        let piece = state.next().await?;
        Some((Ok(piece), state))
    });
    let content_type = match (accepted.media, accepted.as_) {
        (Media::Protobuf, _) => accepted.media.watch_content_type().to_owned(),
        (_, As::Object) => "application/json".to_owned(),
        _ => {
            let shaped = Accepted { media: Media::Json, ..accepted };
            respond::content_type(&shaped).replacen("application/json;", "application/json;stream=watch;", 1)
        }
    };
    let mut response = respond::stream(200, &content_type, Body::pieces(pieces));
    // Upstream flushes the header at once; so does an empty first frame here, through hyper.
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
    Ok(Answer::Response(response))
}

impl Watch {
    /// The next piece of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        if self.initial.len() > 0 {
            let mut out = BytesMut::new();
            for _ in 0..INITIAL_BATCH {
                let Some(entry) = self.initial.next() else { break };
                self.push_entry(&mut out, "ADDED", &entry);
            }
            return Some(out.freeze());
        }
        if let Some(revision) = self.initial_end.take() {
            let mut out = BytesMut::new();
            self.push_bookmark(&mut out, revision, true);
            return Some(out.freeze());
        }
        loop {
            let deadline = self.next_deadline();
            self.events.clear();
            tokio::select! {
                biased;
                fed = self.feed.next(&mut self.events) => match fed {
                    Ok(reached) => {
                        self.reached = reached;
                        let mut out = BytesMut::new();
                        let events = std::mem::take(&mut self.events);
                        for event in &events {
                            self.push_event(&mut out, event);
                        }
                        self.events = events;
                        if !out.is_empty() {
                            return Some(out.freeze());
                        }
                    }
                    Err(store::Error::Closed) => {
                        self.over = true;
                        return None;
                    }
                    Err(error) => {
                        self.over = true;
                        let status = match &error {
                            store::Error::Compacted { requested, oldest } => {
                                Status::expired(format!("too old resource version: {requested} ({oldest})"))
                            }
                            other => store_error(self.kind, "", other),
                        };
                        let mut out = BytesMut::new();
                        let value = serde_json::to_value(status).unwrap_or(Value::Null);
                        self.push_value(&mut out, "ERROR", &GroupVersionKind::new("", "v1", "Status"), &value);
                        return Some(out.freeze());
                    }
                },
                () = self.stop.cancelled() => {
                    self.over = true;
                    return None;
                }
                () = tokio::time::sleep_until(deadline) => {
                    let now = Instant::now();
                    if now >= self.ends_at {
                        self.over = true;
                        return None;
                    }
                    self.bookmark_at = now + Duration::from_secs(BOOKMARK_SECONDS);
                    let reached = self.feed.progress().max(self.reached);
                    if reached > self.last_sent {
                        let mut out = BytesMut::new();
                        self.push_bookmark(&mut out, reached, false);
                        return Some(out.freeze());
                    }
                }
            }
        }
    }

    fn next_deadline(&self) -> Instant {
        if !self.bookmarks {
            return self.ends_at;
        }
        let last = self.ends_at - Duration::from_secs(BOOKMARK_BEFORE_END_SECONDS);
        // The bookmark before the end is due once; after it only the end is left.
        let bookmark = if self.bookmark_at < last { self.bookmark_at } else { last };
        if Instant::now() >= last { self.ends_at } else { bookmark.min(self.ends_at) }
    }

    /// An event as this watcher's selector sees it: what enters is added, what leaves is deleted.
    fn push_event(&mut self, out: &mut BytesMut, event: &Event) {
        match event {
            Event::Put { entry, previous } => {
                let was = previous.as_ref().is_some_and(|p| self.selection.matches(p));
                match (was, self.selection.matches(entry)) {
                    (false, true) => self.push_entry(out, "ADDED", entry),
                    (true, true) => self.push_entry(out, "MODIFIED", entry),
                    (true, false) => {
                        // The last state that matched, at the revision at which it left.
                        if let Some(left) = previous.as_ref().and_then(|p| restamped(p, entry.modified)) {
                            self.push_value(out, "DELETED", &self.kind.gvk(), &left);
                            self.last_sent = entry.modified;
                        }
                    }
                    (false, false) => {}
                }
            }
            Event::Delete { entry, previous } => {
                if self.selection.matches(previous) {
                    self.push_entry(out, "DELETED", entry);
                }
            }
        }
    }

    fn push_entry(&mut self, out: &mut BytesMut, event: &str, entry: &Entry) {
        self.last_sent = self.last_sent.max(entry.modified);
        if self.accepted.as_ == As::Object && self.accepted.media != Media::Protobuf {
            out.reserve(entry.value.len() + 40);
            out.put_slice(b"{\"type\":\"");
            out.put_slice(event.as_bytes());
            out.put_slice(b"\",\"object\":");
            out.put_slice(&entry.value);
            out.put_slice(b"}\n");
            return;
        }
        if let Ok(value) = object::read(entry) {
            self.push_value(out, event, &self.kind.gvk(), &value);
        }
    }

    fn push_bookmark(&mut self, out: &mut BytesMut, revision: Revision, initial_end: bool) {
        self.last_sent = revision;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let kind = self.kind;
        let value = json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata});
        self.push_value(out, "BOOKMARK", &kind.gvk(), &value);
    }

    fn push_value(&mut self, out: &mut BytesMut, event: &str, gvk: &GroupVersionKind, value: &Value) {
        let now: Timestamp = (self.clock)();
        let shaped = match self.accepted.as_ {
            _ if event == "ERROR" => None,
            As::Object => None,
            As::TableV1 | As::TableV1beta1 => {
                let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                let include = if event == "BOOKMARK" { IncludeObject::Metadata } else { self.include };
                let mut table = Table::new(self.kind, respond::table_version(self.accepted.as_), include, now);
                if event != "BOOKMARK" || !value["metadata"]["annotations"].is_null() {
                    table.push(value);
                }
                Some(table.finish(metadata, !std::mem::replace(&mut self.columns_sent, true)))
            }
            As::PartialObjectMetadata | As::PartialObjectMetadataList => Some(respond::partial(value)),
        };
        let value = shaped.as_ref().unwrap_or(value);
        if self.accepted.media == Media::Protobuf {
            let gvk = if shaped.is_some() { &respond::gvk(value) } else { gvk };
            match protobuf::encode_watch_event(event, gvk, value) {
                Ok(frame) => out.put_slice(&frame),
                Err(status) => tracing::warn!(%status, "an object has no protobuf form"),
            }
            return;
        }
        let frame = json!({"type": event, "object": value});
        out.put_slice(frame.to_string().as_bytes());
        out.put_u8(b'\n');
    }
}

/// An entry's object at another revision.
fn restamped(entry: &Entry, revision: Revision) -> Option<Value> {
    let mut value = object::read(entry).ok()?;
    object::meta_mut(&mut value).insert("resourceVersion".into(), revision.to_string().into());
    Some(value)
}
