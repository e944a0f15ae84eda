//! Tokens of foreign issuers (OpenID Connect): whose keys are fetched when a token first names them, and whose claims
//! become an identity as the configuration says.
//!
//! Nothing is fetched before a token asks for it, and nothing is fetched again but for a key that is not known yet.
//!
//! Source: apiserver `plugin/pkg/authenticator/token/oidc/oidc.go`; OpenID Connect Discovery 1.0.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;
use types::field::Path;

use super::claims::Claims;
use super::identity::Identity;
use super::jwt::{Parts, PublicKey, texts};
use super::settings;

/// Clocks of two machines differ by this much at most.
const LEEWAY_SECONDS: i64 = 300;
/// How soon a key that is not known is asked for again: strangers can name any.
const REFETCH_SECONDS: u64 = 10;
/// Longest wait for both documents of an issuer.
const FETCH_SECONDS: u64 = 10;
/// Keys of one issuer that are kept.
const KEYS_MAX: usize = 64;

/// Reads an issuer's documents.
pub trait Fetch: Send + Sync {
    /// The body behind an `https` URL. `authorities` is PEM; empty: those of the machine.
    fn get<'a>(&'a self, url: &'a str, authorities: &'a str) -> store::Pending<'a, Result<Bytes, String>>;
}

/// The configured issuers.
pub struct Issuers {
    all: Vec<Arc<Issuer>>,
    fetch: Arc<dyn Fetch>,
}

struct Issuer {
    settings: settings::Issuer,
    claims: Claims,
    known: RwLock<Vec<PublicKey>>,
    /// How they were last fetched. Held meanwhile: many requests with one new key fetch once, and those with a known key
    /// do not wait.
    fetched: Arc<Mutex<Option<Attempt>>>,
}

struct Attempt {
    /// When it ended.
    at: Instant,
    outcome: Result<(), String>,
}

impl Issuer {
    fn knows(&self, parts: &Parts<'_>) -> bool {
        let id = parts.key_id();
        self.known.read().iter().any(|k| (id.is_empty() || k.id == id) && parts.signed_by(k))
    }

    /// Fetches the keys, and says so to those who wait for `fetched`.
    async fn refresh(&self, fetch: &dyn Fetch, mut fetched: OwnedMutexGuard<Option<Attempt>>) -> Result<(), String> {
        let keys = fetch_keys(fetch, &self.settings.issuer);
        let keys = tokio::time::timeout(Duration::from_secs(FETCH_SECONDS), keys).await;
        let outcome = keys.unwrap_or_else(|_| Err("no answer in time".into()));
        let outcome = outcome.map(|keys| *self.known.write() = keys);
        *fetched = Some(Attempt { at: Instant::now(), outcome: outcome.clone() });
        outcome
    }
}

impl Issuers {
    pub fn new(all: Vec<settings::Issuer>, fetch: Arc<dyn Fetch>) -> Self {
        let all = all
            .into_iter()
            .map(|settings| {
                // They were checked when the file was read.
                let claims = Claims::compile(&settings, &Path::new("jwt"), &mut Vec::new());
                Arc::new(Issuer { settings, claims, known: RwLock::default(), fetched: Arc::default() })
            })
            .collect();
        Self { all, fetch }
    }

    /// Whom a token of one of the issuers stands for; `None` when it is nobody's here.
    pub async fn check(&self, parts: &Parts<'_>, now: Timestamp) -> Option<Result<Identity, String>> {
        let issuer = self.all.iter().find(|i| i.settings.issuer.url == parts.issuer())?;
        Some(match self.verify(issuer, parts).await {
            Ok(()) => identity(&issuer.settings, &issuer.claims, parts, now),
            Err(why) => Err(format!("oidc: verify token: {why}")),
        })
    }

    async fn verify(&self, issuer: &Arc<Issuer>, parts: &Parts<'_>) -> Result<(), String> {
        if issuer.knows(parts) {
            return Ok(());
        }
        let fetched = Arc::clone(&issuer.fetched).lock_owned().await;
        if issuer.knows(parts) {
            return Ok(());
        }
        let recent = |last: &&Attempt| last.at.elapsed() < Duration::from_secs(REFETCH_SECONDS);
        if let Some(last) = fetched.as_ref().filter(recent) {
            // Who has waited for it is told what came of it, instead of asking one after the other.
            last.outcome.clone()?;
        } else {
            // Apart from the request: one that is given up must not take the keys away from everybody else.
            let (of, fetch) = (Arc::clone(issuer), Arc::clone(&self.fetch));
            let refreshed = tokio::spawn(async move { of.refresh(&*fetch, fetched).await });
            refreshed.await.map_err(|error| error.to_string())??;
            if issuer.knows(parts) {
                return Ok(());
            }
        }
        Err("failed to verify signature: failed to verify id token signature".into())
    }
}

