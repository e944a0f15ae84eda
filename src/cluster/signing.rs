//! Certificates for requests that others made: the key is theirs and never seen, the subject and the names are what was
//! approved, everything else is decided here.
//!
//! The certificate is written directly in DER, because the subject must be exactly the bytes that were approved and a
//! request may name several groups. What never lives here: who may have which certificate.
//!
//! Source: RFC 2986, RFC 5280; kubernetes `pkg/controller/certificates/authority/{authority,policies}.go`.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::SigningKey as _;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::pki::Pki;

/// Peers whose clocks are behind accept the certificate too. Source: the signing policy.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// A shorter life is not shortened by what the beginning is backdated.
const SHORT: SignedDuration = SignedDuration::from_hours(8);
const BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----";
const END: &str = "-----END CERTIFICATE REQUEST-----";
/// The line of a PEM file.
const PEM_LINE: usize = 64;

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NoRequest,
    #[error("must be one PEM block and nothing else")]
    NotOne,
    #[error("unable to parse certificate request: {0}")]
    Malformed(String),
    #[error("unable to verify certificate request signature: {0}")]
    Signature(String),
    #[error("unrecognized usage values: {0:?}")]
    Usages(Vec<String>),
    #[error("refusing to sign a certificate that expired in the past: NotAfter={0}")]
    Expired(Timestamp),
    #[error("the authority cannot sign: {0}")]
    Authority(String),
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ip_addresses: Vec<Vec<u8>>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
}

/// Reads a request in PEM. Its signature is not checked yet.
///
/// # Errors
/// [`Refused::NoRequest`], [`Refused::NotOne`] or [`Refused::Malformed`].
pub fn read(pem: &[u8]) -> Result<Request, Refused> {
    let der = der_of(pem)?;
    let request = parse(&der)?;
    let subject = &request.certification_request_info.subject;
    let texts = |attributes: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| -> Vec<String> {
        attributes.filter_map(|a| a.as_str().ok().map(str::to_owned)).collect()
    };
    let mut read = Request {
        common_name: texts(&mut subject.iter_common_name()).pop().unwrap_or_default(),
        organizations: texts(&mut subject.iter_organization()),
        ..Request::default()
    };
    for name in names(&request)? {
        match name {
            GeneralName::DNSName(name) => read.dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => read.ip_addresses.push(bytes.to_vec()),
            GeneralName::RFC822Name(email) => read.emails.push((*email).to_owned()),
            GeneralName::URI(uri) => read.uris.push((*uri).to_owned()),
            // Other kinds are not taken over into the certificate.
            _ => {}
        }
    }
    Ok(read)
}

/// When a certificate in PEM ends; `None` when it is none.
pub fn expiry(pem: &[u8]) -> Option<Timestamp> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

impl Pki {
    /// Signs a request in PEM for `usages` (as the certificates API spells them) and `lifetime`, from `now` on and not beyond
    /// the authority's own end. Returns the certificate in PEM.
    ///
    /// # Errors
    /// Each [`Refused`].
    pub fn sign(
        &self,
        pem: &[u8],
        usages: &[String],
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<String, Refused> {
        let der = der_of(pem)?;
        let request = parse(&der)?;
        verify(&request)?;
        let key = self.issuer().key();
        if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(Refused::Authority("its key is not on P-256".into()));
        }
        let authority = |e: &dyn std::fmt::Display| Refused::Authority(e.to_string());
        let (_, ca) = x509_parser::parse_x509_certificate(self.ca_der()).map_err(|e| authority(&e))?;
        let ca_end = Timestamp::from_second(ca.validity().not_after.timestamp()).map_err(|e| authority(&e))?;
        if now >= ca_end {
            return Err(Refused::Expired(ca_end));
        }
        let end = now + if lifetime < SHORT { lifetime } else { lifetime - BACKDATE };
        let info = &request.certification_request_info;
        let algorithm = sequence(&[ECDSA_WITH_SHA256]);
        let mut serial = [0u8; 16];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut serial)
            .map_err(|_| Refused::Authority("no random bytes".into()))?;
        // Positive, and of the same length always.
        serial[0] = serial[0] & 0x7f | 0x40;
        let body = sequence(&[
            // Version 3.
            &tlv(0xa0, &[0x02, 0x01, 0x02]),
            &tlv(INTEGER, &serial),
            &algorithm,
            ca.subject().as_raw(),
            &sequence(&[&time(now - BACKDATE), &time(end.min(ca_end))]),
            info.subject.as_raw(),
            info.subject_pki.raw,
            &tlv(0xa3, &extensions(&request, usages, crate::pki::subject_id(&ca))?),
        ]);
        let signature = key.sign(&body).map_err(|e| authority(&e))?;
        let mut bits = vec![0];
        bits.extend(signature);
        Ok(to_pem(&sequence(&[&body, &algorithm, &tlv(BIT_STRING, &bits)])))
    }
}

