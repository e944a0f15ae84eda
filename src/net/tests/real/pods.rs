//! Links, addresses, namespaces, adoption, removal.

use std::{collections::BTreeMap, fs, io::ErrorKind};

use net::{Error, HostPort, Network, Protocol, remove_all};
use tokio::time::Instant;

use crate::{
    config,
    host::{address, ask, ask_from, ip, on_host, on_host_async, outside, run, serve, serve_here, within},
    pods, spec,
};

#[test]
fn pods_reach_each_other_and_the_host_in_both_families() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let [a, b] = pods(&network, ["a", "b"]).await;
        assert_eq!(a.ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.42.0.2", "fd42::2"]);
        assert_eq!(a.gateways.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.42.0.1", "fd42::1"]);
        serve(&b.netns, "b", 8080);
        serve_here("host", "[::]:9090");
        for v6 in [false, true] {
            let (from, to) = (address(&a.ips, v6), address(&b.ips, v6));
            let wrap = |ip: std::net::IpAddr, port| std::net::SocketAddr::new(ip, port).to_string();
            assert_eq!(ask_from(&a.netns, &wrap(to, 8080)).unwrap(), format!("b {from}"));
            assert!(ask(&wrap(to, 8080)).unwrap().starts_with("b "), "from the host");
            assert_eq!(ask_from(&a.netns, &wrap(a.gateways[usize::from(v6)], 9090)).unwrap(), format!("host {from}"));
        }
        within(&a.netns, || {
            run("ping", "-c1 -W5 10.42.0.3");
            run("ping", "-c1 -W5 fd42::3");
        });
    });
}

#[test]
fn a_pod_without_ipv6_on_the_host_gets_ipv4_only() {
    on_host_async(|| async {
        fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let network = Network::start(config()).await.unwrap();
        let [a, b] = pods(&network, ["a", "b"]).await;
        assert_eq!((a.ips.len(), network.config().pod_cidrs.len()), (1, 1));
        serve(&b.netns, "b", 80);
        assert_eq!(ask_from(&a.netns, "10.42.0.3:80").unwrap(), "b 10.42.0.2");
    });
}

#[test]
fn adding_and_deleting_again_changes_nothing() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let first = network.add_pod(spec("a")).await.unwrap();
        assert_eq!(network.add_pod(spec("a")).await.unwrap(), first);
        network.del_pod("a").await.unwrap();
        network.del_pod("a").await.unwrap();
        assert!(network.pods().await.unwrap().is_empty());
        assert!(!first.netns.exists());
        crate::host::wait_for("the link's end", || !ip("-o link").contains(&first.link));
        // The address rests.
        assert_eq!(network.add_pod(spec("a")).await.unwrap().ips[0].to_string(), "10.42.0.3");
    });
}

#[test]
fn sysctls_are_set_before_the_pod_starts() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let mut wanted = spec("a");
        wanted.sysctls.insert("net.core.somaxconn".into(), "77".into());
        wanted.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "100".into());
        let pod = network.add_pod(wanted).await.unwrap();
        let read = |name: &str| within(&pod.netns, || fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap());
        assert_eq!(read("core/somaxconn"), "77\n");
        assert_eq!(read("ipv4/ip_unprivileged_port_start"), "100\n");
        assert_eq!(read("ipv4/ping_group_range"), "0\t2147483647\n");
        let mut bad = spec("b");
        bad.sysctls.insert("kernel.shmmax".into(), "1".into());
        assert!(matches!(network.add_pod(bad).await, Err(Error::Invalid { .. })));
        // A value that the kernel refuses leaves nothing behind.
        let mut refused = spec("c");
        refused.sysctls.insert("net.core.somaxconn".into(), "many".into());
        assert!(network.add_pod(refused).await.is_err());
        assert_eq!(network.pods().await.unwrap().len(), 1);
        assert!(!fs::exists("/run/kedge/netns/kedge-c").unwrap() && !fs::exists("/run/kedge/net/pods/c.json").unwrap());
    });
}

