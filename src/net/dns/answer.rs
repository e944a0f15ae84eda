//! What the cluster's zone answers. Pure: a zone, a name and a type in, records out.
//!
//! Source: Kubernetes DNS-Based Service Discovery 1.1.0; RFC 2308 for negative answers; RFC 8020 for names between.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
};

use super::{HeadlessEndpoint, ServicePort, ServiceRecord, ZoneSnapshot};

/// Seconds that a cluster name may be kept, also when it does not exist. Endpoints come and go within seconds.
pub(super) const TTL_SECONDS: u32 = 5;
/// Version of the naming schema, told at `dns-version`.
const VERSION: &str = "1.1.0";

/// A snapshot made ready for questions.
#[derive(Debug)]
pub(super) struct Zone {
    snapshot: ZoneSnapshot,
    domain: Name,
    labels: Vec<String>,
    /// Address → names, for PTR.
    reverse: BTreeMap<IpAddr, BTreeSet<String>>,
    serial: u32,
}

/// The zone's word on one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Not a name of this zone: ask elsewhere.
    Elsewhere,
    /// The name does not exist; the record is the zone's SOA.
    NoName(Box<Record>),
    /// The name exists; no answers means that it has none of this type, then `soa` is set.
    Records { answers: Vec<Record>, additionals: Vec<Record>, soa: Option<Box<Record>> },
    /// The name is an alias for one outside the zone, which must be asked for elsewhere.
    Alias { record: Box<Record>, target: Name },
}

impl Zone {
    /// `serial` grows with every snapshot.
    pub(super) fn new(snapshot: ZoneSnapshot, serial: u32) -> Self {
        let text = snapshot.domain.trim_matches('.').to_ascii_lowercase();
        let domain = absolute(&text).unwrap_or_else(Name::root);
        let labels = text.split('.').map(str::to_owned).collect();
        let mut reverse: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        for ((namespace, service), record) in &snapshot.services {
            let base = format!("{service}.{namespace}.svc.{text}");
            match record {
                ServiceRecord::ClusterIp { ips, .. } => {
                    for ip in ips {
                        reverse.entry(*ip).or_default().insert(base.clone());
                    }
                }
                ServiceRecord::Headless { endpoints } => {
                    for endpoint in endpoints {
                        reverse.entry(endpoint.ip).or_default().insert(format!("{}.{base}", host(endpoint)));
                    }
                }
                ServiceRecord::ExternalName(_) => {}
            }
        }
        Self { snapshot, domain, labels, reverse, serial }
    }

