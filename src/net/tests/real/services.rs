//! Services with real connections.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
};

use net::{Affinity, Network, PodNet};
use tokio::time::Instant;

use crate::{
    config, frontend,
    host::{ask, ask_from, ask_udp, ip, on_host_async, outside, run, serve, serve_here, serve_udp, within},
    pods, table,
};

fn endpoints(pods: &[&PodNet], port: u16, v6: bool) -> Vec<SocketAddr> {
    pods.iter().flat_map(|p| &p.ips).filter(|ip| ip.is_ipv6() == v6).map(|ip| SocketAddr::new(*ip, port)).collect()
}

/// Switches br_netfilter for this host, where the kernel has it.
fn bridge_calls_netfilter(yes: bool) {
    for family in ["ip", "ip6"] {
        let file = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
        if std::fs::exists(&file).unwrap() {
            std::fs::write(file, if yes { "1" } else { "0" }).unwrap();
        }
    }
}

fn refused(result: std::io::Result<String>) {
    let start = Instant::now();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(start.elapsed().as_secs() < 1);
}

#[test]
fn a_service_spreads_over_its_endpoints_and_keeps_the_source() {
    spreads(true);
    spreads(false);
}

fn spreads(bridge_netfilter: bool) {
    on_host_async(move || async move {
        bridge_calls_netfilter(bridge_netfilter);
        let network = Network::start(config()).await.unwrap();
        let [client, a, b, c] = pods(&network, ["client", "a", "b", "c"]).await;
        for (pod, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
            serve(&pod.netns, name, 8080);
        }
        network
            .set_services(table([
                frontend("10.43.0.7:80/tcp", endpoints(&[&a, &b, &c], 8080, false)),
                frontend("[fd43::7]:80/tcp", endpoints(&[&a, &b, &c], 8080, true)),
            ]))
            .await
            .unwrap();
        for (to, source) in [("10.43.0.7:80", client.ips[0]), ("[fd43::7]:80", client.ips[1])] {
            let mut seen = BTreeMap::<String, u32>::new();
            within(&client.netns, || {
                for _ in 0..300 {
                    let answer = ask(to).unwrap();
                    let (name, from) = answer.split_once(' ').unwrap();
                    assert_eq!(from, source.to_string());
                    *seen.entry(name.to_owned()).or_default() += 1;
                }
            });
            println!("{to}: {seen:?}");
            // 300 draws of 3: under 60 or over 140 is more than five standard deviations away.
            assert!(seen.len() == 3 && seen.values().all(|n| (60..=140).contains(n)), "{seen:?}");
            // Processes of the host, with the bridge's address.
            assert!(ask(to).unwrap().ends_with(if to.starts_with('[') { " fd42::1" } else { " 10.42.0.1" }));
        }
    });
}

/// With and without br_netfilter in the way: hosts with Docker have it on, others do not.
#[test]
fn a_pod_reaches_itself_through_its_service() {
    itself(true);
    itself(false);
}

fn itself(bridge_netfilter: bool) {
    on_host_async(move || async move {
        bridge_calls_netfilter(bridge_netfilter);
        let network = Network::start(config()).await.unwrap();
        let [a] = pods(&network, ["a"]).await;
        serve(&a.netns, "a", 8080);
        network
            .set_services(table([
                frontend("10.43.0.7:80/tcp", endpoints(&[&a], 8080, false)),
                frontend("[fd43::7]:80/tcp", endpoints(&[&a], 8080, true)),
                frontend("*:30080/tcp", endpoints(&[&a], 8080, false)),
            ]))
            .await
            .unwrap();
        assert_eq!(ask_from(&a.netns, "10.43.0.7:80").unwrap(), "a 10.42.0.1");
        assert_eq!(ask_from(&a.netns, "[fd43::7]:80").unwrap(), "a fd42::1");
        assert_eq!(ask_from(&a.netns, "10.42.0.1:30080").unwrap(), "a 10.42.0.1");
    });
}

