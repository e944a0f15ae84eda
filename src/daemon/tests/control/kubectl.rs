//! Stock kubectl against the whole control plane, with what it prints and how it exits. Without kubectl on the machine the
//! test says so and passes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::wire::listen;

const MANIFEST: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: 'nginx:1', ports: [{containerPort: 80, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, type: NodePort, ports: [{port: 80, targetPort: http, nodePort: 30080}]}
";

/// Far above what any command here takes.
const DEADLINE: Duration = Duration::from_secs(60);

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|p| p.join("kubectl")).find(|p| Path::is_file(p))
}

struct Kubectl {
    binary: PathBuf,
    home: tempfile::TempDir,
}

impl Kubectl {
    /// Runs in the namespace `shop`; what is printed on both streams, and the exit code.
    async fn run(&self, line: &str, input: &str) -> (String, i32) {
        // Words that hold JSON stand between apostrophes.
        let words = line.split('\'').enumerate().flat_map(|(i, part)| match i % 2 {
            0 => part.split_whitespace().collect::<Vec<_>>(),
            _ => vec![part],
        });
        let mut child = tokio::process::Command::new(&self.binary)
            .args(["-n", "shop"])
            .args(words)
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("KUBECONFIG", self.home.path().join("config"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("kubectl {line}: no end")).unwrap();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (text(&output.stdout) + &text(&output.stderr), output.status.code().unwrap_or(-1))
    }
}

/// Command, exit code, and what must be in the output, with runs of white space as one space.
const SCRIPT: &[(&str, i32, &[&str])] = &[
    ("apply -f -", 0, &["namespace/shop created", "deployment.apps/web created", "service/web created"]),
    ("rollout status deploy/web", 0, &["deployment \"web\" successfully rolled out"]),
    ("apply -f -", 0, &["deployment.apps/web unchanged"]),
    ("diff -f -", 0, &[]),
    (
        "get all -o wide",
        0,
        &[
            "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES",
            "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR",
            "80:30080/TCP",
            "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR",
            "deployment.apps/web 3/3 3 3",
            "NAME DESIRED CURRENT READY AGE CONTAINERS IMAGES SELECTOR",
            "app=web,pod-template-hash=",
        ],
    ),
    (
        "describe deploy web",
        0,
        &[
            "Replicas: 3 desired | 3 updated | 3 total | 3 available | 0 unavailable",
            "Available True MinimumReplicasAvailable Progressing True NewReplicaSetAvailable",
            "Normal ScalingReplicaSet",
            "deployment-controller Scaled up replica set web-",
        ],
    ),
    ("describe svc web", 0, &["NodePort: <unset> 30080/TCP", "Session Affinity: None"]),
    (
        "describe pod -l app=web",
        0,
        &[
            "Controlled By: ReplicaSet/web-",
            "/var/run/secrets/kubernetes.io/serviceaccount from kube-api-access-",
            "QoS Class: BestEffort",
            "node.kubernetes.io/not-ready:NoExecute op=Exists for 300s",
            "default-scheduler Successfully assigned shop/web-",
        ],
    ),
    ("describe node n1", 0, &["Non-terminated Pods: (3 in total)", "Allocatable: cpu: 4"]),
    ("get endpoints", 0, &["Warning: v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"]),
    ("scale deploy/web --replicas=4", 0, &["deployment.apps/web scaled"]),
    ("scale deploy/web --replicas=5 --current-replicas=9", 1, &["Expected replicas to be 9, was 4"]),
    ("set image deploy/web c=nginx:2", 0, &["deployment.apps/web image updated"]),
    ("rollout status deploy/web", 0, &["successfully rolled out"]),
    ("rollout history deploy/web", 0, &["REVISION CHANGE-CAUSE 1 <none> 2 <none>"]),
    ("rollout history deploy/web --revision=1", 0, &["deployment.apps/web with revision #1", "Image: nginx:1"]),
    ("rollout undo deploy/web --to-revision=99", 1, &["unable to find specified revision 99 in history"]),
    ("rollout undo deploy/web", 0, &["deployment.apps/web rolled back"]),
    ("rollout status deploy/web", 0, &["successfully rolled out"]),
    ("rollout history deploy/web", 0, &["REVISION CHANGE-CAUSE 2 <none> 3 <none>"]),
    ("rollout restart deploy/web", 0, &["deployment.apps/web restarted"]),
    ("rollout status deploy/web", 0, &["successfully rolled out"]),
    ("label deploy/web tier=front", 0, &["deployment.apps/web labeled"]),
    ("label deploy/web tier=back", 1, &["'tier' already has a value (front), and --overwrite is false"]),
    ("annotate deploy/web note=x", 0, &["deployment.apps/web annotated"]),
    ("patch deploy/web --type=strategic -p '{\"spec\":{\"replicas\":2}}'", 0, &["deployment.apps/web patched"]),
    ("patch deploy/web --type=merge -p '{\"spec\":{\"replicas\":2}}'", 0, &["deployment.apps/web patched (no change)"]),
    (
        "patch deploy/web --type=json -p '[{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":3}]'",
        0,
        &["deployment.apps/web patched"],
    ),
    (
        "patch deploy/web --type=json -p '[{\"op\":\"remove\",\"path\":\"/spec/no\"}]'",
        1,
        &["The request is invalid: patch: error in remove for path: '/spec/no': Unable to remove nonexistent key: no"],
    ),
    (
        "patch deploy/web -p '{\"spec\":{\"replicas\":\"x\"}}'",
        1,
        &["The request is invalid: patch: Invalid value: \"map[spec:map[replicas:x]]\": unrecognized type: int32"],
    ),
    (
        "patch deploy/web -p '{\"spec\":{\"selector\":{\"matchLabels\":{\"app\":\"x\"}}}}'",
        1,
        &["The Deployment \"web\" is invalid:", "field is immutable"],
    ),
    ("explain deployment.spec.strategy", 0, &["FIELD: strategy <DeploymentStrategy>"]),
    ("api-resources", 0, &["deployments deploy apps/v1 true Deployment", "nodes no v1 false Node"]),
    ("auth can-i create pods", 0, &["yes"]),
    ("auth can-i create pods --as=bob", 1, &["no"]),
    ("auth whoami", 0, &["Groups [system:masters system:authenticated]"]),
    ("create token default", 0, &["eyJ"]),
    ("create token nobody", 1, &["failed to create token: serviceaccounts \"nobody\" not found"]),
    ("get events", 0, &["LAST SEEN TYPE REASON OBJECT MESSAGE", "Normal Scheduled pod/web-"]),
    (
        "get pods --as=bob",
        1,
        &[
            "Error from server (Forbidden): pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in \
         the namespace \"shop\"",
        ],
    ),
    ("get pod none", 1, &["Error from server (NotFound): pods \"none\" not found"]),
    ("get widgets", 1, &["error: the server doesn't have a resource type \"widgets\""]),
    ("run one --image=nginx:1", 0, &["pod/one created"]),
    ("wait --for=condition=Ready pod/one --timeout=30s", 0, &["pod/one condition met"]),
    ("delete pod one", 0, &["pod \"one\" deleted"]),
    ("cordon n1", 0, &["node/n1 cordoned"]),
    ("get nodes", 0, &["n1 Ready,SchedulingDisabled"]),
    ("uncordon n1", 0, &["node/n1 uncordoned"]),
    ("drain n1 --force", 0, &["evicting pod shop/web-", "node/n1 drained"]),
    ("uncordon n1", 0, &["node/n1 uncordoned"]),
    ("rollout status deploy/web", 0, &["successfully rolled out"]),
    ("delete deploy web --cascade=foreground", 0, &["deployment.apps \"web\" deleted"]),
    ("get pods", 0, &["No resources found in shop namespace."]),
    ("create cronjob tick --image=succeeds --schedule '0 0 1 1 *'", 0, &["cronjob.batch/tick created"]),
    ("create job once --from=cronjob/tick", 0, &["job.batch/once created"]),
    ("wait --for=condition=Complete job/once --timeout=30s", 0, &["job.batch/once condition met"]),
    ("get job,cronjob", 0, &["job.batch/once Complete 1/1", "cronjob.batch/tick 0 0 1 1 * <none> False 0 <none>"]),
    (
        "describe job once",
        0,
        &[
            "Controlled By: CronJob/tick",
            "Pods Statuses: 0 Active (0 Ready) / 1 Succeeded / 0 Failed",
            "job-controller Job completed",
        ],
    ),
    ("delete cronjob tick --cascade=foreground", 0, &["cronjob.batch \"tick\" deleted"]),
    ("get job,pod", 0, &["No resources found in shop namespace."]),
    ("delete ns shop", 0, &["namespace \"shop\" deleted"]),
    ("get ns shop", 1, &["Error from server (NotFound): namespaces \"shop\" not found"]),
];

