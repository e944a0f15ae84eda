//! Watch: a stream of events made from stored bytes, pulled by the client.
//!
//! A watch is no task and no queue: the response's body asks the store's feed when the connection can take more. A client
//! that does not keep up falls out of the bounded history and is told 410. One timer a watch, for whichever of bookmark and
//! end comes first.
//!
//! Source: apiserver `pkg/endpoints/handlers/watch.go`, `pkg/storage/cacher`; KEP-3157 (watch list), KEP-956 (bookmarks).

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::{Entry, Event, Revision, Store, Watcher};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use types::registry::{Kind, KindRef};
use types::status::Status;

use super::ask::{Answer, Ask, store_error};
use super::frame::{self, Form};
use super::options::{ListOptions, Selection};
use super::read::{fresh, include_object, prefix, select};
use crate::Body;
use crate::codec::Media;
use crate::conversion;
use crate::custom;
use crate::http::metrics::OpenWatch;
use crate::http::respond;
use crate::server::Shared;

/// A watch without `timeoutSeconds` ends at random between these, so that clients spread out. Source: apiserver
/// `MinRequestTimeout` 1800.
const TIMEOUT_SECONDS_MIN: u64 = 1800;
/// How often an idle watcher is told how far the store is. Source: apiserver `pkg/storage/cacher`, "about a minute".
const BOOKMARK_SECONDS: u64 = 60;
/// The last bookmark comes this long before the end, so that the next watch begins where this one ended.
const BOOKMARK_BEFORE_END_SECONDS: u64 = 2;
/// Entries of the initial state that are put into one frame.
const INITIAL_BATCH: usize = 64;

struct Watch {
    shared: Arc<Shared>,
    kind: KindRef,
    /// The kind in the version that the client speaks.
    served: KindRef,
    selection: Selection,
    form: Form,
    /// Columns are sent with the first event alone.
    columns_sent: bool,
    feed: Box<dyn Watcher>,
    events: Vec<Event>,
    initial: std::vec::IntoIter<Entry>,
    /// A bookmark with this revision closes the initial events.
    initial_end: Option<Revision>,
    bookmarks: bool,
    bookmark_at: Instant,
    ends_at: Instant,
    /// Set to whichever of the two comes next, and left alone while events come.
    timer: Pin<Box<Sleep>>,
    last_sent: Revision,
    reached: Revision,
    over: bool,
    /// The server stops.
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    _open: OpenWatch,
}

