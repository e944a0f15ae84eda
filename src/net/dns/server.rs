//! The server: one task per listening socket, bounded work, snapshots swapped atomically.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Record},
    serialize::binary::{BinEncodable, BinEncoder},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use super::{
    DNS_PORT, PAYLOAD_MAX, ZoneSnapshot,
    answer::{Answer, Zone},
    upstream::{self, Cache, Upstreams},
};
use crate::Error;

/// Questions that may wait for a resolver at once; more are answered SERVFAIL at once. About 4 KiB and a socket each.
const FORWARDS_MAX: usize = 256;
/// TCP clients at once; more wait in the listen queue.
const TCP_CLIENTS_MAX: usize = 64;
/// How long a TCP client may be silent. Source: RFC 7766 section 6.2.3, "a few seconds".
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Bytes of an answer over UDP to a client that did not say more. Source: RFC 1035 section 4.2.1.
const PLAIN_MAX: u16 = 512;
/// Bytes of a question that is read at most over UDP.
const QUESTION_MAX: usize = 4096;

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// UDP and TCP addresses, such as `10.43.0.10:53`. Port 0: the kernel chooses (tests).
    pub listen: Vec<SocketAddr>,
    /// Addresses that must never be asked as upstream, because they lead back here.
    pub own: Vec<IpAddr>,
}

/// Handle to the running server. It stops when the handle is dropped.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    own: Vec<IpAddr>,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    zone: ArcSwapOption<Zone>,
    upstreams: ArcSwap<Upstreams>,
    cache: Mutex<Cache>,
    forwards: Semaphore,
    tcp_clients: Arc<Semaphore>,
    /// Turns the order of addresses from answer to answer.
    turn: AtomicU32,
    serial: AtomicU32,
}

impl Server {
    /// Binds all addresses and serves. Where another server of this host has taken port 53 of every address (dnsmasq does), the
    /// kernel chooses a port instead: tell [`Server::addresses`] to [`crate::Network::lead_dns`]. Until the first [`Server::set_zone`] every name is answered with SERVFAIL (clients try
    /// again), not with a false NXDOMAIN. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Socket`] when an address cannot be bound.
    pub async fn start(config: ServerConfig) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            zone: ArcSwapOption::empty(),
            upstreams: ArcSwap::default(),
            cache: Mutex::default(),
            forwards: Semaphore::new(FORWARDS_MAX),
            tcp_clients: Arc::new(Semaphore::new(TCP_CLIENTS_MAX)),
            turn: AtomicU32::new(0),
            serial: AtomicU32::new(0),
        });
        let (mut tasks, mut addresses) = (JoinSet::new(), Vec::new());
        for address in &config.listen {
            let failed = |source: io::Error| Error::Socket { what: "listen on", address: *address, source };
            let (tcp, udp) = match listen(*address).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && address.port() == DNS_PORT => {
                    listen(SocketAddr::new(address.ip(), 0)).await
                }
                other => other,
            }
            .map_err(failed)?;
            addresses.push(tcp.local_addr().map_err(failed)?);
            tasks.spawn(serve_udp(Arc::new(udp), Arc::clone(&shared)));
            tasks.spawn(serve_tcp(tcp, Arc::clone(&shared)));
        }
        Ok(Self { addresses, own: config.own, shared, _tasks: tasks })
    }

    /// The addresses in use, in the order of [`ServerConfig::listen`].
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Makes this the zone from now on. Never blocks; a query sees the old zone or the new one.
    pub fn set_zone(&self, zone: ZoneSnapshot) {
        let serial = self.shared.serial.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.shared.zone.store(Some(Arc::new(Zone::new(zone, serial))));
    }

    /// Takes the upstreams from the text of a `resolv.conf`: its `nameserver` lines (IPv4, IPv6, `%scope` refused), at most
    /// [`super::UPSTREAMS_MAX`]; own addresses and unreadable lines are left out. None left: names outside the cluster get
    /// NXDOMAIN at once. Clears the marks of upstreams that failed, so call it also when connectivity comes back.
    pub fn set_upstreams(&self, resolv_conf: &str) {
        let mut own = self.own.clone();
        own.extend(self.addresses.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()));
        self.shared.upstreams.store(Arc::new(Upstreams::parse(resolv_conf, &own)));
    }

    /// Upstreams with ports, for resolvers that do not listen on 53.
    pub fn set_upstream_addresses(&self, addresses: &[SocketAddr]) {
        self.shared.upstreams.store(Arc::new(Upstreams::from_addresses(addresses)));
    }
}

