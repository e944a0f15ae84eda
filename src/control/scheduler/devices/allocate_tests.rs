//! Which devices claims get: each row a claim or two against a node's slices.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::pools::gather;
use super::super::taken::device_id;
use super::*;
use crate::scheduler::testing;

const DRIVER: &str = "gpu.example.com";

fn node() -> Facts {
    Facts::of(&testing::node("n", &[("zone", "a")]))
}

fn slice(name: &str, spec: Value) -> Arc<Slice> {
    let mut whole = json!({"driver": DRIVER, "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1}});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": whole})).unwrap())
}

fn plain(names: &[&str]) -> Vec<Arc<Slice>> {
    let devices: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    vec![slice("s", json!({"devices": devices}))]
}

/// Four devices of two models on two boards.
fn boards() -> Vec<Arc<Slice>> {
    let device = |name: &str, model: &str, board: i64| {
        json!({"name": name, "attributes": {"model": {"string": model}, "gpu.example.com/board": {"int": board}},
            "capacity": {"memory": {"value": format!("{}Gi", 8 * (board + 1))}}})
    };
    let devices = [device("0", "big", 0), device("1", "small", 0), device("2", "big", 1), device("3", "small", 1)];
    vec![slice("s", json!({"devices": devices}))]
}

fn exactly(name: &str, more: Value) -> Value {
    let mut wanted = json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1});
    for (field, value) in more.as_object().unwrap() {
        wanted[field] = value.clone();
    }
    json!({"name": name, "exactly": wanted})
}

fn model(model: &str) -> Value {
    let expression = format!("device.attributes['{DRIVER}'].model == '{model}'");
    json!({"selectors": [{"cel": {"expression": expression}}]})
}

fn claim(name: &str, devices: Value) -> Arc<Claim> {
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"devices": devices}}))
        .unwrap(),
    )
}

fn class(selectors: Value, config: Value) -> Arc<Class> {
    let spec = json!({"selectors": selectors, "config": config});
    Arc::new(serde_json::from_value(json!({"metadata": {"name": "gpu"}, "spec": spec})).unwrap())
}

fn given(slices: &[Arc<Slice>], claims: &[Arc<Claim>], taken: &Taken) -> Result<Option<Vec<Allocation>>, Failure> {
    let whole = |driver: &str, pool: &str| {
        let of = |s: &&Arc<Slice>| s.spec.driver == driver && s.spec.pool.name == pool;
        slices.iter().filter(of).cloned().collect()
    };
    let ours = slices.iter().filter(|s| s.spec.node_name.as_deref().is_none_or(|name| name == "n"));
    let pools = gather(&node(), ours, &whole);
    let of_driver = format!("device.driver == '{DRIVER}'");
    let gpu = class(json!([{"cel": {"expression": of_driver}}]), json!([{"opaque": {"driver": DRIVER}}]));
    let classes = |name: &str| (name == "gpu").then(|| Arc::clone(&gpu));
    let selectors = Selectors::default();
    allocate(claims, &node(), &pools, &World { classes: &classes, selectors: &selectors, taken })
}

fn shown(found: Result<Option<Vec<Allocation>>, Failure>) -> String {
    match found {
        Ok(None) => "none".into(),
        Err(Failure::Here(why) | Failure::Everywhere(why)) => why,
        Ok(Some(all)) => {
            let of = |allocation: &Allocation| {
                let results = allocation.devices.results.iter().map(|p| format!("{}={}", p.request, p.device));
                results.collect::<Vec<_>>().join(" ")
            };
            all.iter().map(of).collect::<Vec<_>>().join(" | ")
        }
    }
}

fn check(name: &str, slices: &[Arc<Slice>], devices: &[Value], in_use: &[&str], expected: &str) {
    let claims: Vec<Arc<Claim>> = devices.iter().enumerate().map(|(i, d)| claim(&format!("c{i}"), d.clone())).collect();
    let mut taken = Taken::default();
    let picked = |device: &&str| json!({"driver": DRIVER, "pool": "p", "device": device});
    let results: Vec<Value> = in_use.iter().map(picked).collect();
    let other = json!({"devices": {"results": results}});
    taken.decided("other", Arc::new(serde_json::from_value(other).unwrap()));
    assert_eq!(shown(given(slices, &claims, &taken)), expected, "{name}");
}

