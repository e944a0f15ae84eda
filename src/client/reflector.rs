//! The list-watch machine: keeps a [`Sink`] equal to a collection, through lost connections and expired history.
//!
//! [`Machine`] decides (no I/O, no clock); [`run`] asks, feeds it, and passes objects on undecoded.
//!
//! ```text
//!            refused                     initial-events-end
//! Streaming ─────────► Listing   Streaming ───────────────► Watching ◄──────┐
//!     ▲                   │ last page                        │    │ ended    │ back-off
//!     │                   └─────────────────────────────────►│    └──────────┘
//!     └───────────────────────── 410 ────────────────────────┘
//! ```
//!
//! Guarantees: after [`Sink::complete`] the sink holds the collection as of that revision, and later calls follow the order
//! in which the API made the changes. Not promised: that every intermediate version of an object is seen.
//!
//! Source: KEP-3157 (watch list), client-go `tools/cache/reflector.go` (behaviour on errors).

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::api::{ACCEPT_METADATA, ACCEPT_METADATA_LIST, Client, List, ListParams, Query};
use crate::object::Revision;
use crate::watch::{EventType, WatchStream};
use crate::{Error, clock};

/// Where objects go. Called from one task, in order.
pub trait Sink: Send + Sync + 'static {
    /// A whole new listing begins; what it does not bring is gone once it is complete.
    fn begin(&self);
    /// # Errors
    /// The text is not an object of the expected type; it is skipped and logged.
    fn upsert(&self, object: &str) -> serde_json::Result<()>;
    /// # Errors
    /// As for `upsert`.
    fn remove(&self, object: &str) -> serde_json::Result<()>;
    /// The listing is complete as of this revision.
    fn complete(&self, revision: Revision);
    /// Everything up to this revision has been passed on.
    fn progress(&self, revision: Revision);
}

/// First wait after a failure. Short, because at start-up the API server of the same process is a few milliseconds away.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest wait; upstream's reflector uses the same.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Objects per page where the server cannot stream a list; upstream's page size.
pub const PAGE_LIMIT: u32 = 500;

/// What the driver should ask next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Go on reading the open answer.
    Continue,
    /// A watch that begins with the whole collection.
    Stream,
    /// A page of a list.
    List { continue_token: String },
    /// A watch from a revision.
    Watch { from: String },
}

/// One step's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub ask: Ask,
    /// Wait so long before asking.
    pub after: Duration,
    /// Tell the sink that a new listing begins, before asking.
    pub begin: bool,
    /// Tell the sink that its listing is complete.
    pub complete: Option<Revision>,
}

/// What happened to the last ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Event {
        revision: String,
        initial_events_end: bool,
    },
    Page {
        revision: String,
        continue_token: String,
    },
    /// The server closed the watch without an error.
    Ended,
    Failed(Failure),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// 410: the history is gone.
    Expired,
    /// The server does not do what was asked (streamed lists on old servers).
    Refused,
    /// Everything else; the server may have said how long to wait.
    Other { retry_after_seconds: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Streaming,
    Listing,
    Watching,
}

/// Decides; see the module's chart.
#[derive(Debug)]
pub struct Machine {
    state: State,
    /// Last revision seen, while watching.
    from: String,
    /// Failures since the last sign of progress.
    failures: u32,
    can_stream: bool,
}

impl Machine {
    pub fn start() -> (Self, Step) {
        let machine = Self { state: State::Streaming, from: String::new(), failures: 0, can_stream: true };
        let step = Step { ask: Ask::Stream, after: Duration::ZERO, begin: true, complete: None };
        (machine, step)
    }

