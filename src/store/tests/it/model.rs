//! Random histories against a model that is a `BTreeMap` and a list of what happened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::poll_now;
use proptest::prelude::*;
use store::{Class, Error, Event, Expect, HistoryLimits, Op, Options, Revision, SqliteStore, Store, Watcher, Write};

use crate::{listed, put, try_open};

const KEYS: [&str; 7] = ["a", "a/", "a/1", "a/2", "a/b/1", "b/1", "b/10"];
const PREFIXES: [&str; 6] = ["", "a", "a/", "a/b/", "b/1", "c/"];

#[derive(Debug, Clone)]
enum Want {
    Any,
    Absent,
    Present,
    Current,
    Stale,
}

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<(usize, Want, bool, bool)>),
    /// Prefix, and how far back to begin.
    Watch(usize, u64),
    Read(usize),
    Leave(usize),
    Back(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let want = prop_oneof![
        4 => Just(Want::Any), 1 => Just(Want::Absent), 1 => Just(Want::Present), 3 => Just(Want::Current), 1 => Just(Want::Stale)
    ];
    let write = (0..KEYS.len(), want, any::<bool>(), prop::bool::weighted(0.7));
    prop_oneof![
        10 => prop::collection::vec(write, 0..4).prop_map(Step::Write),
        3 => (0..PREFIXES.len(), 0u64..30).prop_map(|(prefix, back)| Step::Watch(prefix, back)),
        5 => (0usize..8).prop_map(Step::Read),
        1 => (0usize..8).prop_map(Step::Leave),
        3 => (0u64..40).prop_map(Step::Back),
        1 => Just(Step::Reopen),
    ]
}

type State = BTreeMap<String, (u64, u64, u64)>;

/// (revision, key, n and whether it is there after the event, whether it was there before)
type Happened = (u64, String, u64, bool, bool);

#[derive(Default)]
struct Model {
    state: State,
    revision: u64,
    /// Every state since the store was opened, by its revision.
    states: BTreeMap<u64, State>,
    events: Vec<Happened>,
}

impl Model {
    /// The index of the write that fails, if one does.
    fn write(&mut self, batch: &[(usize, Expect, bool, u64)]) -> Result<(), usize> {
        let (mut state, mut revision, mut events) = (self.state.clone(), self.revision, Vec::new());
        let mut states = Vec::new();
        for (index, (key, expect, is_put, n)) in batch.iter().enumerate() {
            let key = KEYS[*key];
            let old = state.get(key).copied();
            let holds = match expect {
                Expect::Any => true,
                Expect::Absent => old.is_none(),
                Expect::Present => old.is_some(),
                Expect::At(at) => old.is_some_and(|old| old.2 == at.0),
            };
            if !holds || (!is_put && old.is_none()) {
                return Err(index);
            }
            revision += 1;
            if *is_put {
                state.insert(key.into(), (*n, old.map_or(revision, |old| old.1), revision));
                events.push((revision, key.into(), *n, true, old.is_some()));
            } else {
                state.remove(key);
                events.push((revision, key.into(), old.unwrap().0, false, true));
            }
            states.push((revision, state.clone()));
        }
        (self.state, self.revision) = (state, revision);
        self.states.extend(states);
        self.events.extend(events);
        Ok(())
    }

    fn opened(&mut self, revision: u64) {
        self.revision = revision;
        self.states = BTreeMap::from([(revision, self.state.clone())]);
        self.events.clear();
    }
}

fn flat(state: &State) -> Vec<(String, u64, u64, u64)> {
    state.iter().map(|(key, (n, created, modified))| (key.clone(), *n, *created, *modified)).collect()
}

fn happened(event: &Event) -> Happened {
    let (there, before) = match event {
        Event::Put { previous, .. } => (true, previous.is_some()),
        Event::Delete { .. } => (false, true),
    };
    let entry = event.entry();
    (entry.modified().0, entry.key().to_string(), crate::number(entry), there, before)
}

struct Watching {
    watcher: Box<dyn Watcher>,
    prefix: &'static str,
    position: u64,
}

/// Reads all that is ready and compares it with the model. False: the watcher has fallen out.
fn read(watching: &mut Watching, model: &Model) -> bool {
    loop {
        let mut events = Vec::new();
        match poll_now(watching.watcher.next(&mut events)) {
            None => break,
            Some(Ok(revision)) => {
                let expected: Vec<_> = model
                    .events
                    .iter()
                    .filter(|e| e.0 > watching.position && e.0 <= revision.0 && e.1.starts_with(watching.prefix))
                    .cloned()
                    .collect();
                assert!(!events.is_empty());
                assert_eq!(events.iter().map(happened).collect::<Vec<_>>(), expected);
                watching.position = revision.0;
            }
            Some(Err(Error::Compacted { requested, oldest })) => {
                assert!(requested < oldest);
                let mut missed = model.events.iter().filter(|e| e.0 > requested.0 && e.1.starts_with(watching.prefix));
                assert!(missed.next().is_some_and(|e| e.0 <= oldest.0), "thrown out without having missed anything");
                return false;
            }
            Some(Err(error)) => panic!("{error}"),
        }
    }
    assert_eq!(watching.watcher.progress().0, model.revision, "nothing is unread, so the feed is complete");
    true
}