    /// Answers one question of class IN.
    pub(super) fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        let Some(labels) = lower(name) else { return Answer::Elsewhere };
        let Some(inner) = strip(&labels, &self.labels) else { return self.reverse(name, kind) };
        let Some(found) = self.find(inner) else { return Answer::NoName(Box::new(self.soa())) };
        if let (Some(RData::CNAME(CNAME(target))), true) = (found.first(), kind != RecordType::CNAME) {
            let alias = record(name.clone(), RData::CNAME(CNAME(target.clone())));
            // An alias to an alias is followed once; deeper ones are for the client, and a loop ends here.
            return match self.direct(target, kind) {
                None => Answer::Alias { record: Box::new(alias), target: target.clone() },
                Some(Answer::Records { mut answers, additionals, soa }) => {
                    answers.insert(0, alias);
                    Answer::Records { answers, additionals, soa }
                }
                Some(other) => other,
            };
        }
        self.records(name, kind, found)
    }

    /// The answer for an alias's target if it is in this zone.
    fn direct(&self, name: &Name, kind: RecordType) -> Option<Answer> {
        let labels = lower(name)?;
        let inner = strip(&labels, &self.labels)?;
        let Some(found) = self.find(inner) else { return Some(Answer::NoName(Box::new(self.soa()))) };
        Some(self.records(name, kind, found))
    }

    fn records(&self, name: &Name, kind: RecordType, found: Vec<RData>) -> Answer {
        let wanted = |data: &RData| kind == RecordType::ANY || data.record_type() == kind;
        let answers: Vec<Record> = found.into_iter().filter(wanted).map(|data| record(name.clone(), data)).collect();
        let mut additionals = Vec::new();
        for answer in &answers {
            if let RData::SRV(srv) = &answer.data {
                let inner = lower(&srv.target).and_then(|labels| strip(&labels, &self.labels).map(<[String]>::to_vec));
                let addresses = inner.and_then(|labels| self.find(&labels)).unwrap_or_default();
                let addresses = addresses.into_iter().filter(|d| matches!(d, RData::A(_) | RData::AAAA(_)));
                additionals.extend(addresses.map(|data| record(srv.target.clone(), data)));
            }
        }
        let soa = answers.is_empty().then(|| Box::new(self.soa()));
        Answer::Records { answers, additionals, soa }
    }

    fn reverse(&self, name: &Name, kind: RecordType) -> Answer {
        let Ok(net) = name.parse_arpa_name() else { return Answer::Elsewhere };
        if net.prefix_len() != net.max_prefix_len() {
            return Answer::Elsewhere;
        }
        let Some(names) = self.reverse.get(&net.addr()) else { return Answer::Elsewhere };
        let found = names.iter().filter_map(|n| absolute(n)).map(|n| RData::PTR(PTR(n))).collect();
        self.records(name, kind, found)
    }

    /// Everything at a name, relative to the domain: `None` if it does not exist, empty if it only lies on the way to others.
    fn find(&self, labels: &[String]) -> Option<Vec<RData>> {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels.as_slice() {
            [] => Some(vec![self.soa().data, RData::NS(NS(self.name_server()))]),
            ["dns-version"] => Some(vec![RData::TXT(TXT::new(vec![VERSION.to_owned()]))]),
            ["svc" | "pod"] => Some(Vec::new()),
            [namespace, "svc" | "pod"] => self.has_namespace(namespace).then(Vec::new),
            [ip, namespace, "pod"] => {
                let ip = dashed(ip).filter(|_| self.has_namespace(namespace))?;
                Some(vec![address(ip)])
            }
            [rest @ .., service, namespace, "svc"] => self.in_service(rest, service, namespace),
            _ => None,
        }
    }

    fn in_service(&self, rest: &[&str], service: &str, namespace: &str) -> Option<Vec<RData>> {
        let record = self.snapshot.services.get(&(namespace.to_owned(), service.to_owned()))?;
        let base = format!("{service}.{namespace}.svc.{}", self.labels.join("."));
        match (rest, record) {
            ([], ServiceRecord::ExternalName(target)) => Some(vec![RData::CNAME(CNAME(absolute(target)?))]),
            ([], ServiceRecord::ClusterIp { ips, .. }) => Some(ips.iter().copied().map(address).collect()),
            ([], ServiceRecord::Headless { endpoints }) => {
                let ips: BTreeSet<IpAddr> = endpoints.iter().map(|e| e.ip).collect();
                Some(ips.into_iter().map(address).collect())
            }
            ([one], _) if one.starts_with('_') => {
                let any = ports(record).any(|(_, p)| !p.name.is_empty() && label(p) == *one);
                any.then(Vec::new)
            }
            ([one], ServiceRecord::Headless { endpoints }) => {
                let ips: Vec<RData> = endpoints.iter().filter(|e| host(e) == *one).map(|e| address(e.ip)).collect();
                (!ips.is_empty()).then_some(ips)
            }
            ([port, protocol], _) => {
                let port = port.strip_prefix('_')?;
                let fits = ports(record).filter(|(_, p)| p.name.eq_ignore_ascii_case(port) && label(p) == *protocol);
                let srv: BTreeSet<(String, u16)> = fits
                    .map(|(e, p)| (e.map_or_else(|| base.clone(), |e| format!("{}.{base}", host(e))), p.port))
                    .collect();
                let srv: Vec<RData> = srv
                    .into_iter()
                    .filter_map(|(target, port)| Some(RData::SRV(SRV::new(0, 100, port, absolute(&target)?))))
                    .collect();
                (!srv.is_empty()).then_some(srv)
            }
            _ => None,
        }
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        let first = (namespace.to_owned(), String::new());
        self.snapshot.namespaces.contains(namespace)
            || self.snapshot.services.range(first..).next().is_some_and(|((ns, _), _)| ns == namespace)
    }

    fn name_server(&self) -> Name {
        Name::from_ascii("ns.dns.")
            .and_then(|n| relative(n).append_domain(&self.domain))
            .unwrap_or_else(|_| Name::root())
    }

    pub(super) fn soa(&self) -> Record {
        let mail = Name::from_ascii("hostmaster.")
            .and_then(|n| relative(n).append_domain(&self.domain))
            .unwrap_or_else(|_| Name::root());
        let soa = SOA::new(self.name_server(), mail, self.serial, 7200, 1800, 86_400, TTL_SECONDS);
        record(self.domain.clone(), RData::SOA(soa))
    }
}

