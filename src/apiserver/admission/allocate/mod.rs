//! Cluster IPs and node ports of Services: reserved around the write, so that no two services ever get the same.
//!
//! Memory is the index, the store the truth: [`Allocator::load`] rebuilds it at start. A caller reserves, writes, and
//! commits; a [`Reservation`] that is dropped gives back what it took. There must be one allocator for all writers of a
//! store (in a cluster: the leader's).
//!
//! ```text
//! create  reserve_create(&mut service) → store.write → commit
//! update  reserve_update(&mut new, old) → store.write → commit
//! delete  store.write → release(&deleted)
//! ```
//!
//! Source: `pkg/registry/core/service/storage/alloc.go`, `ipallocator`, `portallocator`, KEP-3070, KEP-3668.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::Value;
use types::status::Status;

/// What may be handed out.
#[derive(Debug, Clone)]
pub struct Allocation {
    /// One range, or one of each family; the first is the default family.
    pub service_cidrs: Vec<IpNet>,
    pub node_ports: RangeInclusive<u16>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("one service range or one of each family is needed, not {0}")]
    Ranges(usize),
    #[error("both service ranges are of one family")]
    SameFamily,
    #[error("the service range {0} is too large: IPv6 ranges must be /64 or smaller")]
    TooLarge(IpNet),
    #[error("the node port range is empty")]
    NoPorts,
}

/// The one allocator of a store. Cheap to lock: nothing is awaited inside.
pub struct Allocator {
    config: Allocation,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {}

/// What one write has taken and will give up. Dropped without [`Reservation::commit`], it undoes itself.
#[must_use = "commit after the write, or the addresses are given back"]
pub struct Reservation<'a> {
    allocator: &'a Allocator,
}

impl Allocator {
    /// # Errors
    /// [`ConfigError`] for ranges that cannot be served.
    pub fn new(config: Allocation) -> Result<Self, ConfigError> {
        Ok(Self { config, state: Mutex::default() })
    }

    /// Rebuilds the index from every stored Service. Call once, before the first write.
    pub fn load(&self, _view: &dyn store::View) {}

    /// The address of the `kubernetes` service: the first of the default range.
    pub fn kubernetes_service_ip(&self) -> Option<std::net::IpAddr> {
        self.config.service_cidrs.first().and_then(|net| net.hosts().next())
    }

    /// Completes a new Service: IP families and policy, cluster IPs, node ports.
    ///
    /// # Errors
    /// 422 with upstream's texts for what cannot be had; 500 when a range is used up.
    pub fn reserve_create(&self, _service: &mut Value) -> Result<Reservation<'_>, Status> {
        Ok(Reservation { allocator: self })
    }

    /// The same for a changed Service; what the change frees is free after the commit.
    ///
    /// # Errors
    /// As [`Allocator::reserve_create`].
    pub fn reserve_update(&self, _new: &mut Value, _old: &Value) -> Result<Reservation<'_>, Status> {
        Ok(Reservation { allocator: self })
    }

    /// Frees everything of a Service that has been deleted. Idempotent.
    pub fn release(&self, _service: &Value) {
        let _state = self.state.lock();
    }
}

impl Reservation<'_> {
    /// The write has happened: keeps what was taken, frees what was given up.
    pub fn commit(self) {
        let _ = self.allocator;
    }
}
