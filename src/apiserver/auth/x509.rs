//! The identity in a client certificate: user is the common name, groups the organizations.
//!
//! Source: apiserver `pkg/authentication/request/x509/x509.go`.

use sha2::{Digest as _, Sha256};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::identity::Identity;

/// Names the credential in audit logs without giving it away.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Reads a certificate whose chain and use have been verified. `None` when it names nobody.
pub fn identity(der: &[u8]) -> Option<Identity> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let texts = |oid: &x509_parser::der_parser::Oid| -> Vec<String> {
        cert.subject().iter_by_oid(oid).filter_map(|a| a.as_str().ok().map(str::to_owned)).collect()
    };
    let user = texts(&OID_X509_COMMON_NAME).into_iter().next().filter(|n| !n.is_empty())?;
    let mut identity = Identity { user, groups: texts(&OID_X509_ORGANIZATION_NAME), ..Identity::default() };
    identity.extra.insert(CREDENTIAL_ID.into(), vec![format!("X509SHA256={}", hex(&Sha256::digest(der)))]);
    identity.add_authenticated();
    Some(identity)
}

/// The common name of a verified certificate, empty when it has none.
pub fn common_name(der: &[u8]) -> String {
    let Ok((_, cert)) = X509Certificate::from_der(der) else { return String::new() };
    let name = cert.subject().iter_common_name().next().and_then(|n| n.as_str().ok());
    name.unwrap_or_default().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
