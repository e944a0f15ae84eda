//! admissionregistration.k8s.io, apiextensions.k8s.io, apiregistration.k8s.io and flowcontrol.apiserver.k8s.io: what changes
//! how the API server itself behaves.

use super::*;

pub(super) fn kinds() -> Vec<Kind> {
    let cluster = |group, kind, plural, singular, hash| Kind {
        scope: Scope::Cluster,
        storage_version_hash: Borrowed(hash),
        ..base(group, kind, plural, singular)
    };
    let extension = |group, kind, plural, singular, hash| Kind {
        categories: Borrowed(&[Borrowed("api-extensions")]),
        ..cluster(group, kind, plural, singular, hash)
    };
    vec![
        extension(
            ADMISSION,
            "MutatingAdmissionPolicy",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicy",
            "LYmCf+UMVdg=",
        ),
        extension(
            ADMISSION,
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
            "mutatingadmissionpolicybinding",
            "90V5FRZZ3Zg=",
        ),
        extension(
            ADMISSION,
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
            "mutatingwebhookconfiguration",
            "Sqi0GUgDaX0=",
        ),
        Kind {
            subresources: Owned(vec![STATUS]),
            ..extension(
                ADMISSION,
                "ValidatingAdmissionPolicy",
                "validatingadmissionpolicies",
                "validatingadmissionpolicy",
                "6OxvlMmQ6is=",
            )
        },
        extension(
            ADMISSION,
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicybinding",
            "v9715VZqakg=",
        ),
        extension(
            ADMISSION,
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            "validatingwebhookconfiguration",
            "B0wHjQmsGNk=",
        ),
        Kind {
            short_names: Borrowed(&[Borrowed("crd"), Borrowed("crds")]),
            subresources: Owned(vec![STATUS]),
            ..extension(
                "apiextensions.k8s.io",
                "CustomResourceDefinition",
                "customresourcedefinitions",
                "customresourcedefinition",
                "jfWCUB31mvA=",
            )
        },
        Kind {
            subresources: Owned(vec![STATUS]),
            ..extension("apiregistration.k8s.io", "APIService", "apiservices", "apiservice", "InPBPD7+PqM=")
        },
        Kind {
            subresources: Owned(vec![STATUS]),
            ..cluster(FLOW, "FlowSchema", "flowschemas", "flowschema", "GJVAJZSZBIw=")
        },
        Kind {
            subresources: Owned(vec![STATUS]),
            ..cluster(
                FLOW,
                "PriorityLevelConfiguration",
                "prioritylevelconfigurations",
                "prioritylevelconfiguration",
                "Kir5PVfvNeI=",
            )
        },
    ]
}

const ADMISSION: &str = "admissionregistration.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
