//! The cluster's keys as the controllers use them. What never lives here: who gets what.

use std::fmt;
use std::sync::Arc;

use apiserver::ApiServer;
use apiserver::auth::token::Reference;
use cluster::pki::Pki;
use cluster::signing;
use control::keys::{Account, Keys, Requested};
use jiff::{SignedDuration, Timestamp};

/// Signs with the authority of the folder and with the API server's token key.
pub struct Holder {
    pki: Arc<Pki>,
    server: ApiServer,
}

impl Holder {
    pub fn new(pki: Arc<Pki>, server: ApiServer) -> Self {
        Self { pki, server }
    }
}

impl fmt::Debug for Holder {
    /// Without anything that is held.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holder").finish_non_exhaustive()
    }
}

impl Keys for Holder {
    fn read_request(&self, pem: &[u8]) -> Result<Requested, String> {
        let read = signing::read(pem).map_err(|e| e.to_string())?;
        Ok(Requested {
            common_name: read.common_name,
            organizations: read.organizations,
            dns_names: read.dns_names.len(),
            ip_addresses: read.ip_addresses.len(),
            emails: read.emails.len(),
            uris: read.uris.len(),
        })
    }

    fn sign_request(
        &self,
        pem: &[u8],
        usages: &[String],
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<String, String> {
        self.pki.sign(pem, usages, lifetime, now).map_err(|e| e.to_string())
    }

    fn expiry(&self, certificate: &[u8]) -> Option<Timestamp> {
        signing::expiry(certificate)
    }

    fn account_token(&self, account: &Account, secret: &str) -> Result<String, String> {
        let of = Reference { name: account.name.clone(), uid: account.uid.clone() };
        self.server.tokens().issue_legacy(&account.namespace, &of, secret)
    }
}
