//! What the files of configMap, secret, downwardAPI and projected volumes contain. Pure.
//!
//! Source: `pkg/volume/configmap`, `secret`, `downwardapi`, `projected` (MakePayload, collectData).

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};

use super::atomic::{File, Payload};
use crate::pod;
use crate::translate::env::metadata_field;
use crate::translate::resources::{self, Allocatable};

fn mode(of: Option<i32>, default: u32) -> u32 {
    of.map_or(default, |m| (m as u32) & 0o777)
}

/// Picks `items` (all without any) out of named data.
fn pick<'a>(
    data: impl Iterator<Item = (&'a String, Vec<u8>)>,
    items: Option<&Vec<KeyToPath>>,
    default_mode: u32,
    optional: bool,
    what: &str,
) -> Result<Payload, String> {
    let mut all: std::collections::BTreeMap<&str, Vec<u8>> = data.map(|(k, v)| (k.as_str(), v)).collect();
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(all
            .into_iter()
            .map(|(k, data)| (PathBuf::from(k), File { data, mode: default_mode, uid: None }))
            .collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match all.get_mut(item.key.as_str()) {
            Some(data) => {
                payload.insert(
                    PathBuf::from(&item.path),
                    File { data: data.clone(), mode: mode(item.mode, default_mode), uid: None },
                );
            }
            None if optional => {}
            None => return Err(format!("references non-existent {what} key: {}", item.key)),
        }
    }
    Ok(payload)
}

/// `object`: `None` when it does not exist.
pub fn config_map(
    name: &str,
    object: Option<&ConfigMap>,
    items: Option<&Vec<KeyToPath>>,
    default_mode: u32,
    optional: bool,
) -> Result<Payload, String> {
    let Some(map) = object else {
        return if optional { Ok(Payload::new()) } else { Err(format!("configmap \"{name}\" not found")) };
    };
    let text = map.data.iter().flatten().map(|(k, v)| (k, v.as_bytes().to_vec()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k, v.0.clone()));
    pick(text.chain(binary), items, default_mode, optional, "config")
        .map_err(|e| if e.starts_with("references") { format!("configmap {e}") } else { e })
}

pub fn secret(
    name: &str,
    object: Option<&Secret>,
    items: Option<&Vec<KeyToPath>>,
    default_mode: u32,
    optional: bool,
) -> Result<Payload, String> {
    let Some(secret) = object else {
        return if optional { Ok(Payload::new()) } else { Err(format!("secret \"{name}\" not found")) };
    };
    let data = secret.data.iter().flatten().map(|(k, v)| (k, v.0.clone()));
    pick(data, items, default_mode, optional, "secret")
}

pub fn downward(
    pod: &Pod,
    items: Option<&Vec<DownwardAPIVolumeFile>>,
    default_mode: u32,
    allocatable: Allocatable,
) -> Result<Payload, String> {
    let mut payload = Payload::new();
    for item in items.into_iter().flatten() {
        let text = if let Some(f) = &item.field_ref {
            metadata_field(pod, &f.field_path)?
        } else if let Some(r) = &item.resource_field_ref {
            let name = r.container_name.as_deref().unwrap_or_default();
            let (_, c) = pod::container(pod, name).ok_or_else(|| format!("container {name} not found"))?;
            resources::field(&c, &r.resource, r.divisor.as_ref(), allocatable)?
        } else {
            continue;
        };
        let file = File { data: text.into_bytes(), mode: mode(item.mode, default_mode), uid: None };
        payload.insert(PathBuf::from(&item.path), file);
    }
    Ok(payload)
}