fn relative(mut name: Name) -> Name {
    name.set_fqdn(false);
    name
}

fn record(name: Name, data: RData) -> Record {
    Record::from_rdata(name, TTL_SECONDS, data)
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

fn absolute(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The labels in lower case; `None` if one is no text (then it is nobody of ours).
fn lower(name: &Name) -> Option<Vec<String>> {
    name.iter().map(|l| std::str::from_utf8(l).ok().map(str::to_ascii_lowercase)).collect()
}

fn strip<'a>(labels: &'a [String], suffix: &[String]) -> Option<&'a [String]> {
    labels.strip_suffix(suffix)
}

/// `10-42-0-7` or `fd42--7`.
fn dashed(label: &str) -> Option<IpAddr> {
    label.replace('-', ".").parse().or_else(|_| label.replace('-', ":").parse()).ok()
}

/// An endpoint's own label.
fn host(endpoint: &HeadlessEndpoint) -> String {
    match &endpoint.hostname {
        Some(name) => name.to_ascii_lowercase(),
        None => endpoint.ip.to_string().replace(['.', ':'], "-"),
    }
}

fn label(port: &ServicePort) -> String {
    format!("_{}", port.protocol.to_string().to_ascii_lowercase())
}

fn ports(record: &ServiceRecord) -> Box<dyn Iterator<Item = (Option<&HeadlessEndpoint>, &ServicePort)> + '_> {
    match record {
        ServiceRecord::ClusterIp { ports, .. } => Box::new(ports.iter().map(|p| (None, p))),
        ServiceRecord::Headless { endpoints } => {
            Box::new(endpoints.iter().flat_map(|e| e.ports.iter().map(move |p| (Some(e), p))))
        }
        ServiceRecord::ExternalName(_) => Box::new(std::iter::empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    pub(in super::super) fn snapshot() -> ZoneSnapshot {
        let port = |name: &str, protocol, port| ServicePort { name: name.into(), protocol, port };
        let endpoint = |ip: &str, hostname: Option<&str>| HeadlessEndpoint {
            ip: ip.parse().unwrap(),
            hostname: hostname.map(Into::into),
            ports: vec![port("peer", Protocol::Tcp, 7000)],
        };
        let services = [
            (
                "web",
                ServiceRecord::ClusterIp {
                    ips: vec!["10.43.0.7".parse().unwrap(), "fd43::7".parse().unwrap()],
                    ports: vec![port("http", Protocol::Tcp, 80), port("", Protocol::Udp, 53)],
                },
            ),
            (
                "db",
                ServiceRecord::Headless {
                    endpoints: [
                        endpoint("10.42.0.2", Some("db-0")),
                        endpoint("10.42.0.3", Some("db-1")),
                        endpoint("fd42::3", None),
                    ]
                    .into(),
                },
            ),
            ("empty", ServiceRecord::Headless { endpoints: BTreeSet::new() }),
            ("out", ServiceRecord::ExternalName("example.com".into())),
            ("in", ServiceRecord::ExternalName("web.default.svc.cluster.local.".into())),
            ("loop", ServiceRecord::ExternalName("loop.default.svc.cluster.local".into())),
        ];
        ZoneSnapshot {
            domain: "cluster.local".into(),
            namespaces: ["default".into(), "quiet".into()].into(),
            services: services.map(|(name, record)| (("default".to_owned(), name.to_owned()), record)).into(),
        }
    }

    fn check(question: &str, expected: &str) {
        let (kind, name) = question.split_once(' ').unwrap();
        let zone = Zone::new(snapshot(), 1);
        let line = |r: &Record| format!("{} {}", r.record_type(), r.data);
        let lines = |all: &[Record]| all.iter().map(line).collect::<Vec<_>>().join(", ");
        let actual = match zone.answer(&absolute(name).unwrap(), kind.parse().unwrap()) {
            Answer::Elsewhere => "elsewhere".to_owned(),
            Answer::NoName(_) => "nxdomain".to_owned(),
            Answer::Alias { target, .. } => format!("alias {target}"),
            Answer::Records { answers, additionals, soa } => {
                assert!(!answers.is_empty() || soa.is_some());
                if answers.is_empty() {
                    "nodata".to_owned()
                } else if additionals.is_empty() {
                    lines(&answers)
                } else {
                    format!("{} + {}", lines(&answers), lines(&additionals))
                }
            }
        };
        assert_eq!(actual, expected, "{question}");
    }

    #[test]
    fn answers_follow_the_specification() {
        for (question, expected) in [
            ("A web.default.svc.cluster.local", "A 10.43.0.7"),
            ("A WEB.Default.svc.cluster.LOCAL", "A 10.43.0.7"),
            ("AAAA web.default.svc.cluster.local", "AAAA fd43::7"),
            ("MX web.default.svc.cluster.local", "nodata"),
            (
                "SRV _http._tcp.web.default.svc.cluster.local",
                "SRV 0 100 80 web.default.svc.cluster.local. + A 10.43.0.7, AAAA fd43::7",
            ),
            ("SRV _http._udp.web.default.svc.cluster.local", "nxdomain"),
            ("A _tcp.web.default.svc.cluster.local", "nodata"),
            ("A db.default.svc.cluster.local", "A 10.42.0.2, A 10.42.0.3"),
            ("AAAA db.default.svc.cluster.local", "AAAA fd42::3"),
            ("A db-1.db.default.svc.cluster.local", "A 10.42.0.3"),
            ("AAAA fd42--3.db.default.svc.cluster.local", "AAAA fd42::3"),
            ("A db-9.db.default.svc.cluster.local", "nxdomain"),
            (
                "SRV _peer._tcp.db.default.svc.cluster.local",
                "SRV 0 100 7000 db-0.db.default.svc.cluster.local., SRV 0 100 7000 db-1.db.default.svc.cluster.local., \
              SRV 0 100 7000 fd42--3.db.default.svc.cluster.local. + A 10.42.0.2, A 10.42.0.3, AAAA fd42::3",
            ),
            ("A empty.default.svc.cluster.local", "nodata"),
            ("A out.default.svc.cluster.local", "alias example.com."),
            ("CNAME out.default.svc.cluster.local", "CNAME example.com."),
            ("A in.default.svc.cluster.local", "CNAME web.default.svc.cluster.local., A 10.43.0.7"),
            ("A loop.default.svc.cluster.local", "CNAME loop.default.svc.cluster.local."),
            ("A none.default.svc.cluster.local", "nxdomain"),
            ("A web.other.svc.cluster.local", "nxdomain"),
            ("A example.com.default.svc.cluster.local", "nxdomain"),
            ("A default.svc.cluster.local", "nodata"),
            ("A quiet.svc.cluster.local", "nodata"),
            ("A svc.cluster.local", "nodata"),
            ("A 10-42-0-7.default.pod.cluster.local", "A 10.42.0.7"),
            ("AAAA fd42--7.quiet.pod.cluster.local", "AAAA fd42::7"),
            ("A 10-42-0-7.other.pod.cluster.local", "nxdomain"),
            ("A ten.default.pod.cluster.local", "nxdomain"),
            ("TXT dns-version.cluster.local", "TXT 1.1.0"),
            ("PTR 7.0.43.10.in-addr.arpa", "PTR web.default.svc.cluster.local."),
            ("PTR 3.0.42.10.in-addr.arpa", "PTR db-1.db.default.svc.cluster.local."),
            ("PTR 9.9.9.9.in-addr.arpa", "elsewhere"),
            ("A example.com", "elsewhere"),
            ("A local", "elsewhere"),
        ] {
            check(question, expected);
        }
    }
}
