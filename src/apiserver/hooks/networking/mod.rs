//! The kinds of networking.k8s.io. Source: `pkg/apis/networking/validation/validation.go`, `pkg/apis/networking/v1/defaults.go`,
//! `pkg/registry/networking/*/strategy.go`.

use super::Hooks;

mod class;
mod ingress;
mod policy;
mod range;

/// The hooks of a kind of the group.
pub fn named(kind: &str) -> Option<&'static Hooks> {
    Some(match kind {
        "Ingress" => &ingress::HOOKS,
        "IngressClass" => &class::HOOKS,
        "IPAddress" => &range::IP_ADDRESS,
        "NetworkPolicy" => &policy::HOOKS,
        "ServiceCIDR" => &range::SERVICE_CIDR,
        _ => return None,
    })
}
