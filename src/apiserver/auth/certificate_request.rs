//! The certificate request in a CertificateSigningRequest, read the same way by everyone who decides about it: validation,
//! admission, and (`cluster::signing`, by the same rules) whoever approves and signs. A text that two readers could take for
//! two requests is none, and a subject of which two readers could see two identities is refused.
//!
//! Upstream has one reader, Go's, and need not be this strict. The rooms share no code, so a test holds both to one table.
//!
//! Source: `pkg/apis/certificates/v1/helpers.go` `ParseCSR`, RFC 7468, RFC 2986.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

const BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----";
const END: &str = "-----END CERTIFICATE REQUEST-----";

/// The DER of `spec.request`, which is PEM in base64.
///
/// # Errors
/// Why it is not one request.
pub fn der(request: &str) -> Result<Vec<u8>, String> {
    let pem = STANDARD.decode(request).unwrap_or_default();
    let text = String::from_utf8_lossy(&pem);
    one_block(&text).ok_or_else(|| {
        let found = text.contains(BEGIN);
        let words =
            if found { "must be one PEM block and nothing else" } else { "PEM block type must be CERTIFICATE REQUEST" };
        words.to_owned()
    })
}

/// The content of the one block that `text` is. Lines end in `\n` or `\r\n`; after the last there may be empty ones.
fn one_block(text: &str) -> Option<Vec<u8>> {
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
    if lines.all(str::is_empty) { STANDARD.decode(body).ok() } else { None }
}

/// Reads the request. Its signature is not checked.
///
/// # Errors
/// Why it cannot be read, or whom it could name besides the one that is seen.
pub fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, String> {
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| "asn1: structure error: tags don't match".to_owned())?;
    if !rest.is_empty() {
        return Err("asn1: syntax error: trailing data".to_owned());
    }
    let subject = &request.certification_request_info.subject;
    if subject.iter_common_name().count() > 1 {
        return Err("subject must not have more than one common name".to_owned());
    }
    if subject.iter_common_name().chain(subject.iter_organization()).any(|name| name.as_str().is_err()) {
        return Err("common name and organizations of the subject must be UTF-8 or ASCII strings".to_owned());
    }
    Ok(request)
}

#[cfg(test)]
pub mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    /// A request in PEM of this common name.
    pub fn of(common_name: &str) -> String {
        request(&[(DnType::CommonName, common_name.into())])
    }

    fn request(names: &[(DnType, DnValue)]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    /// A node's, of these common names. rcgen keeps one of each type, so the last is written as a type of its own and
    /// becomes a common name in the DER; the signature does not fit.
    pub fn two_common_names(first: &str, last: &str) -> String {
        let names = [
            (DnType::OrganizationName, "system:nodes".into()),
            (DnType::CommonName, first.into()),
            (DnType::CustomDnType(vec![2, 5, 4, 99]), last.into()),
        ];
        let mut der = one_block(&request(&names)).unwrap();
        let at = der.windows(5).position(|w| w == [0x06, 0x03, 0x55, 0x04, 99]).unwrap();
        der[at + 4] = 3;
        pem(&der)
    }

    fn pem(der: &[u8]) -> String {
        format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(der))
    }

    /// One table for both readers.
    #[test]
    fn who_decides_and_who_signs_read_the_same_request() {
        let (a, b) = (of("ann"), of("bob"));
        let bare = b.trim_end().replace("\r\n", "\n").replace('\n', "\r");
        let bmp = DnValue::BmpString("system:masters".try_into().unwrap());
        let block = "must be one PEM block and nothing else";
        for (case, text, wanted) in [
            ("one", a.clone(), ""),
            ("unix lines", a.replace("\r\n", "\n"), ""),
            ("windows lines", a.replace("\r\n", "\n").replace('\n', "\r\n"), ""),
            ("empty lines behind", format!("{a}\n\n"), ""),
            ("hidden from who splits at \\n", format!("x\r{bare}\r\n{a}"), block),
            ("old mac lines", format!("{bare}\r"), block),
            ("two", format!("{a}{b}"), block),
            ("words before", format!("words\n{a}"), block),
            ("words behind", format!("{a}words"), block),
            ("headers", a.replacen("REQUEST-----", "REQUEST-----\nKey: value\n", 1), block),
            ("another label", a.replace("CERTIFICATE REQUEST", "X"), "PEM block type must be CERTIFICATE REQUEST"),
            ("no end", a.replace("-----END", ""), block),
            ("two names", two_common_names("ann", "bob"), "subject must not have more than one common name"),
            (
                "a group that not everyone reads",
                request(&[(DnType::CommonName, "ann".into()), (DnType::OrganizationName, bmp)]),
                "common name and organizations of the subject must be UTF-8 or ASCII strings",
            ),
        ] {
            let read = der(&STANDARD.encode(&text)).and_then(|der| parse(&der).map(|_| ()));
            assert_eq!(read.err().unwrap_or_default(), wanted, "{case}");
            let signer = cluster::signing::read(text.as_bytes()).map_err(|e| e.to_string());
            assert_eq!(signer.is_ok(), wanted.is_empty(), "{case}: {signer:?}");
            if let Err(why) = signer {
                assert!(why.ends_with(wanted), "{case}: {why}");
            }
        }
    }

    proptest::proptest! {
        /// What the signer reads, whoever decided about it has read too.
        #[test]
        fn any_request_is_read_or_refused(at: proptest::sample::Index, new: Vec<u8>, cut in 0usize..8, text in ".*") {
            static GOOD: std::sync::LazyLock<Vec<u8>> =
                std::sync::LazyLock::new(|| one_block(&two_common_names("a", "b")).unwrap());
            let mut changed = GOOD.clone();
            let at = at.index(changed.len());
            changed.splice(at..(at + cut).min(changed.len()), new);
            let judged = parse(&changed).is_ok();
            if cluster::signing::read(pem(&changed).as_bytes()).is_ok() {
                proptest::prop_assert!(judged);
            }
            let _ = (der(&text), cluster::signing::read(text.as_bytes()).is_ok());
            let _ = (crate::auth::x509::identity(&changed), cluster::signing::expiry(pem(&changed).as_bytes()));
        }
    }
}