    /// `random` spreads the waits.
    pub fn step(&mut self, input: Input, random: u64) -> Step {
        match (self.state, input) {
            (State::Streaming, Input::Event { revision, initial_events_end: true }) => {
                self.watching(revision, Ask::Continue)
            }
            (State::Streaming, Input::Event { .. }) => quiet(Ask::Continue),
            (State::Streaming, Input::Failed(Failure::Refused)) => {
                self.can_stream = false;
                self.relist(Duration::ZERO)
            }
            (State::Listing, Input::Page { revision, continue_token }) => {
                if continue_token.is_empty() {
                    let from = revision.clone();
                    self.watching(revision, Ask::Watch { from })
                } else {
                    quiet(Ask::List { continue_token })
                }
            }
            (State::Watching, Input::Event { revision, .. }) => {
                self.failures = 0;
                if !revision.is_empty() {
                    self.from = revision;
                }
                quiet(Ask::Continue)
            }
            // A watch that ends after it was of use is the server's time limit; one that ends at once is trouble.
            (State::Watching, Input::Ended) => {
                let after = if self.failures == 0 { Duration::ZERO } else { self.backoff(random) };
                self.failures += 1;
                Step { ask: Ask::Watch { from: self.from.clone() }, after, begin: false, complete: None }
            }
            (State::Watching, Input::Failed(Failure::Expired)) => {
                let after = if self.failures == 0 { Duration::ZERO } else { self.backoff(random) };
                self.failures += 1;
                self.relist(after)
            }
            (State::Watching, Input::Failed(failure)) => {
                let after = self.backoff(random).max(asked(failure));
                self.failures += 1;
                Step { ask: Ask::Watch { from: self.from.clone() }, after, begin: false, complete: None }
            }
            (State::Streaming | State::Listing, Input::Failed(failure)) => {
                let after = self.backoff(random).max(asked(failure));
                self.failures += 1;
                self.relist(after)
            }
            (State::Streaming, Input::Ended | Input::Page { .. })
            | (State::Listing, Input::Ended | Input::Event { .. })
            | (State::Watching, Input::Page { .. }) => {
                let after = self.backoff(random);
                self.failures += 1;
                self.relist(after)
            }
        }
    }

    fn relist(&mut self, after: Duration) -> Step {
        let ask = if self.can_stream {
            self.state = State::Streaming;
            Ask::Stream
        } else {
            self.state = State::Listing;
            Ask::List { continue_token: String::new() }
        };
        Step { ask, after, begin: true, complete: None }
    }

    fn watching(&mut self, revision: String, ask: Ask) -> Step {
        self.state = State::Watching;
        self.failures = 0;
        let complete = Some(Revision::parse(&revision));
        self.from = revision;
        Step { ask, after: Duration::ZERO, begin: false, complete }
    }

    fn backoff(&self, random: u64) -> Duration {
        let base = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX / 2);
        clock::jitter(base, 100, random)
    }
}

fn quiet(ask: Ask) -> Step {
    Step { ask, after: Duration::ZERO, begin: false, complete: None }
}

fn asked(failure: Failure) -> Duration {
    match failure {
        Failure::Other { retry_after_seconds } => Duration::from_secs(retry_after_seconds.into()).min(BACKOFF_MAX),
        Failure::Expired | Failure::Refused => Duration::ZERO,
    }
}

fn failure_of(error: &Error) -> Failure {
    match error.status() {
        Some(s) if s.code == 410 => Failure::Expired,
        // What servers before 1.34, or with the feature off, say to sendInitialEvents.
        Some(s) if matches!(s.code, 400 | 405 | 406 | 422) => Failure::Refused,
        Some(_) | None => Failure::Other { retry_after_seconds: error.retry_after_seconds().unwrap_or(0) },
    }
}

/// What to keep a sink equal to.
#[derive(Debug, Clone)]
pub struct Source {
    pub client: Client,
    /// The collection's path, see [`crate::api::collection_path`].
    pub collection: String,
    pub label_selector: String,
    pub field_selector: String,
    /// Ask for `PartialObjectMetadata` instead of the objects.
    pub metadata_only: bool,
}

/// The parts of a watched object that the machine looks at.
#[derive(Deserialize, Default)]
struct Seen {
    #[serde(default)]
    metadata: SeenMeta,
}
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct SeenMeta {
    resource_version: String,
    annotations: Option<SeenAnnotations>,
}
#[derive(Deserialize, Default)]
#[serde(default)]
struct SeenAnnotations {
    #[serde(rename = "k8s.io/initial-events-end")]
    initial_events_end: Option<String>,
}

