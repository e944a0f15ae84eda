//! What operators see: the audit log, the limits of requests, metrics, health.

use std::sync::Arc;

use apiserver::audit::log::Place;
use apiserver::audit::{self, Log};
use apiserver::{Body, Identity};
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::harness::{Server, TRACE, config_map, now};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: [quiet]}
- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}], omitManagedFields: true}
- {level: Metadata, omitStages: []}
";

/// A server whose audit log is in `audit.log` of the folder.
pub async fn recorded(folder: &tempfile::TempDir) -> (Server, Arc<Log>) {
    let path = folder.path().join("audit.log");
    let place = Place { path, age_days_max: 0, backups_max: 0, size_mib_max: 0 };
    let log = Log::open(place, Arc::new(now)).unwrap();
    let policy = Arc::new(audit::policy::parse(POLICY).unwrap_or_else(|e| panic!("{e}")));
    let settings = audit::Settings { policy, log: log.clone() };
    (Server::start_with(|config| config.audit = Some(settings)).await, log)
}

pub fn events(folder: &tempfile::TempDir) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.path().join("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn the_audit_log_says_what_the_policy_wants() {
    let folder = tempfile::tempdir().unwrap();
    let (server, log) = recorded(&folder).await;
    let headers = [
        ("user-agent", "test"),
        ("audit-id", "one"),
        ("impersonate-user", "ann"),
        ("impersonate-group", "system:masters"),
    ];
    let admin = server.admin().with(&headers);
    admin.post(MAPS, &config_map("a", &json!({}))).await.expect(201);
    server.user(Identity::new("quiet", &[])).get(MAPS).await.expect(403);
    server.user(Identity::new("bob", &[])).get("/api/v1/namespaces/default/secrets/s?x=y").await.expect(403);
    server
        .stranger(&[("authorization", "Bearer no"), ("x-forwarded-for", "203.0.113.7")])
        .get("/apis")
        .await
        .expect(401);
    drop(server.admin().open(Method::GET, &format!("{MAPS}?watch=true"), Body::empty()).await);
    log.close();
    let mut events = events(&folder);
    events.retain(|e| e["userAgent"] != "kube-apiserver");
    let [made, refused, unknown, begun, ended] = events.as_slice() else { panic!("{events:#?}") };

    assert_eq!(
        (&made["kind"], &made["apiVersion"], &made["level"]),
        (&json!("Event"), &json!("audit.k8s.io/v1"), &json!("RequestResponse"))
    );
    assert_eq!(
        (&made["auditID"], &made["stage"], &made["verb"]),
        (&json!("one"), &json!("ResponseComplete"), &json!("create"))
    );
    assert_eq!((&made["requestURI"], &made["userAgent"]), (&json!(MAPS), &json!("test")));
    assert_eq!(
        (&made["user"]["username"], &made["impersonatedUser"]["username"]),
        (&json!("system:admin"), &json!("ann"))
    );
    let reference = json!({"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"});
    assert_eq!(made["objectRef"], reference);
    assert_eq!((&made["responseStatus"]["code"], &made["requestObject"]["data"]["k"]), (&json!(201), &json!("v")));
    assert_eq!(made["responseObject"]["metadata"]["name"], "a");
    assert_eq!(made["responseObject"]["metadata"]["managedFields"], Value::Null);
    assert_eq!(made["annotations"]["authorization.k8s.io/decision"], "allow");
    let time = made["requestReceivedTimestamp"].as_str().unwrap();
    assert_eq!((time.len(), &time[time.len() - 1..]), (27, "Z"), "{time}");

    assert_eq!((&refused["level"], &refused["responseStatus"]["code"]), (&json!("Metadata"), &json!(403)));
    assert_eq!(
        (&refused["responseStatus"]["status"], &refused["responseStatus"]["reason"]),
        (&json!("Failure"), &json!("Forbidden"))
    );
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(refused["requestURI"], "/api/v1/namespaces/default/secrets/s?x=y");

    assert_eq!((&unknown["user"], &unknown["responseStatus"]["code"]), (&json!({}), &json!(401)));
    assert_eq!(unknown["sourceIPs"], json!(["203.0.113.7", "192.0.2.9"]));

    assert_eq!((&begun["verb"], &begun["stage"]), (&json!("watch"), &json!("ResponseStarted")));
    assert_eq!((&ended["stage"], &ended["auditID"]), (&json!("ResponseComplete"), &begun["auditID"]));
}

/// Who hangs up early is recorded: what was asked for may have been done.
#[tokio::test]
async fn a_client_that_goes_away_is_in_the_audit_log() {
    let folder = tempfile::tempdir().unwrap();
    let (server, log) = recorded(&folder).await;
    let admin = server.admin();
    {
        // Waits for a revision that does not come.
        let later = format!("{MAPS}?resourceVersion=1000000");
        let mut asking = std::pin::pin!(admin.get(&later));
        assert!(futures_util::FutureExt::now_or_never(asking.as_mut()).is_none());
    }
    log.close();
    let mut events = events(&folder);
    events.retain(|e| e["userAgent"] != "kube-apiserver");
    let [gone] = events.as_slice() else { panic!("{events:#?}") };
    assert_eq!((&gone["stage"], &gone["responseStatus"]["status"]), (&json!("ResponseComplete"), &json!("Failure")));
    assert_eq!((&gone["verb"], &gone["objectRef"]["resource"]), (&json!("list"), &json!("configmaps")));
}

