//! Links, addresses and routes as netlink messages. Pure: builds requests, sends none.
//!
//! A pod's address stands alone (/32, /128) and everything goes through the bridge's address, pods of the same node included. So
//! every packet passes the host's routing and connection table, answers to a rewritten destination find back, and no
//! bridge-netfilter is needed.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{
        InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
        LinkMessage,
    },
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use nix::errno::Errno;

use crate::netlink::Request;

/// Index of a pod's first `eth0` in its namespace; loopback is 1. (One that is made again gets another.)
pub(crate) const INSIDE: u32 = 2;
const LOOPBACK: u32 = 1;

/// Group of the host's ends, "kedg" in ASCII: the kernel deletes a group at once, and single links in 35 ms each.
const GROUP: u32 = 0x6b65_6467;

/// A hardware address that follows from the IP address, so that a neighbour entry stays right when an address is reused and
/// the bridge's does not change with its ports. Locally administered, unicast.
pub(crate) fn hardware_address(ip: IpAddr) -> Vec<u8> {
    let low = match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let o = ip.octets();
            [o[12], o[13], o[14], o[15]]
        }
    };
    [&[0x0a, 0x58], low.as_slice()].concat()
}

/// Name of the host's end for a pod with this primary address: `kedge-0a2a0007`, 14 of the 15 bytes a name may have.
pub(crate) fn link_name(ip: IpAddr) -> String {
    let low = hardware_address(ip).iter().skip(2).map(|b| format!("{b:02x}")).collect::<String>();
    format!("{}{low}", crate::PREFIX)
}

fn link(index: u32, up: bool, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    if up {
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
    }
    message.attributes = attributes;
    message
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

/// Creates the bridge, down.
pub(crate) fn new_bridge(name: &str, gateway: IpAddr, mtu: Option<u32>) -> Request {
    let mut attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(hardware_address(gateway)),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    attributes.extend(mtu.map(LinkAttribute::Mtu));
    Request {
        message: RouteNetlinkMessage::NewLink(link(0, false, attributes)),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        tolerate: Some(Errno::EEXIST),
        what: "create",
    }
}

/// Sets a link up, and its MTU and hardware address if given.
pub(crate) fn set_link(index: u32, gateway: Option<IpAddr>, mtu: Option<u32>) -> Request {
    let mut attributes = Vec::new();
    attributes.extend(gateway.map(|ip| LinkAttribute::Address(hardware_address(ip))));
    attributes.extend(mtu.map(LinkAttribute::Mtu));
    Request {
        message: RouteNetlinkMessage::SetLink(link(index, true, attributes)),
        flags: 0,
        tolerate: None,
        what: "set up",
    }
}

/// Deletes a link by name; fine if it is gone.
pub(crate) fn del_link(name: &str) -> Request {
    Request {
        message: RouteNetlinkMessage::DelLink(link(0, false, vec![LinkAttribute::IfName(name.to_owned())])),
        flags: 0,
        tolerate: Some(Errno::ENODEV),
        what: "delete",
    }
}

/// Deletes all pod links at once; fine if there is none.
pub(crate) fn del_pod_links() -> Request {
    Request {
        message: RouteNetlinkMessage::DelLink(link(0, false, vec![LinkAttribute::Group(GROUP)])),
        flags: 0,
        tolerate: Some(Errno::ENODEV),
        what: "delete",
    }
}

/// Asks for one link, which makes the kernel finish what a carrier change has left to a worker (since Linux 6.8): without it
/// the first packets are dropped when many links change at once, and repeated a second later (measured).
/// Source: net/core/rtnetlink.c, rtnl_getlink.
fn settle(attributes: Vec<LinkAttribute>, index: u32) -> Request {
    Request {
        message: RouteNetlinkMessage::GetLink(link(index, false, attributes)),
        flags: 0,
        tolerate: None,
        what: "settle",
    }
}

/// Settles the host's end and the bridge, once the pod's end is up.
pub(crate) fn settle_host(name: &str, bridge: u32) -> [Request; 2] {
    [settle(vec![LinkAttribute::IfName(name.to_owned())], 0), settle(Vec::new(), bridge)]
}

/// Asks for all links.
pub(crate) fn get_links() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

/// Puts an address on a link. IPv6 without duplicate detection: the range is ours, and a pod must not wait a second for it.
pub(crate) fn new_address(index: u32, address: IpNet) -> Request {
    let ip = address.addr();
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Address(ip)];
    match ip {
        IpAddr::V4(_) => message.attributes.push(AddressAttribute::Local(ip)),
        IpAddr::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    Request {
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        tolerate: Some(Errno::EEXIST),
        what: "address",
    }
}

/// A route to a range by a link, or by a gateway behind it; idempotent.
pub(crate) fn new_route(index: u32, to: IpNet, gateway: Option<IpAddr>, source: Option<IpAddr>) -> Request {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(to.addr()),
        destination_prefix_length: to.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    if to.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route_address(to.addr())));
    }
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.extend(gateway.map(|ip| RouteAttribute::Gateway(route_address(ip))));
    message.attributes.extend(source.map(|ip| RouteAttribute::PrefSource(route_address(ip))));
    Request {
        message: RouteNetlinkMessage::NewRoute(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        tolerate: None,
        what: "route",
    }
}

