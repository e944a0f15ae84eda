//! The small files that the node writes for a pod: host name, `/etc/hosts`, `/etc/resolv.conf`. Pure: texts in, texts out.
//!
//! Source: `pkg/kubelet/kubelet_pods.go` (GeneratePodHostNameAndDomain, managedHostsFileContent), `pkg/kubelet/network/dns/dns.go`.

use k8s_openapi::api::core::v1::Pod;

use crate::pod;

/// The kernel's limit and DNS's alike.
const HOSTNAME_MAX: usize = 63;
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;

/// Host name inside the pod, its domain (empty for none), and whether the kernel's host name is the full one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname {
    pub short: String,
    pub domain: String,
    pub kernel: String,
}

/// Errors: a full name that the kernel would not take.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> Result<Hostname, String> {
    let spec = pod::spec(pod);
    if let Some(name) = spec.hostname_override.as_ref().filter(|n| !n.is_empty()) {
        return Ok(Hostname { short: name.clone(), domain: String::new(), kernel: name.clone() });
    }
    let wanted = spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or_else(|| pod::name(pod));
    let cut: String = wanted.chars().take(HOSTNAME_MAX).collect();
    let short = cut.trim_end_matches(['-', '.']).to_owned();
    let domain = match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", pod::namespace(pod)),
        None => String::new(),
    };
    let mut kernel = short.clone();
    if spec.set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
        kernel = format!("{short}.{domain}");
        if kernel.len() > HOSTNAME_MAX + 1 {
            return Err(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {kernel} is too long ({} is the max, {} characters requested)",
                HOSTNAME_MAX + 1,
                kernel.len()
            ));
        }
    }
    Ok(Hostname { short, domain, kernel })
}

/// `/etc/hosts`. `host_file`: the node's own, for pods on the host's network.
pub fn hosts(pod: &Pod, ips: &[String], name: &Hostname, host_file: &str) -> String {
    let mut text = if pod::host_network(pod) {
        format!("# Kubernetes-managed hosts file (host network).\n{host_file}")
    } else {
        let mut text = "# Kubernetes-managed hosts file.\n\
            127.0.0.1\tlocalhost\n\
            ::1\tlocalhost ip6-localhost ip6-loopback\n\
            fe00::0\tip6-localnet\n\
            fe00::0\tip6-mcastprefix\n\
            fe00::1\tip6-allnodes\n\
            fe00::2\tip6-allrouters\n"
            .to_owned();
        for ip in ips {
            if name.domain.is_empty() {
                text.push_str(&format!("{ip}\t{}\n", name.short));
            } else {
                text.push_str(&format!("{ip}\t{0}.{1}\t{0}\n", name.short, name.domain));
            }
        }
        text
    };
    let aliases = pod::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
        }
    }
    text
}

/// The parts of a resolver configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// Reads a `resolv.conf`; the last of several `search` lines counts. Source: resolv.conf(5).
pub fn parse_resolver(text: &str) -> Resolver {
    let mut r = Resolver::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => r.nameservers.extend(words.next().map(str::to_owned)),
            // A lone dot would make every search end at once.
            Some("search" | "domain") => {
                r.searches = words
                    .map(|w| if w == "." { w } else { w.trim_end_matches('.') }.to_owned())
                    .filter(|w| w != ".")
                    .collect();
            }
            Some("options") => r.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    r
}

/// `/etc/resolv.conf`, and what had to be left out of it (for the DNSConfigForming event).
pub fn resolver(pod: &Pod, cluster_dns: &[String], cluster_domain: &str, host: &str) -> (String, Option<String>) {
    let spec = pod::spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !pod::host_network(pod) && !cluster_dns.is_empty(),
        "ClusterFirstWithHostNet" => !cluster_dns.is_empty(),
        _ => false,
    };
    let host = parse_resolver(host);
    let mut r = if policy == "None" {
        Resolver::default()
    } else if cluster {
        let mut searches = vec![
            format!("{}.svc.{cluster_domain}", pod::namespace(pod)),
            format!("svc.{cluster_domain}"),
            cluster_domain.to_owned(),
        ];
        merge(&mut searches, host.searches);
        Resolver { nameservers: cluster_dns.to_vec(), searches, options: vec!["ndots:5".into()] }
    } else {
        host
    };
    if let Some(config) = &spec.dns_config {
        merge(&mut r.nameservers, config.nameservers.clone().unwrap_or_default());
        merge(&mut r.searches, config.searches.clone().unwrap_or_default());
        for option in config.options.iter().flatten() {
            let Some(name) = option.name.as_deref().filter(|n| !n.is_empty()) else { continue };
            r.options.retain(|o| o.split(':').next() != Some(name));
            r.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            });
        }
    }
    let mut left_out = Vec::new();
    if r.nameservers.len() > NAMESERVERS_MAX {
        r.nameservers.truncate(NAMESERVERS_MAX);
        left_out.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            r.nameservers.join(" ")
        ));
    }
    let before = r.searches.len();
    r.searches.truncate(SEARCHES_MAX);
    while r.searches.join(" ").len() > SEARCH_CHARS_MAX {
        r.searches.pop();
    }
    if r.searches.len() < before {
        left_out.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            r.searches.join(" ")
        ));
    }
    let mut text = String::new();
    if !r.searches.is_empty() {
        text.push_str(&format!("search {}\n", r.searches.join(" ")));
    }
    for server in &r.nameservers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !r.options.is_empty() {
        text.push_str(&format!("options {}\n", r.options.join(" ")));
    }
    (text, (!left_out.is_empty()).then(|| left_out.join("; ")))
}

