//! The ConfigMaps, Secrets and claims that pods of this node use, each watched by itself while somebody uses it: the node must not see, nor
//! pay for, the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::object::Object;
use client::reflector::{self, Source};
use client::{Cache, Client, Key};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::pod;
use crate::translate::env::Objects as Fetched;
use crate::volume::claims::claim_name;

/// How long a first answer is waited for. Source: the kubelet's watch-based manager.
const SYNC_SECONDS_MAX: u64 = 10;

/// Called with the uid of a pod when something that it uses has changed.
pub type Changed = Arc<dyn Fn(&str) + Send + Sync>;

/// What a pod names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
    pub claims: BTreeSet<String>,
}

/// Source: `pkg/kubelet/configmap`, `secret` (getConfigMapNames, getSecretNames); pull secrets included.
pub fn references(pod: &Pod) -> References {
    let mut r = References::default();
    let spec = pod::spec(pod);
    r.secrets.extend(spec.image_pull_secrets.iter().flatten().map(|s| s.name.clone()));
    for (_, c) in pod::containers(pod) {
        for from in c.env_from.iter().flatten() {
            r.config_maps.extend(from.config_map_ref.iter().map(|m| m.name.clone()));
            r.secrets.extend(from.secret_ref.iter().map(|s| s.name.clone()));
        }
        for from in c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            r.config_maps.extend(from.config_map_key_ref.iter().map(|m| m.name.clone()));
            r.secrets.extend(from.secret_key_ref.iter().map(|s| s.name.clone()));
        }
    }
    for v in spec.volumes.iter().flatten() {
        r.claims.extend(claim_name(pod, v).map(|(name, _)| name));
        r.config_maps.extend(v.config_map.iter().map(|m| m.name.clone()));
        r.secrets.extend(v.secret.iter().filter_map(|s| s.secret_name.clone()));
        for source in v.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            r.config_maps.extend(source.config_map.iter().map(|m| m.name.clone()));
            r.secrets.extend(source.secret.iter().map(|s| s.name.clone()));
        }
    }
    r.config_maps.retain(|n| !n.is_empty());
    r.secrets.retain(|n| !n.is_empty());
    r
}

struct Watched<K> {
    cache: Arc<Cache<K>>,
    users: Arc<Mutex<BTreeSet<String>>>,
    stop: CancellationToken,
}

type Table<K> = Mutex<HashMap<Key, Watched<K>>>;

pub struct Objects {
    client: Client,
    changed: Changed,
    config_maps: Table<ConfigMap>,
    secrets: Table<Secret>,
    claims: Table<PersistentVolumeClaim>,
    /// What each pod holds, for giving it back.
    held: Mutex<HashMap<String, (String, References)>>,
}

impl Objects {
    pub fn new(client: Client, changed: Changed) -> Objects {
        Objects {
            client,
            changed,
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
            claims: Mutex::default(),
            held: Mutex::default(),
        }
    }

    /// Begins to watch what the pod names (and no longer what it named before). Idempotent.
    pub fn hold(&self, pod: &Pod) {
        let (uid, namespace) = (pod::uid(pod).to_owned(), pod::namespace(pod).to_owned());
        let wanted = references(pod);
        let before = self.held.lock().insert(uid.clone(), (namespace.clone(), wanted.clone()));
        for name in &wanted.config_maps {
            acquire(&self.config_maps, &self.client, &self.changed, &namespace, name, &uid);
        }
        for name in &wanted.secrets {
            acquire(&self.secrets, &self.client, &self.changed, &namespace, name, &uid);
        }
        for name in &wanted.claims {
            acquire(&self.claims, &self.client, &self.changed, &namespace, name, &uid);
        }
        if let Some((namespace, old)) = before {
            for name in old.claims.difference(&wanted.claims) {
                release(&self.claims, &namespace, name, &uid);
            }
            for name in old.config_maps.difference(&wanted.config_maps) {
                release(&self.config_maps, &namespace, name, &uid);
            }
            for name in old.secrets.difference(&wanted.secrets) {
                release(&self.secrets, &namespace, name, &uid);
            }
        }
    }

    /// Gives back everything that the pod holds. Idempotent.
    pub fn release(&self, uid: &str) {
        if let Some((namespace, old)) = self.held.lock().remove(uid) {
            old.config_maps.iter().for_each(|name| release(&self.config_maps, &namespace, name, uid));
            old.secrets.iter().for_each(|name| release(&self.secrets, &namespace, name, uid));
            old.claims.iter().for_each(|name| release(&self.claims, &namespace, name, uid));
        }
    }

    /// Everything that the pod names, as of now. Errors: the API server did not answer in time.
    pub async fn fetch(&self, pod: &Pod) -> Result<Fetched, String> {
        let wanted = references(pod);
        let namespace = pod::namespace(pod);
        let mut fetched = Fetched::default();
        for name in wanted.config_maps {
            let object = get(&self.config_maps, namespace, &name, "configmap").await?;
            fetched.config_maps.insert(name, object);
        }
        for name in wanted.secrets {
            let object = get(&self.secrets, namespace, &name, "secret").await?;
            fetched.secrets.insert(name, object);
        }
        Ok(fetched)
    }

    /// A claim that the pod names, as of now. Errors: the API server did not answer in time.
    pub async fn claim(&self, namespace: &str, name: &str) -> Result<Option<Arc<PersistentVolumeClaim>>, String> {
        get(&self.claims, namespace, name, "persistentvolumeclaim").await
    }

    /// Number of open watches.
    pub fn watches(&self) -> usize {
        self.config_maps.lock().len() + self.secrets.lock().len() + self.claims.lock().len()
    }
}

