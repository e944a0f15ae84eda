//! The plugins against a view of a handful of objects.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::json;
use store::{Entry, Revision, View};
use types::registry::by_kind;

use super::*;

mod devices;
mod limits;
mod nodes;
mod pod_security;

/// A store that holds what the test says.
#[derive(Default)]
pub struct Fixed(BTreeMap<String, Entry>);

impl Fixed {
    pub fn with(mut self, group: &str, kind: &str, object: Value) -> Self {
        let kind = by_kind(group, "v1", kind).unwrap();
        let meta = &object["metadata"];
        let key = kind.store_key(meta["namespace"].as_str().unwrap_or(""), meta["name"].as_str().unwrap());
        let value = serde_json::to_vec(&object).unwrap();
        let entry = Entry::new(&key, &value, Revision(1), Revision(1), None, &crate::facts_of(&key, &value));
        self.0.insert(key, entry);
        self
    }
}

impl View for Fixed {
    fn revision(&self) -> Revision {
        Revision(1)
    }
    fn get(&self, key: &str) -> Option<Entry> {
        self.0.get(key).cloned()
    }
    fn range<'a>(&'a self, prefix: &str, _: Option<&str>) -> Box<dyn Iterator<Item = &'a Entry> + 'a> {
        let prefix = prefix.to_owned();
        Box::new(self.0.iter().filter(move |(key, _)| key.starts_with(&prefix)).map(|(_, entry)| entry))
    }
    fn count(&self, prefix: &str) -> usize {
        self.range(prefix, None).count()
    }
}

/// A creation of nothing yet.
pub fn request<'a>(view: &'a Fixed, user: &'a Identity, kind: &'a KindRef) -> Request<'a> {
    Request {
        operation: Operation::Create,
        kind,
        served: kind,
        subresource: "",
        namespace: if kind.namespaced() { "shop" } else { "" },
        name: "x",
        object: None,
        old: None,
        user,
        dry_run: false,
        options: Options::None,
        now: Timestamp::UNIX_EPOCH,
        view,
        authorizer: None,
        warnings: Vec::new(),
        annotations: Annotations::new(crate::audit::Level::Metadata),
        others: OnceLock::new(),
    }
}

fn cluster() -> Fixed {
    Fixed::default()
        .with("", "Namespace", json!({"metadata": {"name": "shop"}, "status": {"phase": "Active"}}))
        .with("", "Namespace", json!({"metadata": {"name": "gone"}, "status": {"phase": "Terminating"}}))
        .with(
            "",
            "ServiceAccount",
            json!({
                "metadata": {"name": "default", "namespace": "shop"}, "imagePullSecrets": [{"name": "reg"}],
            }),
        )
        .with(
            "",
            "ServiceAccount",
            json!({
                "metadata": {"name": "quiet", "namespace": "shop"}, "automountServiceAccountToken": false,
            }),
        )
        .with(
            "scheduling.k8s.io",
            "PriorityClass",
            json!({"metadata": {"name": "high"}, "value": 9, "preemptionPolicy": "Never"}),
        )
}

fn run(
    view: &Fixed,
    operation: Operation,
    (group, kind, subresource): (&str, &str, &str),
    (namespace, name): (&str, &str),
    user: &str,
    object: Option<&mut Value>,
    old: Option<&Value>,
) -> Result<(), Status> {
    let user = Identity::new(user, &["system:nodes"]);
    let kind = KindRef::from(by_kind(group, "v1", kind).unwrap());
    let mut request = request(view, &user, &kind);
    request.operation = operation;
    (request.subresource, request.namespace, request.name) = (subresource, namespace, name);
    (request.object, request.old) = (object, old);
    built_in_mutate(&mut request)?;
    built_in_validate(&mut request)
}

fn create(view: &Fixed, group: &str, kind: &str, namespace: &str, object: &mut Value) -> Result<(), Status> {
    let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
    run(view, Operation::Create, (group, kind, ""), (namespace, &name), "ann", Some(object), None)
}

#[test]
fn namespaces_must_be_there_and_stay() {
    let view = cluster();
    let mut map = json!({"metadata": {"name": "m"}});
    assert_eq!(create(&view, "", "ConfigMap", "shop", &mut map), Ok(()));
    let absent = create(&view, "", "ConfigMap", "nowhere", &mut map).unwrap_err();
    assert_eq!((absent.code, absent.message.as_str()), (404, "namespaces \"nowhere\" not found"));
    let ending = create(&view, "", "ConfigMap", "gone", &mut map).unwrap_err();
    assert_eq!(
        (ending.code, ending.message.as_str()),
        (
            403,
            "configmaps \"m\" is forbidden: unable to create new content in namespace gone because it is being terminated",
        )
    );
    let cause = &ending.details.unwrap().causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("NamespaceTerminating", "metadata.namespace"));
    for (name, stays) in [("default", true), ("kube-system", true), ("kube-public", true), ("shop", false)] {
        let answer = run(&view, Operation::Delete, ("", "Namespace", ""), ("", name), "ann", None, None);
        assert_eq!(answer.is_err(), stays, "{name}");
    }
    // reviews are answered for any namespace
    let review = create(&view, "authorization.k8s.io", "LocalSubjectAccessReview", "nowhere", &mut json!({}));
    assert_eq!(review, Ok(()));
}

