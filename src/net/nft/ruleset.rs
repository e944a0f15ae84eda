//! The table's fixed part: chains, rules and empty maps. What it means for a packet:
//!
//! - `prerouting`, `output` (nat): a destination that is served goes to its chain, which rewrites it to an endpoint. Local
//!   addresses are tried as node ports, recognised by the host's routes, so that an address that comes or goes needs no update.
//! - `postrouting` (nat): sources are kept wherever the answer returns through this host by itself. Masqueraded is what loops
//!   back to its own sender, what leaves the pods' network, what was rewritten but leaves through another link than the
//!   bridge, and loopback. No packet marks are used, so none can collide with the host's.
//! - `forward`, `local` (filter): what still has a service address after rewriting is served by nobody: refused at once. The
//!   rules about ranges besides the configured ones are in `ranges`, which is written anew when those change.
//! - `guard` (raw): packets for loopback addresses that come from the bridge die; `route_localnet`, which node ports on
//!   127.0.0.1 need, would let them in.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{
    elements::{Family, Kind, SharedChain},
    wire::{
        Batch, Ct, DROP, Data, Field, GOTO, Hook, ICMP_TYPE, IP4_DESTINATION, IP4_SOURCE, IP6_DESTINATION, IP6_SOURCE,
        JUMP, Meta, PORT_DESTINATION, R0, RETURN, Reject, Rule, Type, flag,
    },
};
use crate::{BRIDGE, Config, TABLE};

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const TCP: u8 = 6;
const ICMP6: u8 = 58;
const ICMP6_REDIRECT: u8 = 137;
/// `RTN_LOCAL`, as the fib expression loads it.
const LOCAL: [u8; 4] = 2u32.to_ne_bytes();
/// `IPS_DST_NAT` of a connection's status.
const REWRITTEN: [u8; 4] = (1u32 << 5).to_ne_bytes();
/// Established and related.
const KNOWN: [u8; 4] = (2u32 | 4).to_ne_bytes();
/// Most remembered clients of all sticky services together and per family: 64 bytes and a key each, 8 MiB at the very most.
/// Past it new clients are balanced as without affinity.
const STICKY_MAX: u32 = 65_535;
/// Dynset operations.
const ADD: u32 = 0;
const UPDATE: u32 = 1;

/// The chain of the rules about further ranges.
const RANGES: &str = "ranges";

/// Hook numbers of the inet family.
const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    }
}

fn address(family: Family) -> Type {
    match family {
        Family::V4 => Type::Ipv4,
        Family::V6 => Type::Ipv6,
    }
}

fn source(family: Family) -> Field {
    match family {
        Family::V4 => IP4_SOURCE,
        Family::V6 => IP6_SOURCE,
    }
}

fn destination(family: Family) -> Field {
    match family {
        Family::V4 => IP4_DESTINATION,
        Family::V6 => IP6_DESTINATION,
    }
}

/// Name of the map of sticky clients: (client, destination) → endpoint. Packets fill it.
pub(super) fn clients(family: Family) -> String {
    format!("sticky{}", family.digit())
}

fn key(kind: Kind, family: Family) -> (&'static [Type], Data) {
    use Type::{Ipv4, Ipv6, Mark, Port, Protocol};
    match (kind, family) {
        (Kind::Services, Family::V4) => (&[Ipv4, Protocol, Port], Data::Verdict),
        (Kind::Services, Family::V6) => (&[Ipv6, Protocol, Port], Data::Verdict),
        (Kind::Ports, _) => (&[Protocol, Port], Data::Verdict),
        // The fourth part is a plain number; "mark" is the type of that size that nft can print.
        (Kind::Endpoints, Family::V4) => (&[Ipv4, Protocol, Port, Mark], Data::Value(&[Ipv4, Port])),
        (Kind::Endpoints, Family::V6) => (&[Ipv6, Protocol, Port, Mark], Data::Value(&[Ipv6, Port])),
        (Kind::Hairpin, Family::V4) => (&[Ipv4, Ipv4], Data::Nothing),
        (Kind::Hairpin, Family::V6) => (&[Ipv6, Ipv6], Data::Nothing),
        (Kind::Dead, Family::V4) => (&[Ipv4, Protocol, Port], Data::Nothing),
        (Kind::Dead, Family::V6) => (&[Ipv6, Protocol, Port], Data::Nothing),
    }
}