/// The content of the one block that `pem` is. Readers of PEM skip what they take for text around a block, and differ in
/// that; what is signed must be what was approved, so there is nothing to skip. The API server refuses the same, and its
/// tests compare both.
fn der_of(pem: &[u8]) -> Result<Vec<u8>, Refused> {
    let text = String::from_utf8_lossy(pem);
    one_block(&text).ok_or(if text.contains(BEGIN) { Refused::NotOne } else { Refused::NoRequest })
}

/// Lines end in `\n` or `\r\n`; after the last there may be empty ones.
fn one_block(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    if lines.next() != Some(BEGIN) {
        return None;
    }
    let mut body = String::new();
    loop {
        match lines.next()? {
            END => break,
            // Whatever is not base64, a lone `\r` or another label, fails to decode.
            line => body.push_str(line),
        }
    }
    if lines.all(str::is_empty) { base64::engine::general_purpose::STANDARD.decode(body).ok() } else { None }
}

fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, Refused> {
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|e| Refused::Malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(Refused::Malformed("trailing data".into()));
    }
    // The subject goes into the certificate as it is, for readers that may take the first name or the last, or read
    // encodings that are not read here: it must say the same to all.
    let subject = &request.certification_request_info.subject;
    if subject.iter_common_name().count() > 1 {
        return Err(Refused::Malformed("subject must not have more than one common name".into()));
    }
    if subject.iter_common_name().chain(subject.iter_organization()).any(|name| name.as_str().is_err()) {
        let words = "common name and organizations of the subject must be UTF-8 or ASCII strings";
        return Err(Refused::Malformed(words.into()));
    }
    Ok(request)
}

fn names<'r>(request: &'r X509CertificationRequest<'_>) -> Result<Vec<&'r GeneralName<'r>>, Refused> {
    let mut all = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            all.extend(&names.general_names);
        }
    }
    if all.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(Refused::Malformed("invalid subject alternative name".into()));
    }
    Ok(all)
}

/// Whether the one who made the request holds its key.
fn verify(request: &X509CertificationRequest<'_>) -> Result<(), Refused> {
    let info = &request.certification_request_info;
    let key = &info.subject_pki.subject_public_key.data;
    let algorithm = request.signature_algorithm.algorithm.to_id_string();
    let curve = info.subject_pki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|o| o.to_id_string());
    let scheme: &dyn VerificationAlgorithm = match (algorithm.as_str(), curve.as_deref()) {
        ("1.2.840.10045.4.3.2", Some("1.2.840.10045.3.1.7")) => &signature::ECDSA_P256_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", Some("1.2.840.10045.3.1.7")) => &signature::ECDSA_P256_SHA384_ASN1,
        ("1.2.840.10045.4.3.2", Some("1.3.132.0.34")) => &signature::ECDSA_P384_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", Some("1.3.132.0.34")) => &signature::ECDSA_P384_SHA384_ASN1,
        ("1.2.840.113549.1.1.11", _) => &signature::RSA_PKCS1_2048_8192_SHA256,
        ("1.2.840.113549.1.1.12", _) => &signature::RSA_PKCS1_2048_8192_SHA384,
        ("1.2.840.113549.1.1.13", _) => &signature::RSA_PKCS1_2048_8192_SHA512,
        ("1.3.101.112", _) => &signature::ED25519,
        (other, _) => return Err(Refused::Signature(format!("algorithm {other} is not supported"))),
    };
    UnparsedPublicKey::new(scheme, key)
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| Refused::Signature("it does not fit its key".into()))
}

