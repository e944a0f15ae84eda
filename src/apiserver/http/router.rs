//! From method and path to what is asked for. The registry decides which paths lead somewhere.
//!
//! Source: apiserver `pkg/endpoints/request/requestinfo.go`, `pkg/endpoints/installer.go`.

use std::collections::HashMap;
use std::sync::LazyLock;

use http::Method;
use types::registry::{BUILT_IN, Kind, Subresource, Verb};
use types::status::Status;

use super::query::Query;

/// A path taken apart.
#[derive(Debug, PartialEq)]
pub enum Path<'a> {
    Resource(Resource<'a>),
    /// Anything else: discovery, health, documents, nothing.
    Other,
}

/// A path below a group and version, whether or not such a resource exists.
#[derive(Debug, Default, PartialEq)]
pub struct Resource<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub plural: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub subresource: &'a str,
    /// The deprecated `/watch/` prefix.
    pub watch: bool,
    /// There are more segments than any resource has.
    pub too_deep: bool,
}

/// Takes a path apart, which has been decoded: an escaped slash is a slash, as upstream reads it.
pub fn parse<'a>(path: &'a str) -> Path<'a> {
    // Four fixed segments, at most five behind them; more are only looked at by other servers.
    let mut segments: [&str; 12] = [""; 12];
    let (mut count, mut overflows) = (0, false);
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        if count == segments.len() {
            overflows = true;
            break;
        }
        segments[count] = segment;
        count += 1;
    }
    if count > 0 && segments[count - 1].is_empty() {
        count -= 1;
    }
    let segments = &segments[..count];
    let (group, version, rest) = match segments {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Path::Other,
    };
    let (watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let mut found = Resource { group, version, watch, ..Resource::default() };
    let rest = match rest {
        ["namespaces", namespace, resource, rest @ ..] if !matches!(*resource, "status" | "finalize") => {
            found.namespace = namespace;
            found.plural = resource;
            rest
        }
        [resource, rest @ ..] => {
            found.plural = resource;
            rest
        }
        [] => return Path::Other,
    };
    if let Some(name) = rest.first() {
        found.name = name;
    }
    if let Some(subresource) = rest.get(1) {
        found.subresource = subresource;
    }
    // What is behind `proxy` is another server's path.
    found.too_deep = (rest.len() > 2 || overflows) && found.subresource != "proxy";
    Path::Resource(found)
}

impl Resource<'_> {
    /// The verb by its RBAC name.
    pub fn verb(&self, method: &Method, query: &Query) -> &'static str {
        let collection = self.name.is_empty();
        match *method {
            Method::GET | Method::HEAD if !collection => "get",
            Method::GET | Method::HEAD if self.watch || query.flag("watch") => "watch",
            Method::GET | Method::HEAD => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if collection => "deletecollection",
            Method::DELETE => "delete",
            _ => "",
        }
    }

    /// Namespaces are named like what lies in them, so that a role in a namespace can speak of the namespace itself.
    pub fn authorized_namespace(&self) -> &str {
        if self.group.is_empty() && self.plural == "namespaces" { self.name } else { self.namespace }
    }

    /// The subresource of the path's kind that the path leads to, when the method is served there.
    ///
    /// # Errors
    /// 404 for a path that leads nowhere, 405 for a method that is not served, 400 for a name that none can be.
    pub fn resolve<'k>(
        &self,
        method: &Method,
        verb: &str,
        kind: Option<&'k Kind>,
    ) -> Result<Option<&'k Subresource>, Status> {
        let kind = kind.ok_or_else(Status::no_such_path)?;
        // A namespaced kind is reached within a namespace, but for listing and creating reviews; a cluster kind never.
        let placed = kind.namespaced() != self.namespace.is_empty() || (kind.namespaced() && self.name.is_empty());
        if self.too_deep || !placed {
            return Err(Status::no_such_path());
        }
        if self.subresource.is_empty() {
            let verb = Verb::ALL.iter().find(|v| v.as_str() == verb).ok_or_else(Status::method_not_allowed)?;
            // Creating across namespaces is not served.
            let across = kind.namespaced() && self.namespace.is_empty();
            let fits = match verb {
                Verb::Create => self.name.is_empty() && !across,
                Verb::Update | Verb::Patch => !self.name.is_empty(),
                Verb::DeleteCollection => !across,
                Verb::Delete | Verb::Get | Verb::List | Verb::Watch => true,
            };
            if !fits || !kind.allows(*verb) {
                return Err(Status::method_not_allowed());
            }
            check_name(self.name)?;
            return Ok(None);
        }
        let sub = kind.subresource(self.subresource).ok_or_else(Status::no_such_path)?;
        if *method == Method::OPTIONS && sub.name == "proxy" {
            return Ok(Some(sub));
        }
        let wanted = match *method {
            Method::GET | Method::HEAD => Verb::Get,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ => return Err(Status::method_not_allowed()),
        };
        if !sub.verbs.contains(&wanted) {
            return Err(Status::method_not_allowed());
        }
        check_name(self.name)?;
        Ok(Some(sub))
    }
}

