//! Columns of the groups besides core and the workloads.

use super::{AGE, Column, NAME, NAME_AGE, UNKNOWN, number, text};

const fn boolean(name: &'static str, description: &'static str) -> Column {
    Column { type_: "boolean", ..text(name, description) }
}

const DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    text("Min Available", "Pods that must stay available."),
    text("Max Unavailable", "Pods that may be unavailable."),
    number("Allowed Disruptions", "Pods that may be evicted now."),
    AGE,
];
const INGRESS: &[Column] = &[
    NAME,
    text("Class", "Class of the ingress, which says who serves it."),
    text("Hosts", "Hosts that it routes."),
    text("Address", "Addresses of the load balancer."),
    text("Ports", "Ports of the load balancer."),
    AGE,
];
const INGRESS_CLASS: &[Column] = &[
    NAME,
    text("Controller", "Controller that serves the class."),
    text("Parameters", "Object with more configuration for the controller."),
    AGE,
];
const NETWORK_POLICY: &[Column] = &[NAME, text("Pod-Selector", "Labels of the pods that it is about."), AGE];
const SERVICE_CIDR: &[Column] = &[NAME, text("CIDRs", "Ranges that addresses of services are taken from."), AGE];
const IP_ADDRESS: &[Column] = &[NAME, text("ParentRef", "Object that has the address.")];
const SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    text("SignerName", "Signer that is asked."),
    text("Requestor", "User who asks."),
    text("RequestedDuration", "How long the certificate should be valid."),
    text("Condition", "Whether it is approved, denied, failed or issued."),
];
const STORAGE_CLASS: &[Column] = &[
    NAME,
    text("Provisioner", "Driver that makes the volumes."),
    text("ReclaimPolicy", "What becomes of a volume whose claim is gone."),
    text("VolumeBindingMode", "When volumes are made and bound."),
    boolean("AllowVolumeExpansion", "Whether volumes may grow."),
    AGE,
];
const ATTRIBUTES_CLASS: &[Column] = &[NAME, text("DriverName", "Driver that understands the parameters."), AGE];
const ATTACHMENT: &[Column] = &[
    NAME,
    text("Attacher", "Driver that attaches the volume."),
    text("PV", "Volume that is attached."),
    text("Node", "Node that it is attached to."),
    boolean("Attached", "Whether it is attached."),
    AGE,
];
const CSI_NODE: &[Column] = &[NAME, number("Drivers", "Number of drivers on the node."), AGE];
const CSI_DRIVER: &[Column] = &[
    NAME,
    boolean("AttachRequired", "Whether volumes have to be attached."),
    boolean("PodInfoOnMount", "Whether the driver is told of the pod."),
    boolean("StorageCapacity", "Whether the scheduler counts the driver's capacity."),
    text("TokenRequests", "Audiences of the tokens that the driver gets."),
    boolean("RequiresRepublish", "Whether volumes are published again and again."),
    text("Modes", "Lifecycles of volumes that the driver knows."),
    AGE,
];
const RUNTIME_CLASS: &[Column] = &[NAME, text("Handler", "Configuration of the runtime that runs the pods."), AGE];
const CLAIM: &[Column] = &[NAME, text("State", "Whether the claim is allocated and reserved."), AGE];
const SLICE: &[Column] = &[
    NAME,
    text("Node", "Node that has the devices."),
    text("Driver", "Driver that manages the devices."),
    text("Pool", "Pool that the devices are of."),
    AGE,
];
const WEBHOOKS: &[Column] = &[NAME, number("Webhooks", "Number of webhooks."), AGE];
const VALIDATING_POLICY: &[Column] = &[
    NAME,
    number("Validations", "Number of validations."),
    text("ParamKind", "Kind of the parameters of the policy."),
    AGE,
];
const MUTATING_POLICY: &[Column] = &[
    NAME,
    number("Mutations", "Number of mutations."),
    text("ParamKind", "Kind of the parameters of the policy."),
    AGE,
];
const POLICY_BINDING: &[Column] =
    &[NAME, text("PolicyName", "Policy that is bound."), text("ParamRef", "Objects that parametrize the policy."), AGE];
const FLOW_SCHEMA: &[Column] = &[
    NAME,
    text("PriorityLevel", "Priority level of the requests that match."),
    number("MatchingPrecedence", "The schema with the smallest number that matches wins."),
    text("DistinguisherMethod", "How requests are told apart into flows."),
    AGE,
    text("MissingPL", "Whether the priority level is missing."),
];
const PRIORITY_LEVEL: &[Column] = &[
    NAME,
    text("Type", "Limited, or Exempt."),
    text("NominalConcurrencyShares", "Share of the server's seats."),
    text("Queues", "Number of queues."),
    text("HandSize", "Queues that one flow is dealt."),
    text("QueueLengthLimit", "Requests that wait in one queue at most."),
    AGE,
];
const API_SERVICE: &[Column] = &[
    NAME,
    text("Service", "Service that serves the group and version, or Local."),
    text("Available", "Whether it is served."),
    AGE,
];

pub fn named(group: &str, kind: &str) -> &'static [Column] {
    match (group, kind) {
        ("policy", "PodDisruptionBudget") => DISRUPTION_BUDGET,
        ("networking.k8s.io", "Ingress") => INGRESS,
        ("networking.k8s.io", "IngressClass") => INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => NETWORK_POLICY,
        ("networking.k8s.io", "ServiceCIDR") => SERVICE_CIDR,
        ("networking.k8s.io", "IPAddress") => IP_ADDRESS,
        ("certificates.k8s.io", "CertificateSigningRequest") => SIGNING_REQUEST,
        ("storage.k8s.io", "StorageClass") => STORAGE_CLASS,
        ("storage.k8s.io", "VolumeAttributesClass") => ATTRIBUTES_CLASS,
        ("storage.k8s.io", "VolumeAttachment") => ATTACHMENT,
        ("storage.k8s.io", "CSINode") => CSI_NODE,
        ("storage.k8s.io", "CSIDriver") => CSI_DRIVER,
        ("node.k8s.io", "RuntimeClass") => RUNTIME_CLASS,
        ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => NAME_AGE,
        ("resource.k8s.io", "ResourceClaim") => CLAIM,
        ("resource.k8s.io", "ResourceSlice") => SLICE,
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => WEBHOOKS,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => VALIDATING_POLICY,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => MUTATING_POLICY,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding") => {
            POLICY_BINDING
        }
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => PRIORITY_LEVEL,
        ("apiregistration.k8s.io", "APIService") => API_SERVICE,
        _ => UNKNOWN,
    }
}
