//! Stock kubectl against the TLS listener. Without kubectl on the machine the test says so and passes.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::custom::{car, cars};
use crate::wire::Listening;

struct Kubectl {
    binary: PathBuf,
    home: tempfile::TempDir,
}

struct Output {
    ok: bool,
    out: String,
    err: String,
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|p| p.join("kubectl")).find(|p| Path::is_file(p))
}

impl Kubectl {
    async fn run(&self, arguments: &str, input: &str) -> Output {
        let mut child = tokio::process::Command::new(&self.binary)
            .args(arguments.split_whitespace())
            .env_clear()
            .env("HOME", self.home.path())
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
        let output = child.wait_with_output().await.unwrap();
        let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
        Output { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn check(output: Output, part: &str) -> Output {
        assert!(output.ok && output.out.contains(part), "wanted {part:?}, got:\n{}\n{}", output.out, output.err);
        output
    }
}

const MANIFEST: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {colour: COLOUR}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'nginx:1', ports: [{containerPort: 80}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyday_use() {
    let Some(binary) = find() else {
        eprintln!("skipped: there is no kubectl on this machine");
        return;
    };
    let listening = Listening::start().await;
    let home = tempfile::tempdir().unwrap();
    let pki = &listening.server.pki;
    let url = format!("https://{}", listening.address);
    let config = cluster::kubeconfig::render("kedge", &url, pki.ca_pem(), &pki.admin().unwrap());
    std::fs::write(home.path().join("config"), config).unwrap();
    let kubectl = Kubectl { binary, home };
    let check = Kubectl::check;

    check(kubectl.run("version", "").await, "Server Version: v1.36.2");
    check(kubectl.run("api-resources", "").await, "deploy       apps/v1");
    check(kubectl.run("get namespaces -o name", "").await, "namespace/kube-system");
    check(kubectl.run("apply -f -", &MANIFEST.replace("COLOUR", "red")).await, "deployment.apps/web created");
    check(kubectl.run("apply -f -", &MANIFEST.replace("COLOUR", "blue")).await, "configmap/settings configured");
    let unchanged =
        check(kubectl.run("apply -f -", &MANIFEST.replace("COLOUR", "blue")).await, "configmap/settings unchanged");
    assert!(unchanged.out.contains("deployment.apps/web unchanged"), "{}", unchanged.out);
    check(kubectl.run("-n shop get configmap settings -o jsonpath={.data.colour}", "").await, "blue");
    check(kubectl.run("-n shop get deployments", "").await, "UP-TO-DATE");
    check(kubectl.run("-n shop get deploy,cm -o wide", "").await, "deployment.apps/web");
    check(kubectl.run("-n shop describe deployment web", "").await, "nginx:1");
    check(kubectl.run("-n shop scale deployment web --replicas=3", "").await, "scaled");
    check(kubectl.run("-n shop get deployment web -o jsonpath={.spec.replicas}", "").await, "3");
    check(kubectl.run("-n shop set image deployment/web web=nginx:2", "").await, "image updated");
    check(kubectl.run("-n shop label configmap settings a=b", "").await, "labeled");
    check(kubectl.run("-n shop get configmap -l a=b -o name", "").await, "configmap/settings");
    check(kubectl.run("-n shop create configmap more --from-literal=a=b", "").await, "configmap/more created");
    check(kubectl.run("auth can-i create pods", "").await, "yes");
    check(kubectl.run("auth whoami", "").await, "system:admin");
    let missing = kubectl.run("create token missing -n shop", "").await;
    assert!(!missing.ok && missing.err.contains("serviceaccounts \"missing\" not found"), "{}", missing.err);
    check(kubectl.run("-n shop create serviceaccount robot", "").await, "serviceaccount/robot created");
    check(kubectl.run("-n shop create token robot --duration=10m", "").await, "eyJ");
    check(kubectl.run("explain deployment.spec.replicas", "").await, "replicas");
    check(
        kubectl.run("-n shop wait --for=jsonpath={.data.colour}=blue configmap/settings --timeout=5s", "").await,
        "condition met",
    );
    check(kubectl.run("-n shop delete configmap settings", "").await, "configmap \"settings\" deleted");
    check(kubectl.run("-n shop delete deployment web --cascade=orphan --wait=false", "").await, "deleted");
    let gone = kubectl.run("-n shop get configmap settings", "").await;
    assert!(
        !gone.ok && gone.err.contains("Error from server (NotFound): configmaps \"settings\" not found"),
        "{}",
        gone.err
    );
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "wheels": {"type": "integer", "description": "How many it runs on."}}}}});
    check(kubectl.run("apply -f -", &cars(&schema).to_string()).await, "cars.example.com created");
    check(kubectl.run("explain cars.spec.wheels", "").await, "How many it runs on.");
    let wrong = car("a", &json!({"wheel": 4})).to_string();
    let wrong = kubectl.run("apply -f -", &wrong).await;
    assert!(!wrong.ok && wrong.err.contains("unknown field \"spec.wheel\""), "{}", wrong.err);
    check(kubectl.run("apply -f -", &car("a", &json!({"wheels": 4})).to_string()).await, "car.example.com/a created");
    let unknown = kubectl.run("get widgets", "").await;
    assert!(unknown.err.contains("the server doesn't have a resource type \"widgets\""), "{}", unknown.err);
    listening.stop().await;
}