#[test]
fn a_restarted_daemon_adopts_pods_and_clears_what_is_half_made() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let [a, b, c] = pods(&network, ["a", "b", "c"]).await;
        drop(network);
        // While nobody looks: b loses its link, c its pin, a stray link appears, a record is cut short.
        ip(&format!("link del {}", b.link));
        run("umount", c.netns.to_str().unwrap());
        ip("link add kedge-stray type veth peer name other");
        fs::write("/run/kedge/net/pods/d.json", "{\"spec\":").unwrap();

        let network = Network::start(config()).await.unwrap();
        assert_eq!(network.pods().await.unwrap(), std::slice::from_ref(&a));
        let links = ip("-o link");
        assert!(links.contains(&a.link) && !links.contains(&c.link) && !links.contains("kedge-stray"));
        assert_eq!(fs::read_dir("/run/kedge/netns").unwrap().count(), 1);
        assert_eq!(fs::read_dir("/run/kedge/net/pods").unwrap().count(), 1);
        let [d] = pods(&network, ["d"]).await;
        assert_ne!(d.ips, a.ips);
        serve(&a.netns, "a", 80);
        assert_eq!(ask_from(&d.netns, "10.42.0.2:80").unwrap(), format!("a {}", d.ips[0]));
    });
}

#[test]
fn a_pod_of_another_range_is_not_adopted() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        pods(&network, ["a"]).await;
        drop(network);
        let mut moved = config();
        moved.pod_cidrs = vec!["10.42.9.0/24".parse().unwrap()];
        let network = Network::start(moved).await.unwrap();
        assert!(network.pods().await.unwrap().is_empty());
        assert_eq!(pods(&network, ["a"]).await[0].ips[0].to_string(), "10.42.9.2");
    });
}

#[test]
fn traffic_that_leaves_is_masqueraded_and_replies_return() {
    on_host_async(|| async {
        let client = outside();
        let network = Network::start(config()).await.unwrap();
        let [a] = pods(&network, ["a"]).await;
        serve(&client, "world", 80);
        assert_eq!(ask_from(&a.netns, "192.0.2.2:80").unwrap(), "world 192.0.2.1");
        assert_eq!(ask_from(&a.netns, "[2001:db8::2]:80").unwrap(), "world 2001:db8::1");
    });
}

