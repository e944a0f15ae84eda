//! Get, list, watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::{Value, json};

use crate::harness::{Server, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn fill(server: &Server, names: &[&str]) {
    for name in names {
        server.admin().post(MAPS, &config_map(name, &json!({"n": name}))).await.expect(201);
    }
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn chunks_show_one_state() {
    let server = Server::start().await;
    let admin = server.admin();
    fill(&server, &["a", "b", "c", "d", "e"]).await;
    let first = admin.get(&format!("{MAPS}?limit=2")).await.expect(200).json();
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a".into(), "b".into()], &json!(3)));
    fill(&server, &["bb"]).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = admin.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200).json();
    assert_eq!(names(&second), ["c", "d"], "what was created meanwhile is not there");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = admin.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200).json();
    assert_eq!((names(&third), &third["metadata"]["continue"]), (vec!["e".into()], &Value::Null));
    let selected = admin.get(&format!("{MAPS}?limit=1&labelSelector=n+in+(a,b)")).await.json();
    assert_eq!(selected["metadata"]["remainingItemCount"], Value::Null);
    let refused = admin.get(&format!("{MAPS}?continue=nonsense")).await.expect(400);
    assert!(refused.message().starts_with("invalid continue token: continue key is not valid"));
}

#[tokio::test]
async fn versions_of_a_list() {
    let server = Server::start().await;
    let admin = server.admin();
    fill(&server, &["a"]).await;
    let old = admin.get(MAPS).await.json()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    fill(&server, &["b"]).await;
    let exact = admin.get(&format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact")).await.expect(200).json();
    assert_eq!((names(&exact), exact["metadata"]["resourceVersion"].as_str().unwrap()), (vec!["a".into()], &*old));
    let newer = admin.get(&format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=NotOlderThan")).await.json();
    assert_eq!(names(&newer), ["a", "b"]);
    assert_eq!(names(&admin.get(&format!("{MAPS}?resourceVersion=0&limit=1")).await.json()), ["a", "b"]);
    let future = admin.get(&format!("{MAPS}?resourceVersion=99999999")).await.expect(504).json();
    assert_eq!(future["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(future["details"]["retryAfterSeconds"], 1);
    let gone = admin.get(&format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Exact")).await;
    assert!(gone.code == 200 || gone.code == 410, "{}", gone.text());
}

#[tokio::test]
async fn selectors() {
    let server = Server::start().await;
    let admin = server.admin();
    fill(&server, &["a", "b"]).await;
    assert_eq!(names(&admin.get(&format!("{MAPS}?fieldSelector=metadata.name%3Db")).await.json()), ["b"]);
    assert_eq!(names(&admin.get(&format!("{MAPS}?fieldSelector=metadata.name!%3Db")).await.json()), ["a"]);
    assert_eq!(
        names(
            &admin.get("/api/v1/configmaps?fieldSelector=metadata.namespace%3Ddefault,metadata.name%3Da").await.json()
        ),
        ["a"]
    );
    assert_eq!(names(&admin.get(&format!("{MAPS}?labelSelector=n%3Da")).await.json()), ["a"]);
    admin
        .get(&format!("{MAPS}?labelSelector=a+in+x"))
        .await
        .refused(400, "unable to parse requirement: found 'x', expected: '('");
    admin
        .get(&format!("{MAPS}?fieldSelector=data.k%3Dv"))
        .await
        .refused(400, "\"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"");
    admin.get("/api/v1/pods?fieldSelector=spec.foo%3Dv").await.refused(400, "field label not supported: spec.foo");
}

#[tokio::test]
async fn a_watch_tells_what_enters_changes_and_leaves() {
    let server = Server::start().await;
    let admin = server.admin();
    fill(&server, &["a"]).await;
    let version = admin.get(MAPS).await.json()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = admin.watch(&format!("{MAPS}?watch=1&labelSelector=on&resourceVersion={version}")).await;
    let path = format!("{MAPS}/a");
    let label = |value: Value| json!({"metadata": {"labels": {"on": value}}});
    admin.patch(&path, "merge", &label(json!("1"))).await.expect(200);
    assert_eq!(watch.brief().await, ("ADDED".into(), "a".into()));
    admin.patch(&path, "merge", &label(json!("2"))).await.expect(200);
    assert_eq!(watch.brief().await, ("MODIFIED".into(), "a".into()));
    let left = admin.patch(&path, "merge", &label(Value::Null)).await.expect(200).json();
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["metadata"]["labels"]["on"]), (&json!("DELETED"), &json!("2")));
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    admin.patch(&path, "merge", &label(json!("3"))).await.expect(200);
    assert_eq!(watch.brief().await, ("ADDED".into(), "a".into()));
    admin.delete(&path).await.expect(200);
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    let revision = |v: &Value| v["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(revision(&event["object"]) > revision(&left), "a deletion has a revision of its own");
}

#[tokio::test]
async fn a_watch_begins_with_what_is_there() {
    let server = Server::start().await;
    let admin = server.admin();
    fill(&server, &["a", "b"]).await;
    let mut plain = admin.watch(&format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Da")).await;
    assert_eq!(plain.brief().await, ("ADDED".into(), "a".into()));
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut list = admin.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(list.brief().await, ("ADDED".into(), "a".into()));
    assert_eq!(list.brief().await, ("ADDED".into(), "b".into()));
    let end = list.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    assert_eq!((&end["object"]["kind"], &end["object"]["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    fill(&server, &["c"]).await;
    assert_eq!(list.brief().await, ("ADDED".into(), "c".into()));
}

#[tokio::test]
async fn a_watch_ends_when_it_was_asked_to_after_a_last_bookmark() {
    let server = Server::start().await;
    let admin = server.admin();
    fill(&server, &["a"]).await;
    let version = admin.get(MAPS).await.json()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let path = format!("{MAPS}?watch=1&allowWatchBookmarks=1&timeoutSeconds=1&resourceVersion={version}");
    let mut watch = admin.watch(&path).await;
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn tables_and_metadata_alone() {
    let server = Server::start().await;
    let admin = server.admin();
    fill(&server, &["a"]).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = admin.clone().with(&[("accept", accept)]).get(MAPS).await.expect(200);
    assert_eq!(table.header("content-type"), "application/json");
    let table = table.json();
    assert_eq!(
        (&table["kind"], &table["rows"][0]["object"]["kind"]),
        (&json!("Table"), &json!("PartialObjectMetadata"))
    );
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][1], 1, "one key of data");
    let mut watch = admin.clone().with(&[("accept", accept)]).watch(&format!("{MAPS}?watch=1")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["kind"], "Table");
    fill(&server, &["b"]).await;
    assert_eq!(watch.next().await.unwrap()["object"]["columnDefinitions"], Value::Null);
    let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = admin.clone().with(&[("accept", accept)]).get(MAPS).await.expect(200).json();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!((&list["items"][0]["metadata"]["name"], &list["items"][0]["data"]), (&json!("a"), &Value::Null));
    let yaml = admin.clone().with(&[("accept", "application/yaml")]).get(&format!("{MAPS}/a")).await.expect(200);
    assert!(yaml.text().contains("kind: ConfigMap\n"), "{}", yaml.text());
}

#[tokio::test]
async fn large_lists_are_compressed_for_those_who_take_it() {
    let server = Server::start().await;
    let admin = server.admin();
    for i in 0..4 {
        let mut map = config_map(&format!("big{i}"), &json!({}));
        map["data"]["k"] = json!("x".repeat(60_000));
        admin.post(MAPS, &map).await.expect(201);
    }
    let plain = admin.get(MAPS).await.expect(200);
    let packed = admin.clone().with(&[("accept-encoding", "gzip")]).get(MAPS).await.expect(200);
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert!(packed.body.len() * 10 < plain.body.len());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*packed.body), &mut text).unwrap();
    assert_eq!(text, plain.text());
    let small = admin.clone().with(&[("accept-encoding", "gzip")]).get(&format!("{MAPS}/big0")).await.expect(200);
    assert_eq!(small.header("content-encoding"), "");
}

#[tokio::test]
async fn protobuf_there_and_back() {
    let server = Server::start().await;
    let admin = server.admin();
    fill(&server, &["a"]).await;
    let media = "application/vnd.kubernetes.protobuf";
    let reader = admin.clone().with(&[("accept", "application/vnd.kubernetes.protobuf,application/json")]);
    let one = reader.get(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!((one.header("content-type"), &one.body[..4]), (media, &b"k8s\0"[..]));
    let list = reader.get(MAPS).await.expect(200);
    assert_eq!(&list.body[..4], b"k8s\0");
    let missing = reader.get(&format!("{MAPS}/b")).await.expect(404);
    assert_eq!(&missing.body[..4], b"k8s\0", "errors too");
    // What was read is taken back: a PUT of the same bytes changes nothing.
    let writer = admin.clone().with(&[("content-type", media)]);
    let written = writer.raw(http::Method::PUT, &format!("{MAPS}/a"), one.body.clone()).await.expect(200).json();
    assert_eq!(written, admin.get(&format!("{MAPS}/a")).await.json());
    let response = reader.open(http::Method::GET, &format!("{MAPS}?watch=1"), apiserver::Body::empty()).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let frame = http_body_util::BodyExt::frame(&mut response.into_body()).await.unwrap().unwrap().into_data().unwrap();
    let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
    assert_eq!(length, frame.len() - 4);
    // As client-go asks when it reads a path raw.
    let raw = admin.clone().with(&[("accept", "application/vnd.kubernetes.protobuf, */*")]);
    for path in ["/api", "/apis", "/apis/apps", "/api/v1", "/apis/apps/v1"] {
        let answer = raw.get(path).await.expect(200);
        assert_eq!(answer.headers["content-type"], "application/vnd.kubernetes.protobuf", "{path}");
        assert!(answer.body.starts_with(b"k8s\0"), "{path}");
    }
    for path in ["/healthz", "/version", "/openapi/v2", "/metrics"] {
        raw.get(path).await.expect(200);
    }
}

#[tokio::test]
async fn who_uses_a_deprecated_kind_is_told() {
    let server = Server::start().await;
    let admin = server.admin();
    let text = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    assert_eq!(admin.get("/api/v1/endpoints").await.expect(200).header("warning"), text);
    assert_eq!(admin.get("/api/v1/namespaces/default/endpoints/none").await.expect(404).header("warning"), text);
    assert_eq!(admin.get("/api/v1/services").await.expect(200).header("warning"), "");
}

#[tokio::test]
async fn pages_end_with_their_time() {
    let later = Arc::new(AtomicI64::new(0));
    let minutes = later.clone();
    let clock = move || crate::harness::now() + jiff::SignedDuration::from_mins(minutes.load(Ordering::SeqCst));
    let server = Server::start_with(|config| config.clock = Arc::new(clock)).await;
    let admin = server.admin();
    fill(&server, &["a", "b", "c"]).await;
    let page = |token: &str| format!("{MAPS}?limit=1&continue={token}");
    let first = admin.get(&format!("{MAPS}?limit=1")).await.expect(200).json();
    later.store(4, Ordering::SeqCst);
    let second = admin.get(&page(first["metadata"]["continue"].as_str().unwrap())).await.expect(200).json();
    // The time of all pages is the first one's.
    later.store(6, Ordering::SeqCst);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let refused = admin.get(&page(token)).await.expect(410).json();
    let usable = refused["metadata"]["continue"].as_str().unwrap();
    let third = admin.get(&page(usable)).await.expect(200).json();
    assert_eq!((names(&third), &third["metadata"]["continue"]), (vec!["c".into()], &Value::Null));
}
