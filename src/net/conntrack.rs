//! Flows that the kernel still sends to endpoints that are gone. Only UDP: TCP notices by itself, and clients open anew.
//!
//! A UDP client that keeps its port (DNS resolvers, syslog) renews its flow for ever, and with it the rewriting to an endpoint
//! that no longer exists.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use crate::{
    Error, Frontend, Protocol, ServiceTable,
    netlink::{DONE, HEADER, Socket},
    nft::attribute,
};

/// `NFNL_SUBSYS_CTNETLINK` in the high byte of a message type.
const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Bytes of `struct nfgenmsg`.
const GENERIC: usize = 4;

/// UDP flows to forget.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stale {
    /// Rewritten to this endpoint.
    pairs: BTreeSet<(Frontend, SocketAddr)>,
    /// Not rewritten at all, because there was no endpoint; there is one now.
    plain: BTreeSet<Frontend>,
}

impl Stale {
    pub(crate) fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.plain.is_empty()
    }

    /// Whether a flow to `destination`, answered from `answerer`, is one of these.
    fn covers(&self, destination: SocketAddr, answerer: SocketAddr) -> bool {
        let frontends = [Some(destination.ip()), None].map(|address| Frontend {
            address,
            protocol: Protocol::Udp,
            port: destination.port(),
        });
        frontends
            .iter()
            .any(|f| self.pairs.contains(&(*f, answerer)) || (destination == answerer && self.plain.contains(f)))
    }
}

/// What a change of tables makes stale. Pure.
pub(crate) fn stale(old: &ServiceTable, new: &ServiceTable) -> Stale {
    let mut stale = Stale::default();
    let udp = |table: &'_ ServiceTable| {
        table
            .frontends
            .iter()
            .filter(|(f, _)| f.protocol == Protocol::Udp)
            .map(|(f, b)| (*f, b.endpoints.clone()))
            .collect::<Vec<_>>()
    };
    for (frontend, before) in udp(old) {
        let after = new.frontends.get(&frontend).map(|b| &b.endpoints);
        let gone = before.into_iter().filter(|e| !after.is_some_and(|a| a.contains(e)));
        stale.pairs.extend(gone.map(|endpoint| (frontend, endpoint)));
    }
    for (frontend, after) in udp(new) {
        if !after.is_empty() && old.frontends.get(&frontend).is_none_or(|b| b.endpoints.is_empty()) {
            stale.plain.insert(frontend);
        }
    }
    stale
}

/// Walks the connection table once and deletes what is stale.
pub(crate) fn forget(stale: &Stale) -> Result<(), Error> {
    const WHAT: &str = "list connections";
    let mut socket = Socket::netfilter()?;
    let sequence = socket.reserve(1);
    socket.send(WHAT, &message(GET, DUMP, sequence, 0, &[]))?;
    let mut doomed: Vec<(u8, Vec<u8>)> = Vec::new();
    loop {
        let done = socket.receive(WHAT, |header, message| {
            if header.sequence != sequence {
                return Ok(false);
            }
            if let Some(errno) = header.errno(message) {
                return if errno == 0 { Ok(true) } else { Err(failed(WHAT, errno)) };
            }
            let body = message.get(HEADER + GENERIC..).unwrap_or_default();
            if header.kind == SUBSYSTEM | NEW
                && let (Some(origin), Some(reply)) = (attribute(body, 1), attribute(body, 2))
                && let (Some(to), Some(from)) = (endpoint(origin, true), endpoint(reply, false))
                && stale.covers(to, from)
            {
                let family = message.get(HEADER).copied().unwrap_or_default();
                // The connection's id comes along: a newer flow with the same addresses is not touched.
                let mut key = nested(1, origin);
                key.extend(attribute(body, 12).map(|id| plain(12, id)).unwrap_or_default());
                doomed.push((family, key));
            }
            Ok(header.kind == DONE)
        })?;
        if done {
            break;
        }
    }
    for (family, key) in doomed {
        let sequence = socket.reserve(1);
        socket.send("forget a flow", &message(DELETE, ACK, sequence, family, &key))?;
        socket.receive("forget a flow", |header, message| match header.errno(message) {
            Some(0) | None => Ok(true),
            Some(libc::ENOENT) => Ok(true),
            Some(errno) => Err(failed("forget a flow", errno)),
        })?;
    }
    Ok(())
}

fn failed(what: &str, errno: i32) -> Error {
    Error::Netlink { what: what.to_owned(), source: std::io::Error::from_raw_os_error(errno) }
}

/// The destination (or source) of a UDP tuple.
fn endpoint(tuple: &[u8], destination: bool) -> Option<SocketAddr> {
    let (ip, proto) = (attribute(tuple, 1)?, attribute(tuple, 2)?);
    if attribute(proto, 1)? != [Protocol::Udp.number()] {
        return None;
    }
    let (v4, v6, port) = if destination { (2, 4, 3) } else { (1, 3, 2) };
    let address = match (attribute(ip, v4), attribute(ip, v6)) {
        (Some(raw), _) => IpAddr::from(<[u8; 4]>::try_from(raw).ok()?),
        (None, Some(raw)) => IpAddr::from(<[u8; 16]>::try_from(raw).ok()?),
        (None, None) => return None,
    };
    let port = attribute(proto, port)?.try_into().ok().map(u16::from_be_bytes)?;
    Some(SocketAddr::new(address, port))
}

fn plain(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 4);
    bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    plain(kind | 0x8000, value)
}

fn message(kind: u16, flags: u16, sequence: u32, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + GENERIC + body.len());
    bytes.extend_from_slice(&((HEADER + GENERIC + body.len()) as u32).to_ne_bytes());
    bytes.extend_from_slice(&(SUBSYSTEM | kind).to_ne_bytes());
    bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[family, 0, 0, 0]);
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backends;

    fn table(protocol: Protocol, endpoints: &[&str]) -> ServiceTable {
        let frontend = Frontend { address: Some("10.43.0.7".parse().unwrap()), protocol, port: 53 };
        let endpoints = endpoints.iter().map(|e| e.parse().unwrap()).collect();
        let backends = Backends { endpoints, ..Backends::default() };
        ServiceTable { frontends: [(frontend, backends)].into(), ..ServiceTable::default() }
    }

    #[test]
    fn only_what_vanished_and_only_udp() {
        let old = table(Protocol::Udp, &["10.42.0.2:53", "10.42.0.3:53"]);
        let new = table(Protocol::Udp, &["10.42.0.3:53"]);
        let s = stale(&old, &new);
        assert!(s.covers("10.43.0.7:53".parse().unwrap(), "10.42.0.2:53".parse().unwrap()));
        assert!(!s.covers("10.43.0.7:53".parse().unwrap(), "10.42.0.3:53".parse().unwrap()));
        assert!(!s.covers("10.43.0.8:53".parse().unwrap(), "10.42.0.2:53".parse().unwrap()));
        assert!(stale(&old, &old).is_empty());
        assert!(stale(&table(Protocol::Tcp, &["10.42.0.2:53"]), &table(Protocol::Tcp, &[])).is_empty());
    }

    #[test]
    fn the_first_endpoint_ends_flows_that_were_not_rewritten() {
        let s = stale(&table(Protocol::Udp, &[]), &table(Protocol::Udp, &["10.42.0.2:53"]));
        let service = "10.43.0.7:53".parse().unwrap();
        assert!(s.covers(service, service));
        assert!(!s.covers(service, "10.42.0.2:53".parse().unwrap()));
    }
}
