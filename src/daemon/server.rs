//! `kedge server`: the components of one server, started in order, stopped in reverse.
//!
//! ```text
//! store → certificates → API server → listener → controllers, scheduler → node agent → manifests → READY
//! ```

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use apiserver::{ApiServer, Identity};
use client::{Informers, Recorder};
use cluster::pki::{self, Host, Pki};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use store::Store;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::config::Server;
use crate::lock::{Held, Mine};
use crate::settled::Collect;
use crate::{agent, clock, host, keys, local, manifests, notify, settled, socket, version};

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// The backlog of the API's listener: a burst of agents that come back together after a power cut.
const BACKLOG: u32 = 1024;

/// Which host of each service range is the cluster's DNS.
const DNS_HOST: u32 = 10;

/// What was started, each with how it stops; stopped last to first.
#[derive(Default)]
struct Started(Vec<(&'static str, BoxFuture<'static, ()>)>);

impl Started {
    fn push(&mut self, name: &'static str, stop: impl Future<Output = ()> + Send + 'static) {
        tracing::debug!(component = name, "started");
        self.0.push((name, stop.boxed()));
    }

    async fn stop(mut self) {
        while let Some((name, stop)) = self.0.pop() {
            stop.await;
            tracing::debug!(component = name, "stopped");
        }
    }
}

/// The folders and facts that several components share.
struct Place {
    server_dir: PathBuf,
    node_name: String,
    node_ips: Vec<IpAddr>,
    advertise: IpAddr,
}

impl Place {
    fn of(config: &Server) -> Result<Self> {
        let node_ips = match config.common.node_ip.as_slice() {
            [] => host::addresses(),
            given => given.to_vec(),
        };
        let advertise = config.advertise_address.or(node_ips.first().copied()).context("this host has no address")?;
        Ok(Self {
            server_dir: config.common.data_dir.join("server"),
            node_name: config.common.node_name.clone().unwrap_or_else(host::node_name),
            node_ips,
            advertise,
        })
    }
}

/// Runs until a signal asks to stop. Pods go on. The host is touched under `held` alone. `collect` gives back what the heap of
/// the calling thread keeps ready; it is called when the start is over.
///
/// # Errors
/// Longest that the start waits until the health checks pass.
const IN_STEP_MAX: Duration = Duration::from_secs(5);

/// What keeps the server from starting, as one line that says what to do.
pub async fn run(config: Server, held: &Held, collect: Collect) -> Result<()> {
    let begun = clock::monotonic();
    tracing::info!(version = version::git_version(), "kedge server starts");
    held.answer().context("the lock of the host's network")?;
    let stop = signals()?;
    let mut started = Started::default();
    let outcome = tokio::select! {
        outcome = start(&config, &mut started) => outcome,
        () = stop.cancelled() => Ok(()),
    };
    match outcome {
        Ok(()) => {
            if !stop.is_cancelled() {
                tracing::info!(ms = begun.elapsed().as_millis() as u64, "ready");
                notify::notify("READY=1");
                if stop.run_until_cancelled(tokio::time::sleep(settled::AFTER)).await.is_some() {
                    settled::give_back(collect);
                }
                stop.cancelled().await;
            }
            tracing::info!("kedge server stops; pods go on");
            notify::notify("STOPPING=1");
            started.stop().await;
            Ok(())
        }
        Err(error) => {
            started.stop().await;
            Err(error)
        }
    }
}

fn signals() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}

