//! JSON Web Tokens in their compact form, and the public keys that check them.
//!
//! What never lives here: whom a token stands for, a private key, the network.
//!
//! Source: RFC 7515, 7517, 7518, 7519, 7638.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, EcdsaKeyPair, KeyPair as _, RsaPublicKeyComponents, UnparsedPublicKey};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey as Parsed;

/// Longer ones are no tokens of anybody.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// DER of a P-256 SubjectPublicKeyInfo up to the point. Source: RFC 5480.
const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The length of an uncompressed point tells the curves apart.
const P256_POINT_BYTES: usize = 65;
const P384_POINT_BYTES: usize = 97;

/// A token taken apart; nothing of it has been checked.
pub struct Parts<'a> {
    pub header: Value,
    pub claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    /// # Errors
    /// Why the text is no JWT.
    pub fn parse(token: &'a str) -> Result<Self, String> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err("the token is too long".into());
        }
        let (signed, signature) = token.rsplit_once('.').ok_or("not a JWT")?;
        let (header, payload) = signed.split_once('.').ok_or("not a JWT")?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|e| e.to_string());
        let json = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).map_err(|e| e.to_string());
        Ok(Self {
            header: json(decode(header)?)?,
            claims: json(decode(payload)?)?,
            signed,
            signature: decode(signature)?,
        })
    }

    pub fn issuer(&self) -> &str {
        self.claims["iss"].as_str().unwrap_or_default()
    }

    pub fn key_id(&self) -> &str {
        self.header["kid"].as_str().unwrap_or_default()
    }

    /// The `aud` claim, which may be one text or a list.
    pub fn audiences(&self) -> Vec<String> {
        texts(&self.claims["aud"])
    }

    /// Whether `key` signed the token. The key says which algorithms it may be used with: a header cannot choose another.
    pub fn signed_by(&self, key: &PublicKey) -> bool {
        let algorithm = self.header["alg"].as_str().unwrap_or_default();
        key.verify(algorithm, self.signed.as_bytes(), &self.signature)
    }
}

