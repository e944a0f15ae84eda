//! Archives in, root filesystems out.

use proptest::prelude::*;

use super::fixture::{Home, Layout, Tar, Trickle, gzip, host, in_rootfs, oci, plain, zstd};
use crate::image::{Error, ImageStore, import};

fn base() -> Vec<u8> {
    Tar::new()
        .dir("./", 0o755, 0)
        .dir("etc/", 0o755, 0)
        .file("etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\n")
        .file("etc/gone", 0o644, "x")
        .dir("tmp/", 0o1777, 0)
        .dir("srv/", 0o755, 7)
        .file("srv/a", 0o644, "a")
        .file("srv/b", 0o644, "b")
        .dir("opt/", 0o750, 5)
        .dir("opt/old/", 0o755, 0)
        .file("opt/old/file", 0o644, "old")
        .owned("bin-su", 0o4755, 3, "binary")
        .hardlink("bin-link", "bin-su")
        .symlink("abs", "/etc/passwd")
        .device("null", 1, 3)
        .fifo("pipe")
        .pax(&[
            ("SCHILY.xattr.user.color", b"blue"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("mtime", b"1600000000.25"),
        ])
        .file("attributed", 0o640, "xattr")
        .finish()
}

fn second() -> Vec<u8> {
    Tar::new()
        .file("etc/.wh.gone", 0o644, "")
        .dir("srv/", 0o755, 7)
        .file("srv/.wh..wh..opq", 0o644, "")
        .file("srv/c", 0o644, "c")
        .file("tmp/implied", 0o644, "i")
        .hardlink("passwd-link", "etc/passwd")
        .file(".wh.opt", 0o644, "")
        .dir("opt/", 0o700, 5)
        .file("opt/new", 0o644, "new")
        .finish()
}

const SCRIPT: &str = "stat -c '%n %a %u %h %F' etc etc/passwd tmp srv opt bin-su bin-link abs null pipe attributed passwd-link;
    ls etc srv opt tmp; cat opt/new; readlink abs; stat -c '%t %T' null; stat -c %y attributed; getfattr -d attributed 2>/dev/null || true; stat -c '%a' .";

fn check(store: &ImageStore, name: &str) -> String {
    let rootfs = store.prepare(name, "c1").unwrap();
    let text = in_rootfs(&rootfs, SCRIPT);
    store.release("c1").unwrap();
    text
}

#[test]
fn layers_are_shown_as_the_specification_says() {
    let home = Home::new();
    let store = home.open();
    import(&store, Trickle(&oci("test.local/a:1", &[base(), second()], gzip)), None, false).unwrap();
    let text = check(&store, "test.local/a:1");
    let expected = "\
etc 755 0 1 directory
etc/passwd 644 0 1 regular file
tmp 1777 0 1 directory
srv 755 7 2 directory
opt 700 5 2 directory
bin-su 4755 3 2 regular file
bin-link 4755 3 2 regular file
abs 777 0 1 symbolic link
null 666 0 1 character special file
pipe 600 0 1 fifo
attributed 640 0 1 regular file
passwd-link 644 0 1 regular file
etc:
passwd

opt:
new

srv:
c

tmp:
implied
new/etc/passwd
1 3
";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("2020-09-13 12:26:40.25"), "{text}");
    assert!(text.ends_with("755\n"), "{text}");
    assert_eq!(store.read_file("test.local/a:1", "/abs").unwrap().unwrap(), "root:x:0:0::/root:/bin/sh\n");
    assert_eq!(store.read_file("test.local/a:1", "/etc/gone").unwrap(), None);
    assert_eq!(store.read_file("test.local/a:1", "/srv/a").unwrap(), None);
    assert_eq!(store.read_file("test.local/a:1", "/srv/c").unwrap().unwrap(), "c");
    assert_eq!(store.read_file("test.local/a:1", "/etc/passwd/x").unwrap(), None);
}

#[test]
fn every_compression_and_both_formats_give_the_same_image() {
    let layers = [base(), second()];
    let mut seen = Vec::new();
    let docker = {
        let config = super::fixture::config(&layers, &host());
        Tar::new()
            .bytes("one/layer.tar", &layers[0])
            .file("one/VERSION", 0o644, "1.0")
            .file("one/json", 0o644, "{}")
            .symlink("copy/layer.tar", "../one/layer.tar")
            .bytes("two/layer.tar", &layers[1])
            .bytes("config.json", &config)
            .file(
                "manifest.json",
                0o644,
                r#"[{"Config":"config.json","RepoTags":["test.local/a:1"],"Layers":["copy/layer.tar","two/layer.tar"]}]"#,
            )
            .finish()
    };
    for archive in [
        oci("test.local/a:1", &layers, plain),
        oci("test.local/a:1", &layers, gzip),
        oci("test.local/a:1", &layers, zstd),
        gzip(&oci("test.local/a:1", &layers, gzip)),
        zstd(&oci("test.local/a:1", &layers, plain)),
        gzip(&docker),
        docker,
    ] {
        let home = Home::new();
        let store = home.open();
        let imported = import(&store, archive.as_slice(), None, false).unwrap();
        assert_eq!(imported.bytes, archive.len() as u64);
        seen.push((imported.images[0].id.clone(), check(&store, "test.local/a:1")));
    }
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:#?}");
}

#[test]
fn a_cut_archive_leaves_nothing() {
    let home = Home::new();
    let store = home.open();
    let before = home.files();
    for (name, archive) in [
        ("plain", oci("test.local/a:1", &[base(), second()], plain)),
        ("gzip", oci("test.local/a:1", &[base(), second()], gzip)),
        ("gzip of gzip", gzip(&oci("test.local/a:1", &[base(), second()], gzip))),
        ("zstd of plain", zstd(&oci("test.local/a:1", &[base(), second()], plain))),
    ] {
        // The last kilobyte of a plain archive is its end mark, which nobody misses.
        for at in (1..archive.len() - 1100).step_by(509).chain([archive.len() / 2]) {
            let error = import(&store, &archive[..at], None, false).expect_err(&format!("{name} at {at}"));
            assert!(
                error.chain().contains("cut short") || at < 512,
                "{name} at {at} of {}: {}",
                archive.len(),
                error.chain()
            );
            assert_eq!(home.files(), before, "{name} at {at}");
        }
    }
    assert!(store.list().is_empty());
}

#[test]
fn what_is_no_archive_is_said_so() {
    let home = Home::new();
    let store = home.open();
    let before = home.files();
    let mut flipped = oci("test.local/a:1", &[base()], plain);
    let at = flipped.windows(5).position(|bytes| bytes == b"root:").unwrap();
    flipped[at] = b'R';
    let mut wrong_arch = Layout::new();
    let image = wrong_arch.image(&[base()], "s390x", gzip);
    let index = wrong_arch.blob(
        "application/vnd.oci.image.index.v1+json",
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [image]})).unwrap(),
    );
    for (archive, expected) in [
        (b"hello".repeat(300), "neither a tar archive nor a compressed one"),
        (Vec::new(), "neither an OCI image layout"),
        (Tar::new().file("x", 0o644, "y").finish(), "neither an OCI image layout"),
        (Tar::new().file("index.json", 0o644, "{").finish(), "index.json: EOF while parsing"),
        (Tar::new().file("manifest.json", 0o644, "[]").finish(), "holds no image"),
        (flipped, "failed to verify digest"),
        (
            wrong_arch.named("test.local/a:1", index).tar(),
            "no match for platform in manifest: not found: test.local/a:1 has no linux/",
        ),
        (Tar::new().file("../x", 0o644, "y").finish(), "a member's name leads out of it"),
    ] {
        let error = import(&store, archive.as_slice(), None, false).expect_err(expected).chain();
        assert!(error.contains(expected), "{error}");
        assert_eq!(home.files(), before);
    }
}