/// The metric of routes to further ranges: the worst, so that whatever way the host has by itself is better. They are known by
/// it again, too.
const RANGE_METRIC: u32 = u32::MAX - 1;

/// A route to a range of services that nobody promised to be free elsewhere.
pub(crate) fn new_range_route(index: u32, to: IpNet, source: Option<IpAddr>) -> Request {
    let mut request = new_route(index, to, None, source);
    if let RouteNetlinkMessage::NewRoute(message) = &mut request.message {
        message.attributes.push(RouteAttribute::Priority(RANGE_METRIC));
    }
    request
}

/// Deletes such a route; fine if it is gone.
pub(crate) fn del_range_route(index: u32, to: IpNet) -> Request {
    let mut request = new_range_route(index, to, None);
    if let RouteNetlinkMessage::NewRoute(message) = request.message {
        request.message = RouteNetlinkMessage::DelRoute(message);
    }
    Request { flags: 0, tolerate: Some(Errno::ESRCH), what: "delete route", ..request }
}

/// Asks for all routes of the family of an address.
pub(crate) fn get_routes(of: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(of);
    RouteNetlinkMessage::GetRoute(message)
}

/// Where a route leads that [`new_range_route`] has made.
pub(crate) fn range_of(index: u32, message: &RouteNetlinkMessage) -> Option<IpNet> {
    let RouteNetlinkMessage::NewRoute(route) = message else { return None };
    let has = |wanted: &RouteAttribute| route.attributes.contains(wanted);
    if !has(&RouteAttribute::Oif(index)) || !has(&RouteAttribute::Priority(RANGE_METRIC)) {
        return None;
    }
    let unspecified = match route.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    });
    IpNet::new(destination.unwrap_or(unspecified), route.header.destination_prefix_length).ok()
}

/// The host's half of a pod's link: one message makes the pair, the pod's end in its namespace as `eth0` with a known index,
/// the host's end on the bridge and up. (The pod's end cannot be set up here: both ends must exist first.)
pub(crate) fn pod_host(name: &str, bridge: u32, namespace: i32, primary: IpAddr, mtu: Option<u32>) -> Vec<Request> {
    let mut peer = vec![
        LinkAttribute::IfName("eth0".to_owned()),
        LinkAttribute::NetNsFd(namespace),
        LinkAttribute::Address(hardware_address(primary)),
    ];
    peer.extend(mtu.map(LinkAttribute::Mtu));
    let mut attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Group(GROUP),
        LinkAttribute::Controller(bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(link(INSIDE, false, peer)))),
        ]),
    ];
    attributes.extend(mtu.map(LinkAttribute::Mtu));
    vec![
        Request {
            message: RouteNetlinkMessage::NewLink(link(0, true, attributes)),
            flags: NLM_F_CREATE | NLM_F_EXCL,
            tolerate: None,
            what: "create link",
        },
        hairpin(name),
    ]
}

/// Where br_netfilter is loaded (Docker does), a rewritten destination on the same bridge is bridged, not routed: a pod
/// that reaches itself through a service needs its port to send back what came in. Settings of a port are only taken
/// once it is one, hence a message of its own.
fn hairpin(name: &str) -> Request {
    let hairpin = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]),
    ];
    Request {
        message: RouteNetlinkMessage::NewLink(link(0, false, hairpin)),
        flags: 0,
        tolerate: None,
        what: "set port",
    }
}

/// Puts the host's end back on a bridge that was made anew.
pub(crate) fn join_bridge(name: &str, bridge: u32) -> [Request; 2] {
    let join = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Controller(bridge)];
    let join = Request {
        message: RouteNetlinkMessage::NewLink(link(0, true, join)),
        flags: 0,
        tolerate: None,
        what: "join bridge",
    };
    [join, hairpin(name)]
}

/// The pod's half: loopback and `eth0` up, its addresses, and a default route by each gateway, which lies on the link though no
/// address range says so.
pub(crate) fn pod_inside(inside: u32, ips: &[IpAddr], gateways: &[IpAddr]) -> Vec<Request> {
    let mut all = vec![set_link(LOOPBACK, None, None), set_link(inside, None, None)];
    all.extend(ips.iter().map(|ip| new_address(inside, IpNet::from(*ip))));
    for gateway in gateways {
        let everything = match gateway {
            IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
            IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0)),
        };
        all.push(new_route(inside, IpNet::from(*gateway), None, None));
        all.push(new_route(inside, everything, Some(*gateway), None));
    }
    all.push(settle(Vec::new(), inside));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel() {
        assert_eq!(link_name("10.42.0.7".parse().unwrap()), "kedge-0a2a0007");
        assert_eq!(link_name("fd42::1:2".parse().unwrap()), "kedge-00010002");
    }

    #[test]
    fn the_hardware_address_is_local_and_unicast() {
        let mac = hardware_address("10.42.0.7".parse().unwrap());
        assert_eq!(mac, [0x0a, 0x58, 10, 42, 0, 7]);
        assert_eq!(mac[0] & 3, 2);
    }
}
