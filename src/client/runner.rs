//! Runs a controller: takes keys off its queue, plans, applies, waits until its own writes are seen, comes again in time.
//!
//! A controller says what it watches by marking keys in a [`Queue`] from [`Cache::on_change`](crate::Cache::on_change), and
//! implements [`Controller`]. At idle the runner waits for one notification and one deadline; nothing ticks.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::object::Key;
use crate::queue::{Next, Queue};
use crate::{Error, Result};

/// What to do about one key, and why. Plain data.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<A> {
    /// In order; a failure ends the rest.
    pub actions: Vec<A>,
    /// One sentence per decision, for logs and people.
    pub why: Vec<String>,
    /// Plan again at this wall time although nothing changes.
    pub again: Option<Timestamp>,
}

impl<A> Default for Plan<A> {
    fn default() -> Self {
        Self { actions: Vec::new(), why: Vec::new(), again: None }
    }
}

impl<A> Plan<A> {
    pub fn nothing() -> Self {
        Self::default()
    }
    pub fn push(&mut self, action: A, why: impl Into<String>) {
        self.actions.push(action);
        self.why.push(why.into());
    }
    /// Plan again at `at`, or earlier if that was already asked.
    pub fn again_at(&mut self, at: Timestamp) {
        self.again = Some(self.again.map_or(at, |known| known.min(at)));
    }
}

/// Resolves when a write shows in the cache that the next plan will read: `cache.reached(revision)` or `cache.going(key, uid)`.
pub type Seen = BoxFuture<'static, ()>;

/// Longest wait for one's own writes to show. When it passes the key is planned again on what is there; preconditions on
/// writes make a stale plan harmless, only wasteful.
pub const SEEN_SECONDS_MAX: u64 = 5;
/// Longest work on one key: above the sum of a slow-start batch's requests on a slow disk. A hung key must not hold a
/// worker for ever.
pub const RECONCILE_SECONDS_MAX: u64 = 300;

/// Decides by `plan`, does by `apply`.
pub trait Controller: Send + Sync + 'static {
    type Action: Debug + Send;

    /// For logs, e.g. `replicaset`.
    fn name(&self) -> &'static str;

    /// Gathers what was observed and calls a pure function. Must not block.
    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Self::Action>;

    /// Does one action, deciding nothing. Returns what to wait for.
    fn apply(&self, key: &Key, action: Self::Action) -> impl Future<Output = Result<Vec<Seen>>> + Send;
}

/// How work on a key went.
#[derive(Default)]
pub struct Done {
    pub again: Option<Timestamp>,
    pub seen: Vec<Seen>,
    pub error: Option<Error>,
}

/// [`Controller`] without its types, so that there is one runner in the binary.
pub trait Reconcile: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    fn reconcile<'a>(&'a self, key: &'a Key, now: Timestamp) -> BoxFuture<'a, Done>;
}

impl<C: Controller> Reconcile for C {
    fn name(&self) -> &'static str {
        Controller::name(self)
    }

    fn reconcile<'a>(&'a self, key: &'a Key, now: Timestamp) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let plan = self.plan(key, now);
            let mut done = Done { again: plan.again, ..Done::default() };
            if !plan.actions.is_empty() {
                tracing::debug!(controller = Controller::name(self), %key, why = plan.why.join("; "), "acting");
            }
            for action in plan.actions {
                match self.apply(key, action).await {
                    Ok(seen) => done.seen.extend(seen),
                    Err(error) => {
                        done.error = Some(error);
                        break;
                    }
                }
            }
            done
        })
    }
}

/// Works on the queue with up to `workers` keys at a time until stopped; work under way is finished first.
///
/// A failed or panicked key comes again after its back-off; it never stops the others.
pub async fn run(
    controller: Arc<dyn Reconcile>,
    queue: Arc<Queue>,
    clock: Clock,
    workers: usize,
    stop: CancellationToken,
) {
    let mut tasks: JoinSet<()> = JoinSet::new();
    loop {
        let next = if tasks.len() < workers { queue.next(clock.monotonic()) } else { Next::At(None) };
        match next {
            Next::Key(key) => {
                let (controller, queue) = (Arc::clone(&controller), Arc::clone(&queue));
                tasks.spawn(async move {
                    let mut guard = Guard { queue: &queue, key: &key, clock, ok: false };
                    guard.ok = work(&*controller, &queue, &key, clock).await;
                });
            }
            Next::At(at) => {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = queue.changed() => {}
                    Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                    () = sleep_until(at) => {}
                }
            }
        }
        if stop.is_cancelled() {
            break;
        }
    }
    while tasks.join_next().await.is_some() {}
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Gives the key back whatever happens, a panic included.
struct Guard<'a> {
    queue: &'a Queue,
    key: &'a Key,
    clock: Clock,
    ok: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(key = %self.key, "work on a key panicked");
        }
        self.queue.done(self.key, self.ok, self.clock.monotonic());
    }
}