/// Writes the fixed part into the batch and returns the name of the chain that marks this very version of it.
pub(super) fn base(batch: &mut Batch, config: &Config) -> String {
    let mut fresh = Batch::new();
    write(&mut fresh, config);
    // FNV-1a of the messages themselves: another rule, another range, another name.
    let hash = fresh
        .bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let version = format!("version-{hash:016x}");
    write(batch, config);
    batch.chain(TABLE, &version, None);
    version
}

fn write(b: &mut Batch, config: &Config) {
    b.table(TABLE);
    for family in Family::BOTH {
        for kind in Kind::ALL {
            let (key, data) = key(kind, family);
            b.set(TABLE, &kind.name(family), 0, key, data, 0);
        }
        let (client, data): (&[Type], _) = match family {
            Family::V4 => {
                (&[Type::Ipv4, Type::Ipv4, Type::Protocol, Type::Port], Data::Value(&[Type::Ipv4, Type::Port]))
            }
            Family::V6 => {
                (&[Type::Ipv6, Type::Ipv6, Type::Protocol, Type::Port], Data::Value(&[Type::Ipv6, Type::Port]))
            }
        };
        b.set(TABLE, &clients(family), flag::TIMEOUT | flag::EVAL, client, data, STICKY_MAX);
    }
    for (chain, kind, number, priority) in [
        ("guard", "filter", PREROUTING, -300),
        ("prerouting", "nat", PREROUTING, -100),
        ("output", "nat", OUTPUT, -100),
        ("postrouting", "nat", POSTROUTING, 100),
        ("forward", "filter", FORWARD, 0),
        ("local", "filter", OUTPUT, 0),
    ] {
        b.chain(TABLE, chain, Some(Hook { kind, number, priority }));
    }
    for chain in ["services", "ports", "unserved", RANGES, "refuse"] {
        b.chain(TABLE, chain, None);
    }
    guard(b);
    services(b);
    unserved(b, config);
    postrouting(b, config);
}

fn guard(b: &mut Batch) {
    b.rule(TABLE, "guard", |r| {
        r.input(BRIDGE).family(Family::V4).within(IP4_DESTINATION, LOOPBACK).verdict(DROP, None);
    });
}

const LOOPBACK: IpNet = IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8));
const MULTICAST: IpNet = IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(224, 0, 0, 0), 4));
const MULTICAST6: IpNet =
    IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8));

fn services(b: &mut Batch) {
    for chain in ["prerouting", "output"] {
        b.rule(TABLE, chain, |r| {
            r.verdict(JUMP, Some("services"));
        });
    }
    for family in Family::BOTH {
        b.rule(TABLE, "services", |r| {
            r.family(family).load_destination(R0, family).lookup(R0, &Kind::Services.name(family), 0);
        });
    }
    b.rule(TABLE, "services", |r| {
        r.destination_type(R0).equals(R0, &LOCAL).verdict(GOTO, Some("ports"));
    });
    for family in Family::BOTH {
        b.rule(TABLE, "ports", |r| {
            r.family(family).load_port(R0).lookup(R0, &Kind::Ports.name(family), 0);
        });
    }
}

