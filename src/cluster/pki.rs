//! The certificate authority and what it signs.
//!
//! One folder holds everything, each file mode 0600 and written whole or not at all. Opening it makes what is missing;
//! a leaf that has expired, will soon, was signed by another authority or names other addresses is made anew. What never
//! lives here: a network, a clock (the time comes in), the decision when to rotate in a running process.
//!
//! ```text
//! ca.crt ca.key                     the authority, 10 years
//! front-proxy-ca.crt .key           signs proxies that are believed about whom they ask for, and nothing else
//! service-account.key               ES256 (P-256): the first key signs ServiceAccount tokens, those after it are believed
//! <leaf>.crt <leaf>.key             leaves, 1 year
//! ```

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::{Error, files};

/// Boards without a real-time clock boot into the past. Certificates are valid from here on, so that a peer whose clock
/// is years behind still accepts them; 2020-01-01T00:00:00Z.
const VALID_FROM_SECONDS: i64 = 1_577_836_800;
/// An authority or leaf made on such a board must outlive the moment its clock is set: lifetimes are counted from the
/// clock or from here, whichever is later; 2026-01-01T00:00:00Z, before the first release.
const ISSUE_FLOOR_SECONDS: i64 = 1_767_225_600;
const DAY_SECONDS: i64 = 86_400;
/// As kubeadm's authorities.
const CA_LIFETIME_SECONDS: i64 = 3_650 * DAY_SECONDS;
/// As kubeadm's leaves.
const LEAF_LIFETIME_SECONDS: i64 = 365 * DAY_SECONDS;
/// A leaf with less than this left is made anew at start: a restart in the last quarter of the year renews.
const LEAF_RENEW_BEFORE_SECONDS: i64 = 90 * DAY_SECONDS;

/// Members of this group may do anything; only the admin certificate carries it.
pub const GROUP_MASTERS: &str = "system:masters";
/// The group of node agents.
pub const GROUP_NODES: &str = "system:nodes";
/// What a front proxy's certificate calls it.
pub const FRONT_PROXY_NAME: &str = "front-proxy-client";

/// A certificate chain and its key, as PEM.
#[derive(Clone)]
pub struct Leaf {
    pub chain_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for Leaf {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}

impl Leaf {
    /// The chain as rustls wants it, leaf first.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        CertificateDer::pem_slice_iter(self.chain_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| damaged("certificate", Path::new("(memory)"), e))
    }

    /// The key as rustls wants it.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| damaged("key", Path::new("(memory)"), e))
    }
}

/// What a leaf is for; decides its extended key usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Client,
    Server,
}

/// Who a leaf names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The user name (CN).
    pub name: String,
    /// The user's groups (O).
    pub groups: Vec<String>,
    /// Names and addresses under which a server is reached.
    pub hosts: Vec<Host>,
    pub use_as: Use,
}

impl Subject {
    pub fn client(name: impl Into<String>, groups: &[&str]) -> Self {
        Self {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            hosts: Vec::new(),
            use_as: Use::Client,
        }
    }
}

/// A subject alternative name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Name(String),
    Address(IpAddr),
}

impl From<&str> for Host {
    /// An address if it reads as one, a name otherwise.
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Host::Name(text.to_owned()), Host::Address)
    }
}

/// The names under which pods and people on the host reach the API server, besides its addresses.
pub fn api_server_hosts(cluster_domain: &str, service_address: Option<IpAddr>, others: &[Host]) -> Vec<Host> {
    let mut hosts: Vec<Host> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1", "::1"]
            .into_iter()
            .map(Host::from)
            .collect();
    hosts.push(Host::Name(format!("kubernetes.default.svc.{cluster_domain}")));
    hosts.extend(service_address.map(Host::Address));
    hosts.extend_from_slice(others);
    hosts.sort();
    hosts.dedup();
    hosts
}

/// What signs leaves.
struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The authority kept as `<file>.crt` and `<file>.key`, made when it is absent.
    fn open(folder: &Path, file: &str, name: &str, now: Timestamp) -> Result<Self, Error> {
        let (cert_path, key_path) = (folder.join(format!("{file}.crt")), folder.join(format!("{file}.key")));
        let (pem, key_pem) = match (files::read(&cert_path)?, files::read(&key_path)?) {
            (Some(cert), Some(key)) => (cert, key),
            (Some(_), None) => {
                return Err(damaged("key", &key_path, format!("it is missing while {file}.crt is there")));
            }
            // A key without a certificate is what a power cut between the two writes leaves.
            (None, _) => {
                let made = make_authority(name, now)?;
                files::write(&key_path, made.key_pem.as_bytes())?;
                files::write(&cert_path, made.chain_pem.as_bytes())?;
                (made.chain_pem, made.key_pem)
            }
        };
        let key = KeyPair::from_pem(&key_pem).map_err(|e| damaged("key", &key_path, e))?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| damaged("certificate", &cert_path, e))?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| damaged("certificate", &cert_path, e))?;
        Ok(Self { pem, der, issuer })
    }
}