#[test]
fn node_ports_answer_outside_loopback_pods_and_keep_the_client() {
    on_host_async(|| async {
        let client = outside();
        let network = Network::start(config()).await.unwrap();
        let [a, b] = pods(&network, ["a", "b"]).await;
        serve(&a.netns, "a", 8080);
        let both = endpoints(&[&a], 8080, false).into_iter().chain(endpoints(&[&a], 8080, true));
        network.set_services(table([frontend("*:30080/tcp", both)])).await.unwrap();
        assert_eq!(ask_from(&client, "192.0.2.1:30080").unwrap(), "a 192.0.2.2");
        assert_eq!(ask_from(&client, "[2001:db8::1]:30080").unwrap(), "a 2001:db8::2");
        assert_eq!(ask("127.0.0.1:30080").unwrap(), "a 10.42.0.1");
        assert_eq!(ask("192.0.2.1:30080").unwrap().split(' ').next(), Some("a"));
        assert_eq!(ask_from(&b.netns, "192.0.2.1:30080").unwrap(), format!("a {}", b.ips[0]));
        // An address that comes later needs no new table.
        ip("addr add 192.0.2.9/24 dev cable");
        assert_eq!(ask_from(&client, "192.0.2.9:30080").unwrap(), "a 192.0.2.2");
        refused(ask_from(&client, "192.0.2.1:30081"));
    });
}

#[test]
fn endpoints_beyond_this_node_are_masqueraded_for_clients_from_outside() {
    on_host_async(|| async {
        // A second outside machine plays an endpoint that is no pod of this node.
        let client = outside();
        ip("netns add far");
        ip("link add far0 type veth peer name eth0 netns far");
        ip("addr add 198.51.100.1/24 dev far0");
        ip("link set far0 up");
        let far = std::path::PathBuf::from("/run/netns/far");
        within(&far, || {
            ip("link set lo up");
            ip("addr add 198.51.100.2/24 dev eth0");
            ip("link set eth0 up");
        });
        serve(&far, "far", 8080);
        let network = Network::start(config()).await.unwrap();
        let [a] = pods(&network, ["a"]).await;
        let endpoint = [SocketAddr::from(([198, 51, 100, 2], 8080))];
        network
            .set_services(table([frontend("*:30080/tcp", endpoint), frontend("10.43.0.7:80/tcp", endpoint)]))
            .await
            .unwrap();
        assert_eq!(ask_from(&client, "192.0.2.1:30080").unwrap(), "far 198.51.100.1");
        assert_eq!(ask_from(&a.netns, "10.43.0.7:80").unwrap(), "far 198.51.100.1");
        assert_eq!(ask("10.43.0.7:80").unwrap(), "far 198.51.100.1");
    });
}

#[test]
fn a_service_of_a_host_process_is_reached_from_pods_and_host() {
    on_host_async(|| async {
        let _client = outside();
        let network = Network::start(config()).await.unwrap();
        let [a] = pods(&network, ["a"]).await;
        serve_here("api", "192.0.2.1:6443");
        let endpoint = [SocketAddr::from(([192, 0, 2, 1], 6443))];
        network.set_services(table([frontend("10.43.0.1:443/tcp", endpoint)])).await.unwrap();
        assert_eq!(ask_from(&a.netns, "10.43.0.1:443").unwrap(), "api 10.42.0.2");
        assert!(ask("10.43.0.1:443").unwrap().starts_with("api "));
    });
}