fn acquire<K: Object>(table: &Table<K>, client: &Client, changed: &Changed, namespace: &str, name: &str, uid: &str) {
    let mut table = table.lock();
    let watched = table.entry(Key::new(namespace, name)).or_insert_with(|| {
        let cache = Arc::new(Cache::<K>::new(|_| ()));
        let users: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let (told, changed) = (Arc::clone(&users), Arc::clone(changed));
        cache.on_change(Box::new(move |_, _| {
            let users: Vec<String> = told.lock().iter().cloned().collect();
            users.iter().for_each(|uid| changed(uid));
        }));
        let source = Source {
            client: client.clone(),
            collection: client::api::collection_path::<K>(namespace),
            label_selector: String::new(),
            field_selector: format!("metadata.name={name}"),
            metadata_only: false,
        };
        let stop = CancellationToken::new();
        tokio::spawn(reflector::run(source, Arc::clone(&cache) as _, stop.clone()));
        Watched { cache, users, stop }
    });
    watched.users.lock().insert(uid.to_owned());
}

fn release<K>(table: &Table<K>, namespace: &str, name: &str, uid: &str) {
    let mut table = table.lock();
    let key = Key::new(namespace, name);
    if let Some(watched) = table.get(&key) {
        let unused = {
            let mut users = watched.users.lock();
            users.remove(uid);
            users.is_empty()
        };
        if unused {
            watched.stop.cancel();
            table.remove(&key);
        }
    }
}

async fn get<K: Object>(table: &Table<K>, namespace: &str, name: &str, what: &str) -> Result<Option<Arc<K>>, String> {
    let key = Key::new(namespace, name);
    let Some(cache) = table.lock().get(&key).map(|w| Arc::clone(&w.cache)) else {
        return Err(format!("object \"{namespace}\"/\"{name}\" not registered"));
    };
    match tokio::time::timeout(Duration::from_secs(SYNC_SECONDS_MAX), cache.synced()).await {
        Ok(()) => Ok(cache.get(&key)),
        Err(_) => Err(format!("failed to sync {what} cache: timed out waiting for the condition")),
    }
}

/// The credentials in a pod's pull secrets. Source: `pkg/credentialprovider/config.go`.
pub fn pull_credentials(
    secrets: &BTreeMap<String, Option<Arc<Secret>>>,
    names: &[String],
) -> Vec<crate::images::Credentials> {
    let mut all = Vec::new();
    for secret in names.iter().filter_map(|n| secrets.get(n).and_then(Option::as_ref)) {
        let data = secret.data.as_ref();
        let new = data
            .and_then(|d| d.get(".dockerconfigjson"))
            .and_then(|t| serde_json::from_slice::<serde_json::Value>(&t.0).ok());
        let old =
            data.and_then(|d| d.get(".dockercfg")).and_then(|t| serde_json::from_slice::<serde_json::Value>(&t.0).ok());
        let table = new.as_ref().and_then(|v| v.get("auths")).or(old.as_ref()).and_then(serde_json::Value::as_object);
        for (registry, entry) in table.into_iter().flatten() {
            let text = |name: &str| entry.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
            let (mut username, mut password) = (text("username"), text("password"));
            if username.is_empty() {
                use base64::Engine as _;
                let auth = base64::engine::general_purpose::STANDARD.decode(text("auth")).unwrap_or_default();
                if let Some((u, p)) = String::from_utf8_lossy(&auth).split_once(':') {
                    (username, password) = (u.to_owned(), p.trim_end_matches('\0').to_owned());
                }
            }
            let registry = registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
            all.push(crate::images::Credentials {
                registry: registry.to_owned(),
                username,
                password,
                token: text("identitytoken"),
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_that_a_pod_names() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "ns"}, "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "cm1"}}, {"secretRef": {"name": "s1"}}]}],
            "containers": [{"name": "c", "env": [
                {"name": "a", "valueFrom": {"configMapKeyRef": {"name": "cm2", "key": "k"}}},
                {"name": "b", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}]}],
            "volumes": [{"name": "v", "configMap": {"name": "cm3"}}, {"name": "w", "secret": {"secretName": "s3"}},
                {"name": "p", "projected": {"sources": [{"configMap": {"name": "cm4"}}, {"secret": {"name": "s4"}}]}}]}}))
        .unwrap();
        let r = references(&pod);
        assert_eq!(r.config_maps.into_iter().collect::<Vec<_>>(), ["cm1", "cm2", "cm3", "cm4"]);
        assert_eq!(r.secrets.into_iter().collect::<Vec<_>>(), ["pull", "s1", "s2", "s3", "s4"]);
    }

    #[test]
    fn credentials_in_both_forms() {
        use base64::Engine as _;
        let b64 = |t: &str| base64::engine::general_purpose::STANDARD.encode(t);
        let config = json!({"auths": {"https://r.example/": {"auth": b64("me:pass:word")}}}).to_string();
        let secret: Secret = serde_json::from_value(json!({"data": {".dockerconfigjson": b64(&config)}})).unwrap();
        let old: Secret = serde_json::from_value(
            json!({"data": {".dockercfg": b64(&json!({"o.example": {"username": "u", "password": "p"}}).to_string())}}),
        )
        .unwrap();
        let secrets = [("a".to_owned(), Some(Arc::new(secret))), ("b".to_owned(), Some(Arc::new(old)))].into();
        let all = pull_credentials(&secrets, &["a".into(), "b".into(), "none".into()]);
        let shown: Vec<_> =
            all.iter().map(|c| (c.registry.as_str(), c.username.as_str(), c.password.as_str())).collect();
        assert_eq!(shown, [("r.example", "me", "pass:word"), ("o.example", "u", "p")]);
    }
}
