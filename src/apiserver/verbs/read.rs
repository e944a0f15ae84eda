//! Get and list: from one snapshot, from the stored bytes.
//!
//! Source: apiserver `pkg/endpoints/handlers/get.go`, `pkg/storage/{etcd3,cacher}`; KEP-365 (paginated lists).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde_json::{Value, json};
use store::{Entry, Revision, Snapshot};
use types::registry::GroupVersionKind;
use types::status::Status;

use super::ask::{Answer, Ask, FRESHNESS_SECONDS, store_error, too_large};
use super::bare::{Bare, Cut};
use super::options::{ListOptions, Match, Selection};
use super::pages::{Continue, Pinned};
use crate::Body;
use crate::codec::pieces::Pieces;
use crate::codec::tape::Tape;
use crate::codec::{As, Media, protobuf};
use crate::conversion;
use crate::custom;
use crate::http::body::BoxError;
use crate::http::respond;
use crate::printers::{self, IncludeObject, Table};

/// What is copied into one frame of a list: large enough for TLS records and HTTP/2 windows, small enough that a list of
/// any length takes no memory of its own.
const FRAME_BYTES: usize = 64 * 1024;

/// Objects of another version that are looked at together: what clients ask for in one chunk of a list, so that a limit
/// has few of them converted in vain.
const PRESENTED_AT_ONCE: usize = 500;

pub async fn get(ask: &Ask<'_>) -> Result<Answer, Status> {
    if let Some(version) = ask.query.text("resourceVersion").filter(|v| *v != "0") {
        let version: u64 = version.parse().map_err(|_| {
            Status::bad_request(format!(
                "resourceVersion: Invalid value: {version:?}: strconv.ParseUint: parsing {version:?}: invalid syntax"
            ))
        })?;
        fresh(ask, Revision(version)).await?;
    }
    Ok(Answer::Entry { code: 200, entry: ask.current().await? })
}

/// The prefix of the keys that the ask is about.
pub fn prefix(ask: &Ask<'_>) -> String {
    if ask.namespace.is_empty() { ask.kind.store_prefix() } else { ask.kind.store_namespace_prefix(ask.namespace) }
}

/// Waits until the store has reached a revision.
///
/// # Errors
/// 504 when it does not in time.
pub async fn fresh(ask: &Ask<'_>, revision: Revision) -> Result<(), Status> {
    if ask.shared.store.snapshot().revision() >= revision {
        return Ok(());
    }
    let deadline = Duration::from_secs(FRESHNESS_SECONDS);
    match tokio::time::timeout(deadline, ask.shared.store.reached(revision)).await {
        Ok(reached) => reached.map_err(|e| store_error(ask.kind, ask.name, &e)),
        Err(_) => Err(too_large(revision.0, ask.shared.store.snapshot().revision().0)),
    }
}

const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can \
     start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder \
     of the results. Continuing with the provided token results in an inconsistent list - objects that were created, \
     modified, or deleted between the time the first chunk was returned and now may show up in the list.";

pub async fn list(ask: &Ask<'_>) -> Result<Answer, Status> {
    let selection = Selection::parse(ask.served, ask.query)?;
    let options = ListOptions::parse(ask.query, false)?;
    let prefix = prefix(ask);
    let (view, start, since) = starting_point(ask, &options).await?;
    // The cache-like answer to version 0 is never chunked, as upstream's.
    let limit = options.limit.filter(|_| options.resource_version != Some(0) || options.continue_token.is_some());
    let mut chosen: Vec<Entry> = Vec::new();
    let (mut next, mut remaining) = (None, None);
    // One object by its name is looked up, not searched for: that is how single objects are watched.
    let single =
        selection.fields.required("metadata.name").filter(|_| !ask.namespace.is_empty() || !ask.kind.namespaced());
    let at = Some(Pinned { revision: view.revision().0, since });
    let go_on = |key: &str| Continue { at, start: key[prefix.len()..].to_owned() }.encode();
    if let Some(name) = single {
        let entry = view.get(&ask.kind.store_key(ask.namespace, name));
        chosen = select(ask, &selection, entry.into_iter().collect(), None).await?.0;
    } else if selection.reads_objects() {
        let from = start.as_ref().map(|s| format!("{prefix}{s}"));
        let told = selection.of_any_version();
        let candidates = view.range(&prefix, from.as_deref()).filter(|e| told.matches(e)).cloned().collect();
        let after;
        (chosen, after) = select(ask, &selection, candidates, limit).await?;
        next = after.map(|key| go_on(&key));
    } else {
        let from = start.as_ref().map(|s| format!("{prefix}{s}"));
        let mut entries = view.range(&prefix, from.as_deref());
        if limit.is_none() && selection.is_everything() && from.is_none() {
            chosen.reserve_exact(view.count(&prefix));
        }
        while let Some(entry) = entries.next() {
            if !selection.matches(entry) {
                continue;
            }
            if limit.is_some_and(|limit| chosen.len() == limit) {
                next = Some(go_on(entry.key()));
                remaining = selection.is_everything().then(|| 1 + entries.count() as i64);
                break;
            }
            chosen.push(entry.clone());
        }
    }
    if ask.kind.extension.is_some() {
        chosen = custom::present_all(&*ask.shared.store, ask.kind, chosen).await?;
    }
    Ok(Answer::Response(respond_list(ask, &chosen, view.revision().0, next, remaining)?))
}