async fn start(config: &Server, started: &mut Started) -> Result<()> {
    let place = Place::of(config)?;
    let scheduling = scheduling(config)?;
    let listener = listen(config)?;
    let pid_file = write_pid(&config.common.run_dir)?;
    started.push("pid file", async move { pid_file.remove() });
    let store = open_store(config, &place.server_dir).await?;
    let closing = Arc::clone(&store);
    started.push("store", async move {
        if let Err(error) = closing.close().await {
            tracing::error!(%error, "the store could not be closed cleanly");
        }
    });

    let pki = Arc::new(Pki::open(&place.server_dir.join("tls"), clock::now()).context("certificates")?);
    let audit = audit(config)?;
    if let Some(audit) = audit.clone() {
        started.push("audit log", async move {
            let _ = tokio::task::spawn_blocking(move || audit.log.close()).await;
        });
    }
    let server = api_server(config, &place, &pki, store, audit).await?;
    let serving = CancellationToken::new();
    let leaf = pki.api_server(&serving_hosts(config, &place)).context("certificates")?;
    let tls = apiserver::http::listener::Tls::new(leaf.chain()?, leaf.key()?, pki.ca_der().clone())
        .and_then(|tls| tls.with_front_proxy(pki.front_proxy_ca_der().clone(), vec![pki::FRONT_PROXY_NAME.to_owned()]))
        .context("TLS")?;
    let task = tokio::spawn(apiserver::http::listener::serve(listener, tls, server.clone(), serving.clone()));
    let stopping = server.clone();
    started.push("listener", async move {
        stopping.stop();
        serving.cancel();
        let _ = task.await;
    });
    write_kubeconfig(config, &pki)?;
    tracing::info!(port = config.https_listen_port, "the API serves");

    let informers = start_control(config, &place, &pki, &server, scheduling, started);
    start_manifests(&place, &server, &informers, started);
    if !config.disable_agent {
        start_node(config, &place, &pki, &server, started).await?;
    }
    // So that whoever hears of it and asks for the health is told the same. A webhook that does not answer may be in the way.
    let _ = tokio::time::timeout(IN_STEP_MAX, server.in_step()).await;
    Ok(())
}

fn start_manifests(place: &Place, server: &ApiServer, informers: &Informers, started: &mut Started) {
    let stop = CancellationToken::new();
    let client = local::client(server, Identity::admin()).with_user_agent("kedge-manifests");
    let folder = place.server_dir.join("manifests");
    let task = tokio::spawn(manifests::run(folder, client, informers.definitions(), stop.clone()));
    started.push("manifests", async move {
        stop.cancel();
        let _ = task.await;
    });
}

/// Starts the node half and waits until the node is Ready.
async fn start_node(
    config: &Server,
    place: &Place,
    pki: &Pki,
    server: &ApiServer,
    started: &mut Started,
) -> Result<()> {
    let mut hosts: Vec<Host> = place.node_ips.iter().copied().map(Host::Address).collect();
    hosts.push(Host::from(place.node_name.as_str()));
    let leaf = pki.node_serving(&place.node_name, &hosts).context("certificates")?;
    let dns_ips = match config.cluster_dns {
        Some(given) => vec![given],
        None => config.service_cidr.iter().filter_map(|r| nth(r, DNS_HOST)).collect(),
    };
    let running = agent::start(agent::Setting {
        common: &config.common,
        name: place.node_name.clone(),
        ips: place.node_ips.clone(),
        cluster_cidrs: config.cluster_cidr.clone(),
        service_cidrs: config.service_cidr.clone(),
        dns_ips,
        domain: config.cluster_domain.clone(),
        tls: node::Tls { certificate: leaf.chain_pem, key: leaf.key_pem, client_ca: pki.ca_pem().to_owned() },
        client: local::client(server, Identity::node(&place.node_name)).with_user_agent("kubelet"),
    })
    .await?;
    let node = running.node.clone();
    let listening = CancellationToken::new();
    let made = socket::serve(&config.common.run_dir, running.images.clone(), listening.clone())?;
    started.push("node agent", async move { running.stop() });
    started.push("local socket", async move {
        listening.cancel();
        made.remove();
    });
    node.ready().await;
    let admin = local::client(server, Identity::admin()).with_user_agent("kedge-server");
    if let Err(error) = mark_control_plane(&admin, &place.node_name).await {
        tracing::warn!(%error, "the node is not marked as one of the control plane");
    }
    tracing::info!(node = place.node_name, "the node is Ready");
    Ok(())
}

