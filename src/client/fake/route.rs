//! What a request to the fake server is about: the parts of its path, and which objects a collection's query selects.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use types::registry::{BUILT_IN, Kind, KindRef};
use types::selector::{FieldSelector, LabelSelector};
use types::status::Status;

use super::{Change, State, line, text};

/// The parts of a path.
#[derive(Clone)]
pub struct Route {
    pub kind: KindRef,
    /// Key of the collection in the state.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
    query: Vec<(String, String)>,
}

impl Route {
    pub fn parse(uri: &http::Uri, state: &State) -> Option<Self> {
        let parts: Vec<String> = uri.path().split('/').skip(1).map(unescape).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        // `namespaces/x/finalize` and `/status` are about the namespace itself.
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] if !matches!(*plural, "finalize" | "status") => {
                (*namespace, [&[*plural], rest].concat())
            }
            rest => ("", rest.to_vec()),
        };
        let is_meant = |k: &Kind| k.group == group && k.version == version && k.plural == *rest[0];
        let built_in = BUILT_IN.iter().find(|k| is_meant(k)).map(KindRef::from);
        let kind = built_in.or_else(|| state.custom().find(is_meant).map(|kind| KindRef::Custom(Arc::new(kind))))?;
        let query = uri.query().unwrap_or_default().split('&').filter(|p| !p.is_empty());
        let query = query.map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(k, v)| (unescape(k), unescape(v)));
        Some(Self {
            resource: kind.group_resource(),
            kind,
            namespace: namespace.into(),
            name: rest.get(1).copied().unwrap_or_default().into(),
            subresource: rest.get(2).copied().unwrap_or_default().into(),
            query: query.collect(),
        })
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    pub fn find(&self, state: &State) -> Result<Arc<Value>, Status> {
        let key = (self.namespace.clone(), self.name.clone());
        let found = state.objects.get(&self.resource).and_then(|o| o.get(&key)).cloned();
        found.ok_or_else(|| Status::not_found(&self.kind, &self.name))
    }
}

#[derive(Clone)]
pub struct Filter {
    resource: String,
    namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    pub fn of(route: &Route) -> Result<Self, Status> {
        let bad = |e: types::selector::ParseError| Status::bad_request(e.0);
        Ok(Self {
            resource: route.resource.clone(),
            namespace: route.namespace.clone(),
            labels: LabelSelector::parse(route.query("labelSelector").unwrap_or_default()).map_err(bad)?,
            fields: FieldSelector::parse(route.query("fieldSelector").unwrap_or_default()).map_err(bad)?,
        })
    }

    pub fn matches(&self, object: &Value) -> bool {
        (self.namespace.is_empty() || text(object, "/metadata/namespace") == self.namespace)
            && self.labels.matches(&object["metadata"]["labels"])
            && self.fields.matches(|field| text(object, &format!("/{}", field.replace('.', "/"))).into())
    }

    /// The line that a watcher sees; entering and leaving the selection are ADDED and DELETED.
    pub fn event(&self, change: &Change) -> Option<Bytes> {
        if change.resource != self.resource {
            return None;
        }
        let (before, after) = (change.old.as_ref().is_some_and(|o| self.matches(o)), self.matches(&change.object));
        let event = match (change.event, before, after) {
            ("DELETED", true, _) => "DELETED",
            ("DELETED", false, _) => return None,
            (_, false, true) => "ADDED",
            (_, true, true) => "MODIFIED",
            (_, true, false) => "DELETED",
            (_, false, false) => return None,
        };
        Some(line(event, &change.object))
    }
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match (bytes[i], text.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                i += 1;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