async fn fetch_keys(fetch: &dyn Fetch, source: &settings::Source) -> Result<Vec<PublicKey>, String> {
    let well_known = format!("{}/.well-known/openid-configuration", source.url.trim_end_matches('/'));
    let at = if source.discovery_url.is_empty() { &well_known } else { &source.discovery_url };
    let found = document(fetch, at, &source.certificate_authority).await?;
    if found["issuer"] != source.url.as_str() {
        let named = found["issuer"].as_str().unwrap_or_default();
        return Err(format!(
            "oidc: issuer did not match the issuer returned by provider, expected {:?} got {named:?}",
            source.url
        ));
    }
    let at = found["jwks_uri"].as_str().unwrap_or_default();
    let set = document(fetch, at, &source.certificate_authority).await?;
    let keys = set["keys"].as_array().into_iter().flatten().filter_map(PublicKey::from_jwk);
    Ok(keys.take(KEYS_MAX).collect())
}

async fn document(fetch: &dyn Fetch, url: &str, authorities: &str) -> Result<Value, String> {
    let body = fetch.get(url, authorities).await.map_err(|e| format!("Get {url:?}: {e}"))?;
    serde_json::from_slice(&body).map_err(|e| format!("Get {url:?}: {e}"))
}

/// Whom the claims of a token whose signature is good name.
fn identity(
    settings: &settings::Issuer,
    expressions: &Claims,
    parts: &Parts<'_>,
    now: Timestamp,
) -> Result<Identity, String> {
    let claims = &parts.claims;
    let now = now.as_second();
    let expires = claims["exp"].as_f64().ok_or("oidc: verify token: oidc: token has no expiry")?;
    if now as f64 > expires {
        return Err("oidc: verify token: oidc: token is expired".into());
    }
    if claims["nbf"].as_f64().is_some_and(|nbf| ((now + LEEWAY_SECONDS) as f64) < nbf) {
        return Err("oidc: verify token: oidc: token is not valid yet".into());
    }
    let (wanted, given) = (&settings.issuer.audiences, parts.audiences());
    if !given.iter().any(|a| wanted.contains(a)) {
        return Err(format!("oidc: expected audience in {wanted:?} got {given:?}"));
    }
    let mappings = &settings.claim_mappings;
    let prefixed = |mapping: &settings::Mapping, text: &str| {
        let prefix = mapping.prefix.as_deref().unwrap_or_default();
        format!("{prefix}{text}")
    };
    let user = match expressions.username(claims)? {
        Some(user) => user,
        None => prefixed(&mappings.username, username(&mappings.username.claim, claims)?),
    };
    let groups = match mappings.groups.claim.as_str() {
        "" => expressions.groups(claims)?.unwrap_or_default(),
        claim => texts(&claims[claim]).iter().map(|group| prefixed(&mappings.groups, group)).collect(),
    };
    for rule in settings.claim_validation_rules.iter().filter(|rule| !rule.claim.is_empty()) {
        let (claim, wanted) = (&rule.claim, &rule.required_value);
        let found = claims.get(claim).ok_or_else(|| format!("oidc: required claim {claim} not present in ID token"))?;
        let found = found.as_str().ok_or_else(|| format!("oidc: parse claim {claim}: it is not a text"))?;
        if found != wanted {
            return Err(format!("oidc: required claim {claim} value does not match. Got = {found}, want = {wanted}"));
        }
    }
    let mut extra = BTreeMap::new();
    if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
        extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]);
    }
    let uid = match mappings.uid.claim.as_str() {
        "" => expressions.uid(claims)?.unwrap_or_default(),
        claim => {
            let uid = claims[claim].as_str();
            uid.ok_or_else(|| format!("oidc: parse uid claim {claim:?}: claim not present"))?.to_owned()
        }
    };
    extra.extend(expressions.extra(claims)?);
    expressions.check_claims(claims)?;
    let mut identity = Identity { user, uid, groups, extra };
    expressions.check_user(&identity)?;
    identity.add_authenticated();
    Ok(identity)
}

