//! The node half: network, DNS, runtime, images, and the agent over them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use client::{Client, Clock};
use ipnet::IpNet;
use runtime::image::{self, ImageStore, Registries};
use tokio_util::sync::CancellationToken;

use crate::config::Common;
use crate::images::NodeImages;
use crate::{network, version};

/// Port of DNS. Source: RFC 1035 section 4.2.
const DNS_PORT: u16 = 53;
/// Registries' settings, in k3s' format.
const REGISTRIES: &str = "/etc/kedge/registries.yaml";

/// What the node half is told about the cluster and this host.
pub struct Setting<'a> {
    pub common: &'a Common,
    pub name: String,
    pub ips: Vec<IpAddr>,
    pub cluster_cidrs: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
    pub dns_ips: Vec<IpAddr>,
    pub domain: String,
    pub tls: node::Tls,
    pub client: Client,
}

/// The running node half.
pub struct Running {
    pub node: node::Handle,
    pub images: image::Images,
    airgap: CancellationToken,
    _dns: Arc<net::dns::Server>,
    _network: net::Network,
}

impl Running {
    /// Stops the agent's own tasks. Pods, their network and their logs go on.
    pub fn stop(&self) {
        self.airgap.cancel();
        self.node.stop();
    }
}

/// Starts everything that runs pods on this host.
///
/// # Errors
/// The network cannot be set up, the image store is damaged, a certificate or address is unusable.
pub async fn start(setting: Setting<'_>) -> Result<Running> {
    let agent_dir = setting.common.data_dir.join("agent");
    let run_dir = setting.common.run_dir.clone();
    let pods = network::node_ranges(&setting.cluster_cidrs)?;

    let shims = runtime::Shims::open(runtime::Config::new(&run_dir, &setting.common.cgroup_root)).context("runtime")?;
    let images = open_images(agent_dir.join("store")).await.context("image store")?;
    let airgap = watch_archives(agent_dir.join("images"), images.store().clone());

    let settings = network::config(&run_dir, &pods, &setting.cluster_cidrs, &setting.service_cidrs, &setting.dns_ips);
    let network = net::Network::start(settings).await.context("pod network")?;
    let dns = start_dns(&network, &setting).await.context("DNS")?;

    let mut config = node::Config::new(&setting.name, setting.ips.clone());
    config.labels = labels(&setting.common.node_label)?;
    config.taints = setting.common.node_taint.clone();
    config.pods_max = setting.common.max_pods;
    config.pod_cidrs = pods;
    config.cluster_dns = network.config().dns_ips.clone();
    config.cluster_domain = setting.domain.clone();
    config.data_dir = agent_dir;
    config.volumes_dir = setting.common.data_dir.join("volumes");
    config.run_dir = run_dir;
    config.listen = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), setting.common.kubelet_port);
    config.tls = Some(setting.tls);
    config.version = version::git_version();
    let parts = node::Parts {
        client: setting.client,
        runtime: Arc::new(shims),
        images: Arc::new(NodeImages(images.clone())),
        network: Arc::new(network.clone()),
        dns: Some(dns.clone()),
        clock: Clock::system(),
    };
    let node = node::start(config, parts).await.context("node agent")?;
    Ok(Running { node, images, airgap, _dns: dns, _network: network })
}

async fn open_images(dir: PathBuf) -> Result<image::Images> {
    let opened = tokio::task::spawn_blocking(move || ImageStore::open(dir, image::Options::default())).await?;
    let registries = Registries::read(REGISTRIES.as_ref())?;
    Ok(image::Images::new(opened?, registries))
}

/// Imports what lies in the air-gap folder, now and whenever it changes.
fn watch_archives(dir: PathBuf, store: ImageStore) -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        let shown = dir.display().to_string();
        if let Err(error) = image::airgap::watch(dir, store, report, token).await {
            tracing::error!(folder = shown, error = error.chain(), "the air-gap folder is not watched");
        }
    });
    stop
}

/// Says what a look at the air-gap folder changed, a line for each image and file; nothing when nothing changed.
fn report(synced: image::airgap::Synced) {
    for image in &synced.imported {
        tracing::info!(image = image.names.join(","), id = %image.id, bytes = image.size_bytes, "an air-gap image is imported");
    }
    for (path, error) in &synced.failed {
        tracing::warn!(archive = %path.display(), error = error.chain(), "an air-gap archive cannot be imported");
    }
    if synced.gone > 0 {
        tracing::info!(archives = synced.gone, "air-gap archives are gone: their images are no longer pinned");
    }
}

async fn start_dns(network: &net::Network, setting: &Setting<'_>) -> Result<Arc<net::dns::Server>> {
    let own = network.config().dns_ips.clone();
    let listen = own.iter().map(|ip| SocketAddr::new(*ip, DNS_PORT)).collect();
    let server = net::dns::Server::start(net::dns::ServerConfig { listen, own }).await?;
    network.lead_dns(server.addresses()).await?;
    match std::fs::read_to_string("/etc/resolv.conf") {
        Ok(text) => server.set_upstreams(&text),
        Err(error) => {
            tracing::warn!(%error, "no upstream DNS: only the cluster's names ({}) are answered", setting.domain)
        }
    }
    Ok(Arc::new(server))
}

fn labels(given: &[String]) -> Result<BTreeMap<String, String>> {
    given
        .iter()
        .map(|pair| {
            let (key, value) =
                pair.split_once('=').with_context(|| format!("--node-label {pair:?}: KEY=VALUE is wanted"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pairs() {
        assert_eq!(labels(&["a=b".into(), "c=".into()]).unwrap().len(), 2);
        assert!(labels(&["a".into()]).unwrap_err().to_string().contains("KEY=VALUE"));
    }
}
