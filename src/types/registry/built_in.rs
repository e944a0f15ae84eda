//! The entries. They are put into discovery order, by group and version; within those they stay as they are written: by name.
//!
//! To add a kind see docs/checklists/new-kind.md.

use std::borrow::Cow::{Borrowed, Owned};
use std::sync::LazyLock;

use super::{Extension, GroupVersionKind, Kind, Scope, Subresource, Text, Verb, WriteClass, groups};

mod devices;
mod network;
mod server;

const NONE: &[Text] = &[];
const ALL: &[Text] = &[Borrowed("all")];
const READ_WRITE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];
const CONNECT: &[Verb] = &[Verb::Create, Verb::Get];
const PROXY: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];
const CREATE: &[Verb] = &[Verb::Create];
const NO_COLLECTION_DELETE: &[Verb] =
    &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];

const SCALE: GroupVersionKind = GroupVersionKind::new("autoscaling", "v1", "Scale");

/// A stored, namespaced kind with every verb; entries override what differs.
fn base(group: &'static str, kind: &'static str, plural: &'static str, singular: &'static str) -> Kind {
    Kind {
        group: Borrowed(group),
        version: Borrowed("v1"),
        kind: Borrowed(kind),
        plural: Borrowed(plural),
        singular: Borrowed(singular),
        short_names: Borrowed(NONE),
        categories: Borrowed(NONE),
        scope: Scope::Namespaced,
        verbs: Borrowed(Verb::ALL),
        subresources: Borrowed(&[]),
        write_class: WriteClass::Durable,
        selectable_fields: Borrowed(NONE),
        storage_version_hash: Borrowed(""),
        stored: true,
        kept_as: None,
        extension: Extension::NONE,
    }
}

/// The autoscaler in one of its versions.
fn autoscaler(version: &'static str) -> Kind {
    Kind {
        version: Borrowed(version),
        short_names: Borrowed(&[Borrowed("hpa")]),
        categories: Borrowed(ALL),
        subresources: Owned(vec![STATUS]),
        storage_version_hash: Borrowed("qwQve8ut294="),
        ..base("autoscaling", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "horizontalpodautoscaler")
    }
}

/// What is measured for each answer, of an object that is kept elsewhere.
fn measured(kind: &'static str, plural: &'static str) -> Kind {
    Kind {
        version: Borrowed("v1beta1"),
        verbs: Borrowed(&[Verb::Get, Verb::List]),
        stored: false,
        ..base("metrics.k8s.io", kind, plural, "")
    }
}

/// A kind that is only posted and answered, never stored.
fn review(group: &'static str, kind: &'static str, plural: &'static str, singular: &'static str) -> Kind {
    Kind { verbs: Borrowed(CREATE), scope: Scope::Cluster, stored: false, ..base(group, kind, plural, singular) }
}

const fn sub(name: &'static str, verbs: &'static [Verb]) -> Subresource {
    Subresource { name: Borrowed(name), verbs: Borrowed(verbs), response: None }
}

const fn sub_of(name: &'static str, verbs: &'static [Verb], response: GroupVersionKind) -> Subresource {
    Subresource { name: Borrowed(name), verbs: Borrowed(verbs), response: Some(response) }
}

const STATUS: Subresource = sub("status", READ_WRITE);

/// Fields of an Event that a selector may name, in both groups that serve events.
const EVENT_FIELDS: &[Text] = &[
    Borrowed("involvedObject.kind"),
    Borrowed("involvedObject.namespace"),
    Borrowed("involvedObject.name"),
    Borrowed("involvedObject.uid"),
    Borrowed("involvedObject.apiVersion"),
    Borrowed("involvedObject.resourceVersion"),
    Borrowed("involvedObject.fieldPath"),
    Borrowed("reason"),
    Borrowed("reportingComponent"),
    Borrowed("source"),
    Borrowed("type"),
];

