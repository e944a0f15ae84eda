//! The identity in a client certificate: user is the common name, groups the organizations.
//!
//! Source: apiserver `pkg/authentication/request/x509/x509.go`.

use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::X509Name;

use super::identity::Identity;

/// Names the credential in audit logs without giving it away.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Reads a certificate whose chain and use have been verified. `None` when it names nobody.
pub fn identity(der: &[u8]) -> Option<Identity> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let user = Some(last_common_name(cert.subject())).filter(|n| !n.is_empty())?.to_owned();
    let groups = cert.subject().iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    let mut identity = Identity { user, groups, ..Identity::default() };
    identity.extra.insert(CREDENTIAL_ID.into(), vec![format!("X509SHA256={}", hex(&Sha256::digest(der)))]);
    identity.add_authenticated();
    Some(identity)
}

/// The second in which a certificate expires; the beginning of time for what is none.
pub fn expires(der: &[u8]) -> i64 {
    X509Certificate::from_der(der).map_or(i64::MIN, |(_, cert)| cert.validity().not_after.timestamp())
}

/// The common name of a verified certificate, empty when it has none.
pub fn common_name(der: &[u8]) -> String {
    let Ok((_, cert)) = X509Certificate::from_der(der) else { return String::new() };
    last_common_name(cert.subject()).to_owned()
}

/// Of several common names the last one counts, and it alone, as for whoever else reads the certificate: an identity must
/// not depend on the reader. Empty when there is none, or none that is text.
///
/// Source: Go `crypto/x509/pkix` `Name.FillFromRDNSequence`.
pub fn last_common_name<'a>(subject: &'a X509Name<'_>) -> &'a str {
    subject.iter_common_name().last().and_then(|name| name.as_str().ok()).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    /// A certificate with these common names. rcgen keeps one of each type, so the others are written as types of their
    /// own and become common names in the DER.
    fn certificate(names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (name, last) in names.iter().zip(100..) {
            params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, last]), *name);
        }
        let mut der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        for at in 0..der.len() - 5 {
            if der[at..].starts_with(&[0x06, 0x03, 0x55, 0x04]) {
                der[at + 4] = 3;
            }
        }
        der
    }

    #[test]
    fn the_last_common_name_counts() {
        for (names, wanted) in [
            (&["ann"][..], "ann"),
            (&["system:kube-controller-manager", "system:node:x"], "system:node:x"),
            (&["system:kube-controller-manager", ""], ""),
            (&[], ""),
        ] {
            let der = certificate(names);
            assert_eq!(common_name(&der), wanted, "{names:?}");
            let user = identity(&der).map(|identity| identity.user);
            assert_eq!(user, Some(wanted.to_owned()).filter(|n| !n.is_empty()), "{names:?}");
        }
    }
}
