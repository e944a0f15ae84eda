//! Column definitions by kind. Source: `AddHandlers` in `pkg/printers/internalversion/printers.go`.

use types::registry::Kind;

mod others;

/// One column. Those with a priority above zero are shown with `-o wide` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`.
    pub type_: &'static str,
    /// `name` for the first, else empty.
    pub format: &'static str,
    pub description: &'static str,
    pub priority: i32,
}

const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, type_: "string", format: "", description, priority: 0 }
}
const fn number(name: &'static str, description: &'static str) -> Column {
    Column { type_: "integer", ..text(name, description) }
}
const fn wide(column: Column) -> Column {
    Column { priority: 1, ..column }
}

const NAME: Column = Column { format: "name", ..text("Name", "Unique within its namespace, or within the cluster.") };
const AGE: Column = text("Age", "Time since the object was created.");
const CREATED: Column = Column { type_: "date", ..text("Created At", "When the object was created.") };
const CONTAINERS: Column = wide(text("Containers", "Names of the containers in the template."));
const IMAGES: Column = wide(text("Images", "Images of the containers in the template."));
const SELECTOR: Column = wide(text("Selector", "Labels of the pods that belong to it."));

const UNKNOWN: &[Column] = &[NAME, CREATED];
const NAME_AGE: &[Column] = &[NAME, AGE];

