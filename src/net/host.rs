//! The host's side: bridge, addresses, routes, sysctls; and taking everything back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};

use crate::{
    BRIDGE, Config, Error, PREFIX, config, links,
    netlink::Socket,
    netns, nft,
    sysctl::{self, Remembered},
};

/// Bridge, addresses, sysctls and routes of the host. Returns the bridge's index.
pub(crate) fn bring_up(config: &Config, route: &mut Socket) -> Result<u32, Error> {
    let mut remembered = Remembered::open(&config.state_dir)?;
    let Some(primary) = config.pod_cidrs.first().map(|net| config::gateway(*net)) else {
        return Err(Error::invalid("pod_cidrs", "no range"));
    };
    route.batch(BRIDGE, &[links::new_bridge(BRIDGE, primary, config.mtu)])?;
    let index =
        link_names(route)?.remove(BRIDGE).ok_or_else(|| Error::Protocol { what: format!("create link {BRIDGE}") })?;
    let v6 = config::v6(&config.pod_cidrs).is_some();
    if config::v4(&config.pod_cidrs).is_some() {
        // Node ports on 127.0.0.1; the nft table keeps loopback addresses from the bridge out.
        sysctl::set(&format!("net/ipv4/conf/{BRIDGE}/route_localnet"), "1")?;
        // Everything between pods turns round at the bridge. A redirect would not only be wrong, it also uses up the rate
        // that is meant for "port unreachable". The kernel takes the larger of this and the link's own value, so
        // other links keep theirs.
        sysctl::set(&format!("net/ipv4/conf/{BRIDGE}/send_redirects"), "0")?;
        remembered.set("net.ipv4.conf.all.send_redirects", "0")?;
        remembered.set("net.ipv4.ip_forward", "1")?;
    }
    if v6 {
        sysctl::set(&format!("net/ipv6/conf/{BRIDGE}/disable_ipv6"), "0")?;
        sysctl::set(&format!("net/ipv6/conf/{BRIDGE}/accept_ra"), "0")?;
        forward_v6(&mut remembered)?;
    }
    let mut requests = vec![links::set_link(index, Some(primary), config.mtu)];
    for net in &config.pod_cidrs {
        let gateway = config::gateway(*net);
        let address = IpNet::new(gateway, net.prefix_len()).unwrap_or_else(|_| gateway.into());
        requests.push(links::new_address(index, address));
    }
    requests.extend(config.dns_ips.iter().map(|ip| links::new_address(index, (*ip).into())));
    for service in &config.service_cidrs {
        let source =
            config.pod_cidrs.iter().map(|n| config::gateway(*n)).find(|g| g.is_ipv4() == service.addr().is_ipv4());
        requests.push(links::new_route(index, service.trunc(), None, source));
    }
    route.batch(BRIDGE, &requests)?;
    Ok(index)
}

/// Makes the routes to further ranges of services these. `known` are those that are there, if anybody knows.
pub(crate) fn route_ranges(
    config: &Config,
    route: &mut Socket,
    bridge: u32,
    known: Option<&BTreeSet<IpNet>>,
    wanted: &BTreeSet<IpNet>,
) -> Result<(), Error> {
    let gateways: Vec<IpAddr> = config.pod_cidrs.iter().map(|net| config::gateway(*net)).collect();
    let there;
    let known = match known {
        Some(known) => known,
        None => {
            let mut found = BTreeSet::new();
            for gateway in &gateways {
                let all = route.dump("list routes", links::get_routes(*gateway))?;
                found.extend(all.iter().filter_map(|message| links::range_of(bridge, message)));
            }
            there = found;
            &there
        }
    };
    let source = |net: &IpNet| gateways.iter().copied().find(|gateway| gateway.is_ipv4() == net.addr().is_ipv4());
    let mut requests: Vec<_> = known.difference(wanted).map(|net| links::del_range_route(bridge, *net)).collect();
    requests.extend(wanted.difference(known).map(|net| links::new_range_route(bridge, *net, source(net))));
    route.batch(BRIDGE, &requests)
}

/// Turns IPv6 forwarding on without losing routes: a forwarding host ignores router advertisements unless `accept_ra` is 2, and
/// edge devices live on advertised default routes.
/// Source: Documentation/networking/ip-sysctl.rst, accept_ra.
fn forward_v6(remembered: &mut Remembered) -> Result<(), Error> {
    const ALL: &str = "net/ipv6/conf/all/forwarding";
    if sysctl::get(ALL).as_deref() == Some("1") {
        return Ok(());
    }
    let dir = Path::new("/proc/sys/net/ipv6/conf");
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let key = format!("net/ipv6/conf/{name}/accept_ra");
        if name != BRIDGE && sysctl::get(&key).as_deref() == Some("1") {
            remembered.set(&key, "2")?;
        }
    }
    remembered.set(ALL, "1")
}

/// Names and indices of all links.
pub(crate) fn link_names(route: &mut Socket) -> Result<BTreeMap<String, u32>, Error> {
    let name = |message: LinkMessage| {
        let index = message.header.index;
        message
            .attributes
            .into_iter()
            .find_map(|a| if let LinkAttribute::IfName(n) = a { Some((n, index)) } else { None })
    };
    Ok(route
        .dump("list links", links::get_links())?
        .into_iter()
        .filter_map(|m| if let RouteNetlinkMessage::NewLink(link) = m { name(link) } else { None })
        .collect())
}

/// Our pins in the folder; no folder is none.
pub(crate) fn pins(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("read", dir)(error)),
        Ok(entries) => Ok(entries
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX))
            .map(|e| e.path())
            .collect()),
    }
}

/// See [`crate::remove_all`].
pub(crate) fn remove_all(config: &Config) -> Result<(), Error> {
    let mut failed = Vec::new();
    match pins(&config.netns_dir) {
        Ok(pins) => failed.extend(pins.iter().filter_map(|pin| netns::unpin(pin).err())),
        Err(error) => failed.push(error),
    }
    let links =
        Socket::route().and_then(|mut route| route.batch("links", &[links::del_pod_links(), links::del_link(BRIDGE)]));
    failed.extend(links.err());
    failed.extend(nft::remove().err());
    match Remembered::open(&config.state_dir) {
        Ok(remembered) => failed.extend(remembered.restore()),
        Err(error) => failed.push(error),
    }
    if failed.is_empty() {
        for (dir, verb) in [(&config.state_dir, true), (&config.netns_dir, false)] {
            let removed = if verb { fs::remove_dir_all(dir) } else { fs::remove_dir(dir) };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => failed.push(Error::io("remove", dir)(error)),
                _ => {}
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::Teardown(failed)) }
}
