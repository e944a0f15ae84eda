//! From the service table to the elements of the kernel's maps, and the difference between two tables. Pure.
//!
//! ```text
//! services4 { 10.43.0.7 . tcp . 80 : goto a4-3 }           a destination leads to a chain that is shared by
//! ports4    { tcp . 30080 : goto p4-3 }                    every destination with that many endpoints,
//! endpoints4 { 10.43.0.7 . tcp . 80 . 2 : 10.42.0.9 . 8080 }   which draws a number and looks its endpoint up.
//! ```
//! Node ports are filed under the unspecified address in the endpoint maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;

use super::wire::Value;
use crate::{Affinity, Backends, Frontend, ServiceTable};

/// The maps and sets that user space fills, for one family each. Their kernel names end in 4 or 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Destination address → chain.
    Services,
    /// Port of any local address → chain.
    Ports,
    /// Destination and number → endpoint.
    Endpoints,
    /// Address pairs that are a pod talking to itself through a service.
    Hairpin,
    /// Destinations without endpoints, outside the service ranges.
    Dead,
}

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(crate) fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Services, Self::Ports, Self::Endpoints, Self::Hairpin, Self::Dead];

    /// The set's name in the table.
    pub(crate) fn name(self, family: Family) -> String {
        let stem = match self {
            Self::Services => "services",
            Self::Ports => "ports",
            Self::Endpoints => "endpoints",
            Self::Hairpin => "hairpin",
            Self::Dead => "dead",
        };
        format!("{stem}{}", family.digit())
    }
}

/// A chain shared by destinations with the same number of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SharedChain {
    pub(crate) family: Family,
    /// Node ports: the destination address is not part of the key.
    pub(crate) any_address: bool,
    pub(crate) endpoints: u32,
    /// 0: no affinity.
    pub(crate) sticky_seconds: u32,
}

impl SharedChain {
    /// The chain's name in the table: `a4-3`, `p6-1`, `a4-2-10800`.
    pub(crate) fn name(&self) -> String {
        let stem = if self.any_address { 'p' } else { 'a' };
        let head = format!("{stem}{}-{}", self.family.digit(), self.endpoints);
        if self.sticky_seconds == 0 { head } else { format!("{head}-{}", self.sticky_seconds) }
    }
}

/// Elements by set.
pub(crate) type Elements = BTreeMap<(Kind, Family), BTreeMap<Vec<u8>, Value>>;

/// What does not change while the daemon runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ranges {
    /// This node's pods: only they can talk to themselves through the bridge.
    pub(crate) pods: Vec<IpNet>,
    /// What in these has no endpoints is refused by range, without an element.
    pub(crate) services: Vec<IpNet>,
}

/// All elements of a table, and the chains that they lead to.
pub(crate) fn compile(table: &ServiceTable, ranges: &Ranges) -> (Elements, BTreeSet<SharedChain>) {
    let (mut elements, mut chains) = (Elements::new(), BTreeSet::new());
    for (frontend, backends) in &table.frontends {
        frontend_elements(frontend, backends, ranges, &mut elements, &mut chains);
    }
    hairpins(table, ranges, &mut elements);
    (elements, chains)
}

/// What differs between two tables: elements only the old one has (or has otherwise), elements only the new one has (or has
/// otherwise), and the chains that the new ones lead to. Costs a walk over both and the encoding of what changed.
pub(crate) fn difference(old: &ServiceTable, new: &ServiceTable, ranges: &Ranges) -> Difference {
    let (mut before, mut after, mut chains) = (Elements::new(), Elements::new(), BTreeSet::new());
    for (frontend, backends) in &old.frontends {
        if new.frontends.get(frontend) != Some(backends) {
            frontend_elements(frontend, backends, ranges, &mut before, &mut BTreeSet::new());
        }
    }
    for (frontend, backends) in &new.frontends {
        if old.frontends.get(frontend) != Some(backends) {
            frontend_elements(frontend, backends, ranges, &mut after, &mut chains);
        }
    }
    hairpins(old, ranges, &mut before);
    hairpins(new, ranges, &mut after);
    let (remove, add) = subtract(before, after);
    Difference { remove, add, chains }
}