fn unserved(b: &mut Batch, config: &Config) {
    // The host would tell pods to talk to each other directly, past the connection table: pods ignore it, so do not say it.
    // (For IPv4 a sysctl does this, IPv6 has none.)
    b.rule(TABLE, "local", |r| {
        r.output(BRIDGE).family(Family::V6).meta(R0, Meta::Protocol).equals(R0, &[ICMP6]);
        r.payload(R0, ICMP_TYPE).equals(R0, &[ICMP6_REDIRECT]).verdict(DROP, None);
    });
    for chain in ["forward", "local"] {
        b.rule(TABLE, chain, |r| {
            r.ct(R0, Ct::State).mask(R0, &KNOWN).differs(R0, &[0; 4]).verdict(RETURN, None);
        });
        b.rule(TABLE, chain, |r| {
            r.verdict(JUMP, Some("unserved"));
        });
    }
    for net in &config.service_cidrs {
        let family = Family::of(net.addr());
        b.rule(TABLE, "unserved", |r| {
            // The DNS address is in the range and local.
            r.family(family).within(destination(family), *net);
            r.destination_type(R0).differs(R0, &LOCAL).verdict(GOTO, Some("refuse"));
        });
    }
    b.rule(TABLE, "unserved", |r| {
        r.verdict(JUMP, Some(RANGES));
    });
    for family in Family::BOTH {
        b.rule(TABLE, "unserved", |r| {
            r.family(family)
                .load_destination(R0, family)
                .contained(R0, &Kind::Dead.name(family))
                .verdict(GOTO, Some("refuse"));
        });
    }
    b.rule(TABLE, "refuse", |r| {
        r.meta(R0, Meta::Protocol).equals(R0, &[TCP]).reject(Reject::TcpReset);
    });
    b.rule(TABLE, "refuse", |r| {
        r.reject(Reject::PortUnreachable);
    });
}

/// Replaces the rules about further ranges. Nobody promises that these are nobody else's: only what is about to leave by the
/// bridge and is for no pod was meant for a service.
pub(super) fn ranges(b: &mut Batch, config: &Config, ranges: &BTreeSet<IpNet>) {
    b.flush_rules(TABLE, RANGES);
    if ranges.is_empty() {
        return;
    }
    for net in &config.pod_cidrs {
        let family = Family::of(net.addr());
        b.rule(TABLE, RANGES, |r| {
            r.family(family).within(destination(family), *net).verdict(RETURN, None);
        });
    }
    for net in ranges {
        let family = Family::of(net.addr());
        b.rule(TABLE, RANGES, |r| {
            r.output(BRIDGE).family(family).within(destination(family), *net);
            r.destination_type(R0).differs(R0, &LOCAL).verdict(GOTO, Some("refuse"));
        });
    }
}

fn postrouting(b: &mut Batch, config: &Config) {
    let chain = "postrouting";
    for family in Family::BOTH {
        b.rule(TABLE, chain, |r| {
            r.family(family).payload(R0, source(family)).payload(R0 + address(family).width() / 4, destination(family));
            r.contained(R0, &Kind::Hairpin.name(family)).masquerade();
        });
    }
    b.rule(TABLE, chain, |r| {
        r.output("lo").verdict(RETURN, None);
    });
    b.rule(TABLE, chain, |r| {
        r.family(Family::V4).within(IP4_SOURCE, LOOPBACK).masquerade();
    });
    b.rule(TABLE, chain, |r| {
        r.output(BRIDGE).verdict(RETURN, None);
    });
    for net in &config.cluster_cidrs {
        let family = Family::of(net.addr());
        b.rule(TABLE, chain, |r| {
            r.family(family).within(source(family), *net).within(destination(family), *net).verdict(RETURN, None);
        });
    }
    for net in &config.pod_cidrs {
        let family = Family::of(net.addr());
        let multicast = if family == Family::V4 { MULTICAST } else { MULTICAST6 };
        b.rule(TABLE, chain, |r| {
            r.family(family).within(source(family), *net).outside(destination(family), multicast).masquerade();
        });
    }
    b.rule(TABLE, chain, |r| {
        r.ct(R0, Ct::Status).mask(R0, &REWRITTEN).differs(R0, &[0; 4]).masquerade();
    });
}