/// Runs until stopped. Never fails: every error is waited out.
pub async fn run(source: Source, sink: Arc<dyn Sink>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = drive(&source, &*sink) => {}
    }
}

async fn drive(source: &Source, sink: &dyn Sink) {
    let (mut machine, mut step) = Machine::start();
    let mut open: Option<WatchStream> = None;
    let mut streaming = false;
    loop {
        if let Some(revision) = step.complete {
            sink.complete(revision);
            streaming = false;
        }
        if !matches!(step.ask, Ask::Continue) {
            open = None;
        }
        if !step.after.is_zero() {
            tokio::time::sleep(step.after).await;
        }
        if step.begin {
            sink.begin();
        }
        let outcome = match &step.ask {
            Ask::Continue => Ok(None),
            Ask::Stream => {
                streaming = true;
                source.stream().await.map(Some)
            }
            Ask::Watch { from } => {
                streaming = false;
                source.watch(from).await.map(Some)
            }
            Ask::List { continue_token } => match source.page(continue_token, sink).await {
                Ok(input) => {
                    step = machine.step(input, clock::random());
                    continue;
                }
                Err(error) => Err(error),
            },
        };
        let input = match outcome {
            Ok(stream) => {
                if stream.is_some() {
                    open = stream;
                }
                match &mut open {
                    Some(stream) => source.read(stream, sink, streaming).await,
                    None => Ok(Input::Ended),
                }
            }
            Err(error) => Err(error),
        };
        let input = input.unwrap_or_else(|error| {
            let failure = failure_of(&error);
            match failure {
                Failure::Expired | Failure::Refused => {
                    tracing::debug!(collection = source.collection, %error, "listing again");
                }
                Failure::Other { .. } => {
                    tracing::info!(collection = source.collection, %error, cause = ?std::error::Error::source(&error).map(ToString::to_string), "list-watch interrupted");
                }
            }
            Input::Failed(failure)
        });
        step = machine.step(input, clock::random());
    }
}

impl Source {
    fn query(&self) -> Query {
        ListParams {
            label_selector: self.label_selector.clone(),
            field_selector: self.field_selector.clone(),
            ..ListParams::default()
        }
        .query()
    }