#[test]
fn what_nobody_serves_is_refused_at_once() {
    on_host_async(|| async {
        let _client = outside();
        // A default route, so that a leak would have somewhere to go.
        ip("route add default via 192.0.2.2");
        let network = Network::start(config()).await.unwrap();
        let [a] = pods(&network, ["a"]).await;
        serve(&a.netns, "a", 8080);
        network
            .set_services(table([
                frontend("10.43.0.7:80/tcp", endpoints(&[&a], 8080, false)),
                frontend("10.43.0.8:80/tcp", []),
                frontend("[fd43::8]:80/tcp", []),
                frontend("203.0.113.5:80/tcp", []),
                frontend("10.43.0.8:53/udp", []),
            ]))
            .await
            .unwrap();
        for to in ["10.43.0.8:80", "[fd43::8]:80", "10.43.0.7:81", "10.43.99.99:80", "203.0.113.5:80", "10.43.0.10:99"]
        {
            refused(ask_from(&a.netns, to));
            refused(ask(to));
        }
        let udp = || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            ask_udp(&socket, "10.43.0.8:53")
        };
        refused(within(&a.netns, udp));
        // A datagram of this host's own is refused by the call that sends it.
        assert_eq!(udp().unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
fn further_ranges_are_served_and_refused_like_the_first() {
    on_host_async(|| async {
        let _client = outside();
        ip("route add default via 192.0.2.2");
        // A way of the host's own into one of the ranges.
        ip("route add 198.51.100.0/25 via 192.0.2.2");
        let network = Network::start(config()).await.unwrap();
        let [a, b] = pods(&network, ["a", "b"]).await;
        serve(&a.netns, "a", 8080);
        let rows = || {
            [
                frontend("203.0.113.7:80/tcp", endpoints(&[&a], 8080, false)),
                frontend("[2001:db8:cb00::7]:80/tcp", endpoints(&[&a], 8080, true)),
            ]
        };
        let ranges = |all: &[&str]| net::ServiceTable {
            ranges: all.iter().map(|range| range.parse().unwrap()).collect(),
            ..table(rows())
        };
        // The last two are in the first range of services, and around the pods.
        let all = ["203.0.113.0/24", "2001:db8:cb00::/64", "198.51.100.0/24", "10.43.7.0/24", "10.42.0.0/15"];
        network.set_services(ranges(&all)).await.unwrap();
        let routes = || ip("route show dev kedge0 metric 4294967294");
        let shown = "198.51.100.0/24 proto static scope link src 10.42.0.1 \n203.0.113.0/24 proto static scope link src 10.42.0.1 \n";
        assert_eq!(routes().replace("10.42.0.0/15 proto static scope link src 10.42.0.1 \n", ""), shown);
        for to in ["203.0.113.7:80", "[2001:db8:cb00::7]:80"] {
            assert!(ask_from(&b.netns, to).is_ok(), "{to}");
            assert!(ask(to).is_ok(), "{to}");
        }
        for to in ["203.0.113.7:81", "203.0.113.99:80", "[2001:db8:cb00::7]:81", "[2001:db8:cb00::99]:80"] {
            refused(ask_from(&b.netns, to));
            refused(ask(to));
        }
        // What the host knows better is not refused, nor are pods: those answer for themselves.
        assert!(ask_from(&b.netns, &format!("{}:8080", a.ips[0])).is_ok());
        assert_eq!(ip("route get 198.51.100.9").split_whitespace().nth(2), Some("192.0.2.2"));
        // A new daemon finds the routes again, and takes away those of ranges that have gone.
        drop(network);
        let network = Network::start(config()).await.unwrap();
        assert!(routes().contains("203.0.113.0/24"), "before the services are told");
        refused(ask_from(&b.netns, "203.0.113.99:80"));
        network.set_services(ranges(&["2001:db8:cb00::/64"])).await.unwrap();
        assert_eq!(routes(), "");
        assert!(ask("[2001:db8:cb00::7]:80").is_ok());
        network.set_services(table(rows())).await.unwrap();
        assert_eq!(ip("-6 route show dev kedge0 metric 4294967294"), "");
    });
}

#[test]
fn tables_follow_one_another_and_open_connections_live() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let [client, a, b] = pods(&network, ["client", "a", "b"]).await;
        serve(&a.netns, "a", 8080);
        serve(&b.netns, "b", 8080);
        let one = |pods: &[&PodNet]| table([frontend("10.43.0.7:80/tcp", endpoints(pods, 8080, false))]);
        for (pods, expected) in [(vec![&a], "a"), (vec![&b], "b"), (vec![&a], "a")] {
            network.set_services(one(&pods)).await.unwrap();
            assert_eq!(ask_from(&client.netns, "10.43.0.7:80").unwrap(), format!("{expected} {}", client.ips[0]));
        }
        network.set_services(one(&[&a, &b])).await.unwrap();
        ask_from(&client.netns, "10.43.0.7:80").unwrap();
        network.set_services(table([])).await.unwrap();
        refused(ask_from(&client.netns, "10.43.0.7:80"));
    });
}

