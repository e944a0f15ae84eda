//! Who calls the node, by a client certificate: the API server may do everything. What others may is asked of it, see
//! [`super::delegate`]. Pure but for parsing what TLS has verified.

use std::collections::BTreeMap;

use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The API server's own name towards nodes. Source: kubeadm's certificate list, k3s.
const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
const KUBELET_CLIENT_KEDGE: &str = "system:kube-apiserver";
const MASTERS: &str = "system:masters";

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caller {
    pub name: String,
    /// Empty but for tokens.
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// From the subject of a certificate that TLS has verified: common name and organizations.
    pub fn from_certificate(der: &[u8]) -> Option<Caller> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        // The last one, as the API server reads its clients' certificates.
        let name = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        Some(Caller { name, groups, ..Caller::default() })
    }

    /// Whether it may do everything, without a question.
    pub fn is_trusted(&self) -> bool {
        self.groups.iter().any(|g| g == MASTERS) || self.name == KUBELET_CLIENT || self.name == KUBELET_CLIENT_KEDGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_is_trusted() {
        let caller =
            |name: &str, group: &str| Caller { name: name.into(), groups: vec![group.into()], ..Caller::default() };
        assert!(caller("anyone", "system:masters").is_trusted());
        assert!(caller("kube-apiserver-kubelet-client", "x").is_trusted());
        assert!(!caller("system:node:n1", "system:nodes").is_trusted());
        assert!(!Caller::default().is_trusted());
    }
}