async fn listen(address: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    let tcp = TcpListener::bind(address).await?;
    let udp = UdpSocket::bind(tcp.local_addr()?).await?;
    Ok((tcp, udp))
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = [0; QUESTION_MAX];
    // Aborts what is still waiting for a resolver when the server ends.
    let mut forwards = JoinSet::new();
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            // An ICMP error for an earlier answer is reported here; the socket goes on.
            tokio::task::yield_now().await;
            continue;
        };
        while forwards.try_join_next().is_some() {}
        match shared.first_look(buffer.get(..length).unwrap_or_default()) {
            Step::Ignore => {}
            Step::Reply(request, reply) => {
                // A client that is gone is no fault of ours.
                let _ = socket.send_to(&encode(&reply, udp_limit(&request)), client).await;
            }
            Step::Ask(ask) => {
                let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
                forwards.spawn(async move {
                    let reply = shared.forward(&ask).await;
                    let _ = socket.send_to(&encode(&reply, udp_limit(&ask.request)), client).await;
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut clients = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&shared.tcp_clients).acquire_owned().await else { return };
        while clients.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                clients.spawn(async move {
                    // Broken or silent connections end by themselves.
                    let _ = serve_stream(stream, &shared).await;
                    drop(permit);
                });
            }
            // Out of descriptors, most likely: let others finish first.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn serve_stream(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    loop {
        let length = timeout(TCP_IDLE, stream.read_u16()).await??;
        let mut question = vec![0; usize::from(length)];
        timeout(TCP_IDLE, stream.read_exact(&mut question)).await??;
        let reply = match shared.first_look(&question) {
            Step::Ignore => return Ok(()),
            Step::Reply(_, reply) => *reply,
            Step::Ask(ask) => shared.forward(&ask).await,
        };
        let bytes = encode(&reply, u16::MAX);
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        timeout(TCP_IDLE, stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat())).await??;
    }
}

/// What to do with a question.
enum Step {
    /// No answer is due: not a question, or not even readable enough to answer.
    Ignore,
    Reply(Box<Message>, Box<Message>),
    Ask(Box<Ask>),
}

/// A question that others must answer.
struct Ask {
    request: Message,
    query: Query,
    /// The alias that led here.
    alias: Option<Record>,
}