#[tokio::test]
async fn answers_say_which_schema_and_level_they_belong_to() {
    let server = Server::start().await;
    let admin = server.admin();
    let uid = |object: Value| object["metadata"]["uid"].as_str().unwrap().to_owned();
    let group = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let schema = uid(admin.get(&format!("{group}/flowschemas/probes")).await.expect(200).json());
    let level = uid(admin.get(&format!("{group}/prioritylevelconfigurations/exempt")).await.expect(200).json());
    let answer = server.stranger(&[]).get("/livez").await.expect(200);
    assert_eq!(answer.header("x-kubernetes-pf-flowschema-uid"), schema);
    assert_eq!(answer.header("x-kubernetes-pf-prioritylevel-uid"), level);
}

#[tokio::test]
async fn a_level_without_seats_turns_requests_away() {
    let server = Server::start_with(|config| {
        config.authentication.anonymous = apiserver::auth::settings::Anonymous::Everywhere;
    })
    .await;
    let admin = server.admin();
    let group = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let level = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "closed"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 0,
            "lendablePercent": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    admin.post(&format!("{group}/prioritylevelconfigurations"), &level).await.expect(201);
    let schema = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "nobody"},
        "spec": {"matchingPrecedence": 5, "priorityLevelConfiguration": {"name": "closed"}, "rules": [{
            "subjects": [{"kind": "User", "user": {"name": "system:anonymous"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/version"]}]}]}});
    admin.post(&format!("{group}/flowschemas"), &schema).await.expect(201);
    let stranger = server.stranger(&[]);
    // What is configured is in force a moment later.
    let refused = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        loop {
            let answer = stranger.get("/version").await;
            if answer.code != 200 {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    });
    let refused = refused.await.expect("a refusal in time");
    refused.refused(429, "Too many requests, please try again later.");
    assert_eq!(refused.header("retry-after"), "1");
    stranger.get("/livez").await.expect(200);
    let metrics = admin.get("/metrics").await.expect(200).text();
    let line = "apiserver_flowcontrol_rejected_requests_total{priority_level=\"closed\",flow_schema=\"nobody\",reason=\"concurrency-limit\"}";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn dashboards_find_what_they_ask_for() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.post(MAPS, &config_map("a", &json!({}))).await.expect(201);
    admin.get(MAPS).await.expect(200);
    let metrics = admin.get("/metrics").await.expect(200).text();
    for part in [
        "apiserver_request_total{verb=\"POST\",dry_run=\"\",group=\"\",version=\"v1\",resource=\"configmaps\",subresource=\"\",scope=\"resource\",component=\"apiserver\",code=\"201\"} 2",
        "apiserver_request_duration_seconds_bucket{",
        "apiserver_request_sli_duration_seconds_count{verb=\"LIST\"",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"}",
        "apiserver_storage_objects{resource=\"configmaps\"} 2",
        "apiserver_longrunning_requests",
        "kubernetes_build_info{git_version=\"v1.36.2+kedge0.1.0\"",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(part), "{part}:\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"));
    assert_eq!(metrics.matches("# EOF").count(), 1);
}

/// What was logged.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Said {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn who_debugs_sees_each_request_with_its_ids() {
    let server = Server::start().await;
    let said = Said::default();
    let writer = said.clone();
    let log = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let listening = tracing::subscriber::set_default(log);
    let asked = server.admin().with(&[("audit-id", "an-id"), ("traceparent", TRACE)]);
    asked.get(&format!("{MAPS}/a")).await.expect(404);
    asked.get("/version").await.expect(200);
    drop(listening);
    let text = String::from_utf8(said.0.lock().clone()).unwrap();
    let answered: Vec<&str> = text.lines().filter(|l| l.contains("answered")).collect();
    let ids = "request{audit_id=\"an-id\" trace_id=\"0af7651916cd43dd8448eb211c80319c\" verb=\"get\" ";
    for (line, parts) in answered.iter().zip([
        [ids, "resource=\"configmaps\" namespace=\"default\" name=\"a\"}", "code=404"],
        [ids, "path=\"/version\"}", "code=200"],
    ]) {
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?}: {line}");
    }
    assert_eq!(answered.len(), 2, "{text}");
}

#[tokio::test]
async fn health_has_upstreams_checks() {
    let server = Server::start().await;
    let stranger = server.stranger(&[]);
    let ready = stranger.get("/readyz?verbose").await.expect(200).text();
    for check in
        ["ping", "log", "etcd", "etcd-readiness", "informer-sync", "poststarthook/rbac/bootstrap-roles", "shutdown"]
    {
        assert!(ready.contains(&format!("[+]{check} ok\n")), "{check}: {ready}");
        server.admin().get(&format!("/readyz/{check}")).await.expect(200);
    }
    assert!(!stranger.get("/livez?verbose").await.expect(200).text().contains("]informer-sync"));
}
