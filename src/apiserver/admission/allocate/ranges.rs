//! The ranges that addresses of Services are taken from: those of the ServiceCIDRs that are stored, ready and not going.
//!
//! They are read when an address is wanted, so that a range counts from the moment in which it is ready and no more from that
//! in which it is deleted. There are few of them, and a Service is seldom made.
//!
//! Source: `pkg/registry/core/service/ipallocator/cidrallocator.go` (`syncAllocators`, `isReady`), KEP-1880.

use ipnet::IpNet;
use serde_json::Value;
use store::View;
use types::registry::{Kind, by_kind};

use super::pool::Range;
use super::{Allocator, addresses_of, family_of};
use crate::hooks::json::{get, list, text};
use crate::verbs::object;

/// The name of the range that the server is configured with.
pub const DEFAULT: &str = "kubernetes";

/// Where the ranges are kept.
pub const STORE_PREFIX: &str = "networking.k8s.io/servicecidrs/";

pub fn kind() -> Option<&'static Kind> {
    by_kind("networking.k8s.io", "v1", "ServiceCIDR")
}

impl Allocator {
    /// The ranges, each with the place of its family, in the order in which they are tried. Upstream tries them in any order;
    /// here the default range comes first and the others by their names.
    pub(super) fn ranges(&self, view: &dyn View) -> Vec<(usize, Range)> {
        let mut all = Vec::new();
        let Some(kind) = kind() else { return all };
        let default = kind.store_key("", DEFAULT);
        match view.get(&default) {
            Some(entry) => self.of_object(&object::read(&entry).unwrap_or_default(), &mut all),
            // It is about to be written again.
            None => self.of_cidrs(self.configured.iter().copied(), &mut all),
        }
        for entry in view.range(&kind.store_prefix(), None).filter(|entry| *entry.key() != *default) {
            self.of_object(&object::read(entry).unwrap_or_default(), &mut all);
        }
        all
    }

    fn of_object(&self, range: &Value, all: &mut Vec<(usize, Range)>) {
        if is_usable(range) {
            let cidrs = list(get(range, "spec"), "cidrs").iter();
            self.of_cidrs(cidrs.filter_map(|cidr| cidr.as_str()?.parse().ok()), all);
        }
    }

    fn of_cidrs(&self, cidrs: impl Iterator<Item = IpNet>, all: &mut Vec<(usize, Range)>) {
        for cidr in cidrs {
            // One that is too large or too small, or of a family that this cluster has not, gives none.
            if let Some((family, range)) = self.family(family_of(cidr.addr())).zip(addresses_of(cidr).ok()) {
                all.push((family, range));
            }
        }
    }
}

/// Whether addresses may be taken from it. One of which nobody has said anything yet counts as ready.
fn is_usable(range: &Value) -> bool {
    let mut conditions = list(get(range, "status"), "conditions").iter();
    let ready = conditions.find(|condition| text(condition, "type") == "Ready");
    text(get(range, "metadata"), "deletionTimestamp").is_empty()
        && ready.is_none_or(|condition| text(condition, "status") == "True")
}
