//! Server-side apply and the owners of fields, as stock kubectl asks for them.

use std::fs;
use std::sync::Arc;

use harness::{Host, Switch, kedge};

const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: kedge.test/web, ports: [{containerPort: 80}], resources: {requests: {cpu: 100m}}}
";

#[test]
fn kubectl_applies_on_the_server() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("node-1", &switch, [10, 99, 0, 10]).unwrap();
    let server = kedge::Server::start(&host, &["--disable-agent"]).unwrap();
    let write = |name: &str, text: &str| fs::write(host.shared().join(name), text).unwrap();
    let version = || server.must("get deployment web -o jsonpath={.metadata.resourceVersion}").unwrap();
    // Keeps the deployment as it is: nobody but kubectl writes it.
    let apply =
        |name: &str, more: &str| server.kubectl(&format!("apply --server-side -f /run/shared/{name} {more}")).unwrap();
    let owners = || {
        let path = "{range .metadata.managedFields[*]}{.manager}/{.operation}/{.subresource};{end}";
        server.must(&format!("get deployment web --show-managed-fields -o \"jsonpath={path}\"")).unwrap()
    };
    write("web.yaml", WEB);
    write("more.yaml", &WEB.replace("replicas: 2", "replicas: 5"));
    write("less.yaml", &WEB.replace("  replicas: 2\n", ""));

    // created, then left alone
    let diff = server.kubectl("diff --server-side -f /run/shared/web.yaml").unwrap();
    assert_eq!(diff.code, 1, "{} {}", diff.stdout, diff.stderr);
    assert_eq!(apply("web.yaml", "").stdout.trim(), "deployment.apps/web serverside-applied");
    // The revision that the controller notes is a generation of its own.
    server.must("wait deployment/web --for=jsonpath={.status.observedGeneration}=2 --timeout=60s").unwrap();
    assert!(owners().starts_with("kubectl/Apply/;"), "{}", owners());
    let yaml = server.must("get deployment web -o yaml --show-managed-fields").unwrap();
    for part in [
        "fieldsType: FieldsV1",
        "f:replicas: {}",
        "k:{\"name\":\"web\"}:",
        "k:{\"containerPort\":80,\"protocol\":\"TCP\"}:",
    ] {
        assert!(yaml.contains(part), "{part} is not in\n{yaml}");
    }
    assert!(!server.must("get deployment web -o yaml").unwrap().contains("managedFields"));

    // conflicts
    let refused = apply("more.yaml", "--field-manager=rival");
    assert!(!refused.ok());
    for part in ["Apply failed with 1 conflict: conflict with \"kubectl\": .spec.replicas", "--force-conflicts"] {
        assert!(refused.stderr.contains(part), "{part} is not in\n{}", refused.stderr);
    }
    let dry = apply("more.yaml", "--field-manager=rival --force-conflicts --dry-run=server");
    assert_eq!(dry.stdout.trim(), "deployment.apps/web serverside-applied (server dry run)");
    let before = version();
    assert!(apply("more.yaml", "--field-manager=rival --force-conflicts").ok());
    assert_ne!(before, version());
    assert_eq!(server.must("get deployment web -o jsonpath={.spec.replicas}").unwrap(), "5");
    assert!(owners().contains("rival/Apply/;"), "{}", owners());
    assert!(apply("less.yaml", "").ok());
    assert_eq!(server.must("get deployment web -o jsonpath={.spec.replicas}").unwrap(), "5");
    server.must("scale deployment web --replicas=3").unwrap();
    assert!(owners().contains("/Update/scale;"), "{}", owners());
    let refused = apply("more.yaml", "--field-manager=rival");
    // The manager of a scale is what the program file is called.
    let words = "with subresource \"scale\" using apps/v1: .spec.replicas";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
    let wrong = WEB.replace("replicas: 2", "replica: 2");
    write("wrong.yaml", &wrong);
    let refused = apply("wrong.yaml", "");
    assert!(refused.stderr.contains(".spec.replica: field not declared in schema"), "{}", refused.stderr);

    // an apply that says nothing new writes nothing
    write("map.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: '1', b: '2'}\n");
    let map = || server.must("get configmap m -o json --show-managed-fields").unwrap();
    assert!(apply("map.yaml", "").ok());
    let first = map();
    assert!(apply("map.yaml", "").ok());
    assert_eq!(map(), first);

    // from client-side apply to the server's and back
    server.must("create namespace old").unwrap();
    server.must("-n old apply -f /run/shared/map.yaml").unwrap();
    let last = |words: &str| server.must(&format!("-n old apply view-last-applied configmap/m {words}")).unwrap();
    assert!(last("").contains("b: \"2\""), "{}", last(""));
    write("map.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: '9'}\n");
    server.must("-n old apply --server-side -f /run/shared/map.yaml").unwrap();
    let migrated = server.must("-n old get configmap m -o yaml --show-managed-fields").unwrap();
    assert!(migrated.contains("manager: kubectl\n") && !migrated.contains("kubectl-client-side-apply"), "{migrated}");
    assert!(migrated.contains("a: \"9\"") && !migrated.contains("b: \"2\""), "{migrated}");
    assert!(last("").contains("a: \"9\"") && !last("").contains("b:"), "{}", last(""));
    server.must("-n old apply -f /run/shared/map.yaml").unwrap();
    // Labels and edits have owners of their own.
    server.must("label configmap m x=y").unwrap();
    assert!(map().contains("kubectl-label"), "{}", map());
}