/// Source: apimachinery `pkg/api/validation/path/name.go`, apiserver `pkg/registry/generic/registry/store.go`.
fn check_name(name: &str) -> Result<(), Status> {
    let why = match name {
        "." => "may not be '.'",
        ".." => "may not be '..'",
        name if name.contains('%') => "may not contain '%'",
        _ => return Ok(()),
    };
    Err(Status::bad_request(format!("Name parameter invalid: {name:?}: {why}")))
}

type Versions = HashMap<(&'static str, &'static str), HashMap<&'static str, &'static Kind>>;

/// The built-in kinds by group and version, then plural: two hashes a request instead of a walk over all kinds.
static KINDS: LazyLock<Versions> = LazyLock::new(|| {
    let mut kinds = Versions::new();
    for kind in BUILT_IN.iter() {
        kinds.entry((&kind.group, &kind.version)).or_default().insert(&kind.plural, kind);
    }
    kinds
});

pub fn kind(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.get(&(group, version))?.get(plural).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, expected) in [
            ("/api/v1/pods", Some(("", "pods", "", "", ""))),
            ("/api/v1/namespaces", Some(("", "namespaces", "", "", ""))),
            ("/api/v1/namespaces/a", Some(("", "namespaces", "", "a", ""))),
            ("/api/v1/namespaces/a/status", Some(("", "namespaces", "", "a", "status"))),
            ("/api/v1/namespaces/a/finalize", Some(("", "namespaces", "", "a", "finalize"))),
            ("/api/v1/namespaces/a/pods/", Some(("", "pods", "a", "", ""))),
            ("/api/v1/namespaces/a/pods/p/log", Some(("", "pods", "a", "p", "log"))),
            ("/api/v1/namespaces/a/pods/p:80/proxy/1/2/3/4/5/6", Some(("", "pods", "a", "p:80", "proxy"))),
            ("/apis/apps/v1/namespaces/a/deployments/d/scale", Some(("apps", "deployments", "a", "d", "scale"))),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
                Some(("rbac.authorization.k8s.io", "clusterroles", "", "system:node", "")),
            ),
            ("/api/v1/watch/namespaces/a/pods", Some(("", "pods", "a", "", ""))),
            ("/api/v1", None),
            ("/apis/apps", None),
            ("/version", None),
            ("/", None),
            ("/a/b/c/d/e/f/g/h/i/j/k/l/m", None),
        ] {
            let found = match parse(path) {
                Path::Resource(r) => Some((
                    r.group.to_owned(),
                    r.plural.to_string(),
                    r.namespace.to_string(),
                    r.name.to_string(),
                    r.subresource.to_string(),
                )),
                Path::Other => None,
            };
            let expected =
                expected.map(|(a, b, c, d, e)| (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned(), e.to_owned()));
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn what_is_served() {
        for (method, path, code) in [
            (Method::GET, "/api/v1/pods", 0),
            (Method::GET, "/api/v1/pods/p", 404),
            (Method::POST, "/api/v1/pods", 405),
            (Method::POST, "/api/v1/namespaces/a/pods", 0),
            (Method::POST, "/api/v1/namespaces/a/pods/p", 405),
            (Method::PUT, "/api/v1/namespaces/a/pods", 405),
            (Method::DELETE, "/api/v1/namespaces", 405),
            (Method::GET, "/api/v1/namespaces/a/nodes", 404),
            (Method::GET, "/api/v1/namespaces/a/widgets", 404),
            (Method::GET, "/api/v1/namespaces/a/pods/p/nothing", 404),
            (Method::DELETE, "/api/v1/namespaces/a/pods/p/status", 405),
            (Method::GET, "/api/v1/namespaces/a/pods/p/log/x", 404),
            (Method::OPTIONS, "/api/v1/namespaces/a/pods", 405),
            (Method::DELETE, "/api/v1/namespaces/a/pods/p/proxy/a/b", 0),
            (Method::GET, "/api/v1/nodes/n/proxy/pods", 0),
            (Method::OPTIONS, "/api/v1/nodes/n/proxy/pods", 0),
            (Method::GET, "/api/v1/namespaces/a/pods/..", 400),
            (Method::PUT, "/api/v1/namespaces/a/pods/a%b/status", 400),
        ] {
            let Path::Resource(resource) = parse(path) else { panic!("{path}") };
            let verb = resource.verb(&method, &Query::default());
            let kind = kind(resource.group, resource.version, resource.plural);
            let found = resource.resolve(&method, verb, kind).err().map_or(0, |s| s.code);
            assert_eq!(found, code, "{method} {path}");
        }
    }
}