async fn work(controller: &dyn Reconcile, queue: &Queue, key: &Key, clock: Clock) -> bool {
    let limit = Duration::from_secs(RECONCILE_SECONDS_MAX);
    let Ok(done) = tokio::time::timeout(limit, controller.reconcile(key, clock.now())).await else {
        tracing::warn!(controller = controller.name(), %key, "gave up after {RECONCILE_SECONDS_MAX} s");
        return false;
    };
    if !done.seen.is_empty() {
        let seen = tokio::time::timeout(Duration::from_secs(SEEN_SECONDS_MAX), join_all(done.seen)).await;
        if seen.is_err() {
            tracing::debug!(controller = controller.name(), %key, "own writes not seen yet");
        }
    }
    if let Some(again) = done.again {
        queue.add_at(key.clone(), clock.monotonic() + clock.until(again));
    }
    match done.error {
        None => true,
        Some(error) => {
            // A conflict means that the plan was made on an old state: the new one is on its way.
            if error.is_conflict() {
                tracing::debug!(controller = controller.name(), %key, %error, "conflict");
            } else {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(controller = controller.name(), %key, %error, cause, "will be tried again");
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    /// Fails or panics as often as told, then asks to come again once.
    struct Flaky {
        runs: AtomicUsize,
        changed: Notify,
    }

    impl Controller for Flaky {
        type Action = usize;
        fn name(&self) -> &'static str {
            "flaky"
        }
        fn plan(&self, _: &Key, now: Timestamp) -> Plan<usize> {
            let run = self.runs.fetch_add(1, Ordering::SeqCst);
            self.changed.notify_one();
            let mut plan = Plan::nothing();
            plan.push(run, "test");
            if run == 2 {
                plan.again_at(now + jiff::SignedDuration::from_secs(60));
            }
            plan
        }
        async fn apply(&self, _: &Key, run: usize) -> Result<Vec<Seen>> {
            match run {
                0 => Err(types::status::Status::bad_request("no").into()),
                1 => panic!("a bug in one key"),
                _ => Ok(vec![]),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_and_panics_come_again_and_deadlines_are_kept() {
        let flaky = Arc::new(Flaky { runs: AtomicUsize::new(0), changed: Notify::new() });
        let (queue, stop) = (Arc::new(Queue::new()), CancellationToken::new());
        queue.add(Key::cluster("a"));
        let clock = Clock::fake(Timestamp::UNIX_EPOCH);
        let runner = tokio::spawn(run(Arc::clone(&flaky) as _, Arc::clone(&queue), clock, 1, stop.clone()));
        while flaky.runs.load(Ordering::SeqCst) < 4 {
            flaky.changed.notified().await;
        }
        let elapsed = clock.now().as_second();
        assert!((60..62).contains(&elapsed), "{elapsed}");
        // Nothing is left to do: an hour passes without a run.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(flaky.runs.load(Ordering::SeqCst), 4);
        stop.cancel();
        runner.await.unwrap();
    }

    /// After its write is accepted, the key is not planned again before the cache shows it.
    struct Writer {
        plans: AtomicUsize,
        shown: Arc<Notify>,
    }
    impl Controller for Writer {
        type Action = ();
        fn name(&self) -> &'static str {
            "writer"
        }
        fn plan(&self, _: &Key, _: Timestamp) -> Plan<()> {
            self.plans.fetch_add(1, Ordering::SeqCst);
            Plan { actions: vec![()], ..Plan::default() }
        }
        async fn apply(&self, _: &Key, (): ()) -> Result<Vec<Seen>> {
            let shown = Arc::clone(&self.shown);
            Ok(vec![Box::pin(async move { shown.notified().await })])
        }
    }

    #[tokio::test(start_paused = true)]
    async fn own_writes_are_read_before_the_next_plan() {
        let shown = Arc::new(Notify::new());
        let writer = Arc::new(Writer { plans: AtomicUsize::new(0), shown: Arc::clone(&shown) });
        let (queue, stop) = (Arc::new(Queue::new()), CancellationToken::new());
        queue.add(Key::cluster("a"));
        let clock = Clock::fake(Timestamp::UNIX_EPOCH);
        let runner = tokio::spawn(run(Arc::clone(&writer) as _, Arc::clone(&queue), clock, 4, stop.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        queue.add(Key::cluster("a"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(writer.plans.load(Ordering::SeqCst), 1);
        shown.notify_one();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(writer.plans.load(Ordering::SeqCst), 2);
        stop.cancel();
        runner.await.unwrap();
    }
}