fn merge(into: &mut Vec<String>, more: Vec<String>) {
    for item in more {
        if !into.contains(&item) {
            into.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::translate::golden;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    #[test]
    fn host_names() {
        let check = |spec: Value, short: &str, domain: &str, kernel: &str| {
            let got = hostname(&pod(spec), "cluster.local").unwrap();
            assert_eq!((got.short.as_str(), got.domain.as_str(), got.kernel.as_str()), (short, domain, kernel));
        };
        check(json!({"containers": []}), "web-0", "", "web-0");
        check(json!({"hostname": "h", "subdomain": "s", "containers": []}), "h", "s.ns.svc.cluster.local", "h");
        check(
            json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true, "containers": []}),
            "h",
            "s.ns.svc.cluster.local",
            "h.s.ns.svc.cluster.local",
        );
        check(
            json!({"hostnameOverride": "over.ride", "subdomain": "s", "containers": []}),
            "over.ride",
            "",
            "over.ride",
        );
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(10));
        check(json!({"hostname": long, "containers": []}), &"a".repeat(62), "", &"a".repeat(62));
        let fqdn = json!({"hostname": "a".repeat(60), "subdomain": "s", "setHostnameAsFQDN": true, "containers": []});
        assert!(hostname(&pod(fqdn), "cluster.local").unwrap_err().contains("is too long"));
    }

    #[test]
    fn hosts_files() {
        let p = pod(json!({"hostname": "h", "subdomain": "s", "containers": [],
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["foo", "bar"]}]}));
        let name = hostname(&p, "cluster.local").unwrap();
        golden::check("files/hosts.txt", &hosts(&p, &["10.42.0.5".into(), "fd42::5".into()], &name, ""));
        let p = pod(json!({"hostNetwork": true, "containers": []}));
        let name = hostname(&p, "cluster.local").unwrap();
        golden::check("files/hosts_host_network.txt", &hosts(&p, &["10.0.0.1".into()], &name, "127.0.0.1 localhost\n"));
    }

    #[test]
    fn resolvers() {
        let host = "# host\nnameserver 192.168.1.1\nsearch lan. .\noptions timeout:1\n";
        let dns = ["10.43.0.10".to_owned()];
        let check = |spec: Value, expected: &str| {
            let (text, left_out) = resolver(&pod(spec.clone()), &dns, "cluster.local", host);
            assert_eq!(text, expected, "{spec}");
            assert_eq!(left_out, None);
        };
        let cluster =
            "search ns.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.43.0.10\noptions ndots:5\n";
        let default = "search lan\nnameserver 192.168.1.1\noptions timeout:1\n";
        check(json!({"containers": []}), cluster);
        check(json!({"dnsPolicy": "Default", "containers": []}), default);
        check(json!({"hostNetwork": true, "containers": []}), default);
        check(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet", "containers": []}), cluster);
        check(
            json!({"dnsPolicy": "None", "containers": [], "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x.y"],
                "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            "search x.y\nnameserver 1.1.1.1\noptions ndots:2 edns0\n",
        );
        check(
            json!({"containers": [], "dnsConfig": {"searches": ["lan", "b"], "options": [{"name": "ndots", "value": "1"}]}}),
            "search ns.svc.cluster.local svc.cluster.local cluster.local lan b\nnameserver 10.43.0.10\noptions ndots:1\n",
        );
        let many = json!({"containers": [], "dnsConfig": {"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3"]}});
        let (_, left_out) = resolver(&pod(many), &dns, "cluster.local", host);
        assert!(left_out.unwrap().starts_with("Nameserver limits were exceeded"));
    }
}