/// One text or a list of texts, as several claims may be written.
pub fn texts(claim: &Value) -> Vec<String> {
    match claim {
        Value::String(one) => vec![one.clone()],
        Value::Array(list) => list.iter().filter_map(|t| t.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

/// Signs what [`Parts::parse`] reads. `sign` makes the signature of the bytes that it is given.
///
/// # Errors
/// Those of `sign`.
pub fn compact(
    header: &Value,
    claims: &Value,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, String>,
) -> Result<String, String> {
    let mut token =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

enum Material {
    /// An uncompressed point on P-256 or P-384.
    Curve(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

/// A key that checks signatures.
pub struct PublicKey {
    /// The `kid` by which tokens name it; of keys from files the digest of their DER, as upstream's.
    pub id: String,
    /// The one algorithm that a key set allows; empty: any that suits the key.
    algorithm: String,
    material: Material,
}

impl PublicKey {
    /// The public half of a signing key.
    pub fn of_signer(key: &EcdsaKeyPair) -> Self {
        let point = key.public_key().as_ref();
        let mut spki = P256_SPKI.to_vec();
        spki.extend_from_slice(point);
        Self { id: digest(&spki), algorithm: String::new(), material: Material::Curve(point.to_vec()) }
    }

    /// From the DER of a SubjectPublicKeyInfo: an RSA key or one on P-256 or P-384.
    ///
    /// # Errors
    /// Why it is none of these.
    pub fn from_spki(der: &[u8]) -> Result<Self, String> {
        let (_, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|e| e.to_string())?;
        let material = match spki.parsed().map_err(|e| e.to_string())? {
            Parsed::EC(point) => curve(point.data().to_vec())?,
            Parsed::RSA(rsa) => Material::Rsa { n: unsigned(rsa.modulus).to_vec(), e: unsigned(rsa.exponent).to_vec() },
            _ => return Err("neither an RSA key nor one on P-256 or P-384".into()),
        };
        Ok(Self { id: digest(der), algorithm: String::new(), material })
    }

    /// Every key of a PEM file: public keys, and the public halves of private ones on P-256.
    ///
    /// # Errors
    /// Which section is not usable.
    pub fn all_of_pem(pem: &str) -> Result<Vec<Self>, String> {
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
            let (kind, der) = section.map_err(|e| e.to_string())?;
            keys.push(match kind {
                SectionKind::PublicKey => Self::from_spki(&der)?,
                SectionKind::PrivateKey => Self::of_signer(&signer(&der)?),
                other => return Err(format!("a section that is no key: {other:?}")),
            });
        }
        Ok(keys)
    }

    /// From one entry of a JSON Web Key Set; `None` for keys that are not for signatures or of other kinds.
    pub fn from_jwk(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk[name].as_str().unwrap_or_default();
        let bytes =
            |name: &str| URL_SAFE_NO_PAD.decode(text(name).trim_end_matches('=')).ok().filter(|b| !b.is_empty());
        if !matches!(text("use"), "" | "sig") {
            return None;
        }
        let material = match text("kty") {
            "EC" => {
                let mut point = vec![4];
                point.extend(bytes("x")?);
                point.extend(bytes("y")?);
                curve(point).ok()?
            }
            "RSA" => Material::Rsa { n: unsigned(&bytes("n")?).to_vec(), e: unsigned(&bytes("e")?).to_vec() },
            _ => return None,
        };
        Some(Self { id: text("kid").to_owned(), algorithm: text("alg").to_owned(), material })
    }

    /// The entry of a JSON Web Key Set.
    pub fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.material {
            Material::Curve(point) => {
                let (x, y) = point[1..].split_at(point.len() / 2);
                let curve = if point.len() == P256_POINT_BYTES { "P-256" } else { "P-384" };
                json!({"use": "sig", "kty": "EC", "kid": self.id, "crv": curve, "alg": self.preferred(),
                    "x": encode(x), "y": encode(y)})
            }
            Material::Rsa { n, e } => json!({"use": "sig", "kty": "RSA", "kid": self.id, "alg": self.preferred(),
                "n": encode(n), "e": encode(e)}),
        }
    }

    /// The algorithm that ServiceAccount tokens use with a key of this kind.
    pub fn preferred(&self) -> &'static str {
        match &self.material {
            Material::Curve(point) if point.len() == P256_POINT_BYTES => "ES256",
            Material::Curve(_) => "ES384",
            Material::Rsa { .. } => "RS256",
        }
    }

    fn verify(&self, algorithm: &str, signed: &[u8], signature: &[u8]) -> bool {
        if !self.algorithm.is_empty() && self.algorithm != algorithm {
            return false;
        }
        match &self.material {
            Material::Curve(point) => {
                let scheme = match (algorithm, point.len()) {
                    ("ES256", P256_POINT_BYTES) => &signature::ECDSA_P256_SHA256_FIXED,
                    ("ES384", P384_POINT_BYTES) => &signature::ECDSA_P384_SHA384_FIXED,
                    _ => return false,
                };
                UnparsedPublicKey::new(scheme, point).verify(signed, signature).is_ok()
            }
            Material::Rsa { n, e } => {
                let scheme = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(scheme, signed, signature).is_ok()
            }
        }
    }
}

/// A signing key on P-256, from PKCS#8.
///
/// # Errors
/// Why it is none.
pub fn signer(pkcs8: &[u8]) -> Result<EcdsaKeyPair, String> {
    let random = ring::rand::SystemRandom::new();
    EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random).map_err(|e| e.to_string())
}

fn curve(point: Vec<u8>) -> Result<Material, String> {
    match point.len() {
        P256_POINT_BYTES | P384_POINT_BYTES => Ok(Material::Curve(point)),
        _ => Err("the key is not on P-256 or P-384".into()),
    }
}

/// DER puts a zero before an integer whose first bit is set.
fn unsigned(integer: &[u8]) -> &[u8] {
    let zeros = integer.iter().take_while(|b| **b == 0).count();
    &integer[zeros..]
}

fn digest(der: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(der))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> EcdsaKeyPair {
        let random = ring::rand::SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        signer(pkcs8.as_ref()).unwrap()
    }

    fn token(key: &EcdsaKeyPair, algorithm: &str) -> String {
        let random = ring::rand::SystemRandom::new();
        compact(&json!({"alg": algorithm, "kid": "k"}), &json!({"iss": "me", "aud": "a"}), |bytes| {
            Ok(key.sign(&random, bytes).unwrap().as_ref().to_vec())
        })
        .unwrap()
    }

    #[test]
    fn signatures_are_checked_with_the_keys_own_algorithm() {
        let (mine, other) = (key(), key());
        let public = PublicKey::of_signer(&mine);
        let good = token(&mine, "ES256");
        let parts = Parts::parse(&good).unwrap();
        assert_eq!((parts.issuer(), parts.key_id(), parts.audiences()), ("me", "k", vec!["a".to_owned()]));
        assert!(parts.signed_by(&public));
        assert!(!parts.signed_by(&PublicKey::of_signer(&other)), "another key");
        for algorithm in ["none", "HS256", "RS256", "ES384", ""] {
            let token = token(&mine, algorithm);
            assert!(!Parts::parse(&token).unwrap().signed_by(&public), "{algorithm}");
        }
    }

    #[test]
    fn a_key_survives_its_key_set() {
        let mine = key();
        let jwk = PublicKey::of_signer(&mine).jwk();
        let public = PublicKey::from_jwk(&jwk).unwrap();
        let token = token(&mine, "ES256");
        assert!(Parts::parse(&token).unwrap().signed_by(&public));
        for (name, value) in [("use", "enc"), ("kty", "oct"), ("x", "")] {
            let mut changed = jwk.clone();
            changed[name] = json!(value);
            assert!(PublicKey::from_jwk(&changed).is_none(), "{name}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in ["", "a", "a.b", "a.b.c", "e30.e30.!", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
            assert!(Parts::parse(text).is_err(), "{text:.20}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_changed_token_is_not_believed(at: proptest::sample::Index, new in "[A-Za-z0-9_.=-]{0,3}", cut in 0usize..4) {
            static KEY: std::sync::LazyLock<(String, PublicKey)> = std::sync::LazyLock::new(|| {
                let mine = key();
                (token(&mine, "ES256"), PublicKey::of_signer(&mine))
            });
            let (good, public) = &*KEY;
            let at = at.index(good.len());
            let changed = format!("{}{new}{}", &good[..at], &good[(at + cut).min(good.len())..]);
            if let Ok(parts) = Parts::parse(&changed) {
                let _ = (parts.issuer(), parts.key_id(), parts.audiences());
                proptest::prop_assert_eq!(parts.signed_by(public), changed == *good, "{}", changed);
            }
        }

        #[test]
        fn any_key_is_read_or_refused(der: Vec<u8>, label in "PUBLIC KEY|PRIVATE KEY|EC PRIVATE KEY|RSA PUBLIC KEY|CERTIFICATE", x in "[A-Za-z0-9_=-]{0,90}") {
            let body = base64::engine::general_purpose::STANDARD.encode(&der);
            let _ = PublicKey::all_of_pem(&format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"));
            let _ = PublicKey::all_of_pem(&x);
            let _ = PublicKey::from_spki(&der);
            for kind in ["EC", "RSA"] {
                let jwk = json!({"kty": kind, "crv": "P-256", "x": x, "y": x, "n": x, "e": x});
                if let Some(key) = PublicKey::from_jwk(&jwk) {
                    let _ = (key.jwk(), key.verify("ES256", b"", &der), key.verify("RS256", b"", &der));
                }
            }
        }
    }
}