    fn accept(&self) -> &'static str {
        if self.metadata_only { ACCEPT_METADATA } else { "application/json" }
    }

    async fn stream(&self) -> Result<WatchStream, Error> {
        let mut query = self.query();
        query.push("allowWatchBookmarks", "true");
        query.push("sendInitialEvents", "true");
        query.push("resourceVersionMatch", "NotOlderThan");
        self.client.watch_path(&self.collection, query, self.accept()).await
    }

    async fn watch(&self, from: &str) -> Result<WatchStream, Error> {
        let mut query = self.query();
        query.push("allowWatchBookmarks", "true");
        query.push("resourceVersion", from);
        self.client.watch_path(&self.collection, query, self.accept()).await
    }

    async fn page(&self, continue_token: &str, sink: &dyn Sink) -> Result<Input, Error> {
        let mut query = self.query();
        query.push("limit", &PAGE_LIMIT.to_string());
        query.text("continue", continue_token);
        let path = query.on(&self.collection);
        let accept = if self.metadata_only { ACCEPT_METADATA_LIST } else { "application/json" };
        let bytes = self.client.send(Method::GET, &path, accept, None).await?;
        let list: List<&RawValue> = serde_json::from_slice(&bytes).map_err(|source| Error::Decode { path, source })?;
        for item in &list.items {
            self.pass(sink.upsert(item.get()));
        }
        Ok(Input::Page { revision: list.metadata.resource_version, continue_token: list.metadata.continue_token })
    }

    /// Reads until something happens that the machine must know: in the middle of a live watch that is every event.
    async fn read(&self, stream: &mut WatchStream, sink: &dyn Sink, streaming: bool) -> Result<Input, Error> {
        let Some(event) = stream.next().await else { return Ok(Input::Ended) };
        let event = event?;
        let object = event.object();
        let seen: Seen = serde_json::from_str(object).unwrap_or_default();
        match event.event {
            EventType::Added | EventType::Modified => self.pass(sink.upsert(object)),
            EventType::Deleted => self.pass(sink.remove(object)),
            EventType::Bookmark => {}
        }
        if !streaming {
            sink.progress(Revision::parse(&seen.metadata.resource_version));
        }
        let initial_events_end = event.event == EventType::Bookmark
            && seen.metadata.annotations.and_then(|a| a.initial_events_end).as_deref() == Some("true");
        Ok(Input::Event { revision: seen.metadata.resource_version, initial_events_end })
    }

    fn pass(&self, outcome: serde_json::Result<()>) {
        if let Err(error) = outcome {
            tracing::warn!(collection = self.collection, %error, "an object could not be read and is left out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: &str, end: bool) -> Input {
        Input::Event { revision: revision.into(), initial_events_end: end }
    }
    const OTHER: Input = Input::Failed(Failure::Other { retry_after_seconds: 0 });

    #[test]
    fn streams_then_watches_on_the_same_answer() {
        let (mut m, first) = Machine::start();
        assert_eq!((first.ask, first.begin), (Ask::Stream, true));
        assert_eq!(m.step(event("3", false), 0).complete, None);
        let done = m.step(event("9", true), 0);
        assert_eq!((done.ask, done.complete), (Ask::Continue, Some(Revision(9))));
        // The server's time limit: go on where we were, at once.
        m.step(event("12", false), 0);
        let again = m.step(Input::Ended, 0);
        assert_eq!((again.ask, again.after), (Ask::Watch { from: "12".into() }, Duration::ZERO));
        // A second end without any event between: wait.
        assert!(m.step(Input::Ended, 0).after > Duration::ZERO);
    }

    #[test]
    fn falls_back_to_pages_and_remembers() {
        let (mut m, _) = Machine::start();
        let list = m.step(Input::Failed(Failure::Refused), 0);
        assert_eq!((list.ask, list.begin), (Ask::List { continue_token: String::new() }, true));
        let page = m.step(Input::Page { revision: "5".into(), continue_token: "x".into() }, 0);
        assert_eq!((page.ask, page.complete, page.begin), (Ask::List { continue_token: "x".into() }, None, false));
        let last = m.step(Input::Page { revision: "5".into(), continue_token: String::new() }, 0);
        assert_eq!((last.ask, last.complete), (Ask::Watch { from: "5".into() }, Some(Revision(5))));
        let again = m.step(Input::Failed(Failure::Expired), 0);
        assert_eq!((again.ask, again.begin), (Ask::List { continue_token: String::new() }, true));
    }

    #[test]
    fn expired_history_is_listed_again_at_once_but_not_in_a_loop() {
        let (mut m, _) = Machine::start();
        m.step(event("9", true), 0);
        let first = m.step(Input::Failed(Failure::Expired), 0);
        assert_eq!((first.ask, first.begin, first.after), (Ask::Stream, true, Duration::ZERO));
        let second = m.step(Input::Failed(Failure::Expired), 0);
        assert!(second.after > Duration::ZERO && second.begin);
    }

    #[test]
    fn waits_grow_to_a_limit_and_reset_on_progress() {
        let (mut m, _) = Machine::start();
        m.step(event("1", true), 0);
        let waits: Vec<_> = (0..20).map(|_| m.step(OTHER, 0).after).collect();
        assert_eq!(waits[0], BACKOFF_MIN);
        assert!(waits.windows(2).all(|w| w[0] <= w[1]));
        assert!(m.step(OTHER, u64::MAX).after <= BACKOFF_MAX);
        m.step(event("2", false), 0);
        assert_eq!(m.step(OTHER, 0).after, BACKOFF_MIN);
        let told = m.step(Input::Failed(Failure::Other { retry_after_seconds: 7 }), 0);
        assert_eq!(told.after, Duration::from_secs(7));
    }
}