#[test]
fn requests_get_what_they_select() {
    let requests = |all: &[Value]| json!({"requests": all});
    check("the first", &boards(), &[requests(&[exactly("r", json!({}))])], &[], "r=0");
    check("what is not in use", &boards(), &[requests(&[exactly("r", json!({}))])], &["0", "1"], "r=2");
    check("what is selected", &boards(), &[requests(&[exactly("r", model("small"))])], &[], "r=1");
    check("several", &boards(), &[requests(&[exactly("r", json!({"count": 3}))])], &[], "r=0 r=1 r=2");
    check("too many", &boards(), &[requests(&[exactly("r", json!({"count": 5}))])], &[], "none");
    check("all", &boards(), &[requests(&[exactly("r", json!({"allocationMode": "All"}))])], &[], "r=0 r=1 r=2 r=3");
    check(
        "all, of which one is in use",
        &boards(),
        &[requests(&[exactly("r", json!({"allocationMode": "All"}))])],
        &["3"],
        "none",
    );
    check("all of nothing", &plain(&[]), &[requests(&[exactly("r", json!({"allocationMode": "All"}))])], &[], "none");
    // The first request must leave the second the only device that suits it.
    check(
        "an earlier choice is taken back",
        &boards(),
        &[requests(&[exactly("any", json!({"count": 3})), exactly("big", model("big"))])],
        &[],
        "any=0 any=1 any=3 big=2",
    );
    check(
        "claims do not share",
        &boards(),
        &[requests(&[exactly("r", model("big"))]), requests(&[exactly("r", model("big"))])],
        &[],
        "r=0 | r=2",
    );
    let memory = json!({"capacity": {"requests": {"memory": "10Gi"}}});
    check("as much of a capacity", &boards(), &[requests(&[exactly("r", memory)])], &[], "r=2");
    check(
        "administrators look on",
        &boards(),
        &[requests(&[exactly("r", json!({"adminAccess": true, "count": 2}))])],
        &["0", "1", "2", "3"],
        "r=0 r=1",
    );
}

#[test]
fn the_first_alternative_that_can_be_had_is_taken() {
    let alternative = |name: &str, more: Value| {
        let mut wanted = exactly(name, more)["exactly"].clone();
        wanted["name"] = json!(name);
        wanted
    };
    let one_of = |all: &[Value]| json!({"requests": [{"name": "r", "firstAvailable": all}]});
    let both = || one_of(&[alternative("big", model("big")), alternative("small", model("small"))]);
    check("the first", &boards(), &[both()], &[], "r/big=0");
    check("the second", &boards(), &[both()], &["0", "2"], "r/small=1");
    check("neither", &boards(), &[both()], &["0", "1", "2", "3"], "none");
    let large = one_of(&[alternative("many", json!({"count": 33})), alternative("two", json!({"count": 2}))]);
    check("more than a claim may have", &boards(), &[large], &[], "r/two=0 r/two=1");
    let constrained = json!({"requests": [{"name": "r", "firstAvailable": [alternative("two", json!({"count": 2}))]}],
        "constraints": [{"requests": ["r/two"], "matchAttribute": "gpu.example.com/model"}]});
    check("constraints name alternatives", &boards(), &[constrained], &[], "r/two=0 r/two=2");
}

#[test]
fn devices_have_in_common_what_is_asked() {
    let constrained = |constraint: Value, count: i64| json!({"requests": [exactly("r", json!({"count": count}))], "constraints": [constraint]});
    let alike = json!({"matchAttribute": "gpu.example.com/board"});
    check("one board", &boards(), &[constrained(alike.clone(), 2)], &[], "r=0 r=1");
    check("the other board", &boards(), &[constrained(alike.clone(), 2)], &["1"], "r=2 r=3");
    check("no board has three", &boards(), &[constrained(alike, 3)], &[], "none");
    let apart = json!({"distinctAttribute": "gpu.example.com/board"});
    check("two boards", &boards(), &[constrained(apart.clone(), 2)], &[], "r=0 r=2");
    check("there is no third", &boards(), &[constrained(apart, 3)], &[], "none");
    let nothing = json!({"matchAttribute": "gpu.example.com/none"});
    check("nobody says", &boards(), &[constrained(nothing, 1)], &[], "none");
    let all = json!({"requests": [exactly("r", json!({"allocationMode": "All"}))],
        "constraints": [{"matchAttribute": "gpu.example.com/board"}]});
    let words = "claim d/c0, request r: cannot add device gpu.example.com/p/2 because a claim constraint would not be satisfied";
    check("all of them differ", &boards(), &[all], &[], words);
}