#[test]
fn pods_get_an_account_a_token_a_priority_and_tolerations() {
    let view = cluster();
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {
        "initContainers": [{"name": "i"}],
        "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "x", "mountPath": service_account::MOUNT_PATH}]}],
    }});
    create(&view, "", "Pod", "shop", &mut pod).unwrap();
    let spec = &pod["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "reg"}]));
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-") && volume.len() == 21, "{volume}");
    assert_eq!(
        spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"],
        json!({"expirationSeconds": 3607, "path": "token"})
    );
    let mount = json!([{"name": volume, "readOnly": true, "mountPath": service_account::MOUNT_PATH}]);
    assert_eq!((&spec["containers"][0]["volumeMounts"], &spec["initContainers"][0]["volumeMounts"]), (&mount, &mount));
    assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&json!(0), &json!("PreemptLowerPriority")));
    assert_eq!(
        spec["tolerations"],
        json!([
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
        ])
    );
    // what is injected has all its defaults already
    let mut again = pod.clone();
    (crate::hooks::core::pod::HOOKS.default)(&mut again);
    assert_eq!(again["spec"]["volumes"], pod["spec"]["volumes"]);
}

#[test]
fn pods_are_refused_or_left_alone() {
    let view = cluster();
    let missing = create(
        &view,
        "",
        "Pod",
        "shop",
        &mut json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "ann"}}),
    );
    assert_eq!(
        missing.unwrap_err().message,
        "pods \"p\" is forbidden: error looking up service account shop/ann: serviceaccount \"ann\" not found"
    );
    let mut quiet = json!({"metadata": {"name": "p"}, "spec": {
        "serviceAccountName": "quiet", "containers": [{"name": "a"}], "priorityClassName": "high",
        "tolerations": [{"operator": "Exists"}],
    }});
    create(&view, "", "Pod", "shop", &mut quiet).unwrap();
    let spec = &quiet["spec"];
    assert!(spec.get("volumes").is_none());
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&json!(9), &json!("Never")));
    assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
    for (change, words) in [
        (json!({"priorityClassName": "low"}), "no PriorityClass with name low was found"),
        (
            json!({"priority": 5}),
            "the integer value of priority (5) must not be provided in pod spec; priority admission controller computed \
             0 from the given PriorityClass name",
        ),
    ] {
        let refused =
            create(&view, "", "Pod", "shop", &mut json!({"metadata": {"name": "p"}, "spec": change})).unwrap_err();
        assert_eq!(refused.message, format!("pods \"p\" is forbidden: {words}"));
    }
}

#[test]
fn one_default_priority_class() {
    let view = cluster().with(
        "scheduling.k8s.io",
        "PriorityClass",
        json!({"metadata": {"name": "usual"}, "value": 3, "globalDefault": true}),
    );
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {}});
    create(&view, "", "Pod", "shop", &mut pod).unwrap();
    assert_eq!((&pod["spec"]["priority"], &pod["spec"]["priorityClassName"]), (&json!(3), &json!("usual")));
    let mut second = json!({"metadata": {"name": "other"}, "globalDefault": true});
    assert_eq!(
        create(&view, "scheduling.k8s.io", "PriorityClass", "", &mut second).unwrap_err().message,
        "priorityclasses.scheduling.k8s.io \"other\" is forbidden: PriorityClass usual is already marked as default. \
         Only one default can exist"
    );
}

#[test]
fn new_nodes_are_not_ready() {
    let mut node = json!({"metadata": {"name": "n1"}});
    create(&cluster(), "", "Node", "", &mut node).unwrap();
    assert_eq!(node["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
}

#[test]
fn a_node_writes_only_what_is_its_own() {
    let view = cluster();
    let as_node = |kind: (&str, &str, &str), at: (&str, &str), operation, object: Option<Value>, old: Option<Value>| {
        let mut object = object;
        run(&view, operation, kind, at, "system:node:n1", object.as_mut(), old.as_ref()).is_ok()
    };
    let node = |name: &str| json!({"metadata": {"name": name}});
    let on = |node: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}});
    use Operation::{Create, Delete, Update};
    assert!(as_node(("", "Node", ""), ("", "n1"), Create, Some(node("n1")), None));
    assert!(!as_node(("", "Node", ""), ("", "n2"), Create, Some(node("n2")), None));
    assert!(as_node(("", "Node", "status"), ("", "n1"), Update, Some(node("n1")), Some(node("n1"))));
    let tainted = json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "a"}]}});
    assert!(!as_node(("", "Node", ""), ("", "n1"), Update, Some(tainted), Some(node("n1"))));
    assert!(as_node(("", "Pod", "status"), ("shop", "p"), Update, Some(on("n1")), Some(on("n1"))));
    assert!(!as_node(("", "Pod", "status"), ("shop", "p"), Update, Some(on("n1")), Some(on("n2"))));
    assert!(as_node(("", "Pod", ""), ("shop", "p"), Delete, None, Some(on("n1"))));
    assert!(!as_node(("", "Pod", ""), ("shop", "p"), Delete, None, Some(on("n2"))));
    assert!(!as_node(("", "Pod", ""), ("shop", "p"), Create, Some(on("n1")), None));
    let lease = ("coordination.k8s.io", "Lease", "");
    assert!(as_node(lease, ("kube-node-lease", "n1"), Update, Some(node("n1")), Some(node("n1"))));
    assert!(!as_node(lease, ("kube-node-lease", "n2"), Update, Some(node("n2")), Some(node("n2"))));
    // nobody else is restricted
    let mut other = node("n2");
    assert!(create(&view, "", "Node", "", &mut other).is_ok());
}
