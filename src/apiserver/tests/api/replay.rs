//! A watcher that replays its events has what a list shows: from any revision, with any selector, in any order of writes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};

use crate::harness::{Client, Server, Watch, config_map};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// All of them select the object that is written last, which tells the watchers that they have seen everything.
const SELECTORS: [&str; 8] = [
    "",
    "labelSelector=on%3D1",
    "labelSelector=on",
    "labelSelector=on+in+(1,2)",
    "labelSelector=on!%3D2",
    "labelSelector=!off",
    "fieldSelector=metadata.name!%3Db",
    "labelSelector=on%3D1&fieldSelector=metadata.name!%3Dc",
];
const LAST: &str = "zz";
/// Each case writes to a disk: few, but every revision of each is a beginning for every selector.
const CASES: u32 = 10;

#[derive(Debug, Clone)]
enum Op {
    /// Creates the object, or gives it these labels.
    Put {
        name: usize,
        on: u8,
        off: bool,
    },
    Delete {
        name: usize,
    },
    /// A finalizer holds the object while it is being deleted.
    Hold {
        name: usize,
    },
    Release {
        name: usize,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let name = 0..NAMES.len();
    let op = prop_oneof![
        6 => (name.clone(), 0u8..3, any::<bool>()).prop_map(|(name, on, off)| Op::Put { name, on, off }),
        3 => name.clone().prop_map(|name| Op::Delete { name }),
        1 => name.clone().prop_map(|name| Op::Hold { name }),
        1 => name.prop_map(|name| Op::Release { name }),
    ];
    prop::collection::vec(op, 1..25)
}

/// Objects by name.
type State = BTreeMap<String, Value>;

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

async fn listed(admin: &Client<'_>, path: &str) -> (State, String) {
    let list = admin.get(path).await.expect(200).json();
    let items = list["items"].as_array().unwrap().iter().map(|item| {
        let mut item = item.clone();
        // A list's items do not say what they are; watchers' objects do.
        item["kind"] = json!("ConfigMap");
        item["apiVersion"] = json!("v1");
        (name_of(&item), item)
    });
    (items.collect(), list["metadata"]["resourceVersion"].as_str().unwrap().to_owned())
}

async fn apply(admin: &Client<'_>, maps: &str, op: &Op) {
    match op {
        Op::Put { name, on, off } => {
            let name = NAMES[*name];
            let mut labels = json!({});
            if *on > 0 {
                labels["on"] = on.to_string().into();
            }
            if *off {
                labels["off"] = "1".into();
            }
            let path = format!("{maps}/{name}");
            let current = admin.get(&path).await;
            if current.code == 404 {
                admin.post(maps, &config_map(name, &labels)).await.expect(201);
            } else {
                let mut object = current.json();
                object["metadata"]["labels"] = labels;
                admin.put(&path, &object).await.expect(200);
            }
        }
        Op::Delete { name } => {
            admin.delete(&format!("{maps}/{}", NAMES[*name])).await;
        }
        Op::Hold { name } => {
            let patch = json!({"metadata": {"finalizers": ["example.com/hold"]}});
            // One that is being deleted takes no new finalizers.
            admin.patch(&format!("{maps}/{}", NAMES[*name]), "merge", &patch).await;
        }
        Op::Release { name } => {
            let patch = json!({"metadata": {"finalizers": null}});
            admin.patch(&format!("{maps}/{}", NAMES[*name]), "merge", &patch).await;
        }
    }
}

/// Takes events until the last object comes.
async fn replay(watch: &mut Watch, state: &mut State) -> Result<(), TestCaseError> {
    let mut revision = 0;
    loop {
        let event = watch.next().await.expect("an event");
        let object = event["object"].clone();
        let name = name_of(&object);
        let at: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        prop_assert!(at > revision, "revisions grow: {at} after {revision}");
        revision = at;
        match event["type"].as_str().unwrap() {
            "ADDED" => prop_assert!(state.insert(name.clone(), object).is_none(), "{name} is added twice"),
            "MODIFIED" => {
                prop_assert!(state.insert(name.clone(), object).is_some(), "{name} changes before it is there")
            }
            "DELETED" => prop_assert!(state.remove(&name).is_some(), "{name} goes before it is there"),
            other => prop_assert!(false, "an event of type {other}"),
        }
        if name == LAST {
            return Ok(());
        }
    }
}

async fn check(server: &Server, case: u32, ops: &[Op]) -> Result<(), TestCaseError> {
    let admin = server.admin();
    let namespace = format!("replay-{case}");
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    admin.post("/api/v1/namespaces", &object).await.expect(201);
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let mut starts = vec![listed(&admin, &maps).await.1];
    let mut live = Vec::new();
    for selector in SELECTORS {
        live.push(admin.watch(&format!("{maps}?watch=1&resourceVersion={}&{selector}", starts[0])).await);
    }
    for op in ops {
        apply(&admin, &maps, op).await;
        let now = listed(&admin, &maps).await.1;
        if starts.last() != Some(&now) {
            starts.push(now);
        }
    }
    admin.post(&maps, &config_map(LAST, &json!({"on": "1"}))).await.expect(201);
    for (selector, watch) in SELECTORS.iter().zip(&mut live) {
        let expected = listed(&admin, &format!("{maps}?{selector}")).await.0;
        let mut state = State::new();
        replay(watch, &mut state).await?;
        prop_assert_eq!(&state, &expected, "live, {}", selector);
        for start in &starts {
            let exact = format!("{maps}?resourceVersionMatch=Exact&resourceVersion={start}&{selector}");
            let mut state = listed(&admin, &exact).await.0;
            let mut watch = admin.watch(&format!("{maps}?watch=1&resourceVersion={start}&{selector}")).await;
            replay(&mut watch, &mut state).await?;
            prop_assert_eq!(&state, &expected, "from {}, {}", start, selector);
        }
        // Without a version, the beginning is what is there.
        let mut state = State::new();
        let mut watch = admin.watch(&format!("{maps}?watch=1&{selector}")).await;
        while let Some(event) = watch.next().await {
            prop_assert_eq!(&event["type"], "ADDED");
            state.insert(name_of(&event["object"]), event["object"].clone());
            if state.contains_key(LAST) {
                break;
            }
        }
        prop_assert_eq!(&state, &expected, "from the beginning, {}", selector);
    }
    Ok(())
}

#[test]
fn a_watcher_has_what_a_list_shows() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Server::start());
    let case = std::cell::Cell::new(0);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&ops(), |ops| {
        case.set(case.get() + 1);
        runtime.block_on(check(&server, case.get(), &ops))
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