/// Those of the candidates that are selected by what they say in the version that is asked for, up to a limit, and the key of
/// the first one beyond it.
///
/// # Errors
/// 500 when one cannot be had in that version.
pub async fn select(
    ask: &Ask<'_>,
    selection: &Selection,
    candidates: Vec<Entry>,
    limit: Option<usize>,
) -> Result<(Vec<Entry>, Option<Arc<str>>), Status> {
    let mut chosen = Vec::new();
    for candidates in candidates.chunks(PRESENTED_AT_ONCE) {
        for entry in custom::present_all(&*ask.shared.store, ask.kind, candidates.to_vec()).await? {
            if !selection.matches(&entry) {
                continue;
            }
            if limit.is_some_and(|limit| chosen.len() == limit) {
                return Ok((chosen, Some(entry.key().into())));
            }
            chosen.push(entry);
        }
    }
    Ok((chosen, None))
}

/// The state that a list shows, the key below the prefix at which it begins, and when its first page was read.
async fn starting_point(ask: &Ask<'_>, options: &ListOptions) -> Result<(Snapshot, Option<String>, i64), Status> {
    let (store, now) = (&ask.shared.store, (ask.shared.config.clock)().as_second());
    if let Some(token) = &options.continue_token {
        if options.resource_version.is_some_and(|v| v != 0) {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let Continue { at, start } = Continue::decode(token)?;
        let Some(at) = at else { return Ok((store.snapshot(), Some(start), now)) };
        return match store.snapshot_at(Revision(at.revision)) {
            Ok(view) if !at.is_old(now) => Ok((view, Some(start), at.since)),
            Ok(_) | Err(store::Error::Compacted { .. }) => {
                let mut status = Status::expired(CONTINUE_EXPIRED);
                status.metadata.continue_token = Continue { at: None, start }.encode();
                Err(status)
            }
            Err(other) => Err(store_error(ask.kind, ask.name, &other)),
        };
    }
    let Some(version) = options.resource_version.filter(|v| *v != 0) else { return Ok((store.snapshot(), None, now)) };
    fresh(ask, Revision(version)).await?;
    // A limit without a match rule has always meant exactly that version.
    let exact =
        options.version_match == Match::Exact || (options.version_match == Match::Unset && options.limit.is_some());
    if !exact {
        return Ok((store.snapshot(), None, now));
    }
    let view = store.snapshot_at(Revision(version)).map_err(|e| store_error(ask.kind, ask.name, &e))?;
    Ok((view, None, now))
}

/// The list of these entries in the shape and format that the client accepts.
pub fn respond_list(
    ask: &Ask<'_>,
    entries: &[Entry],
    revision: u64,
    next: Option<String>,
    remaining: Option<i64>,
) -> Result<Response<Body>, Status> {
    let accepted = &ask.accepted;
    respond::check_partial(ask.kind, accepted, true)?;
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let Some(next) = &next {
        metadata["continue"] = json!(next);
    }
    if let Some(count) = remaining {
        metadata["remainingItemCount"] = json!(count);
    }
    let entries = &*conversion::entries(ask.served, entries)?;
    let texts = entries.iter().map(|entry| entry.value());
    let partial = matches!(accepted.as_, As::PartialObjectMetadata | As::PartialObjectMetadataList);
    match (accepted.as_, accepted.media) {
        (As::TableV1 | As::TableV1beta1, _) => {
            let version = respond::table_version(accepted.as_);
            let mut table = Table::new(ask.served, version, include_object(ask)?, ask.now);
            let mut texts: Vec<&[u8]> = texts.collect();
            crate::printers::sort(ask.served, &mut texts);
            for text in texts {
                table.push(text).map_err(Status::internal)?;
            }
            respond::formatted(200, accepted, table.finish(&metadata, true))
        }
        (_, Media::Protobuf) => {
            let version = revision.to_string();
            let meta = protobuf::ListMeta {
                resource_version: &version,
                continue_token: next.as_deref().unwrap_or_default(),
                remaining_item_count: remaining,
            };
            let item = if partial { respond::PARTIAL_GVK } else { ask.served.gvk() };
            let gvk = GroupVersionKind { kind: format!("{}List", item.kind).into(), ..item };
            let pieces = protobuf::Transcoder::default().list(&gvk, &meta, texts)?;
            Ok(respond::stream(200, accepted.content_type(), Body::whole(pieces)))
        }
        (As::PartialObjectMetadata | As::PartialObjectMetadataList, _) => {
            let (mut pieces, mut tape) = (Pieces::default(), Tape::default());
            for text in texts {
                let first = pieces.is_empty();
                let out = pieces.room();
                if !first {
                    out.push(b',');
                }
                printers::partial(out, "v1", tape.read(text).map_err(Status::internal)?);
            }
            let gvk = respond::PARTIAL_GVK;
            let head = list_head(&gvk, &metadata).into_bytes();
            respond::formatted(200, accepted, pieces.between(head, TAIL.to_vec()))
        }
        (As::Object, _) => {
            let gvk = ask.served.gvk();
            let bare = (!ask.served.extension.is_some()).then(|| Bare::of(&gvk));
            let items = Items::new(list_head(&gvk, &metadata), entries, bare);
            if accepted.media == Media::Json && !accepted.pretty {
                return Ok(respond::stream(200, accepted.content_type(), Body::stream(items)));
            }
            respond::formatted(200, accepted, items.collect())
        }
    }
}

/// A list's JSON up to its items, which are of this kind.
fn list_head(item: &GroupVersionKind, metadata: &Value) -> String {
    let (kind, version) = (&item.kind, item.api_version());
    format!("{{\"kind\":\"{kind}List\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":[")
}

/// `?includeObject=` of a Table.
pub fn include_object(ask: &Ask<'_>) -> Result<IncludeObject, Status> {
    let text = ask.query.get("includeObject").unwrap_or_default();
    IncludeObject::parse(text).ok_or_else(|| Status::bad_request(format!("unrecognized includeObject value: {text:?}")))
}

/// A list's JSON, put together frame by frame from the stored bytes while it is sent.
struct Items {
    head: Option<Bytes>,
    entries: VecDeque<(Entry, Cut)>,
    bare: Option<Bare>,
    first: bool,
    tail: bool,
    left: u64,
}

const TAIL: &[u8] = b"]}\n";

impl Items {
    fn new(head: String, entries: &[Entry], bare: Option<Bare>) -> Self {
        let commas = entries.len().saturating_sub(1);
        let cut = |entry: &Entry| bare.as_ref().and_then(|bare| bare.cut(entry.value()));
        let entries: VecDeque<(Entry, Cut)> = entries.iter().map(|entry| (entry.clone(), cut(entry))).collect();
        let saved = bare.as_ref().map_or(0, Bare::saved);
        let items: usize = entries.iter().map(|(e, cut)| e.value().len() - cut.map_or(0, |_| saved)).sum();
        let left = (head.len() + items + commas + TAIL.len()) as u64;
        Self { head: Some(Bytes::from(head)), entries, bare, first: true, tail: true, left }
    }
}

impl Iterator for Items {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let this = self;
        let mut frame = BytesMut::with_capacity(FRAME_BYTES.min(usize::try_from(this.left).unwrap_or(FRAME_BYTES)));
        if let Some(head) = this.head.take() {
            frame.put(head);
        }
        while let Some((entry, cut)) = this.entries.front() {
            if !frame.is_empty() && frame.len() + entry.value().len() > FRAME_BYTES {
                break;
            }
            if !std::mem::take(&mut this.first) {
                frame.put_u8(b',');
            }
            match &this.bare {
                Some(bare) => bare.parts(entry.value(), *cut).into_iter().for_each(|part| frame.put_slice(part)),
                None => frame.put_slice(entry.value()),
            }
            this.entries.pop_front();
        }
        if this.entries.is_empty() && std::mem::take(&mut this.tail) {
            frame.put_slice(TAIL);
        }
        if frame.is_empty() {
            return None;
        }
        this.left -= frame.len() as u64;
        Some(frame.freeze())
    }
}

impl HttpBody for Items {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.next().map(|frame| Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        !self.tail
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