/// Gives the server's own node the label of its role, which no node may give itself. Writes nothing when it is there.
///
/// Source: kubeadm `cmd/phases/init/markcontrolplane.go`; KEP-279 (what nodes may label).
async fn mark_control_plane(admin: &client::Client, name: &str) -> client::Result<()> {
    let path = format!("/api/v1/nodes/{name}");
    let node: Value = admin.get_path(&path).await?;
    if node["metadata"]["labels"].get(CONTROL_PLANE).is_some() {
        return Ok(());
    }
    let patch = json!({"metadata": {"labels": {CONTROL_PLANE: "true"}}});
    admin.patch_path::<Value>(&path, client::Patch::Merge(&patch), &client::WriteParams::default()).await.map(|_| ())
}

fn listen(config: &Server) -> Result<TcpListener> {
    let address = SocketAddr::new(config.bind_address, config.https_listen_port);
    let attempt = |address: SocketAddr| -> std::io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let listened = match attempt(address) {
        // a kernel without IPv6: every IPv4 address instead
        Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) && address.ip().is_unspecified() => {
            attempt(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), address.port()))
        }
        other => other,
    };
    listened.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "port {} is taken: stop what listens there (ss -ltnp 'sport = :{0}') or choose another with --https-listen-port",
            address.port()
        ),
        _ => anyhow::anyhow!("cannot listen on {address}: {e}"),
    })
}

fn write_pid(run_dir: &Path) -> Result<Mine> {
    let path = run_dir.join(crate::reset::PID_FILE);
    std::fs::write(&path, format!("{}\n", std::process::id())).with_context(|| path.display().to_string())?;
    Ok(Mine::of(path))
}

async fn open_store(config: &Server, server_dir: &Path) -> Result<Arc<dyn Store>> {
    cluster::files::make_folder(server_dir)?;
    let path = server_dir.join("state.db");
    let options = store::Options { seal: seal(config, server_dir)?, ..store::Options::default() };
    let opened =
        tokio::task::spawn_blocking(move || store::SqliteStore::open(&path, Arc::new(apiserver::facts_of), options));
    let store = opened.await.context("opening the store")??;
    Ok(store)
}

async fn api_server(
    config: &Server,
    place: &Place,
    pki: &Pki,
    store: Arc<dyn Store>,
    audit: Option<apiserver::audit::Settings>,
) -> Result<ApiServer> {
    let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
    let kubelet = pki.kubelet_client().context("certificates")?;
    let dialer = apiserver::verbs::connect::TlsDial(Arc::new(client_tls(pki, &kubelet)?));
    let settings = apiserver::Config {
        clock: Arc::new(clock::now),
        version: version::served(),
        service_account_issuer: issuer.clone(),
        api_audiences: vec![issuer.clone()],
        service_account_key_pem: pki.service_account_key_pem().to_owned(),
        authentication: authentication(config, &issuer)?,
        audit: audit.clone(),
        dialer: Some(Arc::new(dialer)),
        front_proxy: Some(front_proxy(pki)?),
        service_cidrs: config.service_cidr.clone(),
        node_ports: config.service_node_port_range,
        advertise: Some(SocketAddr::new(place.advertise, config.https_listen_port)),
    };
    ApiServer::new(settings, store).await.context("the API server")
}

/// How this server asks aggregated ones in the name of its users.
fn front_proxy(pki: &Pki) -> Result<apiserver::FrontProxy> {
    let leaf = pki.front_proxy_client().context("certificates")?;
    Ok(apiserver::FrontProxy {
        client_ca_pem: pki.ca_pem().to_owned(),
        ca_pem: pki.front_proxy_ca_pem().to_owned(),
        name: pki::FRONT_PROXY_NAME.to_owned(),
        chain_pem: leaf.chain_pem,
        key_pem: leaf.key_pem,
    })
}