const POD: &[Column] = &[
    NAME,
    text("Ready", "Containers that are ready, of all containers."),
    text("Status", "What the pod is doing, or why it does not run."),
    text("Restarts", "How often containers were restarted, and how long ago the last time was."),
    AGE,
    wide(text("IP", "Address of the pod.")),
    wide(text("Node", "Node that the pod is bound to.")),
    wide(text("Nominated Node", "Node that is being cleared for the pod.")),
    wide(text("Readiness Gates", "Conditions beyond the containers that the pod waits for, and how many hold.")),
];
const SERVICE: &[Column] = &[
    NAME,
    text("Type", "How the service is exposed."),
    text("Cluster-IP", "Address of the service inside the cluster."),
    text("External-IP", "Addresses from outside the cluster."),
    text("Port(s)", "Ports of the service, with node ports and protocols."),
    AGE,
    SELECTOR,
];
const ENDPOINTS: &[Column] = &[NAME, text("Endpoints", "Addresses and ports that are ready."), AGE];
const NODE: &[Column] = &[
    NAME,
    text("Status", "Whether the node is ready, and whether pods may be scheduled to it."),
    text("Roles", "Roles that labels give the node."),
    AGE,
    text("Version", "Version of the node agent."),
    wide(text("Internal-IP", "Address inside the cluster.")),
    wide(text("External-IP", "Address from outside the cluster.")),
    wide(text("OS-Image", "Operating system.")),
    wide(text("Kernel-Version", "Kernel and architecture.")),
    wide(text("Container-Runtime", "Container runtime and its version.")),
];
const EVENT: &[Column] = &[
    text("Last Seen", "Time since it was last seen."),
    text("Type", "Normal or Warning."),
    text("Reason", "Short reason."),
    text("Object", "Object that it is about."),
    wide(text("Subobject", "Part of the object.")),
    wide(text("Source", "Who reported it.")),
    text("Message", "What happened."),
    wide(text("First Seen", "Time since it was first seen.")),
    wide(number("Count", "How often it was seen.")),
    wide(NAME),
];
const NAMESPACE: &[Column] = &[NAME, text("Status", "Active, or Terminating."), AGE];
const SECRET: &[Column] = &[NAME, text("Type", "Type of the secret."), text("Data", "Number of keys."), AGE];
const CONFIG_MAP: &[Column] = &[NAME, text("Data", "Number of keys."), AGE];
const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", "Replicas that are ready, of those that are wanted."),
    text("Up-to-date", "Replicas of the newest template."),
    text("Available", "Replicas that have been ready for long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const REPLICA_SET: &[Column] = &[
    NAME,
    number("Desired", "Replicas that are wanted."),
    number("Current", "Replicas that exist."),
    number("Ready", "Replicas that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const STATEFUL_SET: &[Column] =
    &[NAME, text("Ready", "Replicas that are ready, of those that are wanted."), AGE, CONTAINERS, IMAGES];
const DAEMON_SET: &[Column] = &[
    NAME,
    number("Desired", "Nodes that should run a pod."),
    number("Current", "Nodes that run a pod and should."),
    number("Ready", "Nodes with a pod that is ready."),
    number("Up-to-date", "Nodes with a pod of the newest template."),
    number("Available", "Nodes with a pod that has been ready for long enough."),
    text("Node Selector", "Labels of the nodes that it is for."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const CONTROLLER_REVISION: &[Column] =
    &[NAME, text("Controller", "Controller whose state it keeps."), text("Revision", "Number of the state."), AGE];
const POD_TEMPLATE: &[Column] = &[
    NAME,
    text("Containers", "Names of the containers in the template."),
    text("Images", "Images of the containers in the template."),
    text("Pod Labels", "Labels that the template gives to pods."),
];
const JOB: &[Column] = &[
    NAME,
    text("Status", "How far the job is."),
    text("Completions", "Pods that succeeded, of those that shall."),
    text("Duration", "Time from the start to the end, or until now."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule", "When jobs are started, in cron's format."),
    text("Timezone", "Time zone of the schedule."),
    Column { type_: "boolean", ..text("Suspend", "Whether no more jobs are started.") },
    number("Active", "Jobs that run."),
    text("Last Schedule", "Time since a job was last due."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const AUTOSCALER: &[Column] = &[
    NAME,
    text("Reference", "Workload that it scales."),
    text("Targets", "Metrics as they are and as they should be."),
    text("MinPods", "Fewest pods."),
    text("MaxPods", "Most pods."),
    text("Replicas", "Pods that there are."),
    AGE,
];
const VOLUME: &[Column] = &[
    NAME,
    text("Capacity", "Size of the volume."),
    text("Access Modes", "How it can be mounted."),
    text("Reclaim Policy", "What becomes of it when it is released."),
    text("Status", "Whether it is free, bound, released or failed."),
    text("Claim", "Claim that it is bound to."),
    text("StorageClass", "Class of the volume."),
    text("VolumeAttributesClass", "Class of its changeable attributes."),
    text("Reason", "Why it is in a failed state."),
    AGE,
    wide(text("VolumeMode", "Whether it is a file system or a raw device.")),
];
const VOLUME_CLAIM: &[Column] = &[
    NAME,
    text("Status", "Whether it is pending, bound or lost."),
    text("Volume", "Volume that it is bound to."),
    text("Capacity", "Size of that volume."),
    text("Access Modes", "How that volume can be mounted."),
    text("StorageClass", "Class that is asked for."),
    text("VolumeAttributesClass", "Class of the changeable attributes that is asked for."),
    AGE,
    wide(text("VolumeMode", "Whether a file system or a raw device is asked for.")),
];
const COMPONENT_STATUS: &[Column] = &[
    NAME,
    text("Status", "Whether the component is well."),
    text("Message", "What the component says."),
    text("Error", "What is wrong."),
];
const METRICS: &[Column] = &[
    NAME,
    Column { format: "quantity", ..text("cpu", "CPU time used a second, over the window.") },
    Column { format: "quantity", ..text("memory", "The working set.") },
    Column { format: "duration", ..text("Window", "How long was measured.") },
];
const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    text("Request", "What is used and what may be, of objects and requests."),
    text("Limit", "What is used and what may be, of limits."),
    AGE,
];
const SCALE: &[Column] =
    &[NAME, number("Desired", "Replicas that are wanted."), number("Available", "Replicas that exist."), AGE];
const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    text("AddressType", "Kind of the addresses."),
    text("Ports", "Ports of the endpoints."),
    text("Endpoints", "Addresses of the endpoints."),
    AGE,
];
const BINDING: &[Column] = &[
    NAME,
    text("Role", "Role that is granted."),
    AGE,
    wide(text("Users", "Users that it is granted to.")),
    wide(text("Groups", "Groups that it is granted to.")),
    wide(text("ServiceAccounts", "Service accounts that it is granted to.")),
];
const LEASE: &[Column] = &[NAME, text("Holder", "Who holds the lease."), AGE];
const PRIORITY_CLASS: &[Column] = &[
    NAME,
    number("Value", "Priority of pods of the class."),
    Column { type_: "boolean", ..text("Global-Default", "Whether pods without a class get this one.") },
    AGE,
    text("PreemptionPolicy", "Whether pods of the class push others out."),
];

/// The columns of a kind; Name and Created At for one that has none of its own.
pub fn columns(kind: &Kind) -> &'static [Column] {
    named(&kind.group, &kind.kind)
}

/// The columns by group and kind; also for kinds that only subresources exchange.
pub fn named(group: &str, kind: &str) -> &'static [Column] {
    match (group, kind) {
        ("", "Pod") => POD,
        ("", "Service") => SERVICE,
        ("", "Endpoints") => ENDPOINTS,
        ("", "Node") => NODE,
        ("" | "events.k8s.io", "Event") => EVENT,
        ("", "Namespace") => NAMESPACE,
        ("", "Secret") => SECRET,
        ("", "ConfigMap") => CONFIG_MAP,
        ("", "ServiceAccount") => NAME_AGE,
        ("apps", "Deployment") => DEPLOYMENT,
        ("apps", "ReplicaSet") | ("", "ReplicationController") => REPLICA_SET,
        ("apps", "StatefulSet") => STATEFUL_SET,
        ("apps", "DaemonSet") => DAEMON_SET,
        ("apps", "ControllerRevision") => CONTROLLER_REVISION,
        ("", "PodTemplate") => POD_TEMPLATE,
        ("batch", "Job") => JOB,
        ("batch", "CronJob") => CRON_JOB,
        ("autoscaling", "HorizontalPodAutoscaler") => AUTOSCALER,
        ("", "PersistentVolume") => VOLUME,
        ("", "PersistentVolumeClaim") => VOLUME_CLAIM,
        ("", "ComponentStatus") => COMPONENT_STATUS,
        ("", "ResourceQuota") => RESOURCE_QUOTA,
        ("autoscaling", "Scale") => SCALE,
        ("metrics.k8s.io", _) => METRICS,
        ("discovery.k8s.io", "EndpointSlice") => ENDPOINT_SLICE,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => BINDING,
        ("coordination.k8s.io", "Lease") => LEASE,
        ("scheduling.k8s.io", "PriorityClass") => PRIORITY_CLASS,
        _ => others::named(group, kind),
    }
}
