//! Pulls from a real registry, and from one that cuts, lies or wants to know who asks.

use std::sync::atomic::Ordering;

use super::fixture::{Home, Layout, Tar, gzip, host, in_rootfs, oci, plain};
use super::registry::{Registry, Setup, cutter, token_registry};
use crate::image::{Credentials, Digest, Error, Images, Progress, Registries, Step, import};

fn layer(text: &str) -> Vec<u8> {
    Tar::new().dir("etc/", 0o755, 0).file("etc/name", 0o644, text).finish()
}

/// Incompressible and the same each time.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 88172645463325252u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(next).collect()
}

fn images(home: &Home, registries: &str) -> Images {
    Images::new(home.open(), Registries::parse(registries).unwrap())
}

fn for_host(host: &str, name: &str, password: &str) -> Vec<Credentials> {
    let text = |text: &str| text.to_owned();
    vec![Credentials { registry: text(host), username: text(name), password: text(password), token: text("") }]
}

async fn events(images: &Images, name: &str) -> (Vec<Progress>, Result<crate::image::Image, String>) {
    let mut pull = images.pull(name, &[]);
    let mut all = Vec::new();
    while let Some(event) = pull.progress().await {
        all.push(event);
    }
    (all, pull.finish().await.map_err(|error| error.chain()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_comes_back_in_every_compression() {
    let registry = Registry::start(Setup::default());
    let archive = oci("test.local/a:1", &[layer("one"), layer("two")], plain);
    for (tag, more) in [
        ("gzip", &["--dest-compress-format", "gzip"][..]),
        ("zstd", &["--dest-compress-format", "zstd"]),
        ("v2s2", &["--format", "v2s2"]),
    ] {
        registry.push(&archive, &format!("test/a:{tag}"), more);
        let home = Home::new();
        let images = images(&home, "");
        let name = format!("{}/test/a:{tag}", registry.host);
        let (all, image) = events(&images, &name).await;
        let image = image.unwrap();
        assert!(all.iter().any(|event| event.step == Step::Done), "{all:?}");
        assert_eq!(image.names, std::slice::from_ref(&name));
        assert_eq!(in_rootfs(&images.store().prepare(&name, "c").unwrap(), "cat etc/name"), "two");
        // Again: the tag is asked for and means the same.
        let (all, again) = events(&images, &name).await;
        assert_eq!((all, again.unwrap().id), (Vec::new(), image.id.clone()));
        // By digest, also without a registry.
        let by_digest = images.pull(&image.digests[0], &[]).finish().await.unwrap();
        assert_eq!(by_digest.id, image.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_this_machines_image() {
    let registry = Registry::start(Setup::default());
    let mut layout = Layout::new();
    let other = layout.image(&[layer("other")], "s390x", gzip);
    let ours = layout.image(&[layer("ours")], &host(), gzip);
    let both = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [other, ours]});
    let index = layout.blob("application/vnd.oci.image.index.v1+json", serde_json::to_vec(&both).unwrap());
    registry.push(&layout.named("test.local/a:1", index.clone()).tar(), "test/multi:1", &["--all"]);
    let mut foreign = Layout::new();
    let image = foreign.image(&[layer("other")], "s390x", gzip);
    registry.push(&foreign.named("test.local/a:1", image).tar(), "test/foreign:1", &[]);

    let home = Home::new();
    let images = images(&home, "");
    let image = images.pull(&format!("{}/test/multi:1", registry.host), &[]).finish().await.unwrap();
    assert_eq!(image.digests, [format!("{}/test/multi@{}", registry.host, index["digest"].as_str().unwrap())]);
    assert_eq!(images.store().read_file(image.id.as_str(), "/etc/name").unwrap().unwrap(), "ours");
    let error = images.pull(&format!("{}/test/foreign:1", registry.host), &[]).finish().await.unwrap_err();
    assert!(matches!(error.cause(), Error::NoMatchingPlatform { .. }), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_apart() {
    let registry = Registry::start(Setup { user: Some(("user", "right")), tls: false });
    registry.push(&oci("test.local/a:1", &[layer("x")], gzip), "test/a:1", &["--dest-creds", "user:right"]);
    let home = Home::new();
    let images = images(&home, "");
    let name = format!("{}/test/a:1", registry.host);
    for (name, credentials, unauthorized) in [
        (name.clone(), vec![], true),
        (name.clone(), for_host(&registry.host, "user", "wrong"), true),
        (name.clone(), for_host("ghcr.io", "user", "right"), true),
        (format!("{}/test/none:1", registry.host), for_host(&registry.host, "user", "right"), false),
    ] {
        let error = images.pull(&name, &credentials).finish().await.unwrap_err();
        let start = format!("failed to pull and unpack image {name:?}: failed to resolve reference {name:?}: ");
        assert!(error.chain().starts_with(&start), "{}", error.chain());
        match (unauthorized, error.cause()) {
            (true, Error::Unauthorized(_)) | (false, Error::NotFound(_)) => assert!(!error.retryable()),
            _ => panic!("{}", error.chain()),
        }
    }
    // The second of two fits; and the registries file serves those who bring none.
    let both = [for_host(&registry.host, "user", "wrong"), for_host(&registry.host, "user", "right")].concat();
    images.pull(&name, &both).finish().await.unwrap();
    let other = Home::new();
    let file = format!("configs: {{'{}': {{auth: {{username: user, password: right}}}}}}", registry.host);
    self::images(&other, &file).pull(&name, &[]).finish().await.unwrap();

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = images.pull(&format!("{nobody}/a"), &[]).finish().await.unwrap_err();
    assert!(matches!(error.cause(), Error::Unreachable { .. }) && error.retryable(), "{}", error.chain());
    assert!(error.chain().contains("refused"), "{}", error.chain());
    let error = images.pull("Bad", &[]).finish().await.unwrap_err();
    assert!(matches!(*error, Error::InvalidReference { .. }), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_unless_told_otherwise() {
    let registry = Registry::start(Setup { user: None, tls: true });
    registry.push(&oci("test.local/a:1", &[layer("x")], gzip), "test/a:1", &[]);
    let name = format!("{}/test/a:1", registry.host);
    for (tls, accepted) in [
        (format!("ca_file: {}/cert.pem", registry.dir.path().display()), true),
        ("insecure_skip_verify: true".to_owned(), true),
        (String::new(), false),
    ] {
        let home = Home::new();
        let images = images(&home, &format!("configs: {{'{}': {{tls: {{{tls}}}}}}}", registry.host));
        match (accepted, images.pull(&name, &[]).finish().await) {
            (true, Ok(_)) => {}
            (false, Err(error)) if matches!(error.cause(), Error::Unreachable { .. }) => {}
            (_, other) => panic!("{tls}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_download_goes_on_and_is_shared() {
    let registry = Registry::start(Setup::default());
    let big = Tar::new().bytes("noise", &noise(3 << 20)).finish();
    registry.push(&oci("test.local/a:1", &[big], gzip), "test/big:1", &[]);
    let cutter = cutter(&registry.host, 1 << 20);
    let home = Home::new();
    let images = images(&home, "");
    let name = format!("{}/test/big:1", cutter.host);
    let (left, right) = tokio::join!(events(&images, &name), events(&images, &name));
    assert_eq!(left.1.unwrap().id, right.1.unwrap().id);
    let resumed = left.0.iter().filter(|event| matches!(event.step, Step::Resuming { .. })).count();
    assert!(resumed >= 2, "{:?}", left.0);
    // Once over the line, in spite of two callers and several cuts.
    let forwarded = cutter.forwarded.load(Ordering::Relaxed);
    assert!(forwarded < (3 << 20) + (1 << 19), "{forwarded}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_is_refused_and_the_rest_kept() {
    let registry = Registry::start(Setup::default());
    let layers = [Tar::new().bytes("noise", &noise(200_000)).finish(), layer("good")];
    registry.push(&oci("test.local/a:1", &layers, gzip), "test/a:1", &[]);
    let path = registry.blob(&Digest::of(&gzip(&layers[0])));
    let right = std::fs::read(&path).unwrap();
    let mut wrong = right.clone();
    wrong[100_000] ^= 1;
    std::fs::write(&path, &wrong).unwrap();
    let home = Home::new();
    let images = images(&home, "");
    let name = format!("{}/test/a:1", registry.host);
    let error = images.pull(&name, &[]).finish().await.unwrap_err();
    assert!(matches!(error.cause(), Error::BadDigest { .. }), "{}", error.chain());
    assert!(images.store().list().is_empty());
    assert_eq!(std::fs::read_dir(home.path().join("ingest")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(home.path().join("layers")).unwrap().count(), 1);
    std::fs::write(&path, &right).unwrap();
    images.pull(&name, &[]).finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bearer_tokens_and_redirects_are_followed_and_mirrors_tried_first() {
    let mut layout = Layout::new();
    let manifest = layout.image(&[layer("token")], &host(), gzip);
    let digest = Digest::parse(manifest["digest"].as_str().unwrap()).unwrap();
    let bytes = layout.members.iter().find(|(name, _)| name.ends_with(digest.hex())).unwrap().1.clone();
    let host = token_registry(layout.members, bytes);
    let home = Home::new();
    let images = images(&home, "");
    let name = format!("{host}/test/a:1");
    let error = images.pull(&name, &[]).finish().await.unwrap_err();
    assert!(matches!(error.cause(), Error::Unauthorized(_)), "{}", error.chain());
    let image = images.pull(&name, &for_host(&host, "user", "password")).finish().await.unwrap();
    assert_eq!(images.store().read_file(image.id.as_str(), "etc/name").unwrap().unwrap(), "token");
    drop(images);

    let home = Home::new();
    let file = format!(
        "mirrors: {{'127.0.0.1:2': {{endpoint: ['http://127.0.0.1:1', 'http://{host}'], rewrite: {{'^library/': 'test/'}}}}}}\n\
         configs: {{'{host}': {{auth: {{username: user, password: password}}}}}}"
    );
    let images = self::images(&home, &file);
    let image = images.pull("127.0.0.1:2/library/a:1", &[]).finish().await.unwrap();
    assert_eq!(image.names, ["127.0.0.1:2/library/a:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_nobody_waits_for_ends() {
    // Accepts and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let home = Home::new();
    let images = images(&home, "");
    let name = format!("{}/a:1", silent.local_addr().unwrap());
    let (first, second) = (images.pull(&name, &[]), images.pull(&name, &[]));
    let connection = tokio::task::spawn_blocking(move || silent.accept().unwrap().0).await.unwrap();
    drop(first);
    drop(second);
    // The end of the connection is the end of the pull.
    tokio::task::spawn_blocking(move || std::io::copy(&mut &connection, &mut std::io::sink())).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_from_an_archive_are_not_downloaded() {
    let registry = Registry::start(Setup::default());
    let archive = oci("test.local/a:1", &[layer("x")], gzip);
    registry.push(&archive, "test/a:1", &[]);
    let home = Home::new();
    let images = images(&home, "");
    import(images.store(), archive.as_slice(), None, false).unwrap();
    let (all, image) = events(&images, &format!("{}/test/a:1", registry.host)).await;
    assert!(all.iter().all(|event| event.step == Step::Exists) && !all.is_empty(), "{all:?}");
    assert_eq!(image.unwrap().names.len(), 2);
}
