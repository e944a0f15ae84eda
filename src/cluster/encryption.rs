//! Encryption at rest: which values are kept under which key, as an `EncryptionConfiguration` says.
//!
//! A value is written with the first provider of its resource and read with whichever fits. What is found under another than
//! the first is written again when the store is opened, so that rotation is: put a new key before the others, restart, take
//! the old one away. What never lives here: the store's file.
//!
//! Source: apiserver `pkg/apis/apiserver/v1` `EncryptionConfiguration`,
//! `pkg/storage/value/encrypt/aes/aes.go`, `pkg/server/options/encryptionconfig`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Deserialize;
use store::{Opened, Seal};

/// What every encrypted value begins with, and what those of this provider do; the key's name and a colon follow.
const ENCRYPTED: &[u8] = b"k8s:enc:";
const AES_GCM: &str = "k8s:enc:aesgcm:v1:";
const VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";
/// Of a key that is made here: AES-256.
const KEY_BYTES: usize = 32;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<serde_yaml_ng::Mapping>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    keys: Vec<KeyFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    name: String,
    secret: String,
}

/// The configuration, ready for use.
pub struct Encryption {
    sets: Vec<Set>,
    random: SystemRandom,
}

struct Set {
    /// Which keys of the store: those that begin so.
    prefixes: Vec<String>,
    /// In order; `None` is the identity.
    keys: Vec<Option<Key>>,
}

struct Key {
    name: String,
    key: LessSafeKey,
}

impl std::fmt::Debug for Encryption {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encryption").field("sets", &self.sets.len()).finish_non_exhaustive()
    }
}

/// The text of a configuration that encrypts Secrets with a new key.
///
/// # Errors
/// When there are no random bytes.
pub fn generate() -> Result<String, String> {
    let mut secret = [0u8; KEY_BYTES];
    SystemRandom::new().fill(&mut secret).map_err(|_| "no random bytes")?;
    let secret = STANDARD.encode(secret);
    Ok(format!(
        "apiVersion: {VERSION}\nkind: {KIND}\nresources:\n- resources: [secrets]\n  providers:\n  - aesgcm:\n      keys:\n      \
         - name: key1\n        secret: {secret}\n  - identity: {{}}\n"
    ))
}

impl Encryption {
    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// What is wrong with it, in one line and without a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
        if file.api_version != VERSION || file.kind != KIND {
            return Err(format!("an {KIND} of {VERSION} is wanted, this is {:?} of {:?}", file.kind, file.api_version));
        }
        if file.resources.is_empty() {
            return Err("resources: Required value: at least one resource is required".into());
        }
        let mut sets = Vec::new();
        for (i, given) in file.resources.into_iter().enumerate() {
            let at = format!("resources[{i}]");
            if given.resources.is_empty() || given.providers.is_empty() {
                return Err(format!("{at}: Required value: at least one resource and one provider are required"));
            }
            let prefixes = given.resources.iter().map(|r| prefix(r)).collect();
            let mut keys = Vec::new();
            for (j, provider) in given.providers.into_iter().enumerate() {
                keys.extend(providers(provider).map_err(|why| format!("{at}.providers[{j}]: {why}"))?);
            }
            sets.push(Set { prefixes, keys });
        }
        Ok(Self { sets, random: SystemRandom::new() })
    }

    /// The same keys for reading, while what is written is not encrypted any more.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        for set in &mut self.sets {
            set.keys.insert(0, None);
        }
        self
    }

    fn set_of(&self, key: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.prefixes.iter().any(|p| key.starts_with(p.as_str())))
    }
}

/// `secrets` is `core/secrets/`, `deployments.apps` is `apps/deployments/`, `*.apps` is `apps/`, `*.` is `core/`, `*.*`
/// everything.
fn prefix(resource: &str) -> String {
    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
    let group_folder = if group.is_empty() { "core" } else { group };
    match (plural, group) {
        ("*", "*") => String::new(),
        ("*", _) => format!("{group_folder}/"),
        _ => format!("{group_folder}/{plural}/"),
    }
}

