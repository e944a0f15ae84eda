//! ServiceAccount tokens: JWTs signed with ES256, made by the `token` subresource and checked on every request that
//! carries one.
//!
//! A signature is checked once for each token and remembered; whether the account, pod or secret that it is bound to still
//! exists is looked up every time. What never lives here: a stored token.
//!
//! Source: `pkg/serviceaccount/{jwt,claims,legacy,openidmetadata}.go`.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::EcdsaKeyPair;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use store::View;

use super::identity::{Identity, SERVICE_ACCOUNT_PREFIX};
use super::jwt::{self, Parts, PublicKey};

/// Tokens whose signature has been checked. One for each pod of a large node, with room for rotation; 1 KB each.
const VERIFIED_MAX: usize = 2048;
/// What projected volumes ask for; such tokens live longer, so that old clients that never reload the file go on.
/// Source: `pkg/registry/core/serviceaccount/storage/token.go`.
const WARN_ONLY_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 86_400;
/// A pod that is being deleted may use its token this long past its deletion deadline.
const DELETED_POD_SECONDS: i64 = 60;
/// Who issued the tokens that are kept in Secrets and never expire.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// What the claims of such a token begin with.
const LEGACY_CLAIMS: &str = "kubernetes.io/serviceaccount/";
/// Set by administrators, or by a clean-up, on the Secret of such a token: it is not to be believed any more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

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
    /// Unix seconds; `None` of a token that is kept in a Secret: it lives as long as that.
    pub expires: Option<i64>,
    /// Unix seconds after which a token of extended life should have been replaced.
    pub warn_after: Option<i64>,
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
    /// Of [`Self::key`] first, then those of keys that signed before.
    keys: Vec<PublicKey>,
    random: SystemRandom,
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl Tokens {
    /// `keys_pem`: the first private key signs; every other key of the file, public or private, is still believed. To
    /// replace the signing key, put a new one before it; once the tokens that the old one signed have expired, take it away.
    ///
    /// # Errors
    /// A text when the first key is not a P-256 key in PKCS#8 (PEM), or another one is of no known kind.
    pub fn new(issuer: String, api_audiences: Vec<String>, keys_pem: &str) -> Result<Self, String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(keys_pem.as_bytes()).map_err(|e| e.to_string())?;
        let key = jwt::signer(der.secret_pkcs8_der())?;
        let signing = PublicKey::of_signer(&key);
        let mut keys = PublicKey::all_of_pem(keys_pem)?;
        keys.retain(|k| k.id != signing.id);
        keys.insert(0, signing);
        Ok(Self { issuer, api_audiences, key, keys, random: SystemRandom::new(), verified: Mutex::default() })
    }

    /// Whether the token says that this server made it; then nobody else need be asked.
    pub fn claims(&self, parts: &Parts<'_>) -> bool {
        parts.issuer() == self.issuer || parts.issuer() == LEGACY_ISSUER
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
        let token = self.sign(&claims)?;
        // What the asker is told is the time it asked for, so that it refreshes in time.
        let shown = now_seconds + wanted.lifetime_seconds;
        let expires = Timestamp::from_second(shown).map_err(|e| e.to_string())?;
        Ok(Issued { token, expires, audiences })
    }

    /// A token that never expires, to be kept in the Secret `secret` and to be valid as long as it is there.
    ///
    /// # Errors
    /// A text when it cannot be signed.
    pub fn issue_legacy(&self, namespace: &str, account: &Reference, secret: &str) -> Result<String, String> {
        let mut claims =
            json!({"iss": LEGACY_ISSUER, "sub": format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{}", account.name)});
        for (name, value) in [
            ("namespace", namespace),
            ("secret.name", secret),
            ("service-account.name", &account.name),
            ("service-account.uid", &account.uid),
        ] {
            claims[format!("{LEGACY_CLAIMS}{name}")] = json!(value);
        }
        self.sign(&claims)
    }

    fn sign(&self, claims: &Value) -> Result<String, String> {
        let header = json!({"alg": "ES256", "kid": self.keys[0].id});
        jwt::compact(&header, claims, |bytes| {
            let signature = self.key.sign(&self.random, bytes).map_err(|e| e.to_string())?;
            Ok(signature.as_ref().to_vec())
        })
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
    ) -> Result<Accepted, String> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.verified.lock().get(&digest).cloned();
        let claims = match known {
            Some(claims) => claims,
            None => {
                let claims = Arc::new(self.verify(&Parts::parse(token)?, now)?);
                let mut verified = self.verified.lock();
                if verified.len() >= VERIFIED_MAX {
                    verified.clear();
                }
                verified.insert(digest, claims.clone());
                claims
            }
        };
        if claims.expires.is_some_and(|at| now.as_second() >= at) {
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
        match claims.expires {
            Some(_) => still_there(&claims, now, view)?,
            None => still_kept(&claims, token, view)?,
        }
        let stale_seconds = claims.warn_after.map(|at| now.as_second() - at).filter(|s| *s > 0);
        Ok(Accepted { identity: identity(&claims), audiences: good, stale_seconds })
    }

    /// Signature, issuer, times and shape.
    fn verify(&self, parts: &Parts<'_>, now: Timestamp) -> Result<Claims, String> {
        let named = self.keys.iter().any(|k| k.id == parts.key_id());
        let mut keys = self.keys.iter().filter(|k| !named || k.id == parts.key_id());
        // The one algorithm that is ever used with a key: a header cannot choose another.
        if !keys.any(|k| parts.header["alg"] == k.preferred() && parts.signed_by(k)) {
            return Err("invalid signature".into());
        }
        let claims = &parts.claims;
        match parts.issuer() {
            LEGACY_ISSUER => return self.legacy(claims),
            issuer if issuer == self.issuer => {}
            _ => return Err("unexpected issuer".into()),
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
            audiences: parts.audiences(),
            expires: Some(claims["exp"].as_i64().ok_or("no expiry")?),
            warn_after: private["warnafter"].as_i64(),
            id: claims["jti"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// The claims of a token that is kept in a Secret. It names no audience: it is for the API server.
    fn legacy(&self, claims: &Value) -> Result<Claims, String> {
        let text = |name: &str, missing: &str| {
            let value = claims[format!("{LEGACY_CLAIMS}{name}")].as_str().unwrap_or_default();
            if value.is_empty() { Err(format!("{missing} claim is missing")) } else { Ok(value.to_owned()) }
        };
        let namespace = text("namespace", "namespace")?;
        let secret = Reference { name: text("secret.name", "secretName")?, uid: String::new() };
        let name = text("service-account.name", "serviceAccountName")?;
        let account = Reference { name, uid: text("service-account.uid", "serviceAccountUID")? };
        if claims["sub"] != format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{}", account.name) {
            return Err("sub claim is invalid".into());
        }
        Ok(Claims {
            namespace,
            account,
            pod: None,
            node: None,
            secret: Some(secret),
            audiences: self.api_audiences.clone(),
            expires: None,
            warn_after: None,
            id: String::new(),
        })
    }

    /// The `/openid/v1/jwks` document.
    pub fn jwks(&self) -> Value {
        json!({"keys": self.keys.iter().map(PublicKey::jwk).collect::<Vec<_>>()})
    }

    /// The `/.well-known/openid-configuration` document.
    pub fn discovery(&self) -> Value {
        let mut algorithms: Vec<_> = self.keys.iter().map(PublicKey::preferred).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({"issuer": self.issuer, "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms})
    }
}

/// What a token is good for.
#[derive(Debug)]
pub struct Accepted {
    pub identity: Identity,
    /// Those of the wanted audiences that it is for.
    pub audiences: Vec<String>,
    /// Seconds since it should have been replaced, of a token whose life was extended for clients that never look again.
    pub stale_seconds: Option<i64>,
}

/// Whether what the token is bound to is still what it was.
fn still_there(claims: &Claims, now: Timestamp, view: &dyn View) -> Result<(), String> {
    let namespace = &claims.namespace;
    let find = |what: &str, resource: &str, namespace: &str, bound: &Reference| {
        let entry = view
            .get(&format!("core/{resource}/{namespace}/{}", bound.name))
            .ok_or_else(|| format!("{what} {:?} not found", bound.name))?;
        if crate::verbs::facts::facts(&entry).uid() != bound.uid {
            return Err(format!("the UID of {what} {:?} does not match the claim", bound.name));
        }
        Ok(entry)
    };
    find("service account", "serviceaccounts", namespace, &claims.account)?;
    if let Some(pod) = &claims.pod {
        let entry = find("pod", "pods", namespace, pod)?;
        if crate::verbs::facts::facts(&entry).deleting() {
            let object: Value = serde_json::from_slice(entry.value()).map_err(|e| e.to_string())?;
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

/// Whether the Secret still keeps the token, and the account that it stands for is still the same.
fn still_kept(claims: &Claims, token: &str, view: &dyn View) -> Result<(), String> {
    let (namespace, account) = (&claims.namespace, &claims.account);
    let name = claims.secret.as_ref().map_or("", |s| s.name.as_str());
    let kept = view
        .get(&format!("core/secrets/{namespace}/{name}"))
        .filter(|entry| !crate::verbs::facts::facts(entry).deleting())
        .ok_or("Token has been invalidated")?;
    let secret: Value = serde_json::from_slice(kept.value()).map_err(|e| e.to_string())?;
    let encoded = STANDARD.encode(token);
    let same = secret["data"]["token"].as_str().is_some_and(|kept| same(kept.as_bytes(), encoded.as_bytes()));
    if !same {
        return Err("Token does not match server's copy".into());
    }
    let found = view
        .get(&format!("core/serviceaccounts/{namespace}/{}", account.name))
        .ok_or_else(|| format!("serviceaccounts {:?} not found", account.name))?;
    let facts = crate::verbs::facts::facts(&found);
    if facts.deleting() {
        return Err(format!("ServiceAccount {namespace}/{} has been deleted", account.name));
    }
    if facts.uid() != account.uid {
        return Err(format!("ServiceAccount UID ({}) does not match claim ({})", facts.uid(), account.uid));
    }
    if secret["metadata"]["labels"][INVALID_SINCE].as_str().is_some_and(|since| !since.is_empty()) {
        return Err(format!(
            "the token in secret {namespace}/{name} for service account {namespace}/{} has been marked invalid. Use tokens from \
             the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the \
             secret to temporarily allow use of this token",
            account.name
        ));
    }
    Ok(())
}

/// Compares in a time that says nothing about where two texts differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
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
