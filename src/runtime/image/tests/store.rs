//! The store over time: restarts after crashes at each step, who keeps what, the folder of archives, export.

use std::fs;
use std::os::unix::fs::MetadataExt;

use http_body_util::BodyExt;

use super::fixture::{Home, Tar, gzip, in_rootfs, oci, plain};
use crate::image::{Error, ImageStore, Images, Options, Registries, admin, airgap, export, import};

fn layer(text: &str) -> Vec<u8> {
    Tar::new().dir("etc/", 0o755, 0).file("etc/name", 0o644, text).finish()
}

fn add(store: &ImageStore, name: &str, layers: &[Vec<u8>]) {
    import(store, oci(name, layers, gzip).as_slice(), None, false).unwrap();
}

fn names(store: &ImageStore) -> Vec<String> {
    let mut names: Vec<String> = store.list().into_iter().flat_map(|image| image.names).collect();
    names.sort();
    names
}

#[test]
fn who_waits_for_an_image_hears_of_new_names_only() {
    let home = Home::new();
    let store = home.open();
    let mut added = store.added();
    let mut heard = |what: &str, expected: bool| {
        assert_eq!(added.has_changed().unwrap(), expected, "{what}");
        added.mark_unchanged();
    };
    add(&store, "test.local/a:1", &[layer("a")]);
    heard("an import", true);
    add(&store, "test.local/a:1", &[layer("a")]);
    heard("the same again", false);
    store.tag("test.local/a:1", "test.local/a:2").unwrap();
    heard("another name", true);
    add(&store, "test.local/a:1", &[layer("b")]);
    heard("a name that means another image", true);
    store.pin("test.local/a:1", true).unwrap();
    store.remove("test.local/a:2").unwrap();
    store.tag("test.local/none:1", "test.local/a:3").unwrap_err();
    heard("pinned, removed, refused", false);
}

#[test]
fn a_restart_after_a_crash_finds_what_was_whole() {
    let home = Home::new();
    let store = home.open();
    add(&store, "test.local/a:1", &[layer("a")]);
    add(&store, "test.local/b:1", &[layer("b")]);
    let rootfs = store.prepare("test.local/a:1", "pod-a").unwrap();
    in_rootfs(&rootfs, "echo written > file");
    drop(store);
    let whole = home.files();
    let dir = home.path();
    // What each step leaves when the power goes: staged files, a layer without its description, a description cut short, an
    // index half written, a container half made.
    fs::create_dir_all(dir.join("ingest/7/fs/etc")).unwrap();
    fs::create_dir_all(dir.join("layers").join("0".repeat(64)).join("fs")).unwrap();
    let cut = dir.join("layers").join("1".repeat(64));
    fs::create_dir_all(cut.join("fs")).unwrap();
    fs::write(cut.join("layer.json"), "{\"diffId\":").unwrap();
    fs::create_dir_all(dir.join("containers/half/upper")).unwrap();
    fs::write(dir.join("index.tmp"), "{\"format\":1,").unwrap();
    let store = home.open();
    fs::remove_file(dir.join("index.tmp")).unwrap();
    assert_eq!(home.files(), whole);
    assert_eq!(names(&store), ["test.local/a:1", "test.local/b:1"]);
    // The container's files are its own still.
    assert_eq!(store.prepared(), ["pod-a"]);
    let again = store.prepare("test.local/a:1", "pod-a").unwrap();
    assert_eq!(again, rootfs);
    assert_eq!(in_rootfs(&again, "cat file"), "written\n");
    // An image whose configuration or layer is gone is forgotten, the other stays.
    let id = store.resolve("test.local/b:1").unwrap().unwrap().id;
    drop(store);
    fs::write(dir.join("blobs/sha256").join(id.hex()), "{").unwrap();
    let store = home.open();
    assert_eq!(names(&store), ["test.local/a:1"]);
    add(&store, "test.local/b:1", &[layer("b")]);
    drop(store);
    assert_eq!(names(&home.open()), ["test.local/a:1", "test.local/b:1"]);
}

