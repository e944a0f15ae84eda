//! networking.k8s.io, policy and certificates.k8s.io.

use super::*;

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        Kind {
            scope: Scope::Cluster,
            storage_version_hash: Borrowed("l/iqIbDgFyQ="),
            ..base(NETWORKING, "IngressClass", "ingressclasses", "ingressclass")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("ing")]),
            subresources: Owned(vec![STATUS]),
            storage_version_hash: Borrowed("39NQlfNR+bo="),
            ..base(NETWORKING, "Ingress", "ingresses", "ingress")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("ip")]),
            scope: Scope::Cluster,
            storage_version_hash: Borrowed("3f/plJFChNE="),
            ..base(NETWORKING, "IPAddress", "ipaddresses", "ipaddress")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("netpol")]),
            storage_version_hash: Borrowed("YpfwF18m1G8="),
            ..base(NETWORKING, "NetworkPolicy", "networkpolicies", "networkpolicy")
        },
        Kind {
            scope: Scope::Cluster,
            subresources: Owned(vec![STATUS]),
            storage_version_hash: Borrowed("gNLvruQhW2g="),
            ..base(NETWORKING, "ServiceCIDR", "servicecidrs", "servicecidr")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("pdb")]),
            subresources: Owned(vec![STATUS]),
            storage_version_hash: Borrowed("EVWiDmWqyJw="),
            ..base("policy", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("csr")]),
            scope: Scope::Cluster,
            subresources: Owned(vec![sub("approval", READ_WRITE), STATUS]),
            selectable_fields: Borrowed(&[Borrowed("spec.signerName")]),
            storage_version_hash: Borrowed("95fRKMXA+00="),
            ..base(
                "certificates.k8s.io",
                "CertificateSigningRequest",
                "certificatesigningrequests",
                "certificatesigningrequest",
            )
        },
    ]
}

const NETWORKING: &str = "networking.k8s.io";
