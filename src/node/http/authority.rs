//! Who may call the node: only the API server, by its client certificate. Pure but for parsing what TLS has verified.

use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The API server's own name towards nodes. Source: kubeadm's certificate list, k3s.
const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
const KUBELET_CLIENT_KEDGE: &str = "system:kube-apiserver";
const MASTERS: &str = "system:masters";

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caller {
    pub name: String,
    pub groups: Vec<String>,
}

impl Caller {
    /// From the subject of a certificate that TLS has verified: common name and organizations.
    pub fn from_certificate(der: &[u8]) -> Option<Caller> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        // The last one, as the API server reads its clients' certificates.
        let name = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        Some(Caller { name, groups })
    }

    pub fn may(&self) -> bool {
        self.groups.iter().any(|g| g == MASTERS) || self.name == KUBELET_CLIENT || self.name == KUBELET_CLIENT_KEDGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_api_server() {
        let caller = |name: &str, group: &str| Caller { name: name.into(), groups: vec![group.into()] };
        assert!(caller("anyone", "system:masters").may());
        assert!(caller("kube-apiserver-kubelet-client", "x").may());
        assert!(!caller("system:node:n1", "system:nodes").may());
        assert!(!Caller::default().may());
    }
}