/// Who may read a service account's token: everybody by the default mode, or only the one user that all containers share, and
/// the fsGroup. Source: `projected.go` collectData, KEP-2451.
pub fn token(pod: &Pod, token: &str, default_mode: u32) -> File {
    let context = pod::spec(pod).security_context.as_ref();
    let fs_group = context.and_then(|s| s.fs_group).is_some();
    let of_pod = context.and_then(|s| s.run_as_user);
    let mut users =
        pod::containers(pod).into_iter().map(|(_, c)| c.security_context.and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next().flatten();
    let shared = first.filter(|uid| users.all(|u| u == Some(*uid))).and_then(|uid| u32::try_from(uid).ok());
    let (mode, uid) = match (fs_group, shared) {
        (_, Some(uid)) => (0o600, Some(uid)),
        (true, None) => (0o600, None),
        (false, None) => (default_mode, None),
    };
    File { data: token.as_bytes().to_vec(), mode, uid }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(payload: Result<Payload, String>) -> Result<Vec<(String, String, u32)>, String> {
        payload.map(|p| {
            p.into_iter()
                .map(|(path, f)| (path.display().to_string(), String::from_utf8(f.data).unwrap(), f.mode))
                .collect()
        })
    }

    #[test]
    fn keys_become_files() {
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "Mw=="}})).unwrap();
        let all = shown(config_map("m", Some(&map), None, 0o644, false)).unwrap();
        assert_eq!(all, [("a", "1"), ("b", "2"), ("c", "3")].map(|(k, v)| (k.to_owned(), v.to_owned(), 0o644)));
        let items: Vec<KeyToPath> =
            serde_json::from_value(json!([{"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 0o400}]))
                .unwrap();
        let some = shown(config_map("m", Some(&map), Some(&items), 0o600, false)).unwrap();
        assert_eq!(some, [("x/y".into(), "1".into(), 0o600), ("z".into(), "2".into(), 0o400)]);
        let missing: Vec<KeyToPath> = serde_json::from_value(json!([{"key": "no", "path": "x"}])).unwrap();
        assert_eq!(
            shown(config_map("m", Some(&map), Some(&missing), 0o644, false)),
            Err("configmap references non-existent config key: no".into())
        );
        assert_eq!(shown(config_map("m", Some(&map), Some(&missing), 0o644, true)), Ok(vec![]));
        assert_eq!(shown(config_map("m", None, None, 0o644, false)), Err("configmap \"m\" not found".into()));
        assert_eq!(shown(config_map("m", None, None, 0o644, true)), Ok(vec![]));
        assert_eq!(shown(secret("s", None, None, 0o644, false)), Err("secret \"s\" not found".into()));
    }

    #[test]
    fn downward_files_show_fields_and_resources() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"a": "1"}}, "spec": {"containers": [
            {"name": "c", "resources": {"limits": {"memory": "64Mi"}}}]}}))
            .unwrap();
        let items: Vec<DownwardAPIVolumeFile> = serde_json::from_value(json!([
            {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
            {"path": "labels", "mode": 0o400, "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "memory", "resourceFieldRef": {"containerName": "c", "resource": "limits.memory", "divisor": "1Mi"}}]))
        .unwrap();
        let got = shown(downward(&pod, Some(&items), 0o644, Allocatable::default())).unwrap();
        assert_eq!(
            got,
            [
                ("labels".into(), "a=\"1\"".into(), 0o400),
                ("memory".into(), "64".into(), 0o644),
                ("name".into(), "p".into(), 0o644)
            ]
        );
    }

    #[test]
    fn token_permissions() {
        let check = |spec: serde_json::Value, expected: (u32, Option<u32>)| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            let file = token(&pod, "t", 0o644);
            assert_eq!((file.mode, file.uid), expected, "{spec}");
        };
        check(json!({"containers": [{"name": "a"}]}), (0o644, None));
        check(
            json!({"securityContext": {"runAsUser": 5}, "containers": [{"name": "a"}, {"name": "b"}]}),
            (0o600, Some(5)),
        );
        check(
            json!({"securityContext": {"runAsUser": 5}, "containers": [{"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 6}}]}),
            (0o644, None),
        );
        check(json!({"securityContext": {"fsGroup": 5}, "containers": [{"name": "a"}]}), (0o600, None));
        check(
            json!({"securityContext": {"fsGroup": 5, "runAsUser": 6}, "containers": [{"name": "a"}]}),
            (0o600, Some(6)),
        );
    }
}
