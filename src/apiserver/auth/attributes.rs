//! What an authorizer is asked, and the sentence with which it says no.

use types::selector::FieldSelector;
use types::status::{Details, Reason, Status};

use super::identity::Identity;

/// One question: may this identity do this verb there?
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    pub identity: &'a Identity,
    /// An RBAC verb (`get`, `list`, `deletecollection`, `bind`, …), or the lower-case HTTP method for paths.
    pub verb: &'a str,
    pub target: Target<'a>,
}

#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// A path that names no resource.
    Path(&'a str),
    Resource {
        group: &'a str,
        version: &'a str,
        resource: &'a str,
        /// Empty for the object itself.
        subresource: &'a str,
        namespace: &'a str,
        /// Empty for collections.
        name: &'a str,
        /// Of a list, watch or deletecollection.
        fields: Option<&'a FieldSelector>,
    },
}

impl Attributes<'_> {
    /// The refusal in upstream's words. Source: apiserver `pkg/endpoints/handlers/responsewriters/errors.go`.
    pub fn forbidden(&self, why: &str) -> Status {
        let (user, verb) = (&self.identity.user, self.verb);
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        match self.target {
            Target::Path(path) => {
                let text = format!("forbidden: User {user:?} cannot {verb} path {path:?}{why}");
                let mut status = Status::new(Reason::Forbidden, text);
                status.details = Some(Box::default());
                status
            }
            Target::Resource { group, resource, subresource, namespace, name, .. } => {
                let group_resource = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
                let subject = if name.is_empty() { group_resource } else { format!("{group_resource} {name:?}") };
                let combined =
                    if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
                let place = if namespace.is_empty() {
                    "at the cluster scope".to_owned()
                } else {
                    format!("in the namespace {namespace:?}")
                };
                let text = format!(
                    "{subject} is forbidden: User {user:?} cannot {verb} resource {combined:?} in API group \
                     {group:?} {place}{why}"
                );
                let mut status = Status::new(Reason::Forbidden, text);
                status.details = Some(Box::new(Details {
                    name: name.into(),
                    group: group.into(),
                    kind: resource.into(),
                    ..Details::default()
                }));
                status
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_upstreams() {
        let bob = Identity::new("bob", &[]);
        let resource = |name, subresource, namespace| Attributes {
            identity: &bob,
            verb: "list",
            target: Target::Resource {
                group: "apps",
                version: "v1",
                resource: "deployments",
                subresource,
                namespace,
                name,
                fields: None,
            },
        };
        assert_eq!(
            resource("", "", "shop").forbidden("").message,
            r#"deployments.apps is forbidden: User "bob" cannot list resource "deployments" in API group "apps" in the namespace "shop""#
        );
        assert_eq!(
            resource("web", "scale", "").forbidden("because").message,
            r#"deployments.apps "web" is forbidden: User "bob" cannot list resource "deployments/scale" in API group "apps" at the cluster scope: because"#
        );
        let path = Attributes { identity: &bob, verb: "get", target: Target::Path("/metrics") };
        assert_eq!(path.forbidden("").message, r#"forbidden: User "bob" cannot get path "/metrics""#);
    }
}
