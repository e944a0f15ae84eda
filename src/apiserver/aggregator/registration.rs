//! An APIService as the server reads it.

use std::sync::Arc;

use base64::Engine as _;
use serde_json::Value;

use super::Link;
use crate::hooks::json::{boolean, get, int, list, text};
use crate::tls::{Own, Trust};
use crate::webhook::Target;

/// Where APIServices lie in the store.
pub const STORE_PREFIX: &str = "apiregistration.k8s.io/apiservices/";

/// A group and version, and who serves it.
#[derive(Debug)]
pub struct Registration {
    pub name: String,
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    /// `None`: this server itself.
    pub remote: Option<Remote>,
}

/// Another server, for one group and version.
#[derive(Debug, Clone)]
pub struct Remote {
    /// The same for as long as it is the same server.
    pub link: Arc<Link>,
}

/// What the APIService of a group and version is called.
pub fn name(group: &str, version: &str) -> String {
    format!("{version}.{group}")
}

/// Where the object of that name lies in the store.
pub fn key(name: &str) -> String {
    // Between the two would be a namespace.
    format!("{STORE_PREFIX}/{name}")
}

impl Registration {
    /// Reads a stored object; `known` is what was read of it before. `None` for bytes that are none.
    pub fn read(bytes: &[u8], known: Option<&Arc<Self>>, own: Option<&Arc<Own>>) -> Option<Self> {
        let object: Value = serde_json::from_slice(bytes).ok()?;
        let spec = get(&object, "spec");
        let (group, version) = (text(spec, "group").to_owned(), text(spec, "version").to_owned());
        // Without a service it is served here.
        let remote = Target::parse(spec).ok().map(|target| {
            let available = condition(&object).is_some_and(|c| text(c, "status") == "True");
            let link = Link::new(target, trust(spec, own), &root(&group, &version), available);
            let known = known.and_then(|k| k.remote.as_ref()).map(|remote| &remote.link);
            let link = known.filter(|known| known.is_same(&link)).cloned().unwrap_or_else(|| Arc::new(link));
            Remote { link }
        });
        Some(Self {
            name: text(get(&object, "metadata"), "name").to_owned(),
            group_priority: int(spec, "groupPriorityMinimum").unwrap_or(0),
            version_priority: int(spec, "versionPriority").unwrap_or(0),
            group,
            version,
            remote,
        })
    }
}

/// The path below which a group and version is served.
pub fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// The condition that says whether it is available.
pub fn condition(object: &Value) -> Option<&Value> {
    list(get(object, "status"), "conditions").iter().find(|c| text(c, "type") == "Available")
}

fn trust(spec: &Value, own: Option<&Arc<Own>>) -> Trust {
    // Validation has refused what is no base64.
    let bundle = base64::engine::general_purpose::STANDARD.decode(text(spec, "caBundle")).unwrap_or_default();
    Trust { bundle, insecure: boolean(spec, "insecureSkipTLSVerify"), own: own.cloned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_stays_the_same_while_it_is_reached_in_the_same_way() {
        let object = |port: u16, status: &str| {
            json!({"metadata": {"name": "v1.acme.io"}, "status": {"conditions": [{"type": "Available", "status": status}]},
                "spec": {"group": "acme.io", "version": "v1", "groupPriorityMinimum": 7, "versionPriority": 8,
                    "service": {"namespace": "n", "name": "s", "port": port}, "caBundle": "YWJj"}})
            .to_string()
        };
        let read = |text: &str, known: Option<&Arc<Registration>>| Registration::read(text.as_bytes(), known, None);
        let first = Arc::new(read(&object(443, "False"), None).unwrap());
        assert_eq!((first.group_priority, first.version_priority), (7, 8));
        let link = |r: &Registration| r.remote.clone().unwrap().link;
        let later = read(&object(443, "True"), Some(&first)).unwrap();
        assert!(Arc::ptr_eq(&link(&first), &link(&later)) && !link(&first).is_available());
        let moved = read(&object(444, "True"), Some(&first)).unwrap();
        assert!(!Arc::ptr_eq(&link(&first), &link(&moved)) && link(&moved).is_available());
        let local = json!({"metadata": {"name": "v1."}, "spec": {"version": "v1"}}).to_string();
        assert!(read(&local, Some(&first)).unwrap().remote.is_none());
        assert!(read("nothing", None).is_none());
    }

    #[test]
    fn paths() {
        assert_eq!((root("", "v1"), root("a.b", "v2")), ("/api/v1".into(), "/apis/a.b/v2".into()));
    }
}
