//! Node ports of a Service, and the port that a load balancer asks for its health.
//! Source: `initNodePorts`, `updateNodePorts`, `allocHealthCheckNodePort` in `alloc.go`.

use std::slice;

use serde_json::Value;
use types::field::{FieldError, Path};
use types::status::Status;

use super::pool::Range;
use super::{Item, Refusal, Reservation, invalid, number};
use crate::hooks::core::service::defaults::allocates_node_ports;
use crate::hooks::core::service::{needs_health_check, needs_node_port};
use crate::hooks::json::{get, int, list, set};

/// The ports that a spec holds.
pub fn items(spec: &Value) -> Vec<Item> {
    let mut items = Vec::new();
    if !needs_node_port(spec) {
        return items;
    }
    let health = int(spec, "healthCheckNodePort").filter(|_| needs_health_check(spec));
    let ports = list(spec, "ports").iter().filter_map(|p| int(p, "nodePort")).chain(health);
    for port in ports.filter(|n| *n > 0).map(|n| Item::NodePort(n.unsigned_abs().into())) {
        // one number may serve two protocols
        if !items.contains(&port) {
            items.push(port);
        }
    }
    items
}

pub fn reserve(reservation: &mut Reservation, service: &mut Value, before: &[Item]) -> Result<(), Status> {
    let spec = get(service, "spec");
    if !needs_node_port(spec) {
        return Ok(());
    }
    let allocates = allocates_node_ports(spec);
    let count = list(spec, "ports").len();
    // port number → node port, so that TCP and UDP of one port share theirs
    let mut chosen: Vec<(i64, i64)> = Vec::new();
    for i in 0..count {
        let ports = list(get(service, "spec"), "ports");
        let (port, given) = (int(&ports[i], "port").unwrap_or(0), int(&ports[i], "nodePort").unwrap_or(0));
        if given == 0 && !allocates {
            continue;
        }
        let shared = chosen.iter().find(|(p, _)| *p == port).map(|(_, n)| *n);
        // a later line of the same port may name the number
        let named = ports[i..]
            .iter()
            .filter(|p| int(p, "port") == Some(port))
            .find_map(|p| int(p, "nodePort").filter(|n| *n != 0));
        let node_port = match (shared, given) {
            (Some(n), 0) => n,
            (Some(n), given) if n == given => n,
            (_, given) if given != 0 => named_port(reservation, service, i, given, before)?,
            (None, _) if named.is_some() => named_port(reservation, service, i, named.unwrap_or(0), before)?,
            _ => any_port(reservation, "nodePort")?,
        };
        chosen.push((port, node_port));
        if let Some(port) = service.get_mut("spec").and_then(|s| s.get_mut("ports")).and_then(|p| p.get_mut(i)) {
            set(port, "nodePort", node_port);
        }
    }
    health_check(reservation, service, before)
}

fn named_port(
    reservation: &mut Reservation,
    service: &Value,
    i: usize,
    wanted: i64,
    before: &[Item],
) -> Result<i64, Status> {
    let item = Item::NodePort(wanted.unsigned_abs().into());
    if before.contains(&item) || reservation.taken.contains(&item) {
        return Ok(wanted);
    }
    reservation.take(item, ports(reservation)).map(|()| wanted).map_err(|refusal| {
        let path = Path::new("spec.ports").index(i).child("nodePort");
        invalid(service, FieldError::invalid(&path, wanted, words(reservation, refusal)))
    })
}

/// The one range of ports.
fn ports<'a>(reservation: &Reservation<'a>) -> &'a [Range] {
    slice::from_ref(&reservation.allocator.node_ports)
}

fn words(reservation: &Reservation, refusal: Refusal) -> String {
    match refusal {
        Refusal::OutOfRange => {
            let Range { first, last, .. } = reservation.allocator.node_ports;
            format!("provided port is not in the valid range. The range of valid ports is {first}-{last}")
        }
        other => other.to_string(),
    }
}

fn any_port(reservation: &mut Reservation, what: &str) -> Result<i64, Status> {
    let item = reservation
        .take_any(Item::NodePort(0), ports(reservation), |_| true)
        .map_err(|refusal| Status::internal(format!("failed to allocate a {what}: {refusal}")))?;
    Ok(i64::try_from(number(item)).unwrap_or(0))
}

fn health_check(reservation: &mut Reservation, service: &mut Value, before: &[Item]) -> Result<(), Status> {
    let Some(spec) = service.get_mut("spec").filter(|spec| needs_health_check(spec)) else { return Ok(()) };
    let wanted = int(spec, "healthCheckNodePort").unwrap_or(0);
    let item = Item::NodePort(wanted.unsigned_abs().into());
    if wanted == 0 {
        let port = any_port(reservation, "HealthCheck NodePort")?;
        set(spec, "healthCheckNodePort", port);
    } else if !before.contains(&item) {
        reservation.take(item, ports(reservation)).map_err(|refusal| {
            let words = words(reservation, refusal);
            Status::internal(format!("failed to allocate requested HealthCheck NodePort {wanted}: {words}"))
        })?;
    }
    Ok(())
}
