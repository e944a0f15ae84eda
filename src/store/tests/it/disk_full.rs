//! A disk that is really full: a small tmpfs in a mount namespace of its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use store::{Error, Options, Store, Value, Write};

use crate::{Class, Expect, Op, number, open, relaxed, try_open};

const FOLDER: &str = "KEDGE_TEST_FULL_FOLDER";
const NAME: &str = "disk_full::a_full_disk_makes_the_store_read_only_until_there_is_space";

fn big(n: usize) -> Write {
    let value = Value { bytes: vec![b'x'; 20_000].into(), stamp_at: None, facts: store::Facts::default() };
    Write { key: format!("big/{n:04}").into(), expect: Expect::Absent, class: Class::Durable, op: Op::Put(value) }
}

async fn on_small_disk(folder: &Path) {
    let path = folder.join("state.db");
    let filler = folder.join("filler");
    std::fs::write(&filler, vec![0; 1 << 20]).unwrap();
    let store = try_open(&path, Options { retry_after: Duration::ZERO, ..Options::default() }).unwrap();
    let mut watcher = store.watch("big/", store.snapshot().revision()).unwrap();
    let mut kept = 0;
    let reason = loop {
        match store.write(vec![big(kept)]).await {
            Ok(_) => kept += 1,
            Err(Error::ReadOnly { reason }) => break reason,
            Err(error) => panic!("{error}"),
        }
        assert!(kept < 1_000, "the disk does not fill up");
    };
    assert_eq!(reason, format!("no space left on the disk that holds {}", path.display()));
    assert!(matches!(store.writable(), Err(Error::ReadOnly { .. })));
    assert!(kept > 10, "{kept}");

    // Reading goes on; nothing of the failed write is to be seen.
    assert_eq!(store.snapshot().count("big/"), kept);
    let mut events = Vec::new();
    while watcher.progress() < store.snapshot().revision() {
        watcher.next(&mut events).await.unwrap();
    }
    assert_eq!(events.len(), kept);
    // Renewals go on in memory, or a full disk would cost the cluster its nodes as well.
    for n in 0..100 {
        store.write(relaxed("lease/node", n)).await.unwrap();
    }
    assert!(matches!(store.write(vec![big(kept)]).await, Err(Error::ReadOnly { .. })));

    // Space comes back: the next write goes through, and with it everything that had waited.
    std::fs::remove_file(&filler).unwrap();
    store.write(vec![big(kept)]).await.unwrap();
    store.writable().unwrap();
    store.close().await.unwrap();

    let store = open(&path);
    assert_eq!(store.snapshot().count("big/"), kept + 1);
    assert_eq!(number(&store.snapshot().get("lease/node").unwrap()), 99);

    // Full again: a restart serves what there is, and refuses only to write.
    std::fs::write(&filler, vec![0; 16 << 20]).unwrap_err();
    let mut last = kept;
    while store.write(vec![big(last + 1)]).await.is_ok() {
        last += 1;
    }
    let _ = store.close().await;
    let store = open(&path);
    assert_eq!(store.snapshot().count("big/"), last + 1);
    assert!(matches!(store.write(vec![big(last + 1)]).await, Err(Error::ReadOnly { .. })));
}

#[test]
fn a_full_disk_makes_the_store_read_only_until_there_is_space() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(on_small_disk(Path::new(&folder)));
    }
    let folder = tempfile::tempdir().unwrap();
    let script = format!(r#"mount -t tmpfs -o size=3m tmpfs "${FOLDER}" && exec "$0" --exact {NAME} --nocapture"#);
    let output = Command::new("unshare")
        // User namespace as well, so that it works without being root.
        .args(["-U", "-r", "-m", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "{}", text(&output.stdout));
}
