//! The example as a newcomer runs it: applied with stock kubectl, reached through its NodePort from another host, rolled out
//! and back, and left alone by a daemon that is killed.

use std::sync::Arc;

use harness::{Host, Switch, kedge, wait};

const NODE: [u8; 4] = [10, 99, 0, 10];
const URL: &str = "http://10.99.0.10:30080";

#[test]
fn guestbook_runs_rolls_out_and_survives_the_daemon() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("node-1", &switch, NODE).unwrap();
    let visitor = Host::boot("visitor", &switch, [10, 99, 0, 11]).unwrap();
    kedge::add_images(&host, &["redis", "guestbook"]).unwrap();
    let mut server = kedge::Server::start(&host, &[]).unwrap();

    // up
    std::fs::copy(kedge::checkout().join("docs/examples/guestbook.yaml"), host.shared().join("guestbook.yaml"))
        .unwrap();
    let applied = server.must("apply -f /run/shared/guestbook.yaml").unwrap();
    assert!(applied.contains("deployment.apps/web created"), "{applied}");
    server.must("-n guestbook rollout status deployment/redis --timeout=120s").unwrap();
    server.must("-n guestbook rollout status deployment/web --timeout=120s").unwrap();
    let again = server.must("apply -f /run/shared/guestbook.yaml").unwrap();
    // a Secret's stringData is never read back, so that kubectl always patches it
    assert!(again.lines().filter(|l| !l.starts_with("secret/")).all(|l| l.ends_with("unchanged")), "{again}");

    // reached from another machine, through all three fronts
    visitor.must(&format!("wget -qO- --post-data message=ahoy {URL}/ >/dev/null")).unwrap();
    assert_eq!(visitor.must(&format!("wget -qO- {URL}/messages")).unwrap().trim(), r#"["ahoy"]"#);
    let page = visitor.must(&format!("wget -qO- {URL}/")).unwrap();
    assert!(page.contains("Guestbook on Kedge") && page.contains("<li>ahoy"), "{page}");
    let fronts = visitor
        .must(&format!("for i in $(seq 40); do wget -qO- {URL}/ | sed -n 's/.*served by \\([^<]*\\).*/\\1/p'; done | sort -u | wc -l"))
        .unwrap();
    assert_eq!(fronts.trim(), "3");

    // as people look at it
    let wide = server.must("-n guestbook get all -o wide").unwrap();
    for part in ["NOMINATED NODE", "80:30080/TCP", "kedge.test/guestbook:1", "replicaset.apps/web-"] {
        assert!(wide.contains(part), "{part} is not in\n{wide}");
    }
    let described = server.must("-n guestbook describe pod -l app=redis").unwrap();
    for part in ["Successfully assigned guestbook/redis-", "QoS Class:", "Burstable", "Started"] {
        assert!(described.contains(part), "{part} is not in\n{described}");
    }
    assert!(server.must("-n guestbook logs deployment/web").unwrap().contains("guestbook listens on port 8080"));
    let pong =
        server.must("-n guestbook exec deployment/redis -- redis-cli -a change-me --no-auth-warning ping").unwrap();
    assert_eq!(pong.trim(), "PONG");
    assert_eq!(server.kubectl("-n guestbook exec deployment/redis -- sh -c 'exit 7'").unwrap().code, 7);

    // out and back
    server.must("-n guestbook scale deployment/web --replicas=4").unwrap();
    server.must("-n guestbook rollout status deployment/web --timeout=120s").unwrap();
    server.must("-n guestbook set env deployment/web TITLE_FILE- TITLE=Second").unwrap();
    server.must("-n guestbook rollout status deployment/web --timeout=120s").unwrap();
    assert!(visitor.must(&format!("wget -qO- {URL}/")).unwrap().contains("<h1>Second</h1>"));
    server.must("-n guestbook rollout undo deployment/web").unwrap();
    server.must("-n guestbook rollout status deployment/web --timeout=120s").unwrap();
    assert!(visitor.must(&format!("wget -qO- {URL}/")).unwrap().contains("<h1>Guestbook on Kedge</h1>"));

    // the daemon is killed: pods go on, and are the same afterwards
    let pids = |host: &Host| host.must("pgrep -f 'fron[t].py|redis-serve[r]' | sort").unwrap();
    let uids = |server: &kedge::Server| {
        server.must("-n guestbook get pods --sort-by=.metadata.name -o jsonpath='{range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount};{end}'").unwrap()
    };
    settled(&server, 5);
    let (before, pods) = (pids(&host), uids(&server));
    server.kill().unwrap();
    // Names are not answered while the daemon is away, so that the fronts cannot find their database; they are there.
    assert_eq!(visitor.must(&format!("wget -qO- {URL}/healthz")).unwrap().trim(), "ok");
    server.restart().unwrap();
    assert_eq!((pids(&host), uids(&server)), (before, pods));
    assert!(server.must("-n guestbook logs deployment/web").unwrap().contains("guestbook listens on port 8080"));
    server.must("-n guestbook exec deployment/redis -- true").unwrap();

    // a pod that is deleted is replaced
    server.must("-n guestbook delete pod -l app=web --wait=false").unwrap();
    wait::until("the fronts to be replaced", wait::CLUSTER, || {
        let ready = server.must("-n guestbook get deployment web -o jsonpath={.status.readyReplicas}")?;
        let names = server.must("-n guestbook get pods -l app=web -o name")?;
        Ok((ready.trim() == "4" && names.lines().count() == 4).then_some(()))
    })
    .unwrap();

    // down
    server.must("delete -f /run/shared/guestbook.yaml --timeout=120s").unwrap();
    assert!(!server.kubectl("get namespace guestbook").unwrap().ok());
    wait::until("the containers to end", wait::CLUSTER, || {
        Ok((!host.run("pgrep -f 'fron[t].py|redis-serve[r]'")?.ok()).then_some(()))
    })
    .unwrap();
}

/// Waits until exactly `count` pods are there and ready.
fn settled(server: &kedge::Server, count: usize) {
    wait::until("the pods to settle", wait::CLUSTER, || {
        let lines = server.must("-n guestbook get pods --no-headers")?;
        let ready = lines.lines().filter(|l| l.contains("1/1")).count();
        Ok((lines.lines().count() == count && ready == count).then_some(()))
    })
    .unwrap();
}