impl Shared {
    /// Answers from the zone, or says what must be asked. Never waits, never panics, whatever the bytes.
    fn first_look(&self, bytes: &[u8]) -> Step {
        let Ok(request) = Message::from_vec(bytes) else { return malformed(bytes) };
        if request.metadata.message_type != MessageType::Query {
            return Step::Ignore;
        }
        let mut reply = response(&request);
        let query = match request.queries.as_slice() {
            _ if request.metadata.op_code != OpCode::Query => Err(ResponseCode::NotImp),
            // Source: RFC 6891 section 6.1.3.
            _ if request.version() > 0 => Err(ResponseCode::BADVERS),
            [query] if query.query_class() == DNSClass::IN => Ok(query.clone()),
            [_] => Err(ResponseCode::Refused),
            _ => Err(ResponseCode::FormErr),
        };
        let zone = self.zone.load();
        let (query, zone) = match (query, zone.as_ref()) {
            (Ok(query), Some(zone)) => (query, zone),
            (problem, _) => {
                reply.metadata.response_code = problem.err().unwrap_or(ResponseCode::ServFail);
                return Step::Reply(Box::new(request), Box::new(reply));
            }
        };
        match zone.answer(query.name(), query.query_type()) {
            Answer::Elsewhere => return Step::Ask(Box::new(Ask { request, query, alias: None })),
            Answer::Alias { record, target } => {
                let query = Query::query(target, query.query_type());
                return Step::Ask(Box::new(Ask { request, query, alias: Some(*record) }));
            }
            Answer::NoName(soa) => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.add_authority(*soa);
            }
            Answer::Records { mut answers, additionals, soa } => {
                // Clients take the first address: each gets another one. An alias stays in front of what it leads to.
                if answers.len() > 1 && answers.iter().all(|r| r.record_type() == query.query_type()) {
                    let turn = self.turn.fetch_add(1, Ordering::Relaxed) as usize;
                    let by = turn % answers.len();
                    answers.rotate_left(by);
                }
                reply.add_answers(answers).add_additionals(additionals).add_authorities(soa.map(|s| *s));
            }
        }
        reply.metadata.authoritative = true;
        Step::Reply(Box::new(request), Box::new(reply))
    }

    async fn forward(&self, ask: &Ask) -> Message {
        let mut reply = response(&ask.request);
        let dnssec = ask.request.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok);
        let upstreams = self.upstreams.load_full();
        let (answer, offline) = match self.forwards.try_acquire() {
            Ok(_permit) => {
                let answer = upstream::resolve(&self.cache, &upstreams, &ask.query, dnssec).await;
                (answer, upstreams.is_offline())
            }
            Err(_) => (None, false),
        };
        let Some(answer) = answer else {
            // Nobody beyond this node can be asked: the name does not exist for now, so that clients neither ask again nor wait.
            // Without an SOA nobody may keep that (RFC 2308 section 5). An alias is known all the same (RFC 6604).
            let code = if offline { ResponseCode::NXDomain } else { ResponseCode::ServFail };
            reply.metadata.response_code = code;
            reply.add_answers(ask.alias.clone().filter(|_| offline));
            return reply;
        };
        reply.metadata.response_code = answer.metadata.response_code;
        reply.metadata.authentic_data = answer.metadata.authentic_data && ask.alias.is_none();
        reply.add_answers(ask.alias.clone()).add_answers(answer.answers);
        reply.add_authorities(answer.authorities).add_additionals(answer.additionals);
        reply
    }
}

/// An empty response to a request, with its question, and EDNS if it had that.
fn response(request: &Message) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.checking_disabled = request.metadata.checking_disabled;
    reply.metadata.recursion_available = true;
    reply.add_queries(request.queries.iter().cloned());
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD_MAX).set_version(0).set_dnssec_ok(asked.flags().dnssec_ok);
        reply.set_edns(edns);
    }
    reply
}

/// A question that cannot be read gets FORMERR if at least its header can (and says that it is a question).
fn malformed(bytes: &[u8]) -> Step {
    let (Some(&[high, low, flags, _]), true) = (bytes.first_chunk::<4>(), bytes.len() >= 12) else {
        return Step::Ignore;
    };
    if flags & 0x80 != 0 {
        return Step::Ignore;
    }
    let reply = Message::error_msg(u16::from_be_bytes([high, low]), OpCode::Query, ResponseCode::FormErr);
    Step::Reply(Box::new(reply.clone()), Box::new(reply))
}

/// Bytes that the client takes over UDP. Larger than what fits one frame everywhere is never sent.
fn udp_limit(request: &Message) -> u16 {
    request.edns.as_ref().map_or(PLAIN_MAX, |e| e.max_payload().clamp(PLAIN_MAX, PAYLOAD_MAX))
}

/// Writes as many records as fit and marks the message truncated if some did not: old clients without TCP can use those.
fn encode(message: &Message, limit: u16) -> Vec<u8> {
    let write = |message: &Message| {
        let mut bytes = Vec::with_capacity(PLAIN_MAX.into());
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(limit);
        message.emit(&mut encoder).map(|()| bytes)
    };
    // What cannot be written at all (a name from elsewhere that breaks a rule of the encoder) is a failure, not silence.
    write(message)
        .or_else(|_| write(&Message::error_msg(message.metadata.id, message.metadata.op_code, ResponseCode::ServFail)))
        .unwrap_or_default()
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
