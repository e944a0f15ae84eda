//! The identity in a client certificate: user is the common name, groups the organizations.
//!
//! Source: apiserver `pkg/authentication/request/x509/x509.go`.

use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::identity::Identity;

/// Reads a certificate whose chain and use have been verified. `None` when it names nobody.
pub fn identity(der: &[u8]) -> Option<Identity> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let texts = |oid: &x509_parser::der_parser::Oid| -> Vec<String> {
        cert.subject().iter_by_oid(oid).filter_map(|a| a.as_str().ok().map(str::to_owned)).collect()
    };
    let user = texts(&OID_X509_COMMON_NAME).into_iter().next().filter(|n| !n.is_empty())?;
    let mut identity = Identity { user, groups: texts(&OID_X509_ORGANIZATION_NAME), ..Identity::default() };
    identity.add_authenticated();
    Some(identity)
}