/// The authorities, their folder, and the keys for ServiceAccount tokens.
pub struct Pki {
    folder: PathBuf,
    now: Timestamp,
    ca: Authority,
    front_proxy: Authority,
    service_account_key_pem: String,
}

fn damaged(what: &'static str, path: &Path, detail: impl std::fmt::Display) -> Error {
    Error::Damaged { path: path.display().to_string(), what, detail: detail.to_string() }
}

impl Pki {
    /// Opens the folder; makes the authorities and the token key when they are absent. An authority that cannot be read is
    /// an error, never replaced: every certificate in the cluster hangs on it.
    pub fn open(folder: &Path, now: Timestamp) -> Result<Self, Error> {
        files::make_folder(folder)?;
        let ca = Authority::open(folder, "ca", "kedge-ca", now)?;
        let front_proxy = Authority::open(folder, "front-proxy-ca", "kedge-front-proxy-ca", now)?;
        let token_path = folder.join("service-account.key");
        let service_account_key_pem = match files::read(&token_path)? {
            Some(pem) => pem,
            None => {
                let pem = make_key("the token key")?.serialize_pem();
                files::write(&token_path, pem.as_bytes())?;
                pem
            }
        };
        KeyPair::from_pem(&service_account_key_pem).map_err(|e| damaged("key", &token_path, e))?;
        Ok(Self { folder: folder.to_owned(), now, ca, front_proxy, service_account_key_pem })
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca.pem
    }

    pub fn ca_der(&self) -> &CertificateDer<'static> {
        &self.ca.der
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.ca.issuer
    }

    /// The authority that signs front proxies.
    pub fn front_proxy_ca_pem(&self) -> &str {
        &self.front_proxy.pem
    }

    pub fn front_proxy_ca_der(&self) -> &CertificateDer<'static> {
        &self.front_proxy.der
    }

    /// The ES256 keys of ServiceAccount tokens in PEM: the first (PKCS#8) signs. To replace it, put a new one before it; once
    /// the tokens that it signed have expired, take it away.
    pub fn service_account_key_pem(&self) -> &str {
        &self.service_account_key_pem
    }

    /// The API server's serving certificate.
    pub fn api_server(&self, hosts: &[Host]) -> Result<Leaf, Error> {
        self.leaf(
            "apiserver",
            &Subject { name: "kube-apiserver".into(), groups: Vec::new(), hosts: hosts.to_vec(), use_as: Use::Server },
        )
    }

    /// The certificate of the person who installed the cluster.
    pub fn admin(&self) -> Result<Leaf, Error> {
        self.leaf("admin", &Subject::client("system:admin", &[GROUP_MASTERS]))
    }

    /// With which the API server calls node agents.
    pub fn kubelet_client(&self) -> Result<Leaf, Error> {
        self.leaf("apiserver-kubelet-client", &Subject::client("kube-apiserver-kubelet-client", &[GROUP_MASTERS]))
    }

    /// With which the API server calls extension servers in the name of its users.
    pub fn front_proxy_client(&self) -> Result<Leaf, Error> {
        self.leaf_of(&self.front_proxy, FRONT_PROXY_NAME, &Subject::client(FRONT_PROXY_NAME, &[]))
    }

    /// With which a node agent calls the API server.
    pub fn node_client(&self, node: &str) -> Result<Leaf, Error> {
        self.leaf(&format!("node-{node}-client"), &Subject::client(format!("system:node:{node}"), &[GROUP_NODES]))
    }

    /// With which a node agent answers the API server.
    pub fn node_serving(&self, node: &str, hosts: &[Host]) -> Result<Leaf, Error> {
        self.leaf(
            &format!("node-{node}-serving"),
            &Subject {
                name: format!("system:node:{node}"),
                groups: vec![GROUP_NODES.into()],
                hosts: hosts.to_vec(),
                use_as: Use::Server,
            },
        )
    }

    /// The leaf kept in the folder as `<file>.crt` and `<file>.key`, made anew when it does not serve any more.
    pub fn leaf(&self, file: &str, subject: &Subject) -> Result<Leaf, Error> {
        self.leaf_of(&self.ca, file, subject)
    }

    fn leaf_of(&self, authority: &Authority, file: &str, subject: &Subject) -> Result<Leaf, Error> {
        let (cert_path, key_path) = (self.folder.join(format!("{file}.crt")), self.folder.join(format!("{file}.key")));
        if let (Some(chain_pem), Some(key_pem)) = (files::read(&cert_path)?, files::read(&key_path)?) {
            let leaf = Leaf { chain_pem, key_pem };
            match stale(&leaf, subject, &authority.der, self.now) {
                None => return Ok(leaf),
                Some(why) => tracing::info!(file, why, "making the certificate anew"),
            }
        }
        let leaf = self.issue_by(authority, subject)?;
        // The key first: a certificate without its key looks stale at the next start and both are made again.
        files::write(&key_path, leaf.key_pem.as_bytes())?;
        files::write(&cert_path, leaf.chain_pem.as_bytes())?;
        Ok(leaf)
    }

    /// A new leaf, kept nowhere.
    pub fn issue(&self, subject: &Subject) -> Result<Leaf, Error> {
        self.issue_by(&self.ca, subject)
    }

    fn issue_by(&self, authority: &Authority, subject: &Subject) -> Result<Leaf, Error> {
        let failed = |source| Error::Issue { subject: subject.name.clone(), source };
        let key = make_key(&subject.name)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(&subject.name, &subject.groups);
        for host in &subject.hosts {
            params.subject_alt_names.push(match host {
                Host::Name(name) => SanType::DnsName(name.as_str().try_into().map_err(failed)?),
                Host::Address(address) => SanType::IpAddress(*address),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match subject.use_as {
            Use::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Use::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        limit(&mut params, self.now, LEAF_LIFETIME_SECONDS);
        let cert = params.signed_by(&key, &authority.issuer).map_err(failed)?;
        Ok(Leaf { chain_pem: cert.pem(), key_pem: key.serialize_pem() })
    }
}

fn make_key(subject: &str) -> Result<KeyPair, Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|source| Error::Issue { subject: subject.to_owned(), source })
}

fn distinguished(name: &str, groups: &[String]) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    // One O: rcgen's names hold one value a type, and no subject of ours is in two groups.
    if let Some(group) = groups.first() {
        dn.push(DnType::OrganizationName, group.as_str());
    }
    dn.push(DnType::CommonName, name);
    dn
}