/// The result of [`difference`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) remove: Elements,
    pub(crate) add: Elements,
    pub(crate) chains: BTreeSet<SharedChain>,
}

/// Drops what both sides have alike.
pub(crate) fn subtract(mut before: Elements, mut after: Elements) -> (Elements, Elements) {
    for (set, new) in &mut after {
        if let Some(old) = before.get_mut(set) {
            new.retain(|key, value| {
                if old.get(key) == Some(value) {
                    old.remove(key);
                    false
                } else {
                    true
                }
            });
        }
    }
    before.retain(|_, map| !map.is_empty());
    after.retain(|_, map| !map.is_empty());
    (before, after)
}

/// What sticky clients must forget: (destination key, endpoint value) pairs that the old table had and the new one has not.
pub(crate) fn unstuck(old: &ServiceTable, new: &ServiceTable) -> BTreeSet<(Vec<u8>, Vec<u8>)> {
    let mut gone = BTreeSet::new();
    for (frontend, before) in old.frontends.iter().filter(|(_, b)| b.affinity != Affinity::None) {
        let after = new.frontends.get(frontend).map(|b| &b.endpoints);
        for endpoint in before.endpoints.iter().filter(|e| !after.is_some_and(|a| a.contains(e))) {
            let address = frontend.address.unwrap_or(Family::of(endpoint.ip()).unspecified());
            gone.insert((destination_key(address, frontend), endpoint_value(*endpoint)));
        }
    }
    gone
}

fn frontend_elements(
    frontend: &Frontend,
    backends: &Backends,
    ranges: &Ranges,
    elements: &mut Elements,
    chains: &mut BTreeSet<SharedChain>,
) {
    for family in Family::BOTH {
        if frontend.address.is_some_and(|a| Family::of(a) != family) {
            continue;
        }
        let endpoints: Vec<SocketAddr> =
            backends.endpoints.iter().copied().filter(|e| Family::of(e.ip()) == family).collect();
        let address = frontend.address.unwrap_or(family.unspecified());
        let destination = destination_key(address, frontend);
        let mut put = |kind: Kind, key: Vec<u8>, value: Value| {
            elements.entry((kind, family)).or_default().insert(key, value);
        };
        if endpoints.is_empty() {
            // Nothing listens on a node port without endpoints, so the host refuses it by itself.
            if frontend.address.is_some_and(|a| !ranges.services.iter().any(|r| r.contains(&a))) {
                put(Kind::Dead, destination, Value::Nothing);
            }
            continue;
        }
        let chain = SharedChain {
            family,
            any_address: frontend.address.is_none(),
            endpoints: endpoints.len() as u32,
            sticky_seconds: match backends.affinity {
                Affinity::None => 0,
                Affinity::ClientIp { timeout_seconds } => timeout_seconds,
            },
        };
        if frontend.address.is_some() {
            put(Kind::Services, destination.clone(), Value::Goto(chain.name()));
        } else {
            put(Kind::Ports, port_key(frontend), Value::Goto(chain.name()));
        }
        for (number, endpoint) in (0u32..).zip(&endpoints) {
            // numgen writes the machine's byte order.
            let key = [destination.as_slice(), &number.to_ne_bytes()].concat();
            put(Kind::Endpoints, key, Value::Bytes(endpoint_value(*endpoint)));
        }
        chains.insert(chain);
    }
}

