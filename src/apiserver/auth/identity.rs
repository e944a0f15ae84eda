//! Who is asking.

use std::collections::BTreeMap;

/// Carried by every identity that has been authenticated.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// Carried by nobody in particular.
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
/// May do anything.
pub const GROUP_MASTERS: &str = "system:masters";
pub const GROUP_NODES: &str = "system:nodes";
pub const GROUP_SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
pub const USER_ANONYMOUS: &str = "system:anonymous";
pub const NODE_PREFIX: &str = "system:node:";
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// A user as the authorizer sees one.
///
/// Source: `k8s.io/apiserver/pkg/authentication/user`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    pub user: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// A user in `groups`, and in `system:authenticated`.
    pub fn new(user: impl Into<String>, groups: &[&str]) -> Self {
        let mut identity =
            Self { user: user.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..Self::default() };
        identity.add_authenticated();
        identity
    }

    /// What the parts of the same process that need everything call themselves.
    pub fn admin() -> Self {
        Self::new("system:admin", &[GROUP_MASTERS])
    }

    /// A controller or the scheduler: `system:kube-controller-manager`, `system:kube-scheduler`, or a ServiceAccount.
    pub fn component(user: &str) -> Self {
        Self::new(user, &[])
    }

    /// The node agent of that node.
    pub fn node(name: &str) -> Self {
        Self::new(format!("{NODE_PREFIX}{name}"), &[GROUP_NODES])
    }

    pub fn service_account(namespace: &str, name: &str) -> Self {
        let of_namespace = format!("{GROUP_SERVICE_ACCOUNTS}:{namespace}");
        Self::new(format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"), &[GROUP_SERVICE_ACCOUNTS, &of_namespace])
    }

    pub fn anonymous() -> Self {
        Self { user: USER_ANONYMOUS.into(), groups: vec![GROUP_UNAUTHENTICATED.into()], ..Self::default() }
    }

    pub fn is_anonymous(&self) -> bool {
        self.user == USER_ANONYMOUS
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name, when this is a node agent.
    pub fn node_name(&self) -> Option<&str> {
        self.user.strip_prefix(NODE_PREFIX).filter(|_| self.in_group(GROUP_NODES))
    }

    pub(crate) fn add_authenticated(&mut self) {
        if !self.in_group(GROUP_AUTHENTICATED) {
            self.groups.push(GROUP_AUTHENTICATED.into());
        }
    }
}
