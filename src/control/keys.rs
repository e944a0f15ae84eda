//! What only the holder of the cluster's keys can do, handed in by the daemon: this room knows no certificate and no token.

use jiff::{SignedDuration, Timestamp};

/// Signs for the controllers. Every method is quick and touches no disk.
pub trait Keys: Send + Sync + std::fmt::Debug {
    /// What a certificate request in PEM asks for.
    ///
    /// # Errors
    /// Why it is none.
    fn read_request(&self, pem: &[u8]) -> Result<Requested, String>;

    /// A certificate in PEM for the request, for `usages` (as the API spells them) and `lifetime` from `now` on.
    ///
    /// # Errors
    /// Why it is not signed.
    fn sign_request(
        &self,
        pem: &[u8],
        usages: &[String],
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<String, String>;

    /// When a certificate in PEM ends.
    fn expiry(&self, certificate: &[u8]) -> Option<Timestamp>;

    /// A token of a ServiceAccount that is valid as long as the Secret that keeps it.
    ///
    /// # Errors
    /// Why it is not signed.
    fn account_token(&self, account: &Account, secret: &str) -> Result<String, String>;
}

/// What a certificate request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requested {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: usize,
    pub ip_addresses: usize,
    pub emails: usize,
    pub uris: usize,
}

/// A ServiceAccount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}
