//! Questions for the world: the host's resolvers, and a bounded memory of what they said.
//!
//! An edge node is offline often. A resolver that does not answer is left alone for a while, so that only one question waits
//! for it and all others fail at once; and an old answer is better than none (RFC 8767).

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout},
};

use super::{DNS_PORT, PAYLOAD_MAX, UPSTREAMS_MAX};

/// How long one datagram is waited for; it is sent twice.
const ATTEMPT: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 2;
/// How long a whole exchange over TCP may take.
const TCP: Duration = Duration::from_secs(3);
/// How long a resolver that failed is left alone.
const DOWN: Duration = Duration::from_secs(5);
/// Answers that are remembered: about 1 KiB each, 2 MiB at most.
const CACHE_MAX: usize = 2048;
/// Records in an answer that is remembered at most; larger ones are rare and are asked for again.
const CACHED_RECORDS_MAX: usize = 32;
/// The longest time an answer is taken for fresh, in seconds.
const TTL_MAX_SECONDS: u32 = 3600;
/// The same for "no such name".
const NEGATIVE_TTL_MAX_SECONDS: u32 = 60;
/// How long after its end an answer may still be given when nobody can be asked. Source: RFC 8767 section 5.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// The time to live of such an answer, in seconds. Source: RFC 8767 section 4.
const STALE_TTL_SECONDS: u32 = 30;

/// Resolvers in order, each with the time until which it is left alone.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    list: Vec<(SocketAddr, Mutex<Option<Instant>>)>,
}

impl Upstreams {
    /// From the text of a resolv.conf.
    pub(super) fn parse(resolv_conf: &str, own: &[IpAddr]) -> Self {
        let servers = resolv_conf.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
        });
        let list = servers.filter(|ip| !own.contains(ip)).take(UPSTREAMS_MAX);
        Self { list: list.map(|ip| (SocketAddr::new(ip, DNS_PORT), Mutex::new(None))).collect() }
    }

    #[cfg(test)]
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.list.iter().map(|(address, _)| *address).collect()
    }

    /// For tests: resolvers on other ports.
    pub(super) fn from_addresses(list: &[SocketAddr]) -> Self {
        Self { list: list.iter().map(|a| (*a, Mutex::new(None))).collect() }
    }

    /// Whether no resolver can be asked now: there is none, or each of them has just not answered.
    pub(super) fn is_offline(&self) -> bool {
        self.list.iter().all(|(_, down)| down.lock().is_some_and(|until| Instant::now() < until))
    }

    /// The first usable answer, or `None` when nobody can be asked.
    async fn ask(&self, query: &Query, dnssec: bool) -> Option<Message> {
        for (address, down) in &self.list {
            if down.lock().is_some_and(|until| Instant::now() < until) {
                continue;
            }
            match exchange(*address, query, dnssec).await {
                // "I cannot" and "I will not" are the next one's turn, but no reason to leave this one alone.
                Ok(m) if matches!(m.metadata.response_code, ResponseCode::ServFail | ResponseCode::Refused) => {}
                Ok(message) => return Some(message),
                Err(error) => {
                    tracing::debug!(%address, %error, "resolver does not answer");
                    *down.lock() = Some(Instant::now() + DOWN);
                }
            }
        }
        None
    }
}

async fn exchange(server: SocketAddr, query: &Query, dnssec: bool) -> io::Result<Message> {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD_MAX).set_version(0).set_dnssec_ok(dnssec);
    request.set_edns(edns);
    let bytes = request.to_vec().map_err(io::Error::other)?;
    let fits = |message: &Message| {
        message.metadata.id == request.metadata.id
            && message.queries.first().is_some_and(|q| q.name() == query.name() && q.query_type() == query.query_type())
    };
    // A socket per question: its random port is part of what a forger would have to guess.
    let local = if server.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(server).await?;
    let mut buffer = [0; PAYLOAD_MAX as usize];
    for _ in 0..ATTEMPTS {
        socket.send(&bytes).await?;
        let answer = timeout(ATTEMPT, async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                let message = buffer.get(..length).and_then(|b| Message::from_vec(b).ok());
                if let Some(message) = message.filter(fits) {
                    return io::Result::Ok(message);
                }
            }
        });
        match answer.await {
            Ok(Ok(message)) if message.metadata.truncation => {
                return timeout(TCP, exchange_tcp(server, &bytes)).await?.and_then(|message| {
                    if fits(&message) { Ok(message) } else { Err(io::ErrorKind::InvalidData.into()) }
                });
            }
            Ok(result) => return result,
            Err(_elapsed) => {}
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

async fn exchange_tcp(server: SocketAddr, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Message::from_vec(&answer).map_err(io::Error::other)
}

type Key = (Name, RecordType, bool);

/// Answers by question, the oldest leave first.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: BTreeMap<Key, Entry>,
    order: VecDeque<Key>,
}

#[derive(Debug)]
struct Entry {
    message: Message,
    stored: Instant,
    fresh: Duration,
}