#[test]
fn a_multi_platform_archive_gives_this_machines_image() {
    let home = Home::new();
    let store = home.open();
    let mut layout = Layout::new();
    let other = layout.image(&[second()], "s390x", gzip);
    let ours = layout.image(&[base()], &host(), gzip);
    let index = layout.blob(
        "application/vnd.oci.image.index.v1+json",
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [other, ours]})).unwrap(),
    );
    let digest = index["digest"].as_str().unwrap().to_owned();
    import(&store, layout.named("test.local/multi:1", index).tar().as_slice(), None, false).unwrap();
    let image = store.resolve(&format!("test.local/multi@{digest}")).unwrap().unwrap();
    assert_eq!(image.names, ["test.local/multi:1"]);
    assert_eq!(image.config.platform.architecture, host());
    assert_eq!(store.resolve("test.local/multi:1").unwrap().unwrap().id, image.id);
    assert_eq!(store.resolve(image.id.as_str()).unwrap().unwrap().id, image.id);
    // Only what is needed was kept.
    assert_eq!(std::fs::read_dir(home.path().join("layers")).unwrap().count(), 1);
}

#[test]
fn layers_never_write_outside_their_directory() {
    for (name, layer, refused) in [
        ("dots", Tar::new().file("../escaped", 0o644, "x").finish(), true),
        ("dots within", Tar::new().file("a/../../escaped", 0o644, "x").finish(), true),
        ("absolute", Tar::new().file("/escaped", 0o644, "x").finish(), false),
        ("link up", Tar::new().symlink("up", "../../..").file("up/escaped", 0o644, "x").finish(), false),
        ("hard link out", Tar::new().hardlink("x", "../../../../etc/passwd").finish(), true),
        ("hard link to link", Tar::new().symlink("l", "/etc").hardlink("x", "l/hostname").finish(), true),
        ("whiteout dots", Tar::new().file(".wh...", 0o644, "").finish(), true),
        ("file as directory", Tar::new().file("f", 0o644, "").file("f/x", 0o644, "").finish(), true),
        ("root replaced", Tar::new().symlink("./", "/etc").finish(), true),
    ] {
        let home = Home::new();
        let store = home.open();
        let result = import(&store, oci("test.local/a:1", &[layer], plain).as_slice(), None, false);
        match (refused, result) {
            (true, Err(Error::Layer { .. })) | (false, Ok(_)) => {}
            (_, other) => panic!("{name}: {other:?}"),
        }
        drop(store);
        let escaped: Vec<String> =
            home.files().into_iter().filter(|path| path.ends_with("escaped") && !path.contains("/fs/")).collect();
        assert!(escaped.is_empty(), "{name}: {escaped:?}");
        assert!(!home.dir.path().join("escaped").exists() && !std::path::Path::new("/escaped").exists(), "{name}");
    }
}

