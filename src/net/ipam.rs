//! Which addresses are free. Pure: the kernel and the state folder are read elsewhere.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::Error;

/// Offsets that are used of a range at most. 65,534 pods are far beyond a node; it bounds a search in an IPv6 /64.
const OFFSETS_MAX: u32 = 65_534;

/// The addresses of one range. The network address and the first one (the bridge's) are never given out, nor is an IPv4
/// range's broadcast address. Freed addresses rest until the range has been walked through once, so that a peer's memory of
/// the previous owner has time to fade.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    range: IpNet,
    used: BTreeSet<u32>,
    next: u32,
    last: u32,
}

/// First offset that pods get.
const FIRST: u32 = 2;

impl Pool {
    pub(crate) fn new(range: IpNet) -> Self {
        let range = range.trunc();
        let bits = u32::from(range.max_prefix_len() - range.prefix_len());
        let size = if bits >= 17 { u64::from(OFFSETS_MAX) + 2 } else { 1_u64 << bits };
        let reserved_end = u64::from(range.addr().is_ipv4());
        let last = u32::try_from(size - 1 - reserved_end).unwrap_or(OFFSETS_MAX);
        Self { range, used: BTreeSet::new(), next: FIRST, last }
    }

    /// Takes the next free address.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`].
    pub(crate) fn take(&mut self) -> Result<IpAddr, Error> {
        let free = (self.next..=self.last).chain(FIRST..self.next).find(|o| !self.used.contains(o));
        let offset = free.ok_or(Error::PoolExhausted { range: self.range })?;
        self.used.insert(offset);
        self.next = if offset >= self.last { FIRST } else { offset + 1 };
        Ok(self.at(offset))
    }

    /// Marks an address of an adopted pod as taken, and goes on behind it. `false` if it is not of this range or taken.
    pub(crate) fn reserve(&mut self, ip: IpAddr) -> bool {
        let Some(offset) = self.offset(ip) else { return false };
        self.next = if offset >= self.last { FIRST } else { self.next.max(offset + 1) };
        self.used.insert(offset)
    }

    /// Frees an address; others are ignored.
    pub(crate) fn free(&mut self, ip: IpAddr) {
        if let Some(offset) = self.offset(ip) {
            self.used.remove(&offset);
        }
    }

    fn at(&self, offset: u32) -> IpAddr {
        match self.range {
            IpNet::V4(n) => Ipv4Addr::from(u32::from(n.addr()) + offset).into(),
            IpNet::V6(n) => Ipv6Addr::from(u128::from(n.addr()) + u128::from(offset)).into(),
        }
    }

    fn offset(&self, ip: IpAddr) -> Option<u32> {
        if !self.range.contains(&ip) {
            return None;
        }
        let offset = match (self.range, ip) {
            (IpNet::V4(n), IpAddr::V4(ip)) => u128::from(u32::from(ip) - u32::from(n.addr())),
            (IpNet::V6(n), IpAddr::V6(ip)) => u128::from(ip) - u128::from(n.addr()),
            (IpNet::V4(_), IpAddr::V6(_)) | (IpNet::V6(_), IpAddr::V4(_)) => return None,
        };
        u32::try_from(offset).ok().filter(|o| (FIRST..=self.last).contains(o))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(range: &str) -> Pool {
        Pool::new(range.parse().unwrap())
    }

    #[test]
    fn gives_what_lies_between_gateway_and_broadcast() {
        let mut small = pool("10.42.3.77/29");
        let all: Vec<String> = std::iter::from_fn(|| small.take().ok()).map(|ip| ip.to_string()).collect();
        assert_eq!(all, ["10.42.3.74", "10.42.3.75", "10.42.3.76", "10.42.3.77", "10.42.3.78"]);
        assert!(matches!(small.take(), Err(Error::PoolExhausted { .. })));
        small.free("10.42.3.75".parse().unwrap());
        assert_eq!(small.take().unwrap().to_string(), "10.42.3.75");
    }

    #[test]
    fn a_freed_address_rests() {
        let mut p = pool("fd42::/64");
        let first = p.take().unwrap();
        assert_eq!(first.to_string(), "fd42::2");
        p.free(first);
        assert_eq!(p.take().unwrap().to_string(), "fd42::3");
    }

    #[test]
    fn adopted_addresses_are_not_given_again() {
        let mut p = pool("10.42.0.0/24");
        assert!(p.reserve("10.42.0.2".parse().unwrap()));
        assert!(!p.reserve("10.42.0.2".parse().unwrap()));
        assert!(!p.reserve("10.42.1.2".parse().unwrap()), "another node's");
        assert!(!p.reserve("10.42.0.1".parse().unwrap()), "the bridge's");
        assert_eq!(p.take().unwrap().to_string(), "10.42.0.3");
    }

    proptest! {
        #[test]
        fn never_the_same_twice(prefix in 26u8..=30, steps in prop::collection::vec(any::<(bool, u8)>(), 0..200)) {
            let mut p = Pool::new(IpNet::new("10.1.2.0".parse().unwrap(), prefix).unwrap());
            let mut held: Vec<IpAddr> = Vec::new();
            for (take, which) in steps {
                if take {
                    if let Ok(ip) = p.take() {
                        prop_assert!(!held.contains(&ip));
                        held.push(ip);
                    } else {
                        prop_assert_eq!(held.len(), (1 << (32 - prefix)) - 3);
                    }
                } else if !held.is_empty() {
                    p.free(held.swap_remove(usize::from(which) % held.len()));
                }
            }
        }
    }
}
