//! What somebody else takes away comes back by itself.

use net::Network;
use tokio::time::Instant;

use crate::{
    config, frontend,
    host::{DEADLINE, ask_from, ip, on_host_async, run, serve},
    pods, spec, table,
};

/// Lets the watches run until it is so.
async fn becomes(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::task::yield_now().await;
    }
}

#[test]
fn flushed_rules_and_deleted_elements_come_back() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let [a, b] = pods(&network, ["a", "b"]).await;
        serve(&b.netns, "b", 8080);
        let endpoint = std::net::SocketAddr::new(b.ips[0], 8080);
        network.set_services(table([frontend("10.43.0.7:80/tcp", [endpoint])])).await.unwrap();
        let listing = || run("nft", "list table inet kedge");
        let whole = listing();
        // Twice, so that the second repair is one that has to wait.
        for command in ["flush table inet kedge", "flush table inet kedge"] {
            run("nft", command);
            assert_ne!(listing(), whole);
            becomes(command, || listing() == whole).await;
            assert_eq!(ask_from(&a.netns, "10.43.0.7:80").unwrap(), format!("b {}", a.ips[0]));
        }
    });
}

#[test]
fn a_deleted_bridge_comes_back_with_its_ports() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let [a, b] = pods(&network, ["a", "b"]).await;
        serve(&b.netns, "b", 8080);
        ip("link del kedge0");
        becomes("the ports' return", || ip("-o link show").matches("master kedge0").count() == 2).await;
        for ip in &b.ips {
            let to = std::net::SocketAddr::new(*ip, 8080).to_string();
            assert!(ask_from(&a.netns, &to).unwrap().starts_with("b "));
        }
        assert!(ip("addr show kedge0").contains("10.43.0.10/32"));
        let [c] = pods(&network, ["c"]).await;
        assert!(ask_from(&c.netns, "10.42.0.3:8080").unwrap().starts_with("b "));
    });
}

#[test]
fn a_deleted_pod_link_comes_back_with_its_address() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let [a, b] = pods(&network, ["a", "b"]).await;
        serve(&b.netns, "b", 8080);
        ip(&format!("link del {}", b.link));
        becomes("the link's return", || ip("-o link show").contains(&b.link)).await;
        assert_eq!(network.pods().await.unwrap(), [a.clone(), b]);
        assert_eq!(ask_from(&a.netns, "10.42.0.3:8080").unwrap(), format!("b {}", a.ips[0]));
    });
}

#[test]
fn a_bridge_deleted_while_the_daemon_is_down_gets_its_ports_back() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let [a, b] = pods(&network, ["a", "b"]).await;
        serve(&b.netns, "b", 8080);
        drop(network);
        ip("link del kedge0");
        let network = Network::start(config()).await.unwrap();
        assert_eq!(network.pods().await.unwrap().len(), 2);
        assert_eq!(ask_from(&a.netns, "10.42.0.3:8080").unwrap(), format!("b {}", a.ips[0]));
    });
}

#[test]
fn a_pod_without_its_pin_gets_a_new_namespace_and_keeps_its_address() {
    on_host_async(|| async {
        let network = Network::start(config()).await.unwrap();
        let [a, b] = pods(&network, ["a", "b"]).await;
        run("umount", b.netns.to_str().unwrap());
        std::fs::remove_file(&b.netns).unwrap();
        assert_eq!(network.add_pod(spec("b")).await.unwrap(), b);
        serve(&b.netns, "b", 8080);
        assert_eq!(ask_from(&a.netns, "10.42.0.3:8080").unwrap(), format!("b {}", a.ips[0]));
    });
}
