//! ServiceAccount tokens: JWTs signed with ES256, made by the `token` subresource and checked on every request that
//! carries one.
//!
//! A signature is checked once for each token and remembered; whether the account, pod or secret that it is bound to still
//! exists is looked up every time. What never lives here: a stored token.
//!
//! Source: `pkg/serviceaccount/{jwt,claims,openidmetadata}.go`; RFC 7515, 7517, 7519, 7638.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use store::View;

use super::identity::Identity;

/// Tokens whose signature has been checked. One for each pod of a large node, with room for rotation; 1 KB each.
const VERIFIED_MAX: usize = 2048;
/// Longer ones are no tokens of ours.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// What projected volumes ask for; such tokens live longer, so that old clients that never reload the file go on.
/// Source: `pkg/registry/core/serviceaccount/storage/token.go`.
const WARN_ONLY_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 86_400;
/// A pod that is being deleted may use its token this long past its deletion deadline.
const DELETED_POD_SECONDS: i64 = 60;
/// DER of a P-256 SubjectPublicKeyInfo up to the point. Source: RFC 5480.
const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// An object that a token lives and dies with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub name: String,
    pub uid: String,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub namespace: String,
    pub account: Reference,
    pub pod: Option<Reference>,
    pub node: Option<Reference>,
    pub secret: Option<Reference>,
    pub audiences: Vec<String>,
    /// Unix seconds.
    pub expires: i64,
    pub id: String,
}

/// What a token is to be made for.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub namespace: String,
    pub account: Reference,
    pub pod: Option<Reference>,
    pub node: Option<Reference>,
    pub secret: Option<Reference>,
    /// Empty: for the API server.
    pub audiences: Vec<String>,
    pub lifetime_seconds: i64,
}

pub struct Issued {
    pub token: String,
    pub expires: Timestamp,
    pub audiences: Vec<String>,
}