fn make_authority(name: &str, now: Timestamp) -> Result<Leaf, Error> {
    let key = make_key("the authority")?;
    let mut params = CertificateParams::default();
    // The creation time keeps two clusters' authorities apart in a trust store that holds both.
    params.distinguished_name = distinguished(&format!("{name}@{}", now.as_second()), &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit(&mut params, now, CA_LIFETIME_SECONDS);
    let cert = params.self_signed(&key).map_err(|source| Error::Issue { subject: "the authority".into(), source })?;
    Ok(Leaf { chain_pem: cert.pem(), key_pem: key.serialize_pem() })
}

fn limit(params: &mut CertificateParams, now: Timestamp, lifetime_seconds: i64) {
    let at = |seconds: i64| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    params.not_before = at(VALID_FROM_SECONDS);
    params.not_after = at(now.as_second().max(ISSUE_FLOOR_SECONDS) + lifetime_seconds);
    let mut serial = [0u8; 16];
    // A failing random source would have failed the key before.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut serial);
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

/// Why a kept leaf does not serve any more; `None` when it does.
fn stale(leaf: &Leaf, wanted: &Subject, ca: &CertificateDer<'_>, now: Timestamp) -> Option<&'static str> {
    let (Ok(chain), Ok(key)) = (leaf.chain(), KeyPair::from_pem(&leaf.key_pem)) else { return Some("unreadable") };
    let Some(Ok((_, cert))) = chain.first().map(|c| x509_parser::parse_x509_certificate(c)) else {
        return Some("unreadable");
    };
    let Ok((_, ca)) = x509_parser::parse_x509_certificate(ca) else { return Some("unreadable authority") };
    if cert.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(&key) {
        return Some("key and certificate do not belong together");
    }
    // Compared by issuer and by the authority's key identifier, not by signature: x509-parser verifies only with a
    // feature that links another crypto library, and who can write this folder owns the authority anyway.
    if cert.issuer() != ca.subject() || authority_id(&cert) != subject_id(&ca) {
        return Some("signed by another authority");
    }
    if cert.validity().not_after.timestamp() - now.as_second() < LEAF_RENEW_BEFORE_SECONDS {
        return Some("expires soon");
    }
    let text = |oid: x509_parser::der_parser::Oid<'static>| -> Vec<String> {
        cert.subject().iter_by_oid(&oid).filter_map(|a| a.as_str().ok().map(str::to_owned)).collect()
    };
    if text(x509_parser::oid_registry::OID_X509_COMMON_NAME) != [wanted.name.as_str()]
        || text(x509_parser::oid_registry::OID_X509_ORGANIZATION_NAME) != wanted.groups
    {
        return Some("names another subject");
    }
    let mut hosts = hosts_of(&cert);
    let mut wanted = wanted.hosts.clone();
    hosts.sort();
    wanted.sort();
    (hosts != wanted).then_some("names other hosts")
}

fn authority_id(cert: &x509_parser::certificate::X509Certificate<'_>) -> Option<Vec<u8>> {
    cert.iter_extensions().find_map(|e| match e.parsed_extension() {
        x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
            id.key_identifier.as_ref().map(|k| k.0.to_vec())
        }
        _ => None,
    })
}

pub(crate) fn subject_id(cert: &x509_parser::certificate::X509Certificate<'_>) -> Option<Vec<u8>> {
    cert.iter_extensions().find_map(|e| match e.parsed_extension() {
        x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn hosts_of(cert: &x509_parser::certificate::X509Certificate<'_>) -> Vec<Host> {
    use x509_parser::extensions::GeneralName;
    let Ok(Some(names)) = cert.subject_alternative_name() else { return Vec::new() };
    names
        .value
        .general_names
        .iter()
        .filter_map(|n| match n {
            GeneralName::DNSName(name) => Some(Host::Name((*name).to_owned())),
            GeneralName::IPAddress(raw) => match raw.len() {
                4 => <[u8; 4]>::try_from(*raw).ok().map(|b| Host::Address(b.into())),
                16 => <[u8; 16]>::try_from(*raw).ok().map(|b| Host::Address(b.into())),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);
    impl Folder {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("kedge-pki-{name}-{}", std::process::id())))
        }
    }
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_second_start_reads_what_the_first_made() {
        let folder = Folder::new("reopen");
        let now = at("2026-11-21T00:00:00Z");
        let first = Pki::open(&folder.0, now).unwrap();
        let hosts = api_server_hosts("cluster.local", Some("10.43.0.1".parse().unwrap()), &["n1".into()]);
        let leaf = first.api_server(&hosts).unwrap();
        let second = Pki::open(&folder.0, now).unwrap();
        assert_eq!(second.ca_pem(), first.ca_pem());
        assert_eq!(second.api_server(&hosts).unwrap().chain_pem, leaf.chain_pem);
        assert_eq!(second.service_account_key_pem(), first.service_account_key_pem());
        for file in std::fs::read_dir(&folder.0).unwrap() {
            use std::os::unix::fs::PermissionsExt as _;
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        }
    }

    #[test]
    fn stale_leaves_are_made_anew() {
        let folder = Folder::new("stale");
        let now = at("2026-11-21T00:00:00Z");
        let pki = Pki::open(&folder.0, now).unwrap();
        let kept = pki.node_client("n1").unwrap();
        assert_eq!(pki.node_client("n1").unwrap().chain_pem, kept.chain_pem);
        let later = Pki::open(&folder.0, at("2027-11-22T00:00:00Z")).unwrap();
        assert_ne!(later.node_client("n1").unwrap().chain_pem, kept.chain_pem, "expired");
        let hosts = vec![Host::from("10.0.0.1")];
        let serving = pki.node_serving("n1", &hosts).unwrap();
        assert_eq!(pki.node_serving("n1", &hosts).unwrap().chain_pem, serving.chain_pem);
        assert_ne!(pki.node_serving("n1", &["10.0.0.2".into()]).unwrap().chain_pem, serving.chain_pem, "moved");
        std::fs::write(folder.0.join("admin.crt"), "half a certif").unwrap();
        std::fs::write(folder.0.join("admin.key"), "half a k").unwrap();
        assert!(pki.admin().unwrap().chain().is_ok());
        std::fs::remove_file(folder.0.join("ca.crt")).unwrap();
        let other = Pki::open(&folder.0, now).unwrap();
        assert_ne!(other.node_client("n1").unwrap().chain_pem, kept.chain_pem, "another authority");
    }

    #[test]
    fn a_lost_authority_key_is_an_error() {
        let folder = Folder::new("lost");
        let now = at("2026-11-21T00:00:00Z");
        Pki::open(&folder.0, now).unwrap();
        std::fs::remove_file(folder.0.join("ca.key")).unwrap();
        assert!(matches!(Pki::open(&folder.0, now), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_board_in_the_past_makes_certificates_that_outlive_the_setting_of_its_clock() {
        let folder = Folder::new("past");
        let pki = Pki::open(&folder.0, at("1970-01-01T00:01:00Z")).unwrap();
        let leaf = pki.admin().unwrap();
        let chain = leaf.chain().unwrap();
        let (_, cert) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        assert!(cert.validity().not_after.timestamp() > ISSUE_FLOOR_SECONDS);
        assert!(cert.validity().not_before.timestamp() <= VALID_FROM_SECONDS);
        assert!(
            stale(&leaf, &Subject::client("system:admin", &[GROUP_MASTERS]), pki.ca_der(), at("2026-02-01T00:00:00Z"))
                .is_none()
        );
    }
}
