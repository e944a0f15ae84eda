//! Kills a writing process at random points, again and again on the same file.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use store::{Class, Expect, Options, SqliteStore, Store};

use crate::{delete, durable, number, open, put, relaxed, revision_of};

const FOLDER: &str = "KEDGE_TEST_CRASH_FOLDER";
const NAME: &str = "crash::nothing_acknowledged_is_lost";
const ROUNDS: u64 = 40;

/// In the child: prints what was acknowledged, one line per write, until it is killed. Each line is one `write` of less
/// than `PIPE_BUF`, so that lines come through whole.
fn acknowledge(kind: char, key: &str, n: u64, revision: u64) {
    let line = format!("\n{kind} {key} {n} {revision}\n");
    if std::io::stdout().write_all(line.as_bytes()).and_then(|()| std::io::stdout().flush()).is_err() {
        std::process::exit(1);
    }
}

async fn write_for_ever(store: Arc<SqliteStore>, kind: char, key: String) {
    let mut n = store.snapshot().get(&key).map_or(0, |entry| number(&entry));
    loop {
        n += 1;
        let batch = match kind {
            'd' => durable(&key, n),
            'r' => relaxed(&key, n),
            // A batch of two, of both classes: all or nothing.
            'b' => vec![
                put(&format!("{key}-2"), n, Expect::Any, Class::Relaxed),
                put(&key, n, Expect::Any, Class::Durable),
            ],
            'x' if n.is_multiple_of(2) && store.snapshot().get(&key).is_some() => delete(&key),
            _ => durable(&key, n),
        };
        let written = store.write(batch).await.unwrap();
        acknowledge(kind, &key, n, revision_of(&written).0);
        if kind == 'r' {
            // Otherwise a loop that never waits would keep the others from running.
            tokio::task::yield_now().await;
        }
    }
}

fn child(folder: &Path) -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store =
            crate::try_open(&folder.join("state.db"), Options { revision_block: 500, ..Options::default() }).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for (kind, count) in [('d', 6), ('r', 2), ('b', 2), ('x', 2)] {
            for index in 0..count {
                tasks.spawn(write_for_ever(store.clone(), kind, format!("{kind}/{index}")));
            }
        }
        tasks.join_next().await
    });
    unreachable!("writers do not end")
}

fn spawn(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[derive(Default)]
struct Seen {
    /// The last acknowledgement of each key: (kind, n, revision).
    last: HashMap<String, (char, u64, u64)>,
    /// The largest revision that was acknowledged, and the largest of a durable write.
    revision: u64,
    durable: u64,
    /// Every revision that was acknowledged, by whichever writer, before or after whichever crash.
    revisions: HashSet<u64>,
    /// For each relaxed key, its acknowledgements since the last check.
    relaxed: Vec<(String, u64, u64)>,
    count: u64,
}

impl Seen {
    fn line(&mut self, line: &str, first_allowed: u64) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [kind @ ("d" | "r" | "b" | "x"), key, n, revision] = fields[..] else { return };
        let (n, revision): (u64, u64) = (n.parse().unwrap(), revision.parse().unwrap());
        assert!(revision >= first_allowed, "{revision} was used before the crash, up to {first_allowed}");
        if let Some((_, _, before)) = self.last.get(key) {
            assert!(revision > *before, "{key}: {revision} after {before}");
        }
        self.last.insert(key.to_owned(), (kind.chars().next().unwrap(), n, revision));
        assert!(self.revisions.insert(revision), "{key}: {revision} was given out twice");
        self.revision = self.revision.max(revision);
        if kind == "r" {
            self.relaxed.push((key.to_owned(), n, revision));
        } else {
            self.durable = self.durable.max(revision);
        }
        self.count += 1;
    }

    fn check(&mut self, store: &dyn Store) {
        let view = store.snapshot();
        assert!(
            view.revision().0 >= self.revision,
            "the store went back to {} from {}",
            view.revision(),
            self.revision
        );
        for (key, (kind, n, revision)) in &mut self.last {
            let entry = view.get(key);
            match (&*kind, entry) {
                ('r', _) => {}
                // Ahead by the write that was under way when the kill came, never behind.
                ('d' | 'b', Some(entry)) => {
                    assert!(
                        entry.modified().0 >= *revision && number(&entry) >= *n,
                        "{key} is back at {}",
                        number(&entry)
                    );
                    assert!(number(&entry) <= *n + 1);
                    if *kind == 'b' {
                        let twin = view.get(&format!("{key}-2")).unwrap();
                        assert_eq!(number(&twin), number(&entry), "half a batch");
                    }
                    // What was found once must be there the next time as well.
                    (*n, *revision) = (number(&entry), entry.modified().0);
                }
                ('x', Some(entry)) => {
                    assert!(entry.modified().0 > *revision || (entry.modified().0 == *revision && number(&entry) == *n))
                }
                ('x', None) => {}
                (_, entry) => panic!("{key}: {entry:?} after {kind} {n}"),
            }
        }
        // A durable write takes all relaxed ones before it along: what is there is the state at one revision.
        for (key, n, revision) in self.relaxed.drain(..) {
            if revision < self.durable {
                let entry = view.get(&key).unwrap();
                assert!(number(&entry) >= n, "{key} lost {n}@{revision} though {} is on disk", self.durable);
            }
        }
        // What is lost of relaxed keys starts again.
        self.last.retain(|_, (kind, _, _)| *kind != 'r');
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        child(Path::new(&folder));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut seen = Seen::default();
    // Kill points: a fixed sequence of pseudo-random numbers; the moment within a write is the machine's to choose.
    let mut random: u64 = 0x9E37_79B9_7F4A_7C15;
    for round in 0..ROUNDS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let lines_before_kill = (random >> 33) % 700;
        let mut process = spawn(folder.path());
        let first_allowed = seen.revision + 1;
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        let mut count = 0;
        while output.read_line(&mut line).unwrap() > 0 {
            seen.line(line.trim_end(), first_allowed);
            line.clear();
            count += 1;
            if count == lines_before_kill + 4 {
                process.kill().unwrap();
            }
        }
        let status = process.wait().unwrap();
        assert_eq!(status.code(), None, "the child ended by itself: {status}");

        // Every other time the check works on a copy, so that the next child recovers by itself.
        let copy = tempfile::tempdir().unwrap();
        let place = if round % 2 == 0 {
            for name in ["state.db", "state.db-wal"] {
                let from = folder.path().join(name);
                if from.exists() {
                    std::fs::copy(from, copy.path().join(name)).unwrap();
                }
            }
            copy.path()
        } else {
            folder.path()
        };
        if !place.join("state.db").exists() {
            continue;
        }
        let store = open(&place.join("state.db"));
        seen.check(&*store);
        runtime.block_on(store.close()).unwrap();
    }
    assert!(seen.count > 5_000, "only {} writes were acknowledged", seen.count);
}
