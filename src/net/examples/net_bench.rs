//! Measures the service table: `cargo run --release -p kedge-net --example net_bench`, as root. 1,000 services of three
//! endpoints each, in a network and mount namespace of its own, joined to nothing. One line a figure: name, min, median, max,
//! unit.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on panics")]

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use net::{Affinity, Backends, Config, Frontend, Network, PodSpec, Protocol, ServiceTable};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::time::Instant;

const SERVICES: u16 = 1_000;
const ENDPOINTS: u8 = 3;
const LOADS: usize = 9;
const CHANGES: u8 = 100;
const PODS: usize = 50;

fn config() -> Config {
    Config {
        pod_cidrs: ["10.42.0.0/24", "fd42::/64"].map(|n| n.parse().unwrap()).into(),
        cluster_cidrs: ["10.42.0.0/16", "fd42::/56"].map(|n| n.parse().unwrap()).into(),
        service_cidrs: ["10.43.0.0/16", "fd43::/112"].map(|n| n.parse().unwrap()).into(),
        dns_ips: ["10.43.0.10", "fd43::a"].map(|n| n.parse().unwrap()).into(),
        netns_dir: "/run/kedge/netns".into(),
        state_dir: "/run/kedge/net".into(),
        mtu: None,
    }
}

/// All services; `changed` moves one endpoint of one of them.
fn services(changed: u8) -> ServiceTable {
    let of = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let frontend =
            Frontend { address: Some(IpAddr::from([10, 43, high + 1, low])), protocol: Protocol::Tcp, port: 80 };
        let endpoints = (0..ENDPOINTS).map(|e| {
            let last = if n == SERVICES / 2 && e == 1 { 100 + changed } else { e };
            SocketAddr::from(([10, 42, 4 * high + last % 4, low], 8000 + u16::from(last)))
        });
        (frontend, Backends { endpoints: endpoints.collect(), affinity: Affinity::None })
    };
    ServiceTable { frontends: (0..SERVICES).map(of).collect(), ..ServiceTable::default() }
}

fn print(name: &str, mut times_ms: Vec<f64>) {
    times_ms.sort_by(f64::total_cmp);
    let (min, median, max) = (times_ms[0], times_ms[times_ms.len() / 2], times_ms[times_ms.len() - 1]);
    println!("{name} {min:.3} {median:.3} {max:.3} ms");
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

async fn run() {
    let network = Network::start(config()).await.unwrap();
    let (mut loads, mut changes, mut same) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..LOADS {
        network.set_services(ServiceTable::default()).await.unwrap();
        let table = services(0);
        let start = Instant::now();
        network.set_services(table).await.unwrap();
        loads.push(ms(start));
    }
    for round in 1..=CHANGES {
        let table = services(round);
        let start = Instant::now();
        network.set_services(table.clone()).await.unwrap();
        changes.push(ms(start));
        let start = Instant::now();
        network.set_services(table).await.unwrap();
        same.push(ms(start));
    }
    print("services_load_1000x3", loads);
    print("services_change_one_of_1000x3", changes);
    print("services_change_nothing", same);
    let mut pods = Vec::new();
    for n in 0..PODS {
        let spec = PodSpec { id: format!("p{n}"), host_ports: Vec::new(), sysctls: Default::default() };
        let start = Instant::now();
        network.add_pod(spec).await.unwrap();
        pods.push(ms(start));
    }
    print("pod_network_add", pods);
}

fn main() {
    // Before any other thread exists: the whole process moves.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("this measurement needs root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run());
}