/// Every built-in kind, in discovery order.
pub static BUILT_IN: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let mut all = vec![
        // core/v1
        Kind { verbs: Borrowed(CREATE), stored: false, ..base("", "Binding", "bindings", "binding") },
        Kind {
            // never kept: worked out for each answer
            short_names: Borrowed(&[Borrowed("cs")]),
            scope: Scope::Cluster,
            verbs: Borrowed(&[Verb::Get, Verb::List]),
            stored: false,
            ..base("", "ComponentStatus", "componentstatuses", "componentstatus")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("cm")]),
            storage_version_hash: Borrowed("qFsyl6wFWjQ="),
            ..base("", "ConfigMap", "configmaps", "configmap")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("ep")]),
            storage_version_hash: Borrowed("fWeeMqaN/OA="),
            ..base("", "Endpoints", "endpoints", "endpoints")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("ev")]),
            write_class: WriteClass::Relaxed,
            selectable_fields: Borrowed(EVENT_FIELDS),
            storage_version_hash: Borrowed("r2yiGXH7wu8="),
            ..base("", "Event", "events", "event")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("limits")]),
            storage_version_hash: Borrowed("EBKMFVe6cwo="),
            ..base("", "LimitRange", "limitranges", "limitrange")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("ns")]),
            scope: Scope::Cluster,
            verbs: Borrowed(NO_COLLECTION_DELETE),
            subresources: Owned(vec![sub("finalize", &[Verb::Update]), STATUS]),
            selectable_fields: Borrowed(&[Borrowed("status.phase")]),
            storage_version_hash: Borrowed("Q3oi5N2YM8M="),
            ..base("", "Namespace", "namespaces", "namespace")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("no")]),
            scope: Scope::Cluster,
            subresources: Owned(vec![
                sub_of("proxy", PROXY, GroupVersionKind::new("", "v1", "NodeProxyOptions")),
                STATUS,
            ]),
            selectable_fields: Borrowed(&[Borrowed("spec.unschedulable")]),
            storage_version_hash: Borrowed("XwShjMxG9Fs="),
            ..base("", "Node", "nodes", "node")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("pvc")]),
            subresources: Owned(vec![STATUS]),
            storage_version_hash: Borrowed("QWTyNDq0dC4="),
            ..base("", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("pv")]),
            scope: Scope::Cluster,
            subresources: Owned(vec![STATUS]),
            storage_version_hash: Borrowed("HN/zwEC+JgM="),
            ..base("", "PersistentVolume", "persistentvolumes", "persistentvolume")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("po")]),
            categories: Borrowed(ALL),
            subresources: Owned(vec![
                sub_of("attach", CONNECT, GroupVersionKind::new("", "v1", "PodAttachOptions")),
                sub_of("binding", CREATE, GroupVersionKind::new("", "v1", "Binding")),
                sub("ephemeralcontainers", READ_WRITE),
                sub_of("eviction", CREATE, GroupVersionKind::new("policy", "v1", "Eviction")),
                sub_of("exec", CONNECT, GroupVersionKind::new("", "v1", "PodExecOptions")),
                sub("log", &[Verb::Get]),
                sub_of("portforward", CONNECT, GroupVersionKind::new("", "v1", "PodPortForwardOptions")),
                sub_of("proxy", PROXY, GroupVersionKind::new("", "v1", "PodProxyOptions")),
                sub("resize", READ_WRITE),
                STATUS,
            ]),
            selectable_fields: Borrowed(&[
                Borrowed("spec.nodeName"),
                Borrowed("spec.restartPolicy"),
                Borrowed("spec.schedulerName"),
                Borrowed("spec.serviceAccountName"),
                Borrowed("spec.hostNetwork"),
                Borrowed("status.phase"),
                Borrowed("status.podIP"),
                Borrowed("status.podIPs"),
                Borrowed("status.nominatedNodeName"),
            ]),
            storage_version_hash: Borrowed("xPOwRZ+Yhw8="),
            ..base("", "Pod", "pods", "pod")
        },
        Kind {
            storage_version_hash: Borrowed("LIXB2x4IFpk="),
            ..base("", "PodTemplate", "podtemplates", "podtemplate")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("rc")]),
            categories: Borrowed(ALL),
            subresources: Owned(vec![sub_of("scale", READ_WRITE, SCALE), STATUS]),
            selectable_fields: Borrowed(&[Borrowed("status.replicas")]),
            storage_version_hash: Borrowed("Jond2If31h0="),
            ..base("", "ReplicationController", "replicationcontrollers", "replicationcontroller")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("quota")]),
            subresources: Owned(vec![STATUS]),
            storage_version_hash: Borrowed("8uhSgffRX6w="),
            ..base("", "ResourceQuota", "resourcequotas", "resourcequota")
        },
        Kind {
            selectable_fields: Borrowed(&[Borrowed("type")]),
            storage_version_hash: Borrowed("S6u1pOWzb84="),
            ..base("", "Secret", "secrets", "secret")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("sa")]),
            subresources: Owned(vec![sub_of(
                "token",
                CREATE,
                GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest"),
            )]),
            storage_version_hash: Borrowed("pbx9ZvyFpBE="),
            ..base("", "ServiceAccount", "serviceaccounts", "serviceaccount")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("svc")]),
            categories: Borrowed(ALL),
            subresources: Owned(vec![
                sub_of("proxy", PROXY, GroupVersionKind::new("", "v1", "ServiceProxyOptions")),
                STATUS,
            ]),
            selectable_fields: Borrowed(&[Borrowed("spec.clusterIP"), Borrowed("spec.type")]),
            storage_version_hash: Borrowed("0/CO1lhkEBI="),
            ..base("", "Service", "services", "service")
        },
        // authentication.k8s.io/v1, authorization.k8s.io/v1
        review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview"),
        review("authentication.k8s.io", "TokenReview", "tokenreviews", "tokenreview"),
        Kind {
            scope: Scope::Namespaced,
            ..review(
                "authorization.k8s.io",
                "LocalSubjectAccessReview",
                "localsubjectaccessreviews",
                "localsubjectaccessreview",
            )
        },
        review(
            "authorization.k8s.io",
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            "selfsubjectaccessreview",
        ),
        review("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview"),
        review("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview"),
        // apps/v1
        Kind {
            storage_version_hash: Borrowed("85nkx63pcBU="),
            ..base("apps", "ControllerRevision", "controllerrevisions", "controllerrevision")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("ds")]),
            categories: Borrowed(ALL),
            subresources: Owned(vec![STATUS]),
            storage_version_hash: Borrowed("dd7pWHUlMKQ="),
            ..base("apps", "DaemonSet", "daemonsets", "daemonset")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("deploy")]),
            categories: Borrowed(ALL),
            subresources: Owned(vec![sub_of("scale", READ_WRITE, SCALE), STATUS]),
            storage_version_hash: Borrowed("8aSe+NMegvE="),
            ..base("apps", "Deployment", "deployments", "deployment")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("rs")]),
            categories: Borrowed(ALL),
            subresources: Owned(vec![sub_of("scale", READ_WRITE, SCALE), STATUS]),
            selectable_fields: Borrowed(&[Borrowed("status.replicas")]),
            storage_version_hash: Borrowed("P1RzHs8/mWQ="),
            ..base("apps", "ReplicaSet", "replicasets", "replicaset")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("sts")]),
            categories: Borrowed(ALL),
            subresources: Owned(vec![sub_of("scale", READ_WRITE, SCALE), STATUS]),
            storage_version_hash: Borrowed("H+vl74LkKdo="),
            ..base("apps", "StatefulSet", "statefulsets", "statefulset")
        },
        // events.k8s.io/v1: the newer face of the core events
        Kind {
            short_names: Borrowed(&[Borrowed("ev")]),
            write_class: WriteClass::Relaxed,
            selectable_fields: Borrowed(EVENT_FIELDS),
            storage_version_hash: Borrowed("r2yiGXH7wu8="),
            kept_as: Some(GroupVersionKind::new("", "v1", "Event")),
            ..base("events.k8s.io", "Event", "events", "event")
        },
        // autoscaling/v2, autoscaling/v1
        autoscaler("v2"),
        Kind {
            kept_as: Some(GroupVersionKind::new("autoscaling", "v2", "HorizontalPodAutoscaler")),
            ..autoscaler("v1")
        },
        // batch/v1
        Kind {
            short_names: Borrowed(&[Borrowed("cj")]),
            categories: Borrowed(ALL),
            subresources: Owned(vec![STATUS]),
            storage_version_hash: Borrowed("sd5LIXh4Fjs="),
            ..base("batch", "CronJob", "cronjobs", "cronjob")
        },
        Kind {
            categories: Borrowed(ALL),
            subresources: Owned(vec![STATUS]),
            selectable_fields: Borrowed(&[Borrowed("status.successful")]),
            storage_version_hash: Borrowed("mudhfqk/qZY="),
            ..base("batch", "Job", "jobs", "job")
        },
        // rbac.authorization.k8s.io/v1
        Kind {
            scope: Scope::Cluster,
            storage_version_hash: Borrowed("48tpQ8gZHFc="),
            ..base("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding")
        },
        Kind {
            scope: Scope::Cluster,
            storage_version_hash: Borrowed("bYE5ZWDrJ44="),
            ..base("rbac.authorization.k8s.io", "ClusterRole", "clusterroles", "clusterrole")
        },
        Kind {
            storage_version_hash: Borrowed("eGsCzGH6b1g="),
            ..base("rbac.authorization.k8s.io", "RoleBinding", "rolebindings", "rolebinding")
        },
        Kind {
            storage_version_hash: Borrowed("7FuwZcIIItM="),
            ..base("rbac.authorization.k8s.io", "Role", "roles", "role")
        },
        // scheduling.k8s.io/v1
        Kind {
            short_names: Borrowed(&[Borrowed("pc")]),
            scope: Scope::Cluster,
            storage_version_hash: Borrowed("1QwjyaZjj3Y="),
            ..base("scheduling.k8s.io", "PriorityClass", "priorityclasses", "priorityclass")
        },
        // coordination.k8s.io/v1
        Kind {
            write_class: WriteClass::Relaxed,
            storage_version_hash: Borrowed("gqkMMb/YqFM="),
            ..base("coordination.k8s.io", "Lease", "leases", "lease")
        },
        // discovery.k8s.io/v1
        Kind {
            storage_version_hash: Borrowed("qgS0xkrxYAI="),
            ..base("discovery.k8s.io", "EndpointSlice", "endpointslices", "endpointslice")
        },
    ];
    all.extend([network::kinds(), devices::kinds(), server::kinds()].into_iter().flatten());
    let of_nodes = Kind { scope: Scope::Cluster, ..measured("NodeMetrics", "nodes") };
    all.extend([of_nodes, measured("PodMetrics", "pods")]);
    all.sort_by_key(|k| groups::position(&k.group, &k.version));
    all
});