fn options() -> Options {
    // So small that history is forgotten all the time, and revision blocks end often.
    let history = HistoryLimits { bytes_max: 6_000, quiet_bytes_max: 1_000, age: Duration::from_secs(600) };
    Options { history, revision_block: 7, ..Options::default() }
}

async fn run(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut store: Arc<SqliteStore> = try_open(&path, options()).unwrap();
    let mut model = Model::default();
    model.opened(0);
    let mut watchers: Vec<Watching> = Vec::new();
    let mut n = 0;
    for step in steps {
        match step {
            Step::Write(writes) => {
                let batch: Vec<_> = writes
                    .into_iter()
                    .map(|(key, want, durable, is_put)| {
                        let current = model.state.get(KEYS[key]).map_or(0, |old| old.2);
                        let expect = match want {
                            Want::Any => Expect::Any,
                            Want::Absent => Expect::Absent,
                            Want::Present => Expect::Present,
                            Want::Current => Expect::At(Revision(current)),
                            Want::Stale => Expect::At(Revision(current.saturating_sub(1))),
                        };
                        n += 1;
                        let class = if durable { Class::Durable } else { Class::Relaxed };
                        let write = if is_put {
                            put(KEYS[key], n, expect, class)
                        } else {
                            Write { key: KEYS[key].into(), expect, class, op: Op::Delete }
                        };
                        ((key, expect, is_put, n), write)
                    })
                    .collect();
                let (plain, batch): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
                match (store.write(batch).await, model.write(&plain)) {
                    (Ok(written), Ok(())) => assert_eq!(written.len(), plain.len()),
                    (Err(Error::Precondition { index, .. }), Err(expected)) => assert_eq!(index, expected),
                    (result, expected) => panic!("{result:?} instead of {expected:?}"),
                }
                let snapshot = store.snapshot();
                assert_eq!((snapshot.revision().0, listed(&*snapshot)), (model.revision, flat(&model.state)));
            }
            Step::Watch(prefix, back) => {
                let (prefix, after) = (PREFIXES[prefix], model.revision.saturating_sub(back));
                match store.watch(prefix, Revision(after)) {
                    Ok(watcher) => watchers.push(Watching { watcher, prefix, position: after }),
                    Err(Error::Compacted { oldest, .. }) => assert!(after < oldest.0 && oldest.0 <= model.revision),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Read(which) if which < watchers.len() => {
                if !read(&mut watchers[which], &model) {
                    watchers.remove(which);
                }
            }
            Step::Leave(which) if which < watchers.len() => drop(watchers.remove(which)),
            Step::Read(_) | Step::Leave(_) => {}
            Step::Back(back) => {
                let revision = model.revision.saturating_sub(back);
                match store.snapshot_at(Revision(revision)) {
                    Ok(view) => {
                        assert_eq!(view.revision().0, revision);
                        assert_eq!(listed(&*view), flat(&model.states[&revision]));
                        for prefix in PREFIXES {
                            let keys: Vec<_> = view.range(prefix, Some("a/2")).map(|e| e.key().to_string()).collect();
                            let all = model.states[&revision].keys().filter(|key| key.starts_with(prefix));
                            assert_eq!(view.count(prefix), all.clone().count());
                            assert_eq!(keys, all.filter(|key| key.as_str() >= "a/2").cloned().collect::<Vec<_>>());
                        }
                    }
                    Err(Error::Compacted { oldest, .. }) => assert!(revision < oldest.0 && oldest.0 <= model.revision),
                    Err(error) => panic!("{error}"),
                }
                let future = Revision(model.revision + 1);
                assert!(matches!(store.snapshot_at(future), Err(Error::Future { .. })));
                assert!(matches!(store.watch("", future), Err(Error::Future { .. })));
            }
            Step::Reopen => {
                for mut watching in watchers.drain(..) {
                    read(&mut watching, &model);
                }
                store.close().await.unwrap();
                drop(store);
                store = try_open(&path, options()).unwrap();
                assert_eq!(store.snapshot().revision().0, model.revision, "a clean restart skips no revision");
                assert_eq!(listed(&*store.snapshot()), flat(&model.state));
                model.opened(model.revision);
            }
        }
    }
    for mut watching in watchers {
        read(&mut watching, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_the_model(steps in prop::collection::vec(step(), 1..120)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}

mod futures {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// What a future has to say at once.
    pub fn poll_now<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }
}
