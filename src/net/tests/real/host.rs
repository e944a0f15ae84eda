//! A test host: a network and mount namespace of its own, made on a thread of its own and joined to nothing. Its `/run` is
//! empty and private. Further namespaces beside it are made as pods of a second kind: an outside client on a cable.

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// Patience of everything that should happen at once.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Runs the test inside a fresh host. Needs root.
pub fn on_host<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("these tests need root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        ip("link set lo up");
        test()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs an async test on a fresh host.
pub fn on_host_async<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    on_host(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test()));
}

/// Runs something in another namespace, on a thread of its own.
pub fn within<T: Send>(netns: &Path, f: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(netns).unwrap();
    std::thread::scope(|s| {
        let thread = s.spawn(move || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            f()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What a command prints; it must succeed.
pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

/// A machine beside the host, on a cable: `192.0.2.2` there, `192.0.2.1` here, and `2001:db8::2` and `::1`. It has no
/// route to pods or services.
pub fn outside() -> PathBuf {
    ip("netns add outside");
    ip("link add cable type veth peer name eth0 netns outside");
    ip("addr add 192.0.2.1/24 dev cable");
    ip("addr add 2001:db8::1/64 dev cable nodad");
    // No address of its own making, which would come at a time of its own choosing.
    ip("link set cable addrgenmode none up");
    let there = PathBuf::from("/run/netns/outside");
    within(&there, || {
        ip("link set lo up");
        ip("addr add 192.0.2.2/24 dev eth0");
        ip("addr add 2001:db8::2/64 dev eth0 nodad");
        ip("link set eth0 up");
    });
    wait_for("the cable's carrier", || ip("link show cable").contains("state UP"));
    there
}

/// A TCP server in a namespace that tells each client `<name> <client's address>`. Ends with the test's process.
pub fn serve(netns: &Path, name: &str, port: u16) {
    within(netns, || serve_here(name, &format!("[::]:{port}")));
}

/// The same in the calling thread's namespace.
pub fn serve_here(name: &str, address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    let name = name.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let from = stream.peer_addr().map(|a| a.ip().to_canonical().to_string()).unwrap_or_default();
            let _ = stream.write_all(format!("{name} {from}").as_bytes());
        }
    });
}

/// A UDP server that answers each datagram with its name.
pub fn serve_udp(netns: &Path, name: &str, port: u16) {
    let socket = within(netns, || UdpSocket::bind(("0.0.0.0", port)).unwrap());
    let name = name.to_owned();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
}

/// Asks a server of [`serve`] from the calling thread's namespace.
pub fn ask(to: &str) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Asks from another namespace.
pub fn ask_from(netns: &Path, to: &str) -> std::io::Result<String> {
    within(netns, || ask(to))
}

/// One datagram and its answer.
pub fn ask_udp(socket: &UdpSocket, to: &str) -> std::io::Result<String> {
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// The IPv4 (or IPv6) address of a pod.
pub fn address(ips: &[IpAddr], v6: bool) -> IpAddr {
    *ips.iter().find(|ip| ip.is_ipv6() == v6).unwrap()
}

/// Waits for what the kernel does in the background.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not happen");
        std::thread::yield_now();
    }
}