#[test]
fn one_process_has_a_store_and_newer_ones_are_refused() {
    let home = Home::new();
    let store = home.open();
    let again = ImageStore::open(home.path(), Options::default());
    assert!(matches!(again, Err(Error::Locked(_))));
    drop(store);
    fs::write(home.path().join("index.json"), r#"{"format": 99, "other": []}"#).unwrap();
    let newer = ImageStore::open(home.path(), Options::default()).err().unwrap();
    assert!(newer.to_string().contains("has format 99, this kedge reads up to 1"), "{newer}");
    fs::write(home.path().join("index.json"), "garbage").unwrap();
    assert!(matches!(ImageStore::open(home.path(), Options::default()), Err(Error::Malformed { .. })));
}

#[test]
fn layers_are_shared_and_live_as_long_as_an_image_has_them() {
    let home = Home::new();
    let store = home.open();
    add(&store, "test.local/a:1", &[layer("base"), layer("a")]);
    add(&store, "test.local/b:1", &[layer("base"), layer("b")]);
    let count = || fs::read_dir(home.path().join("layers")).unwrap().count();
    assert_eq!(count(), 3);
    store.tag("test.local/a:1", "a:two").unwrap();
    store.pin("test.local/b:1", true).unwrap();
    store.prepare("test.local/a:1", "c1").unwrap();

    assert!(matches!(store.remove("test.local/b:1"), Err(Error::Pinned { .. })));
    assert!(matches!(store.remove("test.local/c:1"), Err(Error::Missing(_))));
    // One of two names goes, then the image cannot: it is in use.
    store.remove("test.local/a:1").unwrap();
    assert!(matches!(store.remove("a:two"), Err(Error::InUse { .. })));
    assert!(store.prune().unwrap().images.is_empty());
    assert_eq!((names(&store), count()), (vec!["docker.io/library/a:two".into(), "test.local/b:1".into()], 3));

    store.release("c1").unwrap();
    store.release("c1").unwrap();
    let pruned = store.prune().unwrap();
    assert_eq!((pruned.images.len(), pruned.layers, count()), (1, 1, 2));
    store.pin("test.local/b:1", false).unwrap();
    store.prune().unwrap();
    assert_eq!((names(&store).len(), count()), (0, 0));
    assert_eq!(fs::read_dir(home.path().join("blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn the_folder_of_archives_is_imported_once_and_pins() {
    let home = Home::new();
    let folder = home.dir.path().join("images");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.tar"), oci("test.local/a:1", &[layer("a")], plain)).unwrap();
    fs::write(folder.join("bad.tar.gz"), &gzip(&oci("test.local/b:1", &[layer("b")], gzip))[..300]).unwrap();
    fs::write(folder.join("notes.txt"), "no archive").unwrap();
    let store = home.open();
    let synced = airgap::sync(&folder, &store).unwrap();
    assert_eq!((synced.imported.len(), synced.failed.len(), synced.unchanged), (1, 1, 0));
    assert!(store.list()[0].pinned && store.prune().unwrap().images.is_empty());
    fs::remove_file(folder.join("bad.tar.gz")).unwrap();

    // A restart reads nothing: not even the access time of the layer's directory or the index changes.
    drop(store);
    let store = home.open();
    let index = || fs::metadata(home.path().join("index.json")).unwrap().ino();
    let before = index();
    let synced = airgap::sync(&folder, &store).unwrap();
    assert_eq!((synced.imported.len(), synced.unchanged, index()), (0, 1, before));
    // The same content under another name or time is known by its digest.
    fs::copy(folder.join("a.tar"), folder.join("b.tar")).unwrap();
    let synced = airgap::sync(&folder, &store).unwrap();
    assert_eq!((synced.imported.len(), synced.unchanged), (0, 2));
    // Other content under the same name is imported, what it replaced is no longer pinned.
    fs::write(folder.join("a.tar"), oci("test.local/a:1", &[layer("newer")], plain)).unwrap();
    fs::remove_file(folder.join("b.tar")).unwrap();
    let synced = airgap::sync(&folder, &store).unwrap();
    assert_eq!((synced.imported.len(), synced.gone), (1, 1));
    assert_eq!(store.prune().unwrap().images.len(), 1);
    assert!(matches!(store.remove("test.local/a:1"), Err(Error::Pinned { .. })));
    fs::remove_file(folder.join("a.tar")).unwrap();
    airgap::sync(&folder, &store).unwrap();
    assert_eq!(store.prune().unwrap().images.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_is_watched() {
    let home = Home::new();
    let folder = home.dir.path().join("images");
    let (sender, mut reports) = tokio::sync::mpsc::unbounded_channel();
    let stop = tokio_util::sync::CancellationToken::new();
    let report = move |synced| drop(sender.send(synced));
    let watch = tokio::spawn(airgap::watch(folder.clone(), home.open(), report, stop.clone()));
    assert!(reports.recv().await.unwrap().imported.is_empty());
    fs::write(home.dir.path().join("a.tar"), oci("test.local/a:1", &[layer("a")], plain)).unwrap();
    fs::rename(home.dir.path().join("a.tar"), folder.join("a.tar")).unwrap();
    assert_eq!(reports.recv().await.unwrap().imported.len(), 1);
    stop.cancel();
    watch.await.unwrap().unwrap();
}

#[test]
fn an_exported_image_is_the_same_image_elsewhere() {
    let home = Home::new();
    let store = home.open();
    let lower =
        Tar::new().dir("etc/", 0o755, 0).file("etc/a", 0o600, "a").file("etc/b", 0o644, "b").dir("opt/", 0o755, 0);
    let upper =
        Tar::new().dir("etc/", 0o755, 0).file("etc/.wh.a", 0o644, "").owned("s", 0o4755, 9, "x").hardlink("t", "s");
    let upper = upper.dir("opt/", 0o755, 0).file("opt/.wh..wh..opq", 0o644, "").symlink("l", "etc/b").device("n", 1, 3);
    add(&store, "test.local/a:1", &[lower.finish(), upper.finish()]);
    let mut archive = Vec::new();
    export(&store, &["test.local/a:1"], &mut archive).unwrap();
    assert!(matches!(export(&store, &["none"], &mut Vec::new()), Err(Error::Missing(_))));

    let other = Home::new();
    let elsewhere = other.open();
    let imported = import(&elsewhere, archive.as_slice(), None, false).unwrap();
    let script = "find . | sort; stat -c '%n %a %u %h %F' s t etc/b l n; cat l";
    let shown = |store: &ImageStore| in_rootfs(&store.prepare("test.local/a:1", "c").unwrap(), script);
    assert_eq!(shown(&elsewhere), shown(&store));
    // Packed in one order, it stays the same bytes and the same id from then on.
    let mut again = Vec::new();
    export(&elsewhere, &["test.local/a:1"], &mut again).unwrap();
    assert!(again == archive);
    assert_eq!(import(&store, again.as_slice(), Some("renamed:1"), false).unwrap().images[0].id, imported.images[0].id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_requests_do_what_they_say() {
    let home = Home::new();
    let images = Images::new(home.open(), Registries::default());
    let ask = async |method: &str, uri: &str, body: Vec<u8>| {
        let body = http_body_util::Full::new(bytes::Bytes::from(body));
        let request = http::Request::builder().method(method).uri(uri).body(body).unwrap();
        let response = admin::handle(&images, request).await;
        (response.status().as_u16(), response.into_body().collect().await.unwrap().to_bytes())
    };
    let text = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).into_owned();
    let archive = oci("test.local/a:1", &[layer("a")], gzip);
    let (status, body) = ask("POST", "/images/import?name=b%3a2", archive.clone()).await;
    assert!(status == 200 && text(&body).contains(r#""names":["docker.io/library/b:2"]"#), "{}", text(&body));
    let (_, body) = ask("POST", "/images/import", archive[..archive.len() / 2].to_vec()).await;
    assert!(text(&body).starts_with(r#"{"error":"#) && text(&body).contains("cut short"), "{}", text(&body));
    let (_, body) = ask("GET", "/images", Vec::new()).await;
    assert!(text(&body).contains(r#""containers":0,"digests":["#), "{}", text(&body));
    let (status, exported) = ask("GET", "/images/export?name=b:2", Vec::new()).await;
    assert_eq!(status, 200);
    import(&Home::new().open(), &exported[..], None, false).unwrap();
    let (status, body) = ask("POST", "/images/pull", br#"{"reference":"127.0.0.1:1/x"}"#.to_vec()).await;
    assert!(status == 200 && text(&body).contains(r#"{"error":"failed to pull and unpack image"#), "{}", text(&body));
    for (method, uri, body, expected) in [
        ("POST", "/images/pull", r#"{"reference":"X"}"#, 400),
        ("POST", "/images/pull", "x", 400),
        ("GET", "/images/export", "", 400),
        ("GET", "/images/export?name=none", "", 404),
        ("DELETE", "/images?name=none", "", 404),
        ("GET", "/other", "", 404),
        ("POST", "/images/tag?image=b:2&name=c", "", 200),
        ("DELETE", "/images?name=b:2&name=c", "", 200),
        ("POST", "/images/prune", "", 200),
    ] {
        assert_eq!(ask(method, uri, body.into()).await.0, expected, "{method} {uri}");
    }
    assert!(images.store().list().is_empty());
}
