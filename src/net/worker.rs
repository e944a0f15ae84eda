//! The one thread that owns sockets, state and namespaces. Takes commands in order, answers each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::{
    BRIDGE, Backends, Config, Error, Frontend, PREFIX, PodNet, PodSpec, Protocol, ServiceTable, config, conntrack,
    dns::DNS_PORT, host, ipam::Pool, links, netlink::Socket, netns, nft, sysctl, watch::Outcome,
};

/// What the handle asks for.
pub(crate) enum Command {
    AddPod(Box<PodSpec>, oneshot::Sender<Result<PodNet, Error>>),
    DelPod(String, oneshot::Sender<Result<(), Error>>),
    Pods(oneshot::Sender<Vec<PodNet>>),
    SetServices(ServiceTable, oneshot::Sender<Result<(), Error>>),
    LeadDns(Vec<SocketAddr>, oneshot::Sender<Result<(), Error>>),
    /// Somebody else changed our table; words for the log.
    TableChanged(String, oneshot::Sender<Outcome>),
    /// A link of ours may have gone; words for the log.
    LinksChanged(String, oneshot::Sender<Outcome>),
}

/// A pod as the state folder holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    spec: PodSpec,
    net: PodNet,
}

pub(crate) struct Worker {
    config: Arc<Config>,
    home: OwnedFd,
    route: Socket,
    bridge: u32,
    table: nft::Table,
    pools: Vec<Pool>,
    pods: BTreeMap<String, Record>,
    /// `None` until the first table was told: what an earlier process left then stays in force.
    services: Option<ServiceTable>,
    /// Where the DNS server listens.
    dns: Vec<SocketAddr>,
    /// What the nft table was last told, host ports included.
    told: ServiceTable,
    /// Further ranges to which there are routes; `None`: nobody has looked.
    routed: Option<BTreeSet<IpNet>>,
}

impl Worker {
    /// Brings the host's side up and adopts what is there. On the calling thread, which must be the worker's own.
    pub(crate) fn start(config: Arc<Config>) -> Result<Self, Error> {
        for dir in [&config.netns_dir, &config.state_dir, &pods_dir(&config)] {
            fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        }
        let mut route = Socket::route()?;
        let bridge = host::bring_up(&config, &mut route)?;
        let table = nft::Table::open(&config)?;
        let mut worker = Self {
            home: netns::current()?,
            route,
            bridge,
            table,
            pools: config.pod_cidrs.iter().map(|net| Pool::new(*net)).collect(),
            pods: BTreeMap::new(),
            services: None,
            dns: Vec::new(),
            told: ServiceTable::default(),
            routed: None,
            config,
        };
        worker.adopt()?;
        Ok(worker)
    }

    pub(crate) fn nft_port(&self) -> Result<u32, Error> {
        self.table.port()
    }