#[test]
fn directories_behind_links_are_the_layers_own() {
    let home = Home::new();
    let outside = home.dir.path().join("outside");
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    let before = std::fs::metadata(outside.join("sub")).unwrap().modified().unwrap();
    let store = home.open();
    // The link is absolute: within the root it leads to a directory that the layer has itself.
    let inside = outside.strip_prefix("/").unwrap().display().to_string();
    let layer = Tar::new().dir(&format!("{inside}/"), 0o755, 0).symlink("l", outside.to_str().unwrap());
    let layer = layer.dir("l/sub/", 0o711, 7).file("l/sub/file", 0o644, "x").finish();
    import(&store, oci("test.local/a:1", &[layer], plain).as_slice(), None, false).unwrap();
    let after = std::fs::metadata(outside.join("sub")).unwrap();
    assert_eq!(after.modified().unwrap(), before);
    assert!(!outside.join("sub/file").exists());
    assert_eq!(store.read_file("test.local/a:1", &format!("/{inside}/sub/file")).unwrap().unwrap(), "x");
    assert_eq!(store.read_file("test.local/a:1", "/l/sub/file").unwrap().unwrap(), "x");
}

#[derive(Debug, Clone)]
enum Member {
    File(String),
    Dir(String),
    Symlink(String, String),
    HardLink(String, String),
}

fn member() -> impl Strategy<Value = Member> {
    let part = || prop::sample::select(vec!["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", "outside"]);
    let path = move || prop::collection::vec(part(), 1..4).prop_map(|parts| parts.join("/"));
    let target = prop_oneof![path(), path().prop_map(|path| format!("/{path}")), Just("../../outside".to_owned())];
    prop_oneof![
        path().prop_map(Member::File),
        path().prop_map(Member::Dir),
        (path(), target).prop_map(|(path, target)| Member::Symlink(path, target)),
        (path(), path()).prop_map(|(path, target)| Member::HardLink(path, target)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever links and names a layer has, and whether it is taken or refused, nothing outside its directory changes.
    #[test]
    fn no_layer_reaches_outside(lower in prop::collection::vec(member(), 0..6), upper in prop::collection::vec(member(), 1..8)) {
        let home = Home::new();
        let outside = home.dir.path().join("outside");
        std::fs::write(&outside, "untouched").unwrap();
        let store = home.open();
        let build = |members: &[Member]| {
            let tar = members.iter().fold(Tar::new(), |tar, member| match member {
                Member::File(path) => tar.file(path, 0o777, "written"),
                Member::Dir(path) => tar.dir(path, 0o777, 1),
                Member::Symlink(path, target) => tar.symlink(path, target),
                Member::HardLink(path, target) => tar.hardlink(path, target),
            });
            tar.finish()
        };
        let layers = [build(&lower), build(&upper)];
        let result = import(&store, oci("test.local/a:1", &layers, plain).as_slice(), None, false);
        match &result {
            Ok(_) => drop(store.read_file("test.local/a:1", "a/b").ok()),
            Err(error) => prop_assert!(matches!(error, Error::Layer { .. }), "{error:?}"),
        }
        prop_assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched");
        let mut around: Vec<_> = std::fs::read_dir(home.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        around.sort();
        prop_assert_eq!(around, ["outside", "store"]);
        let mut top: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        top.retain(|name| name != "index.json");
        top.sort();
        prop_assert_eq!(top, ["blobs", "containers", "empty", "ingest", "layers", "lock"]);
        for layer in std::fs::read_dir(home.path().join("layers")).unwrap() {
            prop_assert_eq!(std::fs::read_dir(layer.unwrap().path()).unwrap().count(), 2);
        }
        prop_assert!(!std::path::Path::new("/outside").exists());
    }
}