#[test]
fn tainted_devices_are_for_those_who_tolerate_it() {
    let taint = json!({"key": "sick", "effect": "NoSchedule"});
    let devices = json!([{"name": "0", "taints": [taint]}, {"name": "1", "taints": [{"key": "x", "effect": "None"}]}]);
    let slices = [slice("s", json!({"devices": devices}))];
    let requests = |more: Value| json!({"requests": [exactly("r", more)]});
    check("another", &slices, &[requests(json!({}))], &[], "r=1");
    let tolerant = json!({"tolerations": [{"key": "sick", "operator": "Exists"}]});
    check("tolerated", &slices, &[requests(tolerant)], &[], "r=0");
}

#[test]
fn only_whole_pools_are_used() {
    let devices = |name: &str| json!([{"name": name}]);
    let pool =
        |generation: i64, count: i64| json!({"name": "p", "generation": generation, "resourceSliceCount": count});
    let one = |all: &[Arc<Slice>], expected: &str| {
        check("one", all, &[json!({"requests": [exactly("r", json!({}))]})], &[], expected);
    };
    let old = slice("old", json!({"devices": devices("0"), "pool": pool(1, 1)}));
    let new = slice("new", json!({"devices": devices("1"), "pool": pool(2, 1)}));
    one(&[old.clone(), new.clone()], "r=1");
    let elsewhere = slice("new", json!({"devices": devices("1"), "pool": pool(2, 1), "nodeName": "m"}));
    one(&[old, elsewhere.clone()], "r=0");
    let outdated = slice("old", json!({"devices": devices("0"), "pool": pool(1, 2)}));
    one(&[outdated, elsewhere], "none");
    let half = slice("half", json!({"devices": devices("0"), "pool": pool(1, 2)}));
    let rest = slice("rest", json!({"devices": devices("1"), "pool": pool(1, 2), "nodeName": "m"}));
    one(std::slice::from_ref(&half), "none");
    one(&[half.clone(), rest], "r=0");
    let all = json!({"requests": [exactly("r", json!({"allocationMode": "All"}))]});
    let words =
        "claim d/c0, request r: asks for all devices, but resource pool gpu.example.com/p is currently being updated";
    check("all of what is not known", &[half], &[all], &[], words);
    let twice = slice("s", json!({"devices": [{"name": "0"}, {"name": "0"}]}));
    one(&[twice], "invalid resource pools were encountered");
}