impl Cache {
    fn get(&self, key: &Key, now: Instant, stale: bool) -> Option<Message> {
        let entry = self.entries.get(key)?;
        let age = now.duration_since(entry.stored);
        let mut message = entry.message.clone();
        if age < entry.fresh {
            let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
            set_ttl(&mut message, |ttl| ttl.saturating_sub(age).max(1));
            return Some(message);
        }
        if stale && age < entry.fresh + STALE {
            set_ttl(&mut message, |_| STALE_TTL_SECONDS);
            return Some(message);
        }
        None
    }

    fn put(&mut self, key: Key, message: &Message, now: Instant) {
        let Some(seconds) = lifetime(message) else { return };
        let fresh = Duration::from_secs(seconds.into());
        let entry = Entry { message: message.clone(), stored: now, fresh };
        if self.entries.insert(key.clone(), entry).is_none() {
            self.order.push_back(key);
        }
        while self.entries.len() > CACHE_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            self.entries.remove(&oldest);
        }
    }
}

fn set_ttl(message: &mut Message, f: impl Fn(u32) -> u32) {
    for record in message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals) {
        record.ttl = f(record.ttl);
    }
}

/// Seconds that a message may be kept; `None`: not at all. Source: RFC 2308 section 5.
fn lifetime(message: &Message) -> Option<u32> {
    let records = message.answers.len() + message.authorities.len() + message.additionals.len();
    if message.metadata.truncation || records > CACHED_RECORDS_MAX {
        return None;
    }
    let soa = message.authorities.iter().find_map(|r| match &r.data {
        RData::SOA(soa) => Some(r.ttl.min(soa.minimum).min(NEGATIVE_TTL_MAX_SECONDS)),
        _ => None,
    });
    let seconds = match message.metadata.response_code {
        ResponseCode::NXDomain => soa?,
        ResponseCode::NoError if message.answers.is_empty() => soa?,
        ResponseCode::NoError => message.answers.iter().map(|r| r.ttl).min()?.min(TTL_MAX_SECONDS),
        _ => return None,
    };
    (seconds > 0).then_some(seconds)
}

/// Cache, then resolvers, then what the cache had too long. `None`: nobody knows.
pub(super) async fn resolve(
    cache: &Mutex<Cache>,
    upstreams: &Upstreams,
    query: &Query,
    dnssec: bool,
) -> Option<Message> {
    let key = (query.name().to_lowercase(), query.query_type(), dnssec);
    let known = cache.lock().get(&key, Instant::now(), false);
    if known.is_some() {
        return known;
    }
    match upstreams.ask(query, dnssec).await {
        Some(message) => {
            cache.lock().put(key, &message, Instant::now());
            Some(message)
        }
        None => cache.lock().get(&key, Instant::now(), true),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Record, rdata::A};

    use super::*;

    #[test]
    fn resolv_conf_gives_resolvers_but_not_ourselves() {
        let text = "# x\nsearch lan\nnameserver 192.0.2.53\nnameserver 10.43.0.10\n nameserver  2001:db8::53 # y\nnameserver fe80::1%eth0\nnameserver\nnameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\n";
        let upstreams = Upstreams::parse(text, &["10.43.0.10".parse().unwrap()]);
        let expected = ["192.0.2.53:53", "[2001:db8::53]:53", "1.1.1.1:53", "2.2.2.2:53"];
        assert_eq!(upstreams.addresses(), expected.map(|a| a.parse().unwrap()));
    }

    fn answer(name: &str, ttl: u32) -> (Key, Message) {
        let name = Name::from_ascii(name).unwrap();
        let mut message = Message::query().into_response();
        message.add_query(Query::query(name.clone(), RecordType::A));
        message.add_answer(Record::from_rdata(name.clone(), ttl, RData::A(A(Ipv4Addr::new(192, 0, 2, 1)))));
        ((name, RecordType::A, false), message)
    }

    #[tokio::test]
    async fn the_cache_counts_down_goes_stale_and_ends() {
        let mut cache = Cache::default();
        let (key, message) = answer("a.example.", 100);
        let start = Instant::now();
        cache.put(key.clone(), &message, start);
        let ttl = |seconds: u64, stale| {
            cache.get(&key, start + Duration::from_secs(seconds), stale).map(|m| m.answers[0].ttl)
        };
        assert_eq!(
            [ttl(0, false), ttl(40, false), ttl(99, false), ttl(100, false)],
            [Some(100), Some(60), Some(1), None]
        );
        assert_eq!([ttl(100, true), ttl(100 + 86_399, true), ttl(100 + 86_400, true)], [Some(30), Some(30), None]);
    }

    #[tokio::test]
    async fn the_cache_is_bounded() {
        let mut cache = Cache::default();
        for n in 0..CACHE_MAX + 10 {
            let (key, message) = answer(&format!("n{n}.example."), 100);
            cache.put(key, &message, Instant::now());
        }
        assert_eq!((cache.entries.len(), cache.order.len()), (CACHE_MAX, CACHE_MAX));
        assert!(cache.get(&answer("n0.example.", 1).0, Instant::now(), true).is_none());
    }

    #[test]
    fn failures_and_zero_times_are_not_kept() {
        let (_, mut message) = answer("a.example.", 0);
        assert_eq!(lifetime(&message), None);
        message.answers.clear();
        assert_eq!(lifetime(&message), None, "nothing, and no SOA to say for how long");
        message.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(lifetime(&message), None);
    }
}
