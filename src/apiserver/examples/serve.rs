//! A bare API server to try by hand: `cargo run -p kedge-apiserver --example serve -- FOLDER [PORT]`, then
//! `KUBECONFIG=FOLDER/kubeconfig kubectl get namespaces`. No controllers, no nodes.

use std::path::PathBuf;
use std::sync::Arc;

use apiserver::http::listener::{Tls, serve};
use apiserver::{ApiServer, Config, Version};
use tokio_util::sync::CancellationToken;

fn now() -> jiff::Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the whole daemon")]
    jiff::Timestamp::now()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| "kedge-serve".into()));
    let port: u16 = arguments.next().map_or(Ok(6443), |p| p.parse())?;
    std::fs::create_dir_all(&folder)?;
    let pki = cluster::pki::Pki::open(&folder.join("tls"), now())?;
    let facts = Arc::new(apiserver::facts_of);
    let store = store::SqliteStore::open(&folder.join("state.db"), facts, store::Options::default())?;
    let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
    let config = Config {
        clock: Arc::new(now),
        version: Version {
            git_version: "v1.36.2+kedge0.1.0".into(),
            git_commit: String::new(),
            build_date: "2026-01-01T00:00:00Z".into(),
        },
        service_account_issuer: issuer.clone(),
        api_audiences: vec![issuer],
        service_account_key_pem: pki.service_account_key_pem().to_owned(),
        authentication: apiserver::auth::Settings::default(),
        audit: None,
        dialer: None,
        front_proxy: None,
        service_cidrs: vec!["10.43.0.0/16".parse()?],
        node_ports: (30000, 32767),
        advertise: Some(([127, 0, 0, 1], port).into()),
    };
    let server = ApiServer::new(config, store.clone()).await?;
    let leaf = pki.api_server(&["127.0.0.1".into(), "localhost".into()])?;
    let tls = Tls::new(leaf.chain()?, leaf.key()?, pki.ca_der().clone())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let url = format!("https://{}", listener.local_addr()?);
    let kubeconfig = cluster::kubeconfig::render("kedge", &url, pki.ca_pem(), &pki.admin()?);
    cluster::files::write(&folder.join("kubeconfig"), kubeconfig.as_bytes())?;
    println!("export KUBECONFIG={}", folder.join("kubeconfig").display());
    let stop = CancellationToken::new();
    let signal = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        signal.cancel();
    });
    serve(listener, tls, server, stop).await;
    store::Store::close(&*store).await?;
    Ok(())
}
