//! Watches over single kinds in single namespaces, for those who want to hear of few places only: begun and ended as they are
//! wanted.
//!
//! A kind that is not served is watched when it is: definitions say when that may be. Whatever else hinders a watch is tried
//! again after a delay that grows.
//!
//! What never lives here: objects. Who needs those keeps a cache.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::api::{ACCEPT_METADATA, Query, resource_path};
use client::definition::Definition;
use client::watch::EventType;
use client::{Cache, Client, Result};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::registry::BUILT_IN;

use crate::Context;

/// The wait after a watch that ended, as each does every hour or so, and after a first failure to begin one; and the longest: a
/// server that is gone for long is not waited for by anybody.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// Namespace, group and plural.
pub type Place = (String, String, String);

/// Called with the namespace for each event of interest, and when a watch begins: what was before it is not known.
pub type Mark = Arc<dyn Fn(&str) + Send + Sync>;

/// The watches of one controller.
pub struct Watches {
    paths: Paths,
    mark: Mark,
    /// Which events are of interest.
    of_interest: fn(&Place, EventType) -> bool,
    running: Mutex<BTreeMap<Place, CancellationToken>>,
    /// Changes when other kinds may be served than before.
    kinds: watch::Receiver<()>,
    stop: CancellationToken,
}

impl Watches {
    pub fn new(context: &Context, client: Client, of_interest: fn(&Place, EventType) -> bool, mark: Mark) -> Self {
        let (sender, kinds) = watch::channel(());
        let paths = Paths { client, definitions: context.informers.definitions() };
        paths.definitions.on_change(Box::new(move |_, _| sender.send_replace(())));
        Self { paths, mark, of_interest, running: Mutex::default(), kinds, stop: context.stopping() }
    }

    /// Where the objects of resources are.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Begins what is wanted of a namespace, by group and plural, and ends the rest.
    pub fn follow(&self, namespace: &str, wanted: &BTreeSet<(String, String)>) {
        let mut running = self.running.lock();
        running.retain(|(of, group, plural), stop| {
            let keep = of != namespace || wanted.contains(&(group.clone(), plural.clone()));
            if !keep {
                stop.cancel();
            }
            keep
        });
        for (group, plural) in wanted {
            running.entry((namespace.to_owned(), group.clone(), plural.clone())).or_insert_with_key(|place| {
                let stop = self.stop.child_token();
                let followed = follow(
                    self.paths.clone(),
                    place.clone(),
                    self.of_interest,
                    Arc::clone(&self.mark),
                    self.kinds.clone(),
                );
                tokio::spawn(stop.clone().run_until_cancelled_owned(followed));
                stop
            });
        }
    }
}

async fn follow(
    paths: Paths,
    place: Place,
    of_interest: fn(&Place, EventType) -> bool,
    mark: Mark,
    mut kinds: watch::Receiver<()>,
) {
    let (namespace, group, plural) = &place;
    let mut wait = AGAIN_MIN;
    loop {
        kinds.mark_unchanged();
        let stream = match paths.of(group, plural, namespace).await {
            Ok(path) => paths.client.watch_path(&path, Query::default(), ACCEPT_METADATA).await,
            Err(error) => Err(error),
        };
        let missing = match stream {
            Ok(mut stream) => {
                wait = AGAIN_MIN;
                mark(namespace);
                while let Some(Ok(event)) = stream.next().await {
                    if of_interest(&place, event.event) {
                        mark(namespace);
                    }
                }
                false
            }
            Err(error) => error.is_not_found(),
        };
        tokio::select! {
            Ok(()) = kinds.changed(), if missing => wait = AGAIN_MIN,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(AGAIN_MAX),
        }
    }
}

/// Knows where the objects of a resource are listed.
#[derive(Clone)]
pub struct Paths {
    client: Client,
    definitions: Arc<Cache<Definition>>,
}

impl Paths {
    /// The path of a resource in a namespace; a group that is neither built in nor defined says so itself.
    ///
    /// # Errors
    /// The API's; 404 for a group that is not served.
    pub async fn of(&self, group: &str, plural: &str, namespace: &str) -> Result<String> {
        if let Some(kind) = BUILT_IN.iter().find(|k| k.group == group && k.plural == plural) {
            return Ok(kind.path(namespace));
        }
        let defined = self.definitions.all().into_iter().filter(|definition| definition.spec.group == group);
        if let Some(kind) = defined.filter_map(|definition| definition.kind()).find(|kind| kind.plural == plural) {
            return Ok(kind.path(namespace));
        }
        let found: Value = self.client.get_path(&format!("/apis/{group}")).await?;
        let version = found["preferredVersion"]["version"].as_str().unwrap_or("v1");
        Ok(resource_path(group, version, namespace, plural))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use client::fake::Fake;
    use client::{Body, Clock, Informers, Transport, TransportError, empty_body};
    use futures_util::future::BoxFuture;
    use jiff::Timestamp;
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    /// Says when it is asked. Cannot be reached twice; then each watch ends without an event.
    struct Quiet {
        asked: mpsc::UnboundedSender<Instant>,
        failures: Mutex<u32>,
    }

    impl Transport for Quiet {
        fn call(&self, _: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
            let _ = self.asked.send(Instant::now());
            let mut failures = self.failures.lock();
            let fails = *failures > 0;
            *failures = failures.saturating_sub(1);
            Box::pin(
                async move { if fails { Err(TransportError::Closed) } else { Ok(http::Response::new(empty_body())) } },
            )
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_quiet_watch_is_no_failure() {
        let (asked, mut begins) = mpsc::unbounded_channel();
        let client = Client::new(Arc::new(Quiet { asked, failures: Mutex::new(2) }));
        let definitions = Informers::new(Fake::new(Clock::fake(Timestamp::UNIX_EPOCH)).client()).definitions();
        let (_sender, kinds) = watch::channel(());
        let place = ("shop".to_owned(), String::new(), "pods".to_owned());
        let began = Instant::now();
        let followed = follow(Paths { client, definitions }, place, |_, _| true, Arc::new(|_| ()), kinds);
        let followed = tokio::spawn(followed);
        let mut seconds = Vec::new();
        while seconds.len() < 7 {
            seconds.push(begins.recv().await.unwrap().duration_since(began).as_secs());
        }
        followed.abort();
        assert_eq!(seconds, [0, 1, 3, 4, 5, 6, 7]);
    }
}