/// How values are kept on disk: as a file says, with a key of our own, or as they are. A key that was made stays for reading
/// when encryption is switched off again.
fn seal(config: &Server, server_dir: &Path) -> Result<Option<Arc<dyn store::Seal>>> {
    let given = config.encryption_provider_config.clone();
    let path = given.clone().unwrap_or_else(|| server_dir.join("encryption-config.yaml"));
    let text = match cluster::files::read(&path)? {
        Some(text) => text,
        None if given.is_some() => bail!("{} is not there", path.display()),
        None if !config.secrets_encryption => return Ok(None),
        None => {
            let text = cluster::encryption::generate().map_err(anyhow::Error::msg)?;
            cluster::files::write(&path, text.as_bytes())?;
            text
        }
    };
    let encryption =
        cluster::encryption::Encryption::parse(&text).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
    let writes = given.is_some() || config.secrets_encryption;
    Ok(Some(Arc::new(if writes { encryption } else { encryption.read_only() })))
}

/// What is recorded of requests, and where; nothing without a policy.
fn audit(config: &Server) -> Result<Option<apiserver::audit::Settings>> {
    let Some(path) = &config.audit_policy_file else { return Ok(None) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let policy = apiserver::audit::policy::parse(&text).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
    let place = apiserver::audit::log::Place {
        path: config.audit_log_path.clone().unwrap_or_else(|| config.common.data_dir.join("audit/audit.log")),
        age_days_max: config.audit_log_maxage,
        backups_max: config.audit_log_maxbackup,
        size_mib_max: config.audit_log_maxsize,
    };
    let shown = place.path.display().to_string();
    let log =
        apiserver::audit::Log::open(place, Arc::new(clock::now)).with_context(|| format!("cannot write {shown}"))?;
    Ok(Some(apiserver::audit::Settings { policy: Arc::new(policy), log }))
}

/// Who is believed besides this cluster's own certificates and tokens.
fn authentication(config: &Server, issuer: &str) -> Result<apiserver::auth::Settings> {
    let Some(path) = &config.authentication_config else { return Ok(apiserver::auth::Settings::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    apiserver::auth::settings::parse(&text, issuer).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))
}

fn scheduling(config: &Server) -> Result<control::scheduler::Configuration> {
    let Some(path) = &config.scheduler_config else { return Ok(control::scheduler::Configuration::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let wrong = |why: String| anyhow::anyhow!("{}: {why}", path.display());
    let document: serde_json::Value = serde_yaml_ng::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    control::scheduler::Configuration::parse(&document).map_err(|errors| wrong(errors.join("; ")))
}

/// How this server proves itself to node agents, and whom it believes.
fn client_tls(pki: &Pki, leaf: &pki::Leaf) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.ca_der().clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(leaf.chain()?, leaf.key()?)?)
}

/// The names and addresses by which clients may reach the API.
fn serving_hosts(config: &Server, place: &Place) -> Vec<Host> {
    let mut others: Vec<Host> = config.tls_san.iter().map(|s| Host::from(s.as_str())).collect();
    others.push(Host::from(host::node_name().as_str()));
    others.push(Host::from(place.node_name.as_str()));
    others.extend(place.node_ips.iter().copied().map(Host::Address));
    others.push(Host::Address(place.advertise));
    others.extend(config.service_cidr.iter().skip(1).filter_map(|r| nth(r, 1)).map(Host::Address));
    pki::api_server_hosts(&config.cluster_domain, config.service_cidr.first().and_then(|r| nth(r, 1)), &others)
}

/// The `n`th address of a range; `None` past its end.
pub fn nth(range: &ipnet::IpNet, n: u32) -> Option<IpAddr> {
    let address: IpAddr = match range.network() {
        IpAddr::V4(v4) => u32::from(v4).checked_add(n).map(|a| std::net::Ipv4Addr::from(a).into()),
        IpAddr::V6(v6) => u128::from(v6).checked_add(n.into()).map(|a| std::net::Ipv6Addr::from(a).into()),
    }?;
    range.contains(&address).then_some(address)
}

fn write_kubeconfig(config: &Server, pki: &Pki) -> Result<()> {
    let admin = pki.admin().context("certificates")?;
    let host = match config.bind_address {
        IpAddr::V4(v4) if !v4.is_unspecified() => v4.to_string(),
        IpAddr::V6(v6) if !v6.is_unspecified() => format!("[{v6}]"),
        _ => "127.0.0.1".into(),
    };
    let url = format!("https://{host}:{}", config.https_listen_port);
    let text = cluster::kubeconfig::render("kedge", &url, pki.ca_pem(), &admin);
    let path = &config.write_kubeconfig;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    cluster::files::write(path, text.as_bytes())?;
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(config.write_kubeconfig_mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// Starts what controls the cluster. Returns the caches that it reads.
fn start_control(
    config: &Server,
    place: &Place,
    pki: &Arc<Pki>,
    server: &ApiServer,
    scheduling: control::scheduler::Configuration,
    started: &mut Started,
) -> Informers {
    let api = server.clone();
    let clients: control::Clients = Arc::new(move |name: &str| {
        let identity = match name {
            control::INFORMERS => Identity::admin(),
            control::MANAGER => Identity::component("system:kube-controller-manager"),
            controller => Identity::service_account("kube-system", controller),
        };
        local::client(&api, identity).with_user_agent(name)
    });
    let settings = control::Config {
        root_ca: pki.ca_pem().to_owned(),
        advertise: Some(place.advertise).filter(|ip| apiserver::verbs::start::reachable(*ip)).into_iter().collect(),
        api_port: config.https_listen_port,
        local_path: !config.disable.iter().any(|c| c == crate::config::check::LOCAL_PATH),
        keys: Some(Arc::new(keys::Holder::new(Arc::clone(pki), server.clone()))),
        ..control::Config::default()
    };
    let clock = settings.clock;
    let handle = Arc::new(control::start(clients, settings));
    let informers = handle.informers().clone();
    let shown = Arc::downgrade(&handle);
    server.show(Box::new(move |text| {
        local::write_metrics(text);
        if let Some(handle) = shown.upgrade() {
            handle.write_metrics(text);
        }
    }));
    started.push("controllers", async move { handle.stop().await });

    let scheduler =
        local::client(server, Identity::component("system:kube-scheduler")).with_user_agent("kube-scheduler");
    let recorder = Recorder::new(scheduler.clone(), "default-scheduler", "", clock);
    let stop = CancellationToken::new();
    let task =
        tokio::spawn(control::scheduler::run(scheduler, informers.clone(), recorder, clock, scheduling, stop.clone()));
    started.push("scheduler", async move {
        stop.cancel();
        let _ = task.await;
    });
    informers
}

/// Refuses to run where it cannot.
pub fn preflight() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("kedge server needs root: run it with sudo");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_range() {
        let range = "10.43.0.0/16".parse().unwrap();
        assert_eq!(nth(&range, 10), Some(IpAddr::from([10, 43, 0, 10])));
        assert_eq!(nth(&"10.0.0.0/30".parse().unwrap(), 4), None);
        assert_eq!(nth(&"fd43::/112".parse().unwrap(), 10), Some("fd43::a".parse().unwrap()));
    }

    #[test]
    fn the_configuration_of_the_scheduler_is_strict() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("scheduler.yaml");
        let of = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let args = ["server", "--config", "/dev/null", "--scheduler-config", file.to_str().unwrap()];
            scheduling(&crate::config::server(&args.map(str::to_owned)).unwrap())
        };
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        let found = of(&format!("{head}profiles:\n- schedulerName: mine\n")).unwrap();
        assert_eq!(found.profiles.keys().collect::<Vec<_>>(), ["mine"]);
        let error = of(&format!("{head}profile: []\n")).unwrap_err().to_string();
        assert!(error.ends_with("scheduler.yaml: strict decoding error: unknown field \"profile\""), "{error}");
        assert!(of("{").is_err());
    }
}
