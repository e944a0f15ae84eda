//! Files and places that a store must refuse, and how it says so.

use std::path::Path;

use store::{Error, Options, Store};

use crate::{contents, durable, open, try_open};

fn refusal(path: &Path) -> Error {
    match try_open(path, Options::default()) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// A store with `count` keys, closed.
async fn filled(path: &Path, count: u64) {
    let store = open(path);
    for n in 0..count {
        store.write(durable(&format!("some/key/{n:04}"), n)).await.unwrap();
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn files_that_are_not_ours() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let name = path.display().to_string();
    type Make<'a> = Box<dyn Fn() + 'a>;
    let rows: Vec<(&str, Make, String)> = vec![
        (
            "garbage",
            Box::new(|| {
                std::fs::write(&path, b"this is no database, but it is longer than its header would be".repeat(99))
                    .unwrap()
            }),
            format!("the state database {name} is damaged: file is not a database"),
        ),
        (
            "foreign",
            Box::new(|| {
                rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap()
            }),
            format!("the state database {name} is damaged: it is a SQLite database, but not one of kedge"),
        ),
        (
            "newer",
            Box::new(|| {
                drop(open(&path));
                // The writer ends in the background; its lock goes with it.
                while rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 7").is_err() {
                    std::thread::yield_now();
                }
            }),
            format!("{name} was written by a newer version (schema 7, this one knows 1)"),
        ),
        (
            "empty with a log",
            Box::new(|| {
                std::fs::write(&path, b"").unwrap();
                std::fs::write(folder.path().join("state.db-wal"), b"the last thing that is left").unwrap();
            }),
            format!("the state database {name} is damaged: it is empty, but its write-ahead log is not"),
        ),
        (
            "a folder",
            Box::new(|| std::fs::create_dir(&path).unwrap()),
            format!("i/o on the state database: cannot open {name}: Is a directory (os error 21)"),
        ),
    ];
    for (what, make, expected) in rows {
        make();
        let before = std::fs::read(&path).ok();
        assert_eq!(chain(&refusal(&path)), expected, "{what}");
        assert_eq!(std::fs::read(&path).ok(), before, "{what}: the file was touched");
        for name in ["state.db", "state.db-wal", "state.db-shm"] {
            let _ = std::fs::remove_file(folder.path().join(name));
        }
    }
}

#[test]
fn places_that_cannot_be_written() {
    for path in ["/sys/state.db", "/nowhere/at/all/state.db"] {
        let error = refusal(Path::new(path));
        assert!(matches!(error, Error::Io(_)), "{error}");
        assert!(
            chain(&error).starts_with(&format!("i/o on the state database: cannot open {path}: ")),
            "{}",
            chain(&error)
        );
    }
}

#[tokio::test]
async fn a_file_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = open(&path);
    store.write(durable("a", 1)).await.unwrap();
    assert!(matches!(refusal(&path), Error::InUse { .. }));
    store.write(durable("a", 2)).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(contents(&*open(&path)).len(), 1);
}

#[tokio::test]
async fn another_process_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    filled(&path, 1).await;
    // Locks of a process do not exclude itself at the level of the kernel, hence a real second one.
    let script = "import fcntl,sys;f=open(sys.argv[1],'r+b');fcntl.lockf(f,fcntl.LOCK_EX,510,1073741826);print('locked',flush=True);sys.stdin.read()";
    let mut other = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(other.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(
        refusal(&path).to_string(),
        format!("the state database {} is in use by another process", path.display())
    );
    drop(other.stdin.take());
    other.wait().unwrap();
    assert_eq!(contents(&*open(&path)).len(), 1);
}

/// A file that lost its end is refused, or nothing of it is missing; a wrong byte in a row's revision is found.
#[tokio::test]
async fn a_file_that_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    filled(&path, 500).await;
    let whole = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for len in (1..whole.len()).step_by(1_000) {
        let cut = folder.path().join("cut.db");
        std::fs::write(&cut, &whole[..len]).unwrap();
        match try_open(&cut, Options::default()) {
            Err(Error::Damaged { .. }) => {}
            Err(error) => panic!("cut at {len} of {}: {error}", whole.len()),
            Ok(store) => panic!("cut at {len} of {}: opened with {} keys", whole.len(), contents(&*store).len()),
        }
        refused += 1;
    }
    assert!(refused > 10);

    let stamp = whole.windows(11).position(|bytes| bytes == b"\"rev\":\"123\"").unwrap();
    let mut wrong = whole.clone();
    wrong[stamp + 8] = b'7';
    let path = folder.path().join("wrong.db");
    std::fs::write(&path, wrong).unwrap();
    assert!(chain(&refusal(&path)).contains("contradicts itself"));
}

/// Whatever the power leaves of the log: the store opens with the state at some revision, whole.
#[tokio::test]
async fn a_log_that_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let wal = folder.path().join("state.db-wal");
    let store = open(&path);
    // One key is changed again and again, the others are appended: after n commits there are n keys and the counter is n.
    for n in 1..=60 {
        let mut batch = durable(&format!("key/{n:03}"), n);
        batch.extend(durable("counter", n));
        store.write(batch).await.unwrap();
    }
    let (db, log) = (std::fs::read(&path).unwrap(), std::fs::read(&wal).unwrap());
    let mut counters = std::collections::BTreeSet::new();
    for len in (0..=log.len()).step_by(1_111).chain([log.len()]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        std::fs::write(&path, &db).unwrap();
        std::fs::write(folder.path().join("state.db-wal"), &log[..len]).unwrap();
        let cut = open(&path);
        let view = cut.snapshot();
        let counter = view.get("counter").map_or(0, |entry| crate::number(&entry));
        assert_eq!(view.count("key/") as u64, counter, "log cut at {len}");
        counters.insert(counter);
        cut.close().await.unwrap();
    }
    assert!(counters.len() > 30 && counters.last() == Some(&60), "{counters:?}");
    store.close().await.unwrap();
}
