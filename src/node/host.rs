//! What all workers of this node share: the seams to the rest of the host, and the clock.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Cache, Client, Clock, Recorder};
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Service;
use runtime::Runtime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::images::Images;
use crate::translate::resources::Allocatable;
use crate::volume::Volumes;
use crate::worker::state::Now;

/// What the node asks of the pod network; [`net::Network`] is the real one. Errors are texts for events.
pub trait Network: Send + Sync {
    fn add_pod(&self, spec: net::PodSpec) -> BoxFuture<'_, anyhow::Result<net::PodNet>>;
    fn del_pod<'a>(&'a self, id: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;
    fn pods(&self) -> BoxFuture<'_, anyhow::Result<Vec<net::PodNet>>>;
    fn set_services(&self, table: net::ServiceTable) -> BoxFuture<'_, anyhow::Result<()>>;
}

impl Network for net::Network {
    fn add_pod(&self, spec: net::PodSpec) -> BoxFuture<'_, anyhow::Result<net::PodNet>> {
        Box::pin(async move { Ok(net::Network::add_pod(self, spec).await?) })
    }
    fn del_pod<'a>(&'a self, id: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move { Ok(net::Network::del_pod(self, id).await?) })
    }
    fn pods(&self) -> BoxFuture<'_, anyhow::Result<Vec<net::PodNet>>> {
        Box::pin(async move { Ok(net::Network::pods(self).await?) })
    }
    fn set_services(&self, table: net::ServiceTable) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async move { Ok(net::Network::set_services(self, table).await?) })
    }
}

/// Where the cluster's names go; [`net::dns::Server`] is the real one.
pub trait Dns: Send + Sync {
    fn set_zone(&self, zone: net::dns::ZoneSnapshot);
}

impl Dns for net::dns::Server {
    fn set_zone(&self, zone: net::dns::ZoneSnapshot) {
        net::dns::Server::set_zone(self, zone);
    }
}

/// Lies this far back on the monotonic clock, so that the age of anything adopted fits before the daemon's start: 30 years.
const ORIGIN: Duration = Duration::from_secs(30 * 365 * 86_400);

pub struct Host {
    pub config: Config,
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub images: Arc<dyn Images>,
    pub network: Arc<dyn Network>,
    pub volumes: Volumes,
    pub recorder: Recorder,
    /// All Services, for service links.
    pub services: Arc<Cache<Service>>,
    pub allocatable: Allocatable,
    pub memory_bytes: i64,
    pub clock: Clock,
    pub started: Instant,
    /// Ends every task of this agent; what runs on the host goes on.
    pub stop: CancellationToken,
}

impl Host {
    pub fn now(&self) -> Now {
        Now { wall: self.clock.now(), mono: ORIGIN + self.started.elapsed() }
    }

    /// The instant of a monotonic time that [`Host::now`] gave or that was worked out from one.
    /// Times beyond what the clock can say are as far away as makes no difference.
    pub fn instant(&self, mono: Duration) -> Instant {
        const FAR: Duration = Duration::from_secs(u32::MAX as u64);
        self.started + mono.saturating_sub(ORIGIN).min(FAR)
    }

    pub fn host_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(IpAddr::to_string).collect()
    }
}