fn providers(provider: serde_yaml_ng::Mapping) -> Result<Vec<Option<Key>>, String> {
    let mut entries = provider.into_iter();
    let (Some((name, settings)), None) = (entries.next(), entries.next()) else {
        return Err("exactly one provider is wanted".into());
    };
    match name.as_str().unwrap_or_default() {
        "identity" => Ok(vec![None]),
        "aesgcm" => {
            // What is wrong is told without what stands there.
            let file: KeysFile =
                serde_yaml_ng::from_value(settings).map_err(|_| "aesgcm: keys of name and secret are wanted")?;
            if file.keys.is_empty() {
                return Err("aesgcm.keys: Required value: at least one key is required".into());
            }
            file.keys.into_iter().map(|key| Ok(Some(read_key(key)?))).collect()
        }
        other @ ("aescbc" | "secretbox" | "kms") => {
            Err(format!("{other} is not served by this version: aesgcm and identity are"))
        }
        other => Err(format!("there is no provider {other:?}")),
    }
}

fn read_key(file: KeyFile) -> Result<Key, String> {
    let KeyFile { name, secret } = file;
    if name.is_empty() || name.contains(':') {
        return Err(format!("aesgcm.keys: the name {name:?} is empty or contains a colon"));
    }
    let bytes =
        STANDARD.decode(secret.trim()).map_err(|_| format!("aesgcm.keys: the secret of {name:?} is not base64"))?;
    let algorithm = match bytes.len() {
        16 => &AES_128_GCM,
        32 => &AES_256_GCM,
        length => return Err(format!("aesgcm.keys: the secret of {name:?} has {length} bytes, 16 or 32 are wanted")),
    };
    let key =
        UnboundKey::new(algorithm, &bytes).map_err(|_| format!("aesgcm.keys: the secret of {name:?} is no key"))?;
    Ok(Key { name, key: LessSafeKey::new(key) })
}