#[test]
fn host_ports_lead_to_their_pod_only() {
    on_host_async(|| async {
        let client = outside();
        let network = Network::start(config()).await.unwrap();
        let port = |host_ip: Option<&str>, host_port| HostPort {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            pod_port: 80,
            protocol: Protocol::Tcp,
        };
        let mut wanted = spec("a");
        wanted.host_ports = vec![port(None, 8080), port(Some("192.0.2.1"), 8081)];
        let a = network.add_pod(wanted.clone()).await.unwrap();
        serve(&a.netns, "a", 80);
        assert_eq!(ask_from(&client, "192.0.2.1:8080").unwrap(), "a 192.0.2.2");
        assert_eq!(ask_from(&client, "[2001:db8::1]:8080").unwrap(), "a 2001:db8::2");
        assert_eq!(ask_from(&client, "192.0.2.1:8081").unwrap(), "a 192.0.2.2");
        assert_eq!(ask("127.0.0.1:8080").unwrap(), "a 10.42.0.1", "loopback is masqueraded");
        assert_eq!(ask("127.0.0.1:8081").unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(matches!(
            network
                .add_pod({
                    let mut other = spec("b");
                    other.host_ports = vec![port(Some("192.0.2.1"), 8080)];
                    other
                })
                .await,
            Err(Error::HostPortTaken { port: 8080, .. })
        ));
        wanted.host_ports.clear();
        network.add_pod(wanted).await.unwrap();
        assert_eq!(ask_from(&client, "192.0.2.1:8080").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

/// Everything on the host that a test could leave behind.
fn picture() -> BTreeMap<&'static str, String> {
    let sysctls =
        ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/cable/accept_ra", "ipv6/conf/lo/accept_ra"];
    let mut all = BTreeMap::from([
        ("links", ip("-j link")),
        ("addresses", ip("-j addr")),
        ("routes", ip("route show table all")),
        ("routes6", ip("-6 route show table all")),
        ("nft", run("nft", "list ruleset")),
        ("mounts", fs::read_to_string("/proc/thread-self/mounts").unwrap()),
        ("run", run("find", "/run")),
    ]);
    all.extend(sysctls.map(|s| (s, fs::read_to_string(format!("/proc/sys/net/{s}")).unwrap())));
    all
}

#[test]
fn nothing_is_left_after_removal() {
    on_host_async(|| async {
        outside();
        fs::create_dir_all("/run/kedge").unwrap();
        // What others have stays: a table, a link with an address.
        run("nft", "add table inet foreign");
        let before = picture();
        let network = Network::start(config()).await.unwrap();
        let mut wanted = spec("b");
        wanted.host_ports = vec![HostPort { host_ip: None, host_port: 80, pod_port: 80, protocol: Protocol::Udp }];
        pods(&network, ["a"]).await;
        network.add_pod(wanted).await.unwrap();
        assert_ne!(picture(), before);
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv6/conf/cable/accept_ra").unwrap(), "2\n");
        drop(network);
        remove_all(&config()).unwrap();
        let after = picture();
        for (what, before) in &before {
            assert_eq!(&after[what], before, "{what}");
        }
        remove_all(&config()).unwrap();
    });
}

#[test]
fn removal_from_a_host_that_never_had_kedge_is_fine() {
    on_host(|| remove_all(&config()).unwrap());
}

#[test]
fn a_hundred_pods() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let start = Instant::now();
        let mut each = Vec::new();
        for n in 0..100 {
            let start = Instant::now();
            network.add_pod(spec(&format!("pod-{n}"))).await.unwrap();
            each.push(start.elapsed());
        }
        each.sort();
        println!("100 pods: {:?}, median {:?}, least {:?}", start.elapsed(), each[50], each[0]);
        let start = Instant::now();
        for n in 0..100 {
            network.del_pod(&format!("pod-{n}")).await.unwrap();
        }
        println!("100 pods deleted: {:?}", start.elapsed());
        assert!(network.pods().await.unwrap().is_empty());
        assert_eq!(fs::read_dir("/run/kedge/netns").unwrap().count(), 0);
    });
}

#[test]
fn a_full_range_says_so() {
    on_host_async(|| async {
        let mut small = config();
        small.pod_cidrs = vec!["10.42.0.0/29".parse().unwrap()];
        let network = Network::start(small).await.unwrap();
        pods(&network, ["a", "b", "c", "d", "e"]).await;
        assert!(matches!(network.add_pod(spec("f")).await, Err(Error::PoolExhausted { .. })));
        network.del_pod("c").await.unwrap();
        assert_eq!(network.add_pod(spec("f")).await.unwrap().ips[0].to_string(), "10.42.0.4");
    });
}

/// The first packet must not be lost: its repetition would come a second later.
///
/// FIXME: true for IPv4. An IPv6 address is made usable by a kernel worker (addrconf's), after the request that adds it was
/// acknowledged; on a busy machine the first packet can be faster and is repeated. Wait for its RTM_NEWADDR event.
#[test]
fn packets_flow_when_the_pod_is_there() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let mut each = Vec::new();
        for n in 0..20 {
            let [pod] = pods(&network, [format!("pod-{n}").as_str()]).await;
            let start = Instant::now();
            // Nobody listens: the answer is a reset, from the pod.
            let refused = |v6| {
                let to = std::net::SocketAddr::new(address(&pod.ips, v6), 9);
                assert_eq!(ask(&to.to_string()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            };
            refused(false);
            each.push(start.elapsed());
            refused(true);
        }
        each.sort();
        println!("first answers: median {:?}, longest {:?}", each[10], each[19]);
        assert!(each[19].as_millis() < 900, "{each:?}");
    });
}