/// Writes a shared chain: draw a number, look the endpoint up, rewrite; with affinity, ask what was drawn before first.
pub(super) fn shared(b: &mut Batch, chain: &SharedChain) {
    let (name, family) = (chain.name(), chain.family);
    let words = address(family).width() / 4;
    b.chain(TABLE, &name, None);
    let load = |r: &mut Rule<'_>, at: u32| {
        if chain.any_address {
            r.constant(at, &vec![0; words as usize * 4]);
        } else {
            r.payload(at, destination(family));
        }
        r.load_port(at + words);
    };
    let endpoint = Kind::Endpoints.name(family);
    if chain.sticky_seconds == 0 {
        b.rule(TABLE, &name, |r| {
            load(r, R0);
            r.random(R0 + words + 2, chain.endpoints);
            r.lookup(R0, &endpoint, R0).destination_nat(nfproto(family), R0, R0 + words);
        });
        return;
    }
    let milliseconds = u64::from(chain.sticky_seconds) * 1000;
    let load_client = |r: &mut Rule<'_>| {
        r.payload(R0, source(family));
        load(r, R0 + words);
    };
    // Registers: client, destination, protocol, port; then the endpoint. IPv6 fills 10 and 5 of the 16.
    let destination_at = R0 + words;
    let endpoint_at = R0 + 2 * words + 2;
    // A client that is known: renew its time, then rewrite. (Endpoints that vanish are taken out by user space.)
    b.rule(TABLE, &name, |r| {
        load_client(r);
        r.lookup(R0, &clients(family), endpoint_at);
        r.remember(&clients(family), UPDATE, R0, endpoint_at, milliseconds);
        r.destination_nat(nfproto(family), endpoint_at, endpoint_at + words);
    });
    // Draw. The number takes the endpoint's first register, behind (destination, protocol, port) as the map wants it.
    b.rule(TABLE, &name, |r| {
        load_client(r);
        r.random(endpoint_at, chain.endpoints).lookup(destination_at, &endpoint, endpoint_at);
        r.remember(&clients(family), ADD, R0, endpoint_at, milliseconds);
        r.destination_nat(nfproto(family), endpoint_at, endpoint_at + words);
    });
    // The map of clients is full: the rule above broke off. Balance as without affinity.
    b.rule(TABLE, &name, |r| {
        load(r, R0);
        r.random(R0 + words + 2, chain.endpoints);
        r.lookup(R0, &endpoint, R0).destination_nat(nfproto(family), R0, R0 + words);
    });
}

/// Sentences of this table's rules.
impl Rule<'_> {
    fn family(&mut self, family: Family) -> &mut Self {
        self.meta(R0, Meta::Family).equals(R0, &[nfproto(family)])
    }

    fn load_port(&mut self, at: u32) -> &mut Self {
        self.meta(at, Meta::Protocol).payload(at + 1, PORT_DESTINATION)
    }

    fn load_destination(&mut self, at: u32, family: Family) -> &mut Self {
        self.payload(at, destination(family)).load_port(at + address(family).width() / 4)
    }

    fn input(&mut self, link: &str) -> &mut Self {
        self.meta(R0, Meta::InputName).equals(R0, &name16(link))
    }

    fn output(&mut self, link: &str) -> &mut Self {
        self.meta(R0, Meta::OutputName).equals(R0, &name16(link))
    }

    fn within(&mut self, field: Field, net: IpNet) -> &mut Self {
        let (mask, value) = mask_value(net);
        self.payload(R0, field).mask(R0, &mask).equals(R0, &value)
    }

    fn outside(&mut self, field: Field, net: IpNet) -> &mut Self {
        let (mask, value) = mask_value(net);
        self.payload(R0, field).mask(R0, &mask).differs(R0, &value)
    }
}

/// A link name as the kernel compares it: IFNAMSIZ bytes, zero filled.
fn name16(link: &str) -> [u8; 16] {
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().zip(link.bytes()) {
        *to = from;
    }
    name
}

fn mask_value(net: IpNet) -> (Vec<u8>, Vec<u8>) {
    match net {
        IpNet::V4(n) => (n.netmask().octets().to_vec(), n.network().octets().to_vec()),
        IpNet::V6(n) => (n.netmask().octets().to_vec(), n.network().octets().to_vec()),
    }
}
