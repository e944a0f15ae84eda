//! The DNS server over real sockets on loopback.

use std::{collections::BTreeSet, net::Ipv4Addr};

use hickory_proto::rr::{Name, RData, RecordType, rdata::A};
use proptest::prelude::*;

use super::*;
use crate::dns::{HeadlessEndpoint, ServiceRecord};

fn zone() -> ZoneSnapshot {
    let endpoint = |n: u8| HeadlessEndpoint { ip: IpAddr::from([10, 42, 0, n]), hostname: None, ports: Vec::new() };
    let services = [
        ("web", ServiceRecord::ClusterIp { ips: vec![IpAddr::from([10, 43, 0, 7])], ports: Vec::new() }),
        ("many", ServiceRecord::Headless { endpoints: (1..=100).map(endpoint).collect() }),
        ("two", ServiceRecord::Headless { endpoints: (1..=2).map(endpoint).collect() }),
        ("out", ServiceRecord::ExternalName("www.example.".into())),
    ];
    ZoneSnapshot {
        domain: "cluster.local".into(),
        namespaces: BTreeSet::new(),
        services: services.map(|(name, record)| (("default".to_owned(), name.to_owned()), record)).into(),
    }
}

async fn server() -> Server {
    let listen = vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    Server::start(ServerConfig { listen, own: Vec::new() }).await.unwrap()
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask_bytes(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let local: SocketAddr = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }.parse().unwrap();
    let socket = UdpSocket::bind(local).await.unwrap();
    socket.send_to(bytes, server).await.unwrap();
    let mut buffer = [0; 65_536];
    let length = timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
    buffer[..length].to_vec()
}

async fn ask(server: SocketAddr, message: &Message) -> Message {
    let answer = Message::from_vec(&ask_bytes(server, &message.to_vec().unwrap()).await).unwrap();
    assert_eq!((answer.metadata.id, &answer.queries), (message.metadata.id, &message.queries));
    answer
}

async fn ask_tcp(stream: &mut TcpStream, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), bytes.as_slice()].concat()).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().map(|r| r.data.to_string()).collect()
}

/// A resolver that answers every A question with 192.0.2.1 (`big.` with 100 addresses), and counts.
async fn resolver() -> (SocketAddr, Arc<AtomicU32>, tokio::task::AbortHandle) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let answer = |bytes: &[u8]| {
        let request = Message::from_vec(bytes).unwrap();
        let mut reply = response(&request);
        let name = request.queries[0].name().clone();
        let count = if name.to_ascii().starts_with("big.") { 100 } else { 1 };
        for n in 1..=count {
            reply.add_answer(Record::from_rdata(name.clone(), 300, RData::A(A(Ipv4Addr::new(192, 0, 2, n)))));
        }
        reply
    };
    let count = Arc::clone(&asked);
    let task = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                Ok((length, client)) = udp.recv_from(&mut buffer) => {
                    count.fetch_add(1, Ordering::Relaxed);
                    udp.send_to(&encode(&answer(&buffer[..length]), 512), client).await.unwrap();
                }
                Ok((mut stream, _)) = tcp.accept() => {
                    let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
                    stream.read_exact(&mut bytes).await.unwrap();
                    let bytes = encode(&answer(&bytes), u16::MAX);
                    stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), bytes.as_slice()].concat()).await.unwrap();
                }
            }
        }
    });
    (address, asked, task.abort_handle())
}