/// Bits of the key usage by their names in the certificates API.
const KEY_USAGES: &[(&str, u16)] = &[
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// DER of the extended key usages by their names there.
const EXTENDED_USAGES: &[(&str, &[u8])] = &[
    ("any", &[0x06, 0x04, 0x55, 0x1d, 0x25, 0x00]),
    ("server auth", &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01]),
    ("client auth", &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02]),
    ("code signing", &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03]),
    ("email protection", &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x04]),
    ("s/mime", &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x04]),
    ("ipsec end system", &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x05]),
    ("ipsec tunnel", &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x06]),
    ("ipsec user", &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x07]),
    ("timestamping", &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x08]),
    ("ocsp signing", &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x09]),
    ("microsoft sgc", &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x0a, 0x03, 0x03]),
    ("netscape sgc", &[0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x86, 0xf8, 0x42, 0x04, 0x01]),
];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const TRUE: &[u8] = &[0x01, 0x01, 0xff];
const ECDSA_WITH_SHA256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const KEY_USAGE: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x0f];
const SUBJECT_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x13];
const AUTHORITY_KEY_ID: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x23];
const EXTENDED_KEY_USAGE: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x25];

fn extensions(
    request: &X509CertificationRequest<'_>,
    usages: &[String],
    authority: Option<Vec<u8>>,
) -> Result<Vec<u8>, Refused> {
    let (mut bits, mut extended, mut unknown) = (0u16, Vec::new(), Vec::new());
    for usage in usages {
        if let Some((_, bit)) = KEY_USAGES.iter().find(|(name, _)| name == usage) {
            bits |= 0x8000 >> bit;
        } else if let Some((_, oid)) = EXTENDED_USAGES.iter().find(|(name, _)| name == usage) {
            if !extended.contains(oid) {
                extended.push(*oid);
            }
        } else {
            unknown.push(usage.clone());
        }
    }
    if !unknown.is_empty() {
        return Err(Refused::Usages(unknown));
    }
    let mut all = Vec::new();
    let mut add = |oid: &[u8], critical: bool, value: &[u8]| {
        let value = tlv(OCTET_STRING, value);
        all.push(if critical { sequence(&[oid, TRUE, &value]) } else { sequence(&[oid, &value]) });
    };
    if bits != 0 {
        let [high, low] = bits.to_be_bytes();
        let unused = bits.trailing_zeros() as u8;
        let content = if low == 0 { vec![unused - 8, high] } else { vec![unused, high, low] };
        add(KEY_USAGE, true, &tlv(BIT_STRING, &content));
    }
    if !extended.is_empty() {
        add(EXTENDED_KEY_USAGE, false, &sequence(&extended));
    }
    add(BASIC_CONSTRAINTS, true, &sequence(&[]));
    if let Some(id) = authority {
        add(AUTHORITY_KEY_ID, false, &sequence(&[&tlv(0x80, &id)]));
    }
    let mut names_der = Vec::new();
    for name in names(request)? {
        match name {
            GeneralName::RFC822Name(email) => names_der.extend(tlv(0x81, email.as_bytes())),
            GeneralName::DNSName(name) => names_der.extend(tlv(0x82, name.as_bytes())),
            GeneralName::URI(uri) => names_der.extend(tlv(0x86, uri.as_bytes())),
            GeneralName::IPAddress(bytes) => names_der.extend(tlv(0x87, bytes)),
            _ => {}
        }
    }
    if !names_der.is_empty() {
        // A subject that says nothing leaves the names to say everything.
        let nameless = request.certification_request_info.subject.iter().next().is_none();
        add(SUBJECT_ALT_NAME, nameless, &tlv(SEQUENCE, &names_der));
    }
    let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    Ok(sequence(&all))
}