fn hairpins(table: &ServiceTable, ranges: &Ranges, elements: &mut Elements) {
    for endpoint in table.frontends.values().flat_map(|b| &b.endpoints) {
        let ip = endpoint.ip();
        if ranges.pods.iter().any(|r| r.contains(&ip)) {
            let one = octets(ip);
            let key = [one.as_slice(), &one].concat();
            elements.entry((Kind::Hairpin, Family::of(ip))).or_default().insert(key, Value::Nothing);
        }
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn port_key(frontend: &Frontend) -> Vec<u8> {
    let [high, low] = frontend.port.to_be_bytes();
    vec![frontend.protocol.number(), 0, 0, 0, high, low, 0, 0]
}

fn destination_key(address: IpAddr, frontend: &Frontend) -> Vec<u8> {
    [octets(address), port_key(frontend)].concat()
}

fn endpoint_value(endpoint: SocketAddr) -> Vec<u8> {
    let [high, low] = endpoint.port().to_be_bytes();
    [octets(endpoint.ip()).as_slice(), &[high, low, 0, 0]].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Protocol;

    fn ranges() -> Ranges {
        Ranges {
            pods: vec!["10.42.0.0/24".parse().unwrap(), "fd42::/64".parse().unwrap()],
            services: vec!["10.43.0.0/16".parse().unwrap(), "fd43::/112".parse().unwrap()],
        }
    }

    pub(crate) fn table(rows: &[(&str, Protocol, u16, &[&str], Affinity)]) -> ServiceTable {
        let frontends = rows.iter().map(|(address, protocol, port, endpoints, affinity)| {
            let frontend = Frontend {
                address: (*address != "*").then(|| address.parse().unwrap()),
                protocol: *protocol,
                port: *port,
            };
            let endpoints = endpoints.iter().map(|e| e.parse().unwrap()).collect();
            (frontend, Backends { endpoints, affinity: *affinity })
        });
        ServiceTable { frontends: frontends.collect(), ..ServiceTable::default() }
    }

    fn count(elements: &Elements, kind: Kind, family: Family) -> usize {
        elements.get(&(kind, family)).map_or(0, BTreeMap::len)
    }

    #[test]
    fn a_service_is_one_verdict_and_its_endpoints() {
        let (elements, chains) = compile(
            &table(&[("10.43.0.7", Protocol::Tcp, 80, &["10.42.0.9:8080", "10.42.3.4:8080"], Affinity::None)]),
            &ranges(),
        );
        let services = &elements[&(Kind::Services, Family::V4)];
        assert_eq!(
            services.iter().collect::<Vec<_>>(),
            [(&vec![10, 43, 0, 7, 6, 0, 0, 0, 0, 80, 0, 0], &Value::Goto("a4-2".into()))]
        );
        assert_eq!(count(&elements, Kind::Endpoints, Family::V4), 2);
        // Only the pod of this node can loop back to itself here.
        assert_eq!(
            elements[&(Kind::Hairpin, Family::V4)].keys().collect::<Vec<_>>(),
            [&vec![10, 42, 0, 9, 10, 42, 0, 9]]
        );
        assert_eq!(chains.iter().map(SharedChain::name).collect::<Vec<_>>(), ["a4-2"]);
    }

    #[test]
    fn a_node_port_serves_each_family_that_has_endpoints() {
        let (elements, chains) = compile(
            &table(&[("*", Protocol::Udp, 30_053, &["10.42.0.9:53", "[fd42::9]:53", "[fd42::a]:53"], Affinity::None)]),
            &ranges(),
        );
        assert_eq!(count(&elements, Kind::Ports, Family::V4), 1);
        assert_eq!(count(&elements, Kind::Ports, Family::V6), 1);
        assert_eq!(chains.iter().map(SharedChain::name).collect::<Vec<_>>(), ["p4-1", "p6-2"]);
        assert!(elements[&(Kind::Endpoints, Family::V4)].keys().all(|k| k.starts_with(&[0, 0, 0, 0, 17])));
    }

    #[test]
    fn no_endpoints_is_an_element_only_outside_the_service_ranges() {
        let (elements, _) = compile(
            &table(&[
                ("10.43.0.7", Protocol::Tcp, 80, &[], Affinity::None),
                ("203.0.113.5", Protocol::Tcp, 80, &[], Affinity::None),
                ("*", Protocol::Tcp, 30_080, &[], Affinity::None),
                // The wrong family is no endpoint.
                ("fd43::7", Protocol::Tcp, 80, &["10.42.0.9:8080"], Affinity::None),
            ]),
            &ranges(),
        );
        assert_eq!(count(&elements, Kind::Dead, Family::V4), 1);
        assert_eq!(count(&elements, Kind::Services, Family::V4) + count(&elements, Kind::Services, Family::V6), 0);
    }

    #[test]
    fn the_same_table_differs_in_nothing() {
        let one = table(&[("10.43.0.7", Protocol::Tcp, 80, &["10.42.0.9:8080"], Affinity::None)]);
        assert_eq!(difference(&one, &one, &ranges()), Difference::default());
    }

    #[test]
    fn one_more_endpoint_costs_one_endpoint_and_one_verdict() {
        let old = table(&[("10.43.0.7", Protocol::Tcp, 80, &["10.42.1.1:80", "10.42.1.2:80"], Affinity::None)]);
        let new = table(&[(
            "10.43.0.7",
            Protocol::Tcp,
            80,
            &["10.42.1.1:80", "10.42.1.2:80", "10.42.1.3:80"],
            Affinity::None,
        )]);
        let d = difference(&old, &new, &ranges());
        assert_eq!(
            (count(&d.remove, Kind::Services, Family::V4), count(&d.remove, Kind::Endpoints, Family::V4)),
            (1, 0)
        );
        assert_eq!((count(&d.add, Kind::Services, Family::V4), count(&d.add, Kind::Endpoints, Family::V4)), (1, 1));
    }

    fn any_table() -> impl Strategy<Value = ServiceTable> {
        let address = prop_oneof![
            Just(None),
            (0u8..4).prop_map(|n| Some(IpAddr::from([10, 43, 0, n]))),
            (0u8..2).prop_map(|n| Some(IpAddr::from([203, 0, 113, n]))),
            (0u16..4).prop_map(|n| Some(IpAddr::from([0xfd43, 0, 0, 0, 0, 0, 0, n]))),
        ];
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
        let ip = prop_oneof![
            (0u8..2, 1u8..6).prop_map(|(a, b)| IpAddr::from([10, 42, a, b])),
            (0u16..2, 1u16..6).prop_map(|(a, b)| IpAddr::from([0xfd42, 0, 0, a, 0, 0, 0, b])),
        ];
        let endpoints = prop::collection::btree_set((ip, 80u16..82).prop_map(|(i, p)| SocketAddr::new(i, p)), 0..5);
        let affinity = prop_oneof![
            3 => Just(Affinity::None),
            1 => (1u32..3).prop_map(|timeout_seconds| Affinity::ClientIp { timeout_seconds })
        ];
        let row = ((address, protocol, 80u16..83), (endpoints, affinity));
        prop::collection::btree_map(
            row.0.prop_map(|(address, protocol, port)| Frontend { address, protocol, port }),
            row.1.prop_map(|(endpoints, affinity)| Backends { endpoints, affinity }),
            0..12,
        )
        .prop_map(|frontends| ServiceTable { frontends, ..ServiceTable::default() })
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_new_table(old in any_table(), new in any_table()) {
            let (mut kernel, mut chains) = compile(&old, &ranges());
            let d = difference(&old, &new, &ranges());
            for (set, keys) in &d.remove {
                for key in keys.keys() {
                    // As in the kernel: deleting what is not there fails.
                    prop_assert!(kernel.get_mut(set).and_then(|m| m.remove(key)).is_some());
                }
            }
            for (set, map) in &d.add {
                for (key, value) in map {
                    // As in the kernel: adding another value for a key that is there fails.
                    prop_assert!(kernel.entry(*set).or_default().insert(key.clone(), value.clone()).is_none());
                }
            }
            kernel.retain(|_, m| !m.is_empty());
            chains.extend(d.chains);
            let (wanted, wanted_chains) = compile(&new, &ranges());
            prop_assert_eq!(kernel, wanted);
            prop_assert!(chains.is_superset(&wanted_chains));
        }
    }
}
