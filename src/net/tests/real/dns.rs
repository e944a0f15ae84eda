//! The DNS address of the cluster, asked by pods and by processes of the host.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
};

use net::{
    Network,
    dns::{Server, ServerConfig, ServiceRecord, ZoneSnapshot},
};

use crate::{
    config,
    host::{DEADLINE, on_host, within},
    pods,
};

/// A question for `web.default.svc.cluster.local A`, by hand.
fn question() -> Vec<u8> {
    let mut bytes = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["web", "default", "svc", "cluster", "local"] {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

/// The last four bytes of an answer with one A record.
fn ask(server: &str) -> [u8; 4] {
    let server: SocketAddr = server.parse().unwrap();
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    // Connected: only an answer from the address that was asked is taken.
    socket.connect(server).unwrap();
    socket.send(&question()).unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[length - 4..length].try_into().unwrap()
}

fn answers(port_is_taken: bool) {
    on_host(move || {
        // The server works on other threads while this one asks; they belong to the same host.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _other = port_is_taken.then(|| UdpSocket::bind("0.0.0.0:53").unwrap());
        let _other6 = port_is_taken.then(|| UdpSocket::bind("[::]:53"));
        let (network, server, pod) = runtime.block_on(async {
            let network = Network::start(config()).await.unwrap();
            let ips = &network.config().dns_ips;
            let listen = ips.iter().map(|ip| SocketAddr::new(*ip, 53)).collect();
            let server = Server::start(ServerConfig { listen, own: ips.clone() }).await.unwrap();
            network.lead_dns(server.addresses()).await.unwrap();
            // As node does it: the service of DNS itself is in the table, with endpoints somewhere else.
            let own = crate::frontend("10.43.0.10:53/udp", ["10.42.5.5:53".parse().unwrap()]);
            network.set_services(crate::table([own])).await.unwrap();
            let [pod] = pods(&network, ["a"]).await;
            (network, server, pod)
        });
        assert_eq!(server.addresses().iter().all(|a| a.port() == 53), !port_is_taken);
        let record = ServiceRecord::ClusterIp { ips: vec![IpAddr::from([10, 43, 0, 7])], ports: Vec::new() };
        server.set_zone(ZoneSnapshot {
            domain: "cluster.local".into(),
            services: [(("default".into(), "web".into()), record)].into(),
            ..ZoneSnapshot::default()
        });
        let everywhere = |netns: Option<&Path>| {
            for address in ["10.43.0.10:53", "[fd43::a]:53"] {
                let answer = match netns {
                    Some(netns) => within(netns, || ask(address)),
                    None => ask(address),
                };
                assert_eq!(answer, [10, 43, 0, 7], "{address}");
            }
        };
        everywhere(Some(&pod.netns));
        everywhere(None);
        drop(network);
    });
}

#[test]
fn pods_and_host_ask_the_cluster_address() {
    answers(false);
}

#[test]
fn another_server_on_port_53_does_not_matter() {
    answers(true);
}