/// One element: tag, length, content.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut element = vec![tag];
    if length < 0x80 {
        element.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        element.push(0x80 | (bytes.len() - zeros) as u8);
        element.extend(&bytes[zeros..]);
    }
    element.extend(content);
    element
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

/// Until 2049 with two digits of the year. Source: RFC 5280, 4.1.2.5.
fn time(at: Timestamp) -> Vec<u8> {
    let at = at.to_zoned(TimeZone::UTC);
    if at.year() < 2050 {
        tlv(UTC_TIME, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        tlv(GENERALIZED_TIME, at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    }
}

fn to_pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(PEM_LINE) {
        // Base64 is ASCII.
        pem.extend(line.iter().map(|b| char::from(*b)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};
    use rustls::RootCertStore;
    use rustls::pki_types::UnixTime;
    use rustls::server::WebPkiClientVerifier;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T00:00:00Z".parse().unwrap()
    }

    fn pki() -> (Pki, std::path::PathBuf) {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("kedge-signing-{}-{next}", std::process::id()));
        (Pki::open(&folder, now()).unwrap(), folder)
    }

    fn request() -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "team");
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.subject_alt_names =
            vec![SanType::DnsName("a.example".try_into().unwrap()), SanType::IpAddress("10.0.0.1".parse().unwrap())];
        (params.serialize_request(&key).unwrap().pem().unwrap(), key)
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|t| (*t).to_owned()).collect()
    }

    #[test]
    fn a_signed_request_is_a_certificate_that_clients_can_use() {
        let (pki, folder) = pki();
        let (pem, _) = request();
        let read = read(pem.as_bytes()).unwrap();
        assert_eq!((read.common_name.as_str(), read.organizations.as_slice()), ("ann", &texts(&["team"])[..]));
        assert_eq!((read.dns_names, read.ip_addresses), (texts(&["a.example"]), vec![vec![10, 0, 0, 1]]));
        let usages = texts(&["digital signature", "key encipherment", "client auth"]);
        let hour = SignedDuration::from_hours(1);
        let signed = pki.sign(pem.as_bytes(), &usages, hour, now()).unwrap();
        assert_eq!(expiry(signed.as_bytes()), Some(now() + hour));

        let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca_der().clone()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let at = |t: Timestamp| UnixTime::since_unix_epoch(std::time::Duration::from_secs(t.as_second() as u64));
        verifier.verify_client_cert(&der, &[], at(now())).unwrap();
        assert!(verifier.verify_client_cert(&der, &[], at(now() + hour + hour)).is_err());

        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert_eq!(certificate.subject().to_string(), "O=team, CN=ann");
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
        assert!(!certificate.basic_constraints().unwrap().unwrap().value.ca);
        assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 2);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_cannot_be_signed_is_refused() {
        let (pki, folder) = pki();
        let (pem, _) = request();
        let hour = SignedDuration::from_hours(1);
        let refused = |pem: &str, usages: &[&str], at: Timestamp| {
            pki.sign(pem.as_bytes(), &texts(usages), hour, at).unwrap_err().to_string()
        };
        assert!(refused("nonsense", &["client auth"], now()).contains("CERTIFICATE REQUEST"));
        assert_eq!(refused(&pem, &["flying"], now()), "unrecognized usage values: [\"flying\"]");
        assert!(refused(&pem, &["client auth"], "2050-01-01T00:00:00Z".parse().unwrap()).contains("expired"));
        // Somebody else's name over the same key.
        let mut der = der_of(pem.as_bytes()).unwrap();
        let at = der.windows(3).position(|w| w == b"ann").unwrap();
        der[at] = b'b';
        let changed = to_pem(&der).replace("CERTIFICATE", "CERTIFICATE REQUEST");
        assert!(refused(&changed, &["client auth"], now()).contains("does not fit its key"));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_life_ends_with_the_authoritys() {
        let (pki, folder) = pki();
        let (pem, _) = request();
        let signed = pki.sign(pem.as_bytes(), &texts(&["client auth"]), SignedDuration::from_hours(1_000_000), now());
        let end = expiry(signed.unwrap().as_bytes()).unwrap();
        assert_eq!(Some(end), expiry(pki.ca_pem().as_bytes()));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