/// The name that a claim holds. An address counts when it was verified, or when nobody says whether.
fn username<'c>(name: &str, claims: &'c Value) -> Result<&'c str, String> {
    let user =
        claims[name].as_str().ok_or_else(|| format!("oidc: parse username claims {name:?}: claim not present"))?;
    if name == "email" {
        match &claims["email_verified"] {
            Value::Null | Value::Bool(true) => {}
            _ => return Err("oidc: email not verified".into()),
        }
    }
    Ok(user)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use serde_json::json;

    use super::super::jwt;
    use super::*;

    const URL: &str = "https://issuer.example";

    /// An issuer's web server.
    struct Site {
        keys: parking_lot::Mutex<Value>,
        asked: AtomicUsize,
        delay: Duration,
    }

    impl Fetch for Site {
        fn get<'a>(&'a self, url: &'a str, _: &'a str) -> store::Pending<'a, Result<Bytes, String>> {
            let document = match url.strip_prefix(URL) {
                Some("/.well-known/openid-configuration") => json!({"issuer": URL, "jwks_uri": format!("{URL}/keys")}),
                Some("/keys") => {
                    self.asked.fetch_add(1, Ordering::SeqCst);
                    self.keys.lock().clone()
                }
                _ => return Box::pin(async { Err("404".to_owned()) }),
            };
            Box::pin(async move {
                tokio::time::sleep(self.delay).await;
                Ok(document.to_string().into())
            })
        }
    }

    fn key() -> EcdsaKeyPair {
        let random = ring::rand::SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        jwt::signer(pkcs8.as_ref()).unwrap()
    }

    fn token(key: &EcdsaKeyPair, claims: &Value) -> String {
        let random = ring::rand::SystemRandom::new();
        let id = PublicKey::of_signer(key).id;
        jwt::compact(&json!({"alg": "ES256", "kid": id}), claims, |bytes| {
            Ok(key.sign(&random, bytes).unwrap().as_ref().to_vec())
        })
        .unwrap()
    }

    fn set(keys: &[&EcdsaKeyPair]) -> Value {
        json!({"keys": keys.iter().map(|k| PublicKey::of_signer(k).jwk()).collect::<Vec<_>>()})
    }

    fn site(keys: &[&EcdsaKeyPair], delay: Duration) -> Arc<Site> {
        Arc::new(Site { keys: parking_lot::Mutex::new(set(keys)), asked: AtomicUsize::new(0), delay })
    }

    fn settings() -> settings::Issuer {
        serde_json::from_value(json!({"issuer": {"url": URL, "audiences": ["kedge"]},
            "claimValidationRules": [{"claim": "hd", "requiredValue": "example.org"}],
            "claimMappings": {"username": {"claim": "email", "prefix": "oidc:"}, "groups": {"claim": "roles", "prefix": ""},
                "uid": {"claim": "sub"}}}))
        .unwrap()
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn claims() -> Value {
        json!({"iss": URL, "aud": ["other", "kedge"], "exp": 1_800_000_060, "sub": "7", "jti": "x", "hd": "example.org",
            "email": "ann@example.org", "roles": ["dev", "ops"]})
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_fetched_when_they_are_first_named() {
        let (one, two) = (key(), key());
        let site = site(&[&one], Duration::ZERO);
        let issuers = Issuers::new(vec![settings()], site.clone());
        let check = async |key: &EcdsaKeyPair| {
            let token = token(key, &claims());
            issuers.check(&Parts::parse(&token).unwrap(), now()).await.unwrap()
        };
        let ann = check(&one).await.unwrap();
        assert_eq!((ann.user.as_str(), ann.uid.as_str()), ("oidc:ann@example.org", "7"));
        assert_eq!(ann.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(ann.extra["authentication.kubernetes.io/credential-id"], ["JTI=x"]);
        assert!(check(&one).await.is_ok());
        assert_eq!(site.asked.load(Ordering::SeqCst), 1);
        // A key that the issuer does not have yet, asked for again and again, is fetched once in a while.
        *site.keys.lock() = set(&[&one, &two]);
        assert!(check(&two).await.is_err());
        tokio::time::advance(Duration::from_secs(REFETCH_SECONDS)).await;
        assert!(check(&two).await.is_ok());
        assert!(check(&one).await.is_ok());
        assert_eq!(site.asked.load(Ordering::SeqCst), 2);
        let other = token(&one, &json!({"iss": "https://other.example"}));
        assert!(issuers.check(&Parts::parse(&other).unwrap(), now()).await.is_none());
    }

    /// Nobody can keep the keys from others by asking for them and going away.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_given_up_does_not_end_the_fetch() {
        let one = key();
        let site = site(&[&one], Duration::from_secs(1));
        let issuers = Issuers::new(vec![settings()], site.clone());
        let token = token(&one, &claims());
        let parts = Parts::parse(&token).unwrap();
        let gone = tokio::time::timeout(Duration::from_millis(1), issuers.check(&parts, now())).await;
        assert!(gone.is_err());
        assert!(issuers.check(&parts, now()).await.unwrap().is_ok());
        assert_eq!(site.asked.load(Ordering::SeqCst), 1);
    }

    /// An issuer that takes longer than its answers are kept: all who wait for one fetch are told what came of it.
    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_more_than_one_fetch() {
        let (one, stranger) = (key(), key());
        let site = site(&[&one], Duration::from_secs(2 * FETCH_SECONDS));
        let issuers = Issuers::new(vec![settings()], site.clone());
        let token = token(&stranger, &claims());
        let parts = Parts::parse(&token).unwrap();
        let begun = Instant::now();
        let answers = futures_util::future::join_all((0..5).map(|_| issuers.check(&parts, now()))).await;
        for answer in answers {
            assert_eq!(answer.unwrap().unwrap_err(), "oidc: verify token: no answer in time");
        }
        assert_eq!(begun.elapsed().as_secs(), FETCH_SECONDS);
    }

    #[test]
    fn claims_that_do_not_do_are_named() {
        let key = key();
        for (name, value, part) in [
            ("exp", json!(1_799_999_999), "token is expired"),
            ("nbf", json!(1_800_000_301), "not valid yet"),
            ("aud", json!("other"), "expected audience"),
            ("hd", json!("other"), "required claim hd value does not match"),
            ("email_verified", json!(false), "email not verified"),
            ("email", json!(null), "parse username claims"),
            ("sub", json!(null), "parse uid claim"),
        ] {
            let mut changed = claims();
            changed[name] = value;
            let token = token(&key, &changed);
            let error = identity(&settings(), &Claims::default(), &Parts::parse(&token).unwrap(), now()).unwrap_err();
            assert!(error.contains(part), "{name}: {error}");
        }
    }

    #[test]
    fn expressions_make_identities() {
        let settings = |more: &Value| -> settings::Issuer {
            let mut settings = json!({"issuer": {"url": URL, "audiences": ["kedge"]}, "claimMappings": {
                "username": {"expression": "'oidc:' + claims.sub"},
                "groups": {"expression": "claims.roles.map(r, 'g:' + r)"},
                "uid": {"expression": "claims.?jti.orValue('')"},
                "extra": [{"key": "example.org/mail", "valueExpression": "claims.email"},
                    {"key": "example.org/none", "valueExpression": "''"}]}});
            for (field, value) in more.as_object().unwrap() {
                settings[field] = value.clone();
            }
            serde_json::from_value(settings).unwrap()
        };
        let key = key();
        let check = |more: Value| {
            let settings = settings(&more);
            let mut errors = Vec::new();
            let expressions = Claims::compile(&settings, &Path::new("jwt"), &mut errors);
            assert!(errors.is_empty(), "{errors:?}");
            let token = token(&key, &claims());
            identity(&settings, &expressions, &Parts::parse(&token).unwrap(), now())
        };
        let ann = check(json!({})).unwrap();
        assert_eq!((ann.user.as_str(), ann.uid.as_str()), ("oidc:7", "x"));
        assert_eq!(ann.groups, ["g:dev", "g:ops", "system:authenticated"]);
        assert_eq!(ann.extra["example.org/mail"], ["ann@example.org"]);
        assert!(!ann.extra.contains_key("example.org/none"));
        let good = json!({"claimValidationRules": [{"expression": "claims.hd == 'example.org'"}],
            "userValidationRules": [{"expression": "!user.username.startsWith('system:')"}, {"expression": "user.groups.size() == 2"}]});
        assert!(check(good).is_ok());
        for (more, why) in [
            (
                json!({"claimValidationRules": [{"expression": "claims.hd == 'a'", "message": "not ours"}]}),
                "oidc: error evaluating claim validation expression: validation expression 'claims.hd == 'a'' failed: not ours",
            ),
            (
                json!({"userValidationRules": [{"expression": "user.username == ''", "message": "named"}]}),
                "oidc: error evaluating user info validation rule: validation expression 'user.username == ''' failed: named",
            ),
            (
                json!({"claimMappings": {"username": {"expression": "claims.absent"}}}),
                "oidc: error evaluating username claim expression: expression 'claims.absent' resulted in error: no such key: absent",
            ),
            (
                json!({"claimMappings": {"username": {"expression": "claims.roles"}}}),
                "oidc: error evaluating username claim expression: username claim expression must return a string",
            ),
            (
                json!({"claimMappings": {"username": {"expression": "''"}}}),
                "oidc: empty username via CEL expression is not allowed",
            ),
            (
                json!({"claimMappings": {"username": {"expression": "'a'"}, "groups": {"expression": "1"}}}),
                "oidc: error evaluating group claim expression: expression must return a string or a list of strings",
            ),
        ] {
            assert_eq!(check(more).unwrap_err(), why);
        }
    }
}