const SETS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: 'nginx:1'}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: log, namespace: shop}
spec:
  selector: {matchLabels: {app: log}}
  template:
    metadata: {labels: {app: log}}
    spec: {containers: [{name: c, image: 'nginx:1'}]}
";

const SETS_SCRIPT: &[(&str, i32, &[&str])] = &[
    ("apply -f -", 0, &["statefulset.apps/db created", "daemonset.apps/log created"]),
    ("rollout status sts/db", 0, &["partitioned roll out complete: 2 new pods have been updated..."]),
    ("rollout status ds/log", 0, &["daemon set \"log\" successfully rolled out"]),
    (
        "get sts,ds",
        0,
        &[
            "NAME READY AGE statefulset.apps/db 2/2",
            "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE daemonset.apps/log 1 1 1 1 1 <none>",
        ],
    ),
    ("get pod db-0 db-1 -o name", 0, &["pod/db-0", "pod/db-1"]),
    ("rollout history sts/db", 0, &["REVISION CHANGE-CAUSE 1 <none>"]),
    ("set image sts/db c=nginx:2", 0, &["statefulset.apps/db image updated"]),
    ("rollout status sts/db", 0, &["partitioned roll out complete: 2 new pods have been updated..."]),
    ("rollout history sts/db", 0, &["REVISION CHANGE-CAUSE 1 <none> 2 <none>"]),
    ("rollout history sts/db --revision=1", 0, &["statefulset.apps/db with revision #1", "Image: nginx:1"]),
    ("rollout undo sts/db --to-revision=99", 1, &["unable to find specified revision 99 in history"]),
    ("rollout undo sts/db", 0, &["statefulset.apps/db rolled back"]),
    ("rollout status sts/db", 0, &["partitioned roll out complete: 2 new pods have been updated..."]),
    ("rollout history sts/db", 0, &["REVISION CHANGE-CAUSE 2 <none> 3 <none>"]),
    ("get pod db-0 db-1 -o wide --show-labels", 0, &["apps.kubernetes.io/pod-index=1"]),
    ("scale sts db --replicas=3", 0, &["statefulset.apps/db scaled"]),
    ("rollout status sts/db", 0, &["partitioned roll out complete: 3 new pods have been updated..."]),
    ("rollout restart sts/db", 0, &["statefulset.apps/db restarted"]),
    ("rollout status sts/db", 0, &["partitioned roll out complete: 3 new pods have been updated..."]),
    (
        "describe sts db",
        0,
        &[
            "Replicas: 3 desired | 3 total",
            "Update Strategy: RollingUpdate",
            "SuccessfulCreate",
            "statefulset-controller Create Pod db-0 in StatefulSet db successful",
        ],
    ),
    ("set image ds/log c=nginx:2", 0, &["daemonset.apps/log image updated"]),
    ("rollout status ds/log", 0, &["daemon set \"log\" successfully rolled out"]),
    ("rollout history ds/log", 0, &["REVISION CHANGE-CAUSE 1 <none> 2 <none>"]),
    ("rollout undo ds/log --to-revision=1", 0, &["daemonset.apps/log rolled back"]),
    ("rollout status ds/log", 0, &["daemon set \"log\" successfully rolled out"]),
    ("rollout history ds/log", 0, &["REVISION CHANGE-CAUSE 2 <none> 3 <none>"]),
    ("rollout history ds/log --revision=3", 0, &["daemonset.apps/log with revision #3", "Image: nginx:1"]),
    (
        "describe ds log",
        0,
        &[
            "Desired Number of Nodes Scheduled: 1",
            "Number of Nodes Misscheduled: 0",
            "daemonset-controller Created pod: log-",
        ],
    ),
    ("get controllerrevisions", 0, &["NAME CONTROLLER REVISION AGE", "statefulset.apps/db", "daemonset.apps/log 3"]),
    ("drain n1", 1, &["cannot delete DaemonSet-managed Pods"]),
    ("drain n1 --ignore-daemonsets", 0, &["ignoring DaemonSet-managed Pods: shop/log-", "node/n1 drained"]),
    ("get ds log", 0, &["log 1 1 1 1 1"]),
    ("uncordon n1", 0, &["node/n1 uncordoned"]),
    ("rollout status sts/db", 0, &["partitioned roll out complete: 3 new pods have been updated..."]),
    ("delete sts db --cascade=foreground", 0, &["statefulset.apps \"db\" deleted"]),
    ("delete ds log --cascade=foreground", 0, &["daemonset.apps \"log\" deleted"]),
    ("get pods,controllerrevisions", 0, &["No resources found in shop namespace."]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyday_commands() {
    play(SCRIPT, MANIFEST).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollouts_of_sets() {
    play(SETS_SCRIPT, SETS).await;
}

async fn play(script: &[(&str, i32, &[&str])], manifest: &str) {
    let Some(binary) = find() else {
        eprintln!("no kubectl on this machine: not tested");
        return;
    };
    let cluster = Cluster::start().await;
    cluster.node().await;
    let stop = CancellationToken::new();
    let (address, serving) = listen(&cluster.api, &cluster.pki, stop.clone()).await;
    let kubectl = Kubectl { binary, home: tempfile::tempdir().unwrap() };
    let admin = cluster.pki.admin().unwrap();
    let config = ::cluster::kubeconfig::render("kedge", &format!("https://{address}"), cluster.pki.ca_pem(), &admin);
    std::fs::write(kubectl.home.path().join("config"), config).unwrap();
    // All that differs, so that one run tells of everything.
    let mut wrong = Vec::new();
    for (line, code, parts) in script {
        let (text, exit) = kubectl.run(line, if line.ends_with("-f -") { manifest } else { "" }).await;
        let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let missing: Vec<_> = parts.iter().filter(|part| !squeezed.contains(**part)).collect();
        if exit != *code || !missing.is_empty() {
            wrong.push(format!("kubectl {line}: exit {exit}, wanted {code}; no {missing:?} in\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    stop.cancel();
    let complaints = cluster.stop().await;
    serving.await.unwrap();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