/// Signs and checks.
pub struct Tokens {
    issuer: String,
    api_audiences: Vec<String>,
    key: EcdsaKeyPair,
    key_id: String,
    random: SystemRandom,
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl Tokens {
    /// # Errors
    /// A text when the key is not a P-256 key in PKCS#8 (PEM).
    pub fn new(issuer: String, api_audiences: Vec<String>, key_pem: &str) -> Result<Self, String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| e.to_string())?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
            .map_err(|e| e.to_string())?;
        let mut spki = P256_SPKI.to_vec();
        spki.extend_from_slice(key.public_key().as_ref());
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(&spki));
        Ok(Self { issuer, api_audiences, key, key_id, random, verified: Mutex::default() })
    }

    pub fn api_audiences(&self) -> &[String] {
        &self.api_audiences
    }

    pub fn issue(&self, wanted: Wanted, now: Timestamp, id: String) -> Result<Issued, String> {
        let audiences = if wanted.audiences.is_empty() { self.api_audiences.clone() } else { wanted.audiences };
        let now_seconds = now.as_second();
        let for_api = audiences.iter().all(|a| self.api_audiences.contains(a));
        let extended = for_api && wanted.pod.is_some() && wanted.lifetime_seconds == WARN_ONLY_SECONDS;
        let lifetime = if extended { EXTENDED_SECONDS } else { wanted.lifetime_seconds };
        let reference = |r: &Reference| json!({"name": r.name, "uid": r.uid});
        let mut private = json!({"namespace": wanted.namespace, "serviceaccount": reference(&wanted.account)});
        for (key, bound) in [("pod", &wanted.pod), ("node", &wanted.node), ("secret", &wanted.secret)] {
            if let Some(bound) = bound {
                private[key] = reference(bound);
            }
        }
        if extended {
            private["warnafter"] = json!(now_seconds + WARN_ONLY_SECONDS);
        }
        let claims = json!({
            "aud": audiences, "exp": now_seconds + lifetime, "iat": now_seconds, "nbf": now_seconds, "iss": self.issuer,
            "jti": id, "kubernetes.io": private,
            "sub": format!("system:serviceaccount:{}:{}", wanted.namespace, wanted.account.name),
        });
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let mut token =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.key.sign(&self.random, token.as_bytes()).map_err(|e| e.to_string())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        // What the asker is told is the time it asked for, so that it refreshes in time.
        let shown = now_seconds + wanted.lifetime_seconds;
        let expires = Timestamp::from_second(shown).map_err(|e| e.to_string())?;
        Ok(Issued { token, expires, audiences })
    }

    /// Who the token stands for and the audiences that it is good for out of `audiences` (empty: the API server's).
    ///
    /// # Errors
    /// Why the token is not accepted; for the log and TokenReviews, never for an ordinary client.
    pub fn check(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
        view: &dyn View,
    ) -> Result<(Identity, Vec<String>), String> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err("the token is too long".into());
        }
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.verified.lock().get(&digest).cloned();
        let claims = match known {
            Some(claims) => claims,
            None => {
                let claims = Arc::new(self.verify(token, now)?);
                let mut verified = self.verified.lock();
                if verified.len() >= VERIFIED_MAX {
                    verified.clear();
                }
                verified.insert(digest, claims.clone());
                claims
            }
        };
        if now.as_second() >= claims.expires {
            return Err("service account token has expired".into());
        }
        let wanted = if audiences.is_empty() { &self.api_audiences } else { audiences };
        let good: Vec<String> = wanted.iter().filter(|a| claims.audiences.contains(a)).cloned().collect();
        if good.is_empty() {
            return Err(format!(
                "token audiences {:?} is invalid for the target audiences {wanted:?}",
                claims.audiences
            ));
        }
        still_there(&claims, now, view)?;
        Ok((identity(&claims), good))
    }

    /// Signature, issuer, times and shape.
    fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, String> {
        let (signed, signature) = token.rsplit_once('.').ok_or("not a JWT")?;
        let (header, payload) = signed.split_once('.').ok_or("not a JWT")?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|e| e.to_string());
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|e| e.to_string())?;
        // The one algorithm that is ever signed with: a header cannot choose another.
        if header["alg"] != "ES256" {
            return Err("unexpected signature algorithm".into());
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| "invalid signature")?;
        let claims: Value = serde_json::from_slice(&decode(payload)?).map_err(|e| e.to_string())?;
        if claims["iss"] != self.issuer {
            return Err("unexpected issuer".into());
        }
        if claims["nbf"].as_i64().is_some_and(|nbf| nbf > now.as_second()) {
            return Err("service account token is not valid yet".into());
        }
        let private = &claims["kubernetes.io"];
        let reference = |v: &Value| {
            Some(Reference {
                name: v["name"].as_str()?.to_owned(),
                uid: v["uid"].as_str().unwrap_or_default().to_owned(),
            })
        };
        Ok(Claims {
            namespace: private["namespace"].as_str().ok_or("no namespace")?.to_owned(),
            account: reference(&private["serviceaccount"]).ok_or("no service account")?,
            pod: reference(&private["pod"]),
            node: reference(&private["node"]),
            secret: reference(&private["secret"]),
            audiences: claims["aud"]
                .as_array()
                .map(|l| l.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect())
                .unwrap_or_default(),
            expires: claims["exp"].as_i64().ok_or("no expiry")?,
            id: claims["jti"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// The `/openid/v1/jwks` document.
    pub fn jwks(&self) -> Value {
        let point = self.key.public_key().as_ref();
        // Uncompressed: 0x04, x, y.
        let (x, y) = (&point[1..33], &point[33..65]);
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
    }

    /// The `/.well-known/openid-configuration` document.
    pub fn discovery(&self) -> Value {
        json!({"issuer": self.issuer, "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"]})
    }
}

/// Whether what the token is bound to is still what it was.
fn still_there(claims: &Claims, now: Timestamp, view: &dyn View) -> Result<(), String> {
    let namespace = &claims.namespace;
    let find = |what: &str, resource: &str, namespace: &str, bound: &Reference| {
        let entry = view
            .get(&format!("core/{resource}/{namespace}/{}", bound.name))
            .ok_or_else(|| format!("{what} {:?} not found", bound.name))?;
        if crate::verbs::facts::facts(&entry).uid.as_ref() != bound.uid {
            return Err(format!("the UID of {what} {:?} does not match the claim", bound.name));
        }
        Ok(entry)
    };
    find("service account", "serviceaccounts", namespace, &claims.account)?;
    if let Some(pod) = &claims.pod {
        let entry = find("pod", "pods", namespace, pod)?;
        if crate::verbs::facts::facts(&entry).deleting {
            let object: Value = serde_json::from_slice(&entry.value).map_err(|e| e.to_string())?;
            let deadline = object["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
            if deadline.is_some_and(|at| now.as_second() > at.as_second() + DELETED_POD_SECONDS) {
                return Err(format!("pod {:?} has been deleted", pod.name));
            }
        }
    }
    if let Some(secret) = &claims.secret {
        find("secret", "secrets", namespace, secret)?;
    }
    // A node named beside a pod says where the pod ran; only a token of the node alone dies with it.
    if let (Some(node), None) = (&claims.node, &claims.pod) {
        find("node", "nodes", "", node)?;
    }
    Ok(())
}

fn identity(claims: &Claims) -> Identity {
    let mut identity = Identity::service_account(&claims.namespace, &claims.account.name);
    identity.uid.clone_from(&claims.account.uid);
    let mut add = |key: &str, value: String| {
        identity.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    for (what, bound) in [("pod", &claims.pod), ("node", &claims.node)] {
        if let Some(bound) = bound {
            add(&format!("{what}-name"), bound.name.clone());
            if !bound.uid.is_empty() {
                add(&format!("{what}-uid"), bound.uid.clone());
            }
        }
    }
    if !claims.id.is_empty() {
        add("credential-id", format!("JTI={}", claims.id));
    }
    identity
}