pub async fn watch(ask: &Ask<'_>) -> Result<Answer, Status> {
    if ask.accepted.media == Media::Yaml {
        // Its documents could be told apart, but upstream has no framing for them.
        return Err(Status::not_acceptable(Media::STREAMED));
    }
    let mut selection = Selection::parse(ask.served, ask.query)?;
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
        let told = selection.of_any_version();
        let mut entries: Vec<_> = view.range(&prefix, None).filter(|e| told.matches(e)).cloned().collect();
        if selection.reads_objects() {
            entries = select(ask, &selection, entries, None).await?.0;
        }
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
    // In a box: the stream hands it over with each piece, and hundreds of bytes would be copied each time.
    let mut state = Box::new(Watch {
        shared: ask.shared.clone(),
        kind: ask.kind.clone(),
        served: ask.served.clone(),
        selection,
        form: Form::new(ask.served, accepted, include_object(ask)?),
        columns_sent: false,
        feed,
        events: Vec::new(),
        initial: initial.into_iter(),
        initial_end: (options.send_initial_events == Some(true) && options.bookmarks).then_some(start),
        bookmarks: options.bookmarks,
        bookmark_at: now + Duration::from_secs(BOOKMARK_SECONDS),
        ends_at: now + Duration::from_secs(seconds),
        timer: Box::pin(tokio::time::sleep_until(now)),
        last_sent: start,
        reached: start,
        over: false,
        // One of its own: it is looked at with each event, and a lock that all watches share would be in their way.
        stop: Box::pin(ask.shared.stop.child_token().cancelled_owned()),
        _open: ask.shared.metrics.open_watch(),
    });
    state.set_timer();
    let pieces = futures_util::stream::unfold(state, |mut state| async move {
        let piece = state.next().await?;
        Some((Ok(piece), state))
    });
    let mut response = respond::stream(200, accepted.media.watch_content_type(), Body::pieces(pieces));
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
            let mut out = Vec::new();
            for _ in 0..INITIAL_BATCH {
                let Some(entry) = self.initial.next() else { break };
                let text = conversion::text(&self.served, Cow::Borrowed(entry.value()));
                let Some(text) = written(text) else { continue };
                let text = match custom::present_bytes(&*self.shared.store, &self.served, text, entry.modified()).await
                {
                    Ok(text) => text,
                    Err(status) => {
                        out.extend(self.end(&status).unwrap_or_default());
                        return Some(out.into());
                    }
                };
                let event = self.event("ADDED", entry.modified(), &text);
                let frame = self.form.frame(&event);
                self.sent(entry.modified());
                out.extend(written(frame).unwrap_or_default());
            }
            return Some(out.into());
        }
        if let Some(revision) = self.initial_end.take() {
            return self.bookmark(revision, true);
        }
        loop {
            self.events.clear();
            tokio::select! {
                biased;
                fed = self.feed.next(&mut self.events) => match fed {
                    Ok(reached) => {
                        self.reached = reached;
                        if let Some(piece) = self.piece().await {
                            return Some(piece);
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
                            other => store_error(&self.kind, "", other),
                        };
                        return written(self.form.error(&status)).map(Bytes::from);
                    }
                },
                () = self.stop.as_mut() => {
                    self.over = true;
                    return None;
                }
                () = self.timer.as_mut() => {
                    let now = Instant::now();
                    if now >= self.ends_at {
                        self.over = true;
                        return None;
                    }
                    self.bookmark_at = now + Duration::from_secs(BOOKMARK_SECONDS);
                    self.set_timer();
                    let reached = self.feed.progress().max(self.reached);
                    if reached > self.last_sent {
                        return self.bookmark(reached, false);
                    }
                }
            }
        }
    }

    fn set_timer(&mut self) {
        let deadline = self.next_deadline();
        self.timer.as_mut().reset(deadline);
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

    /// What has come, in one piece; `None` when nothing of it is for this watcher.
    async fn piece(&mut self) -> Option<Bytes> {
        let events = std::mem::take(&mut self.events);
        // One frame is not copied: all watchers hold the same.
        let (mut first, mut all) = (None, Vec::new());
        for event in &events {
            let Some(frame) = self.seen(event).await else { continue };
            match first.take() {
                None if all.is_empty() => first = Some(frame),
                before => {
                    all.extend_from_slice(&before.unwrap_or_default());
                    all.extend_from_slice(&frame);
                }
            }
            if self.over {
                break;
            }
        }
        self.events = events;
        first.or_else(|| (!all.is_empty()).then(|| all.into()))
    }

    /// An event as this watcher's selector sees it: what enters is added, what leaves is deleted.
    async fn seen(&mut self, event: &Event) -> Option<Bytes> {
        let judged = if self.selection.reads_objects() {
            match presented(&*self.shared.store, &self.served, event).await {
                Ok(event) => Cow::Owned(event),
                Err(status) => return self.end(&status),
            }
        } else {
            Cow::Borrowed(event)
        };
        let was = judged.previous().is_some_and(|previous| self.selection.matches(previous));
        let (name, text) = match &*judged {
            Event::Put { entry, .. } => match (was, self.selection.matches(entry)) {
                (false, true) => ("ADDED", Cow::Borrowed(entry.value())),
                (true, true) => ("MODIFIED", Cow::Borrowed(entry.value())),
                // The last state that matched, at the revision at which it left.
                (true, false) => ("DELETED", Cow::Owned(event.previous()?.value_at(entry.modified()))),
                (false, false) => return None,
            },
            Event::Delete { entry, .. } => was.then(|| ("DELETED", Cow::Borrowed(entry.value())))?,
        };
        let revision = event.revision();
        let text = written(conversion::text(&self.served, text))?;
        let text = match custom::present_bytes(&*self.shared.store, &self.served, text, revision).await {
            Ok(text) => text,
            Err(status) => return self.end(&status),
        };
        let frame = self.form.shared(&self.shared.frames, &self.event(name, revision, &text));
        self.sent(revision);
        written(frame)
    }

    /// The last frame of a watch that cannot go on: a client that missed an event without knowing would be wrong for good.
    fn end(&mut self, status: &Status) -> Option<Bytes> {
        self.over = true;
        written(self.form.error(status)).map(Bytes::from)
    }

    fn bookmark(&mut self, revision: Revision, initial_end: bool) -> Option<Bytes> {
        let frame = self.form.bookmark(revision, initial_end, !self.columns_sent, (self.shared.config.clock)());
        self.sent(revision);
        written(frame).map(Bytes::from)
    }

    fn event<'a>(&self, name: &'static str, revision: Revision, text: &'a [u8]) -> frame::Event<'a> {
        frame::Event { name, revision, text, columns: !self.columns_sent, now: (self.shared.config.clock)() }
    }

    fn sent(&mut self, revision: Revision) {
        self.last_sent = self.last_sent.max(revision);
        self.columns_sent = true;
    }
}

/// The event with its objects in the version of the kind, in which a selector reads them.
async fn presented(store: &dyn Store, kind: &Kind, event: &Event) -> Result<Event, Status> {
    let shown = |entry: &Entry| custom::present(store, kind, entry.clone());
    Ok(match event {
        Event::Put { entry, previous } => {
            let entry = shown(entry).await?;
            let previous = match previous {
                Some(previous) => Some(shown(previous).await?),
                None => None,
            };
            Event::Put { entry, previous }
        }
        Event::Delete { entry, previous } => Event::Delete { entry: entry.clone(), previous: shown(previous).await? },
    })
}

/// A frame that could not be made is left out.
fn written<T>(frame: Result<T, Status>) -> Option<T> {
    frame
        .inspect_err(|status| tracing::warn!(%status, "an object cannot be shown in the form that a watcher wants"))
        .ok()
}