#[test]
fn udp_flows_to_vanished_endpoints_are_forgotten() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let [client, a, b] = pods(&network, ["client", "a", "b"]).await;
        serve_udp(&a.netns, "a", 53);
        serve_udp(&b.netns, "b", 53);
        let one = |pod: &PodNet| table([frontend("10.43.0.7:53/udp", endpoints(&[pod], 53, false))]);
        // One socket, one port: the flow that a resolver keeps for ever.
        let socket = within(&client.netns, || UdpSocket::bind("0.0.0.0:0").unwrap());
        network.set_services(one(&a)).await.unwrap();
        assert_eq!(ask_udp(&socket, "10.43.0.7:53").unwrap(), "a");
        network.set_services(one(&b)).await.unwrap();
        assert_eq!(ask_udp(&socket, "10.43.0.7:53").unwrap(), "b");
    });
}

#[test]
fn a_sticky_client_stays_until_its_endpoint_goes() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let [client, a, b, c] = pods(&network, ["client", "a", "b", "c"]).await;
        for (pod, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
            serve(&pod.netns, name, 8080);
        }
        let sticky = |pods: &[&PodNet]| {
            let mut t = table([
                frontend("10.43.0.7:80/tcp", endpoints(pods, 8080, false)),
                frontend("[fd43::7]:80/tcp", endpoints(pods, 8080, true)),
                frontend("*:30080/tcp", endpoints(pods, 8080, false)),
            ]);
            for backends in t.frontends.values_mut() {
                backends.affinity = Affinity::ClientIp { timeout_seconds: 10_800 };
            }
            t
        };
        let name = |to: &str| ask_from(&client.netns, to).unwrap().split(' ').next().unwrap().to_owned();
        for to in ["10.43.0.7:80", "[fd43::7]:80", "10.42.0.1:30080"] {
            network.set_services(sticky(&[&a, &b, &c])).await.unwrap();
            let first = name(to);
            for _ in 0..20 {
                assert_eq!(name(to), first);
            }
            let rest: Vec<_> =
                [("a", &a), ("b", &b), ("c", &c)].into_iter().filter(|(n, _)| *n != first).map(|(_, p)| p).collect();
            network.set_services(sticky(&rest)).await.unwrap();
            let second = name(to);
            assert_ne!(second, first);
            for _ in 0..20 {
                assert_eq!(name(to), second);
            }
        }
    });
}

#[test]
fn services_outlive_the_daemon_and_are_taken_over() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let [client, a, b] = pods(&network, ["client", "a", "b"]).await;
        serve(&a.netns, "a", 8080);
        serve(&b.netns, "b", 8080);
        let one = |pods: &[&PodNet]| table([frontend("10.43.0.7:80/tcp", endpoints(pods, 8080, false))]);
        network.set_services(one(&[&a])).await.unwrap();
        drop(network);
        assert!(ask_from(&client.netns, "10.43.0.7:80").is_ok());
        let network = Network::start(config()).await.unwrap();
        assert!(ask_from(&client.netns, "10.43.0.7:80").is_ok(), "before the services are told");
        // A host port before the services are told takes nothing away.
        let mut other = crate::spec("d");
        other.host_ports =
            vec![net::HostPort { host_ip: None, host_port: 99, pod_port: 99, protocol: net::Protocol::Tcp }];
        network.add_pod(other).await.unwrap();
        assert!(ask_from(&client.netns, "10.43.0.7:80").is_ok(), "beside a host port");
        network.set_services(one(&[&b])).await.unwrap();
        assert!(ask_from(&client.netns, "10.43.0.7:80").unwrap().starts_with("b "));
    });
}

#[test]
fn a_flushed_ruleset_is_loaded_again() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let [client, a] = pods(&network, ["client", "a"]).await;
        serve(&a.netns, "a", 8080);
        network.set_services(table([frontend("10.43.0.7:80/tcp", endpoints(&[&a], 8080, false))])).await.unwrap();
        let before = run("nft", "list tables");
        run("nft", "flush ruleset");
        // The event is queued when nft returns; give the listener its turns until the table is back.
        let deadline = Instant::now() + crate::host::DEADLINE;
        while run("nft", "list tables") != before {
            assert!(Instant::now() < deadline, "the table did not come back");
            network.pods().await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(ask_from(&client.netns, "10.43.0.7:80").is_ok());
    });
}
