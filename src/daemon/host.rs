//! What this host is: its name and its addresses.
//!
//! Identity never hangs on either of them (a node is its key); they are what the Node object shows and certificates name.

use std::net::{IpAddr, Ipv4Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// The host's name in lower case, as a node name; `localhost` when it has none that could be one.
pub fn node_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok()).unwrap_or_default().to_lowercase();
    if types::names::dns1123_subdomain(&name).is_empty() { name } else { "localhost".into() }
}

/// One interface address, with what decides between several.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    interface: String,
    address: IpAddr,
}

/// The node's addresses: one IPv4 and one IPv6, from the interface of the default route, else from the first that is up.
/// A host with no network at all is `127.0.0.1`: it still runs its pods.
pub fn addresses() -> Vec<IpAddr> {
    choose(&interface_addresses(), default_route_interface().as_deref())
}

fn choose(found: &[Found], default_route: Option<&str>) -> Vec<IpAddr> {
    let pick = |v4: bool| {
        let of_family = || found.iter().filter(move |f| f.address.is_ipv4() == v4);
        of_family().find(|f| Some(f.interface.as_str()) == default_route).or_else(|| of_family().next())
    };
    let chosen: Vec<IpAddr> = [pick(true), pick(false)].into_iter().flatten().map(|f| f.address).collect();
    if chosen.is_empty() { vec![Ipv4Addr::LOCALHOST.into()] } else { chosen }
}

fn interface_addresses() -> Vec<Found> {
    let mut found = Vec::new();
    for entry in getifaddrs().into_iter().flatten() {
        let up = entry.flags.contains(InterfaceFlags::IFF_UP) && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        if !up || ours(&entry.interface_name) {
            continue;
        }
        let Some(storage) = entry.address else { continue };
        let address: IpAddr = if let Some(v4) = storage.as_sockaddr_in() {
            v4.ip().into()
        } else if let Some(v6) = storage.as_sockaddr_in6() {
            v6.ip().into()
        } else {
            continue;
        };
        if usable(address) {
            found.push(Found { interface: entry.interface_name, address });
        }
    }
    found
}

/// Links that Kedge or another container system made are not the host's own.
fn ours(interface: &str) -> bool {
    ["kedge", "veth", "docker", "cni", "flannel", "virbr"].iter().any(|p| interface.starts_with(p))
}

fn usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0) != 0xfe80 && !v6.is_unspecified(),
    }
}

/// The interface of the IPv4 default route. Source: proc_net(5), `/proc/net/route`.
fn default_route_interface() -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/route").ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace();
        let (interface, destination) = (columns.next()?, columns.next()?);
        (destination == "00000000").then(|| interface.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(interface: &str, address: &str) -> Found {
        Found { interface: interface.into(), address: address.parse().unwrap() }
    }

    #[test]
    fn the_default_route_decides() {
        let all = [found("a0", "10.1.0.1"), found("b0", "10.2.0.1"), found("b0", "fd00::1"), found("a0", "fd01::1")];
        let ips = |list: &[&str]| -> Vec<IpAddr> { list.iter().map(|t| t.parse().unwrap()).collect() };
        assert_eq!(choose(&all, Some("b0")), ips(&["10.2.0.1", "fd00::1"]));
        assert_eq!(choose(&all, None), ips(&["10.1.0.1", "fd00::1"]));
        assert_eq!(choose(&all[..1], Some("b0")), ips(&["10.1.0.1"]));
        assert_eq!(choose(&[], None), ips(&["127.0.0.1"]));
    }
}