    /// Serves until every handle is gone, or the thread got lost in a pod's namespace.
    pub(crate) fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(command) = inbox.blocking_recv() {
            // An answer that nobody waits for any more is no error.
            match command {
                Command::AddPod(spec, reply) => match self.add_pod(*spec) {
                    Ok(answer) => drop(reply.send(answer)),
                    Err(Astray(error)) => {
                        warn!(%error, "the network thread cannot return to its namespace and ends");
                        drop(reply.send(Err(error)));
                        return;
                    }
                },
                Command::DelPod(id, reply) => drop(reply.send(self.del_pod(&id))),
                Command::Pods(reply) => drop(reply.send(self.pods.values().map(|p| p.net.clone()).collect())),
                Command::SetServices(table, reply) => {
                    let old = self.services.replace(table);
                    let told = self.tell();
                    if told.is_err() {
                        self.services = old;
                    }
                    drop(reply.send(told));
                }
                Command::LeadDns(addresses, reply) => {
                    let old = std::mem::replace(&mut self.dns, addresses);
                    let told = self.tell();
                    if told.is_err() {
                        self.dns = old;
                    }
                    drop(reply.send(told));
                }
                Command::TableChanged(what, reply) => {
                    warn!(what, "nft table kedge was changed by somebody else: loading it again");
                    self.table.distrust();
                    self.services.get_or_insert_default();
                    let told = self.tell();
                    if let Err(error) = &told {
                        warn!(error = error as &dyn std::error::Error, "nft table kedge could not be loaded again");
                    }
                    let _ = reply.send(if told.is_ok() { Outcome::Mended } else { Outcome::Failed });
                }
                Command::LinksChanged(what, reply) => match self.mend(&what) {
                    Ok(outcome) => {
                        let _ = reply.send(outcome);
                    }
                    Err(netns::Failure::Home(error)) => {
                        warn!(what, error = &error as &dyn std::error::Error, "pod links could not be mended");
                        let _ = reply.send(Outcome::Failed);
                    }
                    Err(netns::Failure::Astray(error)) => {
                        warn!(%error, "the network thread cannot return to its namespace and ends");
                        return;
                    }
                },
            }
        }
    }

    /// Pods whose namespace and link are both there go on; of the others, what is left is removed.
    fn adopt(&mut self) -> Result<(), Error> {
        let present = self.links()?;
        let dir = pods_dir(&self.config);
        let mut keep = Vec::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
            let path = entry.map_err(Error::io("read", &dir))?.path();
            let record = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            match record {
                Some(record) if netns::is_pinned(&record.net.netns) && present.contains_key(&record.net.link) => {
                    let fits = record.net.ips.len() == self.pools.len()
                        && self.pools.iter_mut().zip(&record.net.ips).all(|(pool, ip)| pool.reserve(*ip));
                    if fits {
                        keep.push(record);
                    } else {
                        // The node's range changed: the pod cannot be reached any more and must be made anew.
                        warn!(pod = record.spec.id, "pod network does not fit the node's range and is removed");
                        self.teardown(&record.net)?;
                    }
                }
                Some(record) => self.teardown(&record.net)?,
                None => fs::remove_file(&path).map_err(Error::io("remove", path))?,
            }
        }
        self.pods = keep.into_iter().map(|record| (record.spec.id.clone(), record)).collect();
        // Leftovers without a record: a crash between two steps, or a state folder that was emptied.
        for name in present.into_keys() {
            if name.starts_with(PREFIX) && !self.pods.values().any(|p| p.net.link == name) {
                self.route.batch(&name, &[links::del_link(&name)])?;
            }
        }
        for pin in host::pins(&self.config.netns_dir)? {
            if !self.pods.values().any(|p| p.net.netns == pin) {
                netns::unpin(&pin)?;
            }
        }
        // The bridge may have been made anew: a port that is on it already is not disturbed.
        for record in self.pods.values() {
            let link = &record.net.link;
            if let Err(error) = self.route.batch(link, &links::join_bridge(link, self.bridge)) {
                warn!(link, error = &error as &dyn std::error::Error, "a pod's link could not be put on the bridge");
            }
        }
        if !self.pods.is_empty() {
            info!(pods = self.pods.len(), "pod networks adopted");
        }
        Ok(())
    }

    fn add_pod(&mut self, spec: PodSpec) -> Result<Result<PodNet, Error>, Astray> {
        if let Err(error) = spec.check().and_then(|()| self.host_ports_free(&spec)) {
            return Ok(Err(error));
        }
        if let Some(record) = self.pods.get_mut(&spec.id) {
            let former = std::mem::replace(&mut record.spec, spec.clone());
            let answer = record.net.clone();
            // The fact, not the memory: pin or link may have been taken away, and the new sandbox needs both.
            let linked = match self.links() {
                Ok(links) => links.contains_key(&answer.link),
                Err(error) => return Ok(Err(error)),
            };
            if !linked || !netns::is_pinned(&answer.netns) {
                warn!(pod = spec.id, "the pod's network namespace or link is gone: both are made again");
                return match self.build(&spec.id) {
                    Ok(net) => Ok(self.tell().map(|()| net)),
                    Err(netns::Failure::Home(error)) => Ok(Err(error)),
                    Err(netns::Failure::Astray(error)) => Err(Astray(error)),
                };
            }
            if former == spec {
                return Ok(Ok(answer));
            }
            return Ok(self.save(&spec.id).and_then(|()| self.tell()).map(|()| answer));
        }
        let net = match self.allot(&spec.id) {
            Ok(net) => net,
            Err(error) => return Ok(Err(error)),
        };
        let id = spec.id.clone();
        self.pods.insert(id.clone(), Record { spec, net });
        let (error, astray) = match self.build(&id) {
            Ok(net) => return Ok(Ok(net)),
            Err(netns::Failure::Home(error)) => (error, false),
            Err(netns::Failure::Astray(error)) => (error, true),
        };
        if astray {
            return Err(Astray(error));
        }
        if let Err(rest) = self.del_pod(&id) {
            warn!(pod = id, error = &rest as &dyn std::error::Error, "a failed pod network was not removed whole");
        }
        Ok(Err(error))
    }

    /// Everything in the kernel, for a pod whose record is there. The record is written first: after a crash it says what to
    /// look for.
    fn build(&mut self, id: &str) -> Result<PodNet, netns::Failure> {
        let home = netns::Failure::Home;
        self.save(id).map_err(home)?;
        let Some(Record { spec, net }) = self.pods.get(id).cloned() else { return Err(home(Error::Closed)) };
        let Some(primary) = net.ips.first().copied() else { return Err(home(Error::Closed)) };
        let has_v6 = sysctl::get("net.ipv6.conf.all.disable_ipv6").is_some();
        let defaults = pod_sysctls(has_v6).filter(|(name, _)| !spec.sysctls.contains_key(*name));
        let wanted = defaults.chain(spec.sysctls.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        let mut made = netns::make(&net.netns, &self.home, wanted)?;
        let host = links::pod_host(&net.link, self.bridge, made.namespace.as_raw_fd(), primary, self.config.mtu);
        match self.route.batch(&net.link, &host) {
            // A former owner of the address left its namespace to processes that still run: it loses its link now.
            Err(Error::Netlink { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                self.route.batch(&net.link, &[links::del_link(&net.link)]).map_err(home)?;
                self.route.batch(&net.link, &host).map_err(home)?;
            }
            other => other.map_err(home)?,
        }
        made.socket.batch(id, &links::pod_inside(links::INSIDE, &net.ips, &net.gateways)).map_err(home)?;
        self.route.batch(&net.link, &links::settle_host(&net.link, self.bridge)).map_err(home)?;
        if !spec.host_ports.is_empty() {
            self.tell().map_err(home)?;
        }
        Ok(net)
    }

    /// Looks at bridge and pod links as they are, and makes again what is missing.
    fn mend(&mut self, what: &str) -> Result<Outcome, netns::Failure> {
        let home = netns::Failure::Home;
        let present = self.links().map_err(home)?;
        let damage = damage(self.bridge, &present, self.pods.values().map(|r| &r.net));
        if damage == Damage::default() {
            return Ok(Outcome::Whole);
        }
        let Damage { bridge, rejoin, relink } = damage;
        warn!(
            what,
            bridge,
            ports = rejoin.len(),
            links = relink.len(),
            "links were changed by somebody else: made again"
        );
        if bridge {
            self.bridge = host::bring_up(&self.config, &mut self.route).map_err(home)?;
            self.routed = None;
            if self.services.is_some() {
                self.route_ranges().map_err(home)?;
            }
        }
        for name in &rejoin {
            self.route.batch(name, &links::join_bridge(name, self.bridge)).map_err(home)?;
        }
        for net in relink {
            if !netns::is_pinned(&net.netns) {
                warn!(pod = net.id, "the pod's network namespace has gone too: its next sandbox gets a new one");
                continue;
            }
            let Some(primary) = net.ips.first().copied() else { continue };
            let mut inner = netns::enter(&net.netns, &self.home)?;
            let host = links::pod_host(&net.link, self.bridge, inner.namespace.as_raw_fd(), primary, self.config.mtu);
            self.route.batch(&net.link, &host).map_err(home)?;
            let inside = host::link_names(&mut inner.socket).map_err(home)?.remove("eth0").unwrap_or(links::INSIDE);
            inner.socket.batch(&net.id, &links::pod_inside(inside, &net.ips, &net.gateways)).map_err(home)?;
            self.route.batch(&net.link, &links::settle_host(&net.link, self.bridge)).map_err(home)?;
        }
        Ok(Outcome::Mended)
    }

    fn allot(&mut self, id: &str) -> Result<PodNet, Error> {
        let mut ips = Vec::new();
        for pool in &mut self.pools {
            match pool.take() {
                Ok(ip) => ips.push(ip),
                Err(error) => {
                    self.free(&ips);
                    return Err(error);
                }
            }
        }
        Ok(PodNet {
            id: id.to_owned(),
            netns: self.config.netns_dir.join(format!("{PREFIX}{id}")),
            link: ips.first().map(|ip| links::link_name(*ip)).unwrap_or_default(),
            gateways: self.config.pod_cidrs.iter().map(|net| config::gateway(*net)).collect(),
            ips,
        })
    }

    fn free(&mut self, ips: &[IpAddr]) {
        for pool in &mut self.pools {
            for ip in ips {
                pool.free(*ip);
            }
        }
    }

    fn del_pod(&mut self, id: &str) -> Result<(), Error> {
        let Some(record) = self.pods.get(id).cloned() else { return Ok(()) };
        let mut failed = Vec::new();
        failed.extend(self.teardown(&record.net).err());
        if failed.is_empty() {
            self.pods.remove(id);
            self.free(&record.net.ips);
            if !record.spec.host_ports.is_empty() {
                failed.extend(self.tell().err());
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(Error::Teardown(failed)) }
    }

    /// Removes a pod from kernel and disk; the record goes last, so that an interrupted removal is seen at the next start. The
    /// link dies with the namespace: deleting it here would take 35 ms under the lock that all link work in the kernel
    /// needs, where namespaces are cleaned many at a time.
    fn teardown(&self, net: &PodNet) -> Result<(), Error> {
        netns::unpin(&net.netns)?;
        let file = record_file(&self.config, &net.id);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", file)(error)),
            _ => Ok(()),
        }
    }

    fn save(&self, id: &str) -> Result<(), Error> {
        let Some(record) = self.pods.get(id) else { return Ok(()) };
        let file = record_file(&self.config, id);
        let fresh = file.with_extension("new");
        let text = serde_json::to_vec(record).map_err(|e| Error::io("encode", &file)(io::Error::other(e)))?;
        fs::write(&fresh, text).map_err(Error::io("write", &fresh))?;
        fs::rename(&fresh, &file).map_err(Error::io("rename", file))
    }

    fn host_ports_free(&self, spec: &PodSpec) -> Result<(), Error> {
        for wanted in &spec.host_ports {
            for (id, record) in self.pods.iter().filter(|(id, _)| **id != spec.id) {
                if record.spec.host_ports.iter().any(|p| p.collides(wanted)) {
                    return Err(Error::HostPortTaken {
                        port: wanted.host_port,
                        protocol: wanted.protocol,
                        holder: id.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Brings the nft table to services plus host ports, and forgets UDP flows that lead to what is gone.
    fn tell(&mut self) -> Result<(), Error> {
        let pods = self.pods.values().map(|r| (&r.spec, &r.net));
        let Some(services) = &self.services else {
            return self.table.extend(&merged(&ServiceTable::default(), pods, &self.dns, &self.config));
        };
        let wanted = merged(services, pods, &self.dns, &self.config);
        self.table.load(&wanted)?;
        let stale = conntrack::stale(&self.told, &wanted);
        if !stale.is_empty() {
            // The table is in force; a flow that is not forgotten now ends by its time-out.
            if let Err(error) = conntrack::forget(&stale) {
                warn!(error = &error as &dyn std::error::Error, "stale UDP flows were not forgotten");
            }
        }
        self.told = wanted;
        self.route_ranges()
    }

    /// Brings the routes to the ranges that were told.
    fn route_ranges(&mut self) -> Result<(), Error> {
        let known = self.routed.take();
        host::route_ranges(&self.config, &mut self.route, self.bridge, known.as_ref(), &self.told.ranges)?;
        self.routed = Some(self.told.ranges.clone());
        Ok(())
    }

    fn links(&mut self) -> Result<BTreeMap<String, u32>, Error> {
        host::link_names(&mut self.route)
    }
}

/// What is missing of the links that should be there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Damage {
    /// The bridge has gone, or is another than the one we made.
    bridge: bool,
    /// Host ends that stand without their bridge.
    rejoin: Vec<String>,
    /// Pods whose pair of links has gone.
    relink: Vec<PodNet>,
}

fn damage<'a>(bridge: u32, present: &BTreeMap<String, u32>, pods: impl Iterator<Item = &'a PodNet>) -> Damage {
    let mut damage = Damage { bridge: present.get(BRIDGE) != Some(&bridge), ..Damage::default() };
    for net in pods {
        if !present.contains_key(&net.link) {
            damage.relink.push(net.clone());
        } else if damage.bridge {
            damage.rejoin.push(net.link.clone());
        }
    }
    damage
}

/// The thread is in a foreign namespace.
struct Astray(Error);

/// Services and host ports in one table. A host port of a pod wins over a service's node port of the same number, as the
/// more particular wish; the DNS addresses are served by this host itself.
fn merged<'a>(
    services: &ServiceTable,
    pods: impl Iterator<Item = (&'a PodSpec, &'a PodNet)>,
    dns: &[SocketAddr],
    config: &Config,
) -> ServiceTable {
    let mut table = services.clone();
    table.ranges = further(&services.ranges, config);
    table.frontends.retain(|frontend, _| !frontend.address.is_some_and(|a| config.dns_ips.contains(&a)));
    let mut host_ports: BTreeMap<Frontend, Backends> = BTreeMap::new();
    for (spec, net) in pods {
        for port in &spec.host_ports {
            let frontend = Frontend { address: port.host_ip, protocol: port.protocol, port: port.host_port };
            let targets = net.ips.iter().filter_map(|ip| port.target(*ip));
            host_ports.entry(frontend).or_default().endpoints.extend(targets);
        }
    }
    table.frontends.extend(host_ports);
    for server in dns.iter().filter(|s| s.port() != DNS_PORT && config.dns_ips.contains(&s.ip())) {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let frontend = Frontend { address: Some(server.ip()), protocol, port: DNS_PORT };
            table.frontends.insert(frontend, Backends { endpoints: [*server].into(), ..Backends::default() });
        }
    }
    table
}

/// The ranges that are not in one of the configuration's, of the families that the node has.
fn further(ranges: &BTreeSet<IpNet>, config: &Config) -> BTreeSet<IpNet> {
    let all = ranges.iter().map(IpNet::trunc).filter(|net| !config.service_cidrs.iter().any(|own| own.contains(net)));
    all.filter(|net| config.pod_cidrs.iter().any(|own| own.addr().is_ipv4() == net.addr().is_ipv4())).collect()
}

/// What every pod's namespace starts with. Redirects are ignored: they would lead around the host's connection table.
fn pod_sysctls<'a>(v6: bool) -> impl Iterator<Item = (&'a str, &'a str)> {
    const V4: [(&str, &str); 4] = [
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("net.ipv4.ping_group_range", "0 2147483647"),
        ("net.ipv4.conf.all.accept_redirects", "0"),
        ("net.ipv4.conf.default.accept_redirects", "0"),
    ];
    const V6: [(&str, &str); 2] =
        [("net.ipv6.conf.default.accept_redirects", "0"), ("net.ipv6.conf.default.accept_ra", "0")];
    V4.into_iter().chain(V6.into_iter().filter(move |_| v6))
}

fn pods_dir(config: &Config) -> PathBuf {
    config.state_dir.join("pods")
}

fn record_file(config: &Config, id: &str) -> PathBuf {
    pods_dir(config).join(format!("{id}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_what_is_missing() {
        let pod = |id: &str, link: &str| PodNet {
            id: id.into(),
            netns: PathBuf::new(),
            ips: Vec::new(),
            gateways: Vec::new(),
            link: link.into(),
        };
        let pods = [pod("a", "kedge-a"), pod("b", "kedge-b")];
        let see = |links: &[(&str, u32)]| {
            let present = links.iter().map(|(name, index)| ((*name).to_owned(), *index)).collect();
            damage(3, &present, pods.iter())
        };
        assert_eq!(see(&[(BRIDGE, 3), ("kedge-a", 4), ("kedge-b", 5)]), Damage::default());
        let lost = see(&[(BRIDGE, 3), ("kedge-a", 4)]);
        assert_eq!(lost, Damage { relink: vec![pods[1].clone()], ..Damage::default() });
        // No bridge, and one of the same name that somebody else made.
        for other in ["eth0", BRIDGE] {
            let lost = see(&[(other, 9), ("kedge-a", 4)]);
            let relink = vec![pods[1].clone()];
            assert_eq!(lost, Damage { bridge: true, rejoin: vec!["kedge-a".into()], relink });
        }
    }
}