#[test]
fn devices_are_where_they_say() {
    let selector = |zone: &str| json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]});
    let requests = json!({"requests": [exactly("r", json!({"count": 1}))]});
    let at = |where_: Value| {
        let mut spec = json!({"nodeName": null, "devices": [{"name": "0"}]});
        for (field, value) in where_.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let found = given(&[slice("s", spec)], &[claim("c", requests.clone())], &Taken::default()).unwrap();
        found.map(|all| serde_json::to_value(&all[0].node_selector).unwrap())
    };
    let here = json!({"nodeSelectorTerms": [{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": ["n"]}]}]});
    assert_eq!(at(json!({"nodeName": "n"})), Some(here.clone()));
    assert_eq!(at(json!({"allNodes": true})), Some(Value::Null));
    assert_eq!(at(json!({"nodeSelector": selector("a")})), Some(selector("a")));
    assert_eq!(at(json!({"nodeSelector": selector("b")})), None);
    let binds = json!({"allNodes": true, "devices": [{"name": "0", "bindsToNode": true}]});
    assert_eq!(at(binds), Some(here));
    let each = json!([{"name": "0", "nodeSelector": selector("b")}, {"name": "1", "nodeSelector": selector("a")}]);
    assert_eq!(at(json!({"perDeviceNodeSelection": true, "devices": each})), Some(selector("a")));
}

#[test]
fn counters_are_shared() {
    let part = |name: &str, memory: &str| json!({"name": name, "consumesCounters": [{"counterSet": "board", "counters": {"memory": {"value": memory}}}]});
    let pool = json!({"name": "p", "resourceSliceCount": 2});
    let counters = json!([{"name": "board", "counters": {"memory": {"value": "10Gi"}}}]);
    let slices = [
        slice("counters", json!({"pool": pool, "sharedCounters": counters})),
        slice("devices", json!({"pool": pool, "devices": [part("0", "8Gi"), part("1", "4Gi"), part("2", "4Gi")]})),
    ];
    let requests = |count: i64| json!({"requests": [exactly("r", json!({"count": count}))]});
    check("one", &slices, &[requests(1)], &[], "r=0");
    check("two that fit together", &slices, &[requests(2)], &[], "r=1 r=2");
    check("three do not", &slices, &[requests(3)], &[], "none");
    check("beside one in use", &slices, &[requests(1)], &["1"], "r=2");
    check("nothing beside the large one", &slices, &[requests(1)], &["0"], "none");
    let unknown = slice(
        "devices",
        json!({"pool": pool, "devices": [{"name": "0", "consumesCounters": [
        {"counterSet": "none", "counters": {"memory": {"value": "1"}}}]}]}),
    );
    let invalid = [slices[0].clone(), unknown];
    check("a set that is not there", &invalid, &[requests(1)], &[], "invalid resource pools were encountered");
}

#[test]
fn devices_that_may_be_shared_are_until_they_are_full() {
    let policy = json!({"default": "1Gi", "validRange": {"min": "1Gi"}});
    let device = json!({"name": "0", "allowMultipleAllocations": true,
        "capacity": {"memory": {"value": "10Gi", "requestPolicy": policy}}});
    let slices = [slice("s", json!({"devices": [device]}))];
    let asks =
        |memory: &str| json!({"requests": [exactly("r", json!({"capacity": {"requests": {"memory": memory}}}))]});
    check("two of them", &slices, &[asks("6Gi"), asks("4Gi")], &[], "r=0 | r=0");
    check("too much together", &slices, &[asks("6Gi"), asks("5Gi")], &[], "none");
    let share = json!({"devices": {"results": [{"driver": DRIVER, "pool": "p", "device": "0", "shareID": "x",
        "consumedCapacity": {"memory": "7Gi"}}]}});
    let mut taken = Taken::default();
    taken.decided("other", Arc::new(serde_json::from_value(share).unwrap()));
    let found = |memory: &str| given(&slices, &[claim("c", asks(memory))], &taken).unwrap();
    let picked = found("3Gi").unwrap()[0].devices.results[0].clone();
    let consumed: BTreeMap<String, _> = [("memory".to_owned(), "3Gi".parse().unwrap())].into();
    assert_eq!((picked.share_id.as_deref(), picked.consumed_capacity), (Some(""), consumed));
    assert!(found("4Gi").is_none(), "beside what others have");
}

#[test]
fn what_is_wrong_with_a_claim_is_wrong_everywhere() {
    let requests = |more: Value| [json!({"requests": [exactly("r", more)]})];
    let broken = |expression: &str| requests(json!({"selectors": [{"cel": {"expression": expression}}]}));
    check(
        "no such attribute",
        &boards(),
        &broken("device.attributes['gpu.example.com'].none == 1"),
        &[],
        "claim d/c0: selector #0: CEL runtime error: no such key: none",
    );
    check(
        "more than a claim may have",
        &boards(),
        &requests(json!({"count": 33})),
        &[],
        "claim d/c0: number of requested devices 33 exceeds the claim limit of 32",
    );
    check(
        "no such class",
        &boards(),
        &requests(json!({"deviceClassName": "none"})),
        &[],
        "claim d/c0, request r: could not retrieve device class none",
    );
    // Half of forty alike devices in two requests of which the second can never be met.
    let names: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let many = plain(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let never = json!({"selectors": [{"cel": {"expression": "device.driver == 'x'"}}]});
    let endless = [json!({"requests": [exactly("a", json!({"count": 15})), exactly("b", never)]})];
    check("a search without end", &many, &endless, &[], "node n: timed out trying to allocate devices");
}

#[test]
fn configuration_comes_from_classes_and_claims() {
    let devices = json!({"requests": [exactly("a", json!({})), exactly("b", json!({}))],
        "config": [{"opaque": {"driver": "x"}}, {"requests": ["b"], "opaque": {"driver": "y"}},
            {"requests": ["c"], "opaque": {"driver": "z"}}]});
    let found = given(&boards(), &[claim("c", devices)], &Taken::default()).unwrap().unwrap();
    assert_eq!(
        serde_json::to_value(&found[0].devices.config).unwrap(),
        json!([
            {"source": "FromClass", "requests": ["a", "b"], "opaque": {"driver": DRIVER}},
            {"source": "FromClaim", "opaque": {"driver": "x"}},
            {"source": "FromClaim", "requests": ["b"], "opaque": {"driver": "y"}},
        ])
    );
    assert_eq!(device_id(DRIVER, "p", "0"), "gpu.example.com/p/0".into());
}
