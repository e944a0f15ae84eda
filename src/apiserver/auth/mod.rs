//! Who asks, and may they: authentication (certificates, tokens, front proxies, impersonation) and authorization (RBAC, the
//! node authorizer). What never lives here: a change of an object.
//!
//! ```text
//! request → authenticate (certificate of the connection, the client's or a front proxy's
//!                         | bearer token: bootstrap, ServiceAccount, foreign issuer | anonymous) → impersonate → authorize
//!                                                                                        system:masters: yes
//!                                                                                        nodes: node, then RBAC
//!                                                                                        others: RBAC
//! ```

pub mod attributes;
pub mod authenticate;
pub mod bootstrap;
pub mod bootstrap_token;
pub mod certificate_request;
mod claims;
pub mod escalation;
pub mod front_proxy;
pub mod identity;
pub mod issuer;
pub mod jwt;
pub mod node;
pub mod rbac;
pub mod review;
pub mod settings;
pub mod token;
pub mod x509;

use store::View;

pub use attributes::{Attributes, Target};
use identity::GROUP_MASTERS;
pub use identity::Identity;
pub use settings::Settings;

/// Decides. Holds the compiled roles; cheap to ask.
pub struct Authorizer {
    pub rbac: rbac::Rbac,
}

impl Authorizer {
    /// `Ok` when allowed; otherwise the reason that is shown to reviewers, often empty.
    pub fn authorize(&self, attributes: &Attributes, view: &dyn View) -> Result<(), String> {
        if attributes.identity.in_group(GROUP_MASTERS) {
            return Ok(());
        }
        let mut why = String::new();
        if let Some(node) = attributes.identity.node_name() {
            match node::authorize(node, attributes, view) {
                Ok(()) => return Ok(()),
                Err(reason) => why = reason,
            }
        }
        if self.rbac.allows(attributes) { Ok(()) } else { Err(why) }
    }
}
