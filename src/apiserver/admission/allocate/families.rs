//! Which IP families a Service has: what its writer said, what its addresses imply, what the cluster offers.
//! Source: `initIPFamilyFields` in `alloc.go`, KEP-563.

use std::net::IpAddr;

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::registry::by_kind;
use types::status::Status;

use super::{Allocator, family_of};
use crate::hooks::core::service::validate::cluster_ips;
use crate::hooks::core::service::{is_headless, needs_cluster_ip};
use crate::hooks::json::{get, has, list, map_len, same, set, text};

/// Fills in `ipFamilyPolicy` and `ipFamilies`.
pub fn complete(allocator: &Allocator, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    let name = text(get(service, "metadata"), "name").to_owned();
    let Some(spec) = service.get_mut("spec").filter(|s| s.is_object()) else { return Ok(()) };
    if !needs_cluster_ip(spec) {
        return Ok(());
    }
    let before = old.map(|old| get(old, "spec")).filter(|before| needs_cluster_ip(before));
    if let Some(before) = before
        && settled(spec, before)
    {
        return Ok(());
    }
    let selectorless = is_headless(spec) && map_len(spec, "selector") == 0;
    if !has(spec, "ipFamilyPolicy") {
        let policy = match before.map(|b| text(b, "ipFamilyPolicy")).filter(|p| !p.is_empty()) {
            Some(policy) => policy,
            None if selectorless => "RequireDualStack",
            None => "SingleStack",
        };
        set(spec, "ipFamilyPolicy", policy);
    }
    let refuse = |errors: Vec<FieldError>| {
        let kind = by_kind("", "v1", "Service").expect("the registry serves services");
        if errors.is_empty() { Ok(()) } else { Err(Status::invalid(kind, &name, &errors)) }
    };
    let path = Path::new("spec");
    let mut errors = Vec::new();
    cluster_ips(spec, &path, &mut errors);
    refuse(std::mem::take(&mut errors))?;

    let policy = text(spec, "ipFamilyPolicy").to_owned();
    let at_policy = path.child("ipFamilyPolicy");
    let mut wrong = |words: &str| errors.push(FieldError::invalid(&at_policy, policy.as_str(), words));
    if let Some(before) = before {
        for (field, words) in [
            ("clusterIPs", "must be 'SingleStack' to release the secondary cluster IP"),
            ("ipFamilies", "must be 'SingleStack' to release the secondary IP family"),
        ] {
            if policy == "SingleStack" {
                // asked for by the policy alone: the second of each goes
                if list(spec, field).len() > 1 && same(get(spec, field), get(before, field)) {
                    set(spec, field, vec![list(spec, field)[0].clone()]);
                }
            } else if !list(spec, field).is_empty() && list(before, field).len() > list(spec, field).len() {
                wrong(words);
            }
        }
    }
    if policy == "SingleStack" {
        for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if list(spec, field).len() == 2 {
                wrong(&format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"));
            }
        }
    }
    let mut families: Vec<String> = list(spec, "ipFamilies").iter().filter_map(|f| Some(f.as_str()?.into())).collect();
    for (i, ip) in list(spec, "clusterIPs").iter().enumerate() {
        let Some(ip) = ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok()) else { break };
        let family = family_of(ip);
        if i < families.len() {
            continue;
        }
        if allocator.family(family).is_none() {
            let words = format!("{family} is not configured on this cluster");
            let at = path.child("clusterIPs").index(i);
            errors.push(FieldError::invalid(&at, get(spec, "clusterIPs"), words));
        } else {
            families.push(family.to_owned());
        }
    }
    refuse(std::mem::take(&mut errors))?;

    if selectorless {
        // endpoints come from elsewhere, so both families are promised even where the cluster has one
        if families.is_empty() {
            families.push(allocator.families[0].to_owned());
        }
    } else {
        if policy == "RequireDualStack" && allocator.families.len() < 2 {
            let words = "this cluster is not configured for dual-stack services";
            errors.push(FieldError::invalid(&at_policy, policy.as_str(), words));
        }
        for (i, family) in families.iter().enumerate() {
            if allocator.family(family).is_none() {
                let at = path.child("ipFamilies").index(i);
                errors.push(FieldError::invalid(&at, family, "not configured on this cluster"));
            }
        }
        refuse(errors)?;
        if families.is_empty() {
            families.push(allocator.families[0].to_owned());
        }
    }
    if policy != "SingleStack" && families.len() == 1 && (selectorless || allocator.families.len() == 2) {
        families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.to_owned());
    }
    set(spec, "ipFamilies", json!(families));
    Ok(())
}

/// A service that prefers two stacks is not moved between one and two by a cluster that changed.
fn settled(spec: &Value, before: &Value) -> bool {
    let policy = "ipFamilyPolicy";
    let kept = |field| same(get(spec, field), get(before, field));
    text(spec, policy) == "PreferDualStack"
        && kept(policy)
        && kept("clusterIPs")
        && (kept("ipFamilies") && !list(spec, "ipFamilies").is_empty())
}
