//! Power cuts under write load lose nothing that was acknowledged.
//!
//! In the machine a server takes writes from several writers at once. Each acknowledgement leaves the machine at once; what
//! this side has read was acknowledged. The power goes at a random request to the disk, which then forgets what was not
//! flushed, in no particular order. After the next boot every acknowledged object must be there as it was acknowledged, and
//! no revision may be given twice.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::BufRead as _;
use std::path::PathBuf;

use harness::kedge::checkout;
use harness::machine::{CLUSTER, dist};
use harness::{Arch, Machine, MachineSpec};

/// Each round is a boot of the machine and a start of the server: about 20 s.
const ROUNDS: u32 = 5;
/// Enough at once that commits are shared.
const WRITERS: u32 = 4;
/// The cut comes this many acknowledgements after the writers began, at most: it must not always hit the same stage.
const ACKNOWLEDGED_MAX: u64 = 60;
/// A commit is a handful of requests; the cut hits any place in the next few of them.
const REQUESTS_MAX: u64 = 25;

/// Proxies the API without TLS inside the machine, so that a shell is client enough: a process start for each write would
/// leave the server idle most of the time.
const SERVE: &str = "
export KUBECONFIG=/etc/kedge/kedge.yaml
ip link add node0 type dummy && ip addr add 10.97.0.2/24 dev node0 && ip link set node0 up
setsid kedge server --disable-agent >>/var/log/kedge.log 2>&1 &
until [ -s $KUBECONFIG ] && kubectl get --raw /readyz >/dev/null 2>&1; do
	kill -0 $! 2>/dev/null || { tail -20 /var/log/kedge.log >&2; exit 1; }
	usleep 100000
done
setsid kubectl proxy --port=8001 >/var/log/proxy.log 2>&1 &
until wget -qO /dev/null http://127.0.0.1:8001/version 2>/dev/null; do usleep 100000; done
";

/// `$1`: round, `$2`: writer. Prints a line `name revision` for each write that was acknowledged.
const WRITE: &str = r#"#!/bin/sh
n=0
while :; do
	n=$((n + 1))
	name=w-$1-$2-$n
	body="{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"$name\"},\"data\":{\"of\":\"$name\"}}"
	reply=$(wget -qO - --header 'Content-Type: application/json' --post-data "$body" \
		http://127.0.0.1:8001/api/v1/namespaces/default/configmaps?pretty=false) || exit 1
	revision=${reply#*\"resourceVersion\":\"}
	echo "$name ${revision%%\"*}"
done
"#;

/// Stock kubectl for the machine's architecture: `KEDGE_MACHINE_KUBECTL`, else as `tests/run clients` builds it.
fn kubectl() -> PathBuf {
    let path = std::env::var_os("KEDGE_MACHINE_KUBECTL")
        .map_or_else(|| checkout().join("target/clients/kubectl-1.36"), PathBuf::from);
    assert!(path.exists(), "{} is not there: run `tests/run clients`, or set KEDGE_MACHINE_KUBECTL", path.display());
    path
}

/// What the server holds: name to revision; and the revision of the list.
fn stored(machine: &mut Machine) -> (BTreeMap<String, u64>, u64) {
    let list = machine.must("wget -qO - http://127.0.0.1:8001/api/v1/namespaces/default/configmaps").unwrap();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let revision = |meta: &serde_json::Value| meta["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    let mut found = BTreeMap::new();
    for item in list["items"].as_array().unwrap() {
        let name = item["metadata"]["name"].as_str().unwrap().to_owned();
        if name.starts_with("w-") {
            assert_eq!(item["data"]["of"].as_str(), Some(name.as_str()), "a torn object: {item}");
            found.insert(name, revision(&item["metadata"]));
        }
    }
    (found, revision(&list["metadata"]))
}

#[test]
fn nothing_that_was_acknowledged_is_lost() {
    let binary = dist(Arch::X86_64).unwrap();
    let writer = std::env::temp_dir().join(harness::unique("kedge-writer"));
    std::fs::write(&writer, WRITE).unwrap();
    let spec = MachineSpec::new("power", Arch::X86_64)
        .file(binary, "/usr/local/bin/kedge", 0o755)
        .file(kubectl(), "/usr/local/bin/kubectl", 0o755)
        .file(&writer, "/usr/local/bin/writer", 0o755);
    let mut machine = Machine::boot(spec).unwrap();
    std::fs::remove_file(&writer).unwrap();

    let chance = RandomState::new();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let mut highest = 0;
    for round in 0..=ROUNDS {
        let serving = machine.run_within(SERVE, CLUSTER).unwrap();
        assert!(serving.ok(), "round {round}: {}{}", serving.stdout, serving.stderr);
        let (found, at) = stored(&mut machine);
        for (name, revision) in &acknowledged {
            assert_eq!(found.get(name), Some(revision), "round {round}: {name} was acknowledged");
        }
        assert!(at >= highest, "round {round}: the store is at {at}, {highest} was acknowledged");

        if round == ROUNDS {
            break; // the last cut is checked, and no other follows
        }
        let (enough, requests) =
            (chance.hash_one((round, 'a')) % ACKNOWLEDGED_MAX + 1, chance.hash_one((round, 'r')) % REQUESTS_MAX + 1);
        let mut stream = machine.stream().unwrap();
        let writers = format!("for w in $(seq {WRITERS}); do setsid writer {round} $w 2>/dev/null & done");
        machine.must(&format!("{{ {writers}; }} >/dev/machine-stream")).unwrap();
        let (before, highest_before) = (acknowledged.len(), highest.max(at));
        let mut lost = None;
        let mut line = String::new();
        while stream.read_line(&mut line).unwrap() > 0 {
            let whole = std::mem::take(&mut line);
            let Some((name, revision)) = whole.strip_suffix('\n').and_then(|l| l.split_once(' ')) else {
                break; // the power went in the middle of a line
            };
            let revision: u64 = revision.parse().unwrap();
            assert!(revision > highest_before, "round {round}: {name} got {revision}, {highest_before} was before");
            assert!(!acknowledged.values().any(|r| *r == revision), "round {round}: {revision} was given twice");
            acknowledged.insert(name.to_owned(), revision);
            highest = highest.max(revision);
            if lost.is_none() && (acknowledged.len() - before) as u64 == enough {
                lost = Some(machine.cut_power_after(requests).unwrap());
            }
        }
        let lost = lost.expect("the stream ends with the power");
        println!(
            "round {round}: {} acknowledged, cut {requests} requests later: {lost:?}",
            acknowledged.len() - before
        );
        machine.power_on().unwrap();
    }
}