#[tokio::test]
async fn cluster_names_need_no_resolver() {
    let server = server().await;
    server.set_zone(zone());
    for address in server.addresses() {
        let answer = ask(*address, &question("web.default.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(addresses(&answer), ["10.43.0.7"]);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        let answer = ask(*address, &question("nothing.default.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
    }
}

#[tokio::test]
async fn before_the_zone_is_known_nothing_is_denied() {
    let server = server().await;
    let answer = ask(server.addresses()[0], &question("web.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn what_does_not_fit_is_cut_and_whole_over_tcp() {
    let server = server().await;
    server.set_zone(zone());
    let address = server.addresses()[0];
    let mut many = question("many.default.svc.cluster.local.", RecordType::A);
    let plain = ask_bytes(address, &many.to_vec().unwrap()).await;
    assert!(plain.len() <= 512);
    let plain = Message::from_vec(&plain).unwrap();
    assert!(plain.metadata.truncation && plain.answers.len() > 20, "{}", plain.answers.len());
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    many.set_edns(edns);
    let bytes = ask_bytes(address, &many.to_vec().unwrap()).await;
    assert!(bytes.len() > 512 && bytes.len() <= 1232);
    assert!(Message::from_vec(&bytes).unwrap().metadata.truncation);
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        let whole = ask_tcp(&mut stream, &many).await;
        assert!(!whole.metadata.truncation && whole.answers.len() == 100 && whole.edns.is_some());
    }
}

#[tokio::test]
async fn addresses_take_turns() {
    let server = server().await;
    server.set_zone(zone());
    let two = question("two.default.svc.cluster.local.", RecordType::A);
    let first = addresses(&ask(server.addresses()[0], &two).await);
    let second = addresses(&ask(server.addresses()[0], &two).await);
    assert_eq!(first, second.iter().rev().cloned().collect::<Vec<_>>());
}

#[tokio::test]
async fn other_names_are_asked_for_once_and_kept_when_offline() {
    let (upstream, asked, resolver) = resolver().await;
    let server = server().await;
    server.set_zone(zone());
    server.set_upstream_addresses(&[upstream]);
    let address = server.addresses()[0];
    let www = question("www.example.", RecordType::A);
    for _ in 0..3 {
        assert_eq!(addresses(&ask(address, &www).await), ["192.0.2.1"]);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let alias = ask(address, &question("out.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(addresses(&alias), ["www.example.", "192.0.2.1"]);
    // Truncated by the resolver: asked again over TCP.
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask_tcp(&mut stream, &question("big.example.", RecordType::A)).await.answers.len(), 100);
    resolver.abort();
    assert_eq!(addresses(&ask(address, &www).await), ["192.0.2.1"]);
}

#[tokio::test]
async fn offline_is_said_at_once() {
    let server = server().await;
    server.set_zone(zone());
    let start = tokio::time::Instant::now();
    let www = question("www.example.", RecordType::A);
    let answer = ask(server.addresses()[0], &www).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert!(answer.authorities.is_empty(), "nobody may keep it");
    // Nobody listens there: the kernel says so.
    server.set_upstream_addresses(&["127.0.0.1:1".parse().unwrap()]);
    for _ in 0..2 {
        assert_eq!(ask(server.addresses()[0], &www).await.metadata.response_code, ResponseCode::NXDomain);
    }
    let alias = ask(server.addresses()[0], &question("out.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(
        (alias.metadata.response_code, addresses(&alias)),
        (ResponseCode::NXDomain, vec!["www.example.".to_owned()])
    );
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn the_next_resolver_is_asked_when_one_fails() {
    let (upstream, _, _) = resolver().await;
    let server = server().await;
    server.set_zone(zone());
    server.set_upstream_addresses(&["127.0.0.1:1".parse().unwrap(), upstream]);
    assert_eq!(addresses(&ask(server.addresses()[0], &question("www.example.", RecordType::A)).await), ["192.0.2.1"]);
}

#[tokio::test]
async fn bad_questions_get_their_code() {
    let server = server().await;
    server.set_zone(zone());
    let address = server.addresses()[0];
    let mut two = question("a.example.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("b.example.").unwrap(), RecordType::A));
    assert_eq!(ask(address, &two).await.metadata.response_code, ResponseCode::FormErr);
    let mut notify = question("a.example.", RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(ask(address, &notify).await.metadata.response_code, ResponseCode::NotImp);
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(ask(address, &chaos).await.metadata.response_code, ResponseCode::Refused);
    let cut = Message::from_vec(&ask_bytes(address, &[1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 60]).await).unwrap();
    assert_eq!((cut.metadata.id, cut.metadata.response_code), (0x102, ResponseCode::FormErr));
}

fn shared() -> Shared {
    Shared {
        zone: ArcSwapOption::from_pointee(Zone::new(zone(), 1)),
        upstreams: ArcSwap::default(),
        cache: Mutex::default(),
        forwards: Semaphore::new(1),
        tcp_clients: Arc::new(Semaphore::new(1)),
        turn: AtomicU32::new(0),
        serial: AtomicU32::new(0),
    }
}

/// Whatever comes, an answer is a valid message within its limit, or none.
fn survives(shared: &Shared, bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Step::Reply(request, reply) = shared.first_look(bytes) {
        let bytes = encode(&reply, udp_limit(&request));
        prop_assert!(bytes.len() <= usize::from(udp_limit(&request)));
        let message = Message::from_vec(&bytes);
        prop_assert!(message.is_ok_and(|m| m.metadata.message_type == MessageType::Response), "{bytes:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        survives(&shared(), &bytes)?;
    }

    #[test]
    fn damaged_questions_are_survived(
        name in "(_?[a-z0-9-]{1,12}\\.){0,4}(web|many|two|out)\\.default\\.svc\\.cluster\\.local\\.",
        kind in any::<u16>(),
        damage in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
        edns in any::<Option<u16>>(),
    ) {
        let Ok(name) = Name::from_ascii(name) else { return Ok(()) };
        let mut message = Message::query();
        message.add_query(Query::query(name, RecordType::from(kind)));
        if let Some(payload) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        let mut bytes = message.to_vec().unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        survives(&shared(), &bytes)?;
    }
}