impl Seal for Encryption {
    fn seal(&self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let Some(with) = self.set_of(key).and_then(|set| set.keys.first()).and_then(Option::as_ref) else {
            return Ok(None);
        };
        let mut nonce = [0u8; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| "no random bytes")?;
        let mut text = value.to_vec();
        // A value belongs to its key: moved to another one it cannot be read.
        let aad = Aad::from(key.as_bytes());
        let tag = with.key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text);
        let tag = tag.map_err(|_| "the value is too long to be encrypted")?;
        let mut stored = Vec::with_capacity(AES_GCM.len() + with.name.len() + 1 + NONCE_LEN + text.len() + 16);
        stored.extend_from_slice(AES_GCM.as_bytes());
        stored.extend_from_slice(with.name.as_bytes());
        stored.push(b':');
        stored.extend_from_slice(&nonce);
        stored.extend_from_slice(&text);
        stored.extend_from_slice(tag.as_ref());
        Ok(Some(stored))
    }

    fn open(&self, key: &str, stored: &[u8]) -> Result<Opened, String> {
        let set = self.set_of(key);
        let first = set.and_then(|set| set.keys.first()).and_then(Option::as_ref);
        if !stored.starts_with(ENCRYPTED) {
            let allowed = set.is_none_or(|set| set.keys.iter().any(Option::is_none));
            return if allowed {
                Ok(Opened { value: None, stale: first.is_some() })
            } else {
                Err("no matching prefix found".into())
            };
        }
        let rest = stored.strip_prefix(AES_GCM.as_bytes()).ok_or("no matching prefix found")?;
        let colon = rest.iter().position(|b| *b == b':').ok_or("no matching prefix found")?;
        let (name, rest) = (&rest[..colon], &rest[colon + 1..]);
        if rest.len() < NONCE_LEN {
            return Err("the stored data was shorter than the required size".into());
        }
        let (nonce, sealed) = rest.split_at(NONCE_LEN);
        // The keys of the resource first; one that is no longer named may have its values under those of another.
        let all = set.into_iter().chain(&self.sets).flat_map(|set| &set.keys).flatten();
        for with in all.filter(|k| k.name.as_bytes() == name) {
            let mut text = sealed.to_vec();
            let Ok(nonce) = Nonce::try_assume_unique_for_key(nonce) else { break };
            if let Ok(opened) = with.key.open_in_place(nonce, Aad::from(key.as_bytes()), &mut text) {
                let length = opened.len();
                text.truncate(length);
                let stale = first.is_none_or(|first| !std::ptr::eq(first, with));
                return Ok(Opened { value: Some(text), stale });
            }
        }
        Err(format!("no key {:?} of the encryption configuration fits", String::from_utf8_lossy(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "{name: one, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}";
    const TWO: &str = "{name: two, secret: MDEyMzQ1Njc4OWFiY2RlZg==}";

    fn config(resources: &str, providers: &str) -> Encryption {
        let text = format!(
            "apiVersion: {VERSION}\nkind: {KIND}\nresources: [{{resources: {resources}, providers: {providers}}}]"
        );
        Encryption::parse(&text).unwrap_or_else(|e| panic!("{e}"))
    }

    fn keys(keys: &str) -> Encryption {
        config("[secrets]", &format!("[{{aesgcm: {{keys: [{keys}]}}}}, {{identity: {{}}}}]"))
    }

    const KEY: &str = "core/secrets/default/s";

    #[test]
    fn what_is_sealed_can_be_opened_under_its_key_alone() {
        let one = keys(ONE);
        let stored = one.seal(KEY, b"value").unwrap().unwrap();
        assert!(stored.starts_with(b"k8s:enc:aesgcm:v1:one:"));
        assert!(!stored.windows(5).any(|w| w == b"value"));
        assert_ne!(one.seal(KEY, b"value").unwrap().unwrap(), stored, "a nonce is used once");
        assert_eq!(one.open(KEY, &stored).unwrap(), Opened { value: Some(b"value".to_vec()), stale: false });
        assert!(one.open("core/secrets/default/other", &stored).is_err());
        let mut changed = stored.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(one.open(KEY, &changed).is_err());
        assert_eq!(one.seal("core/configmaps/default/c", b"value").unwrap(), None);
        assert_eq!(one.open("core/configmaps/default/c", b"value").unwrap(), Opened { value: None, stale: false });
    }

    #[test]
    fn rotation_marks_what_is_to_be_written_again() {
        let one = keys(ONE);
        let stored = one.seal(KEY, b"value").unwrap().unwrap();
        for (name, encryption, stale) in [
            ("the same", keys(ONE), false),
            ("a new one first", keys(&format!("{TWO}, {ONE}")), true),
            ("the old one first", keys(&format!("{ONE}, {TWO}")), false),
            ("switched off", keys(ONE).read_only(), true),
        ] {
            let opened = encryption.open(KEY, &stored).unwrap();
            assert_eq!(opened, Opened { value: Some(b"value".to_vec()), stale }, "{name}");
        }
        assert_eq!(keys(ONE).open(KEY, b"{}").unwrap(), Opened { value: None, stale: true });
        assert!(keys(TWO).open(KEY, &stored).is_err());
        let strict = config("[secrets]", &format!("[{{aesgcm: {{keys: [{ONE}]}}}}]"));
        assert!(strict.open(KEY, b"{}").is_err());
    }

    #[test]
    fn resources_are_prefixes() {
        for (resource, wanted) in [
            ("secrets", "core/secrets/"),
            ("deployments.apps", "apps/deployments/"),
            ("*.apps", "apps/"),
            ("*.", "core/"),
            ("*.*", ""),
        ] {
            assert_eq!(prefix(resource), wanted, "{resource}");
        }
    }

    #[test]
    fn a_generated_configuration_is_one() {
        let encryption = Encryption::parse(&generate().unwrap()).unwrap_or_else(|e| panic!("{e}"));
        assert!(encryption.seal(KEY, b"value").unwrap().is_some());
    }

    #[test]
    fn mistakes_are_named_without_the_secret() {
        let file = |providers: &str| {
            format!(
                "apiVersion: {VERSION}\nkind: {KIND}\nresources: [{{resources: [secrets], providers: [{providers}]}}]"
            )
        };
        for (text, part) in [
            ("kind: Other".to_owned(), "is wanted"),
            (format!("apiVersion: {VERSION}\nkind: {KIND}"), "at least one resource"),
            (file(""), "at least one resource and one provider"),
            (file("{kms: {name: a}}"), "kms is not served"),
            (file("{magic: {}}"), "no provider \"magic\""),
            (file("{aesgcm: {keys: []}}"), "at least one key"),
            (file("{aesgcm: {keys: [{name: a, secret: c2hvcnQ=}]}}"), "has 5 bytes"),
            (file("{aesgcm: {keys: [{name: a, secret: '!hush!'}]}}"), "not base64"),
        ] {
            let error = Encryption::parse(&text).err().unwrap_or_else(|| panic!("accepted: {text}"));
            assert!(error.contains(part) && !error.contains("hush"), "{text}: {error}");
        }
    }
}
