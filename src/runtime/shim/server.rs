//! The shim's loop: one poll(2) over the child signal, the socket, the connections, and the containers' output.

mod container;
mod processes;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket};

use super::log::Writer;
use super::protocol::{CONTAINERS_DIR, Exit, Message, Refusal, RefusalKind, Reply, Request, SOCKET, VERSION, Verb};
use super::{Held, sys, wire};
use container::{Container, clear, flush, kill_all, read_some, report, write_exit};

/// Reads of an ended container's output before the rest is given up: more than a pipe can hold, less than a process that
/// was left behind could write for ever.
const DRAIN_READS_MAX: u32 = 256;
/// A cgroup is busy for a moment after its last process died, and the kernel tells nobody on v1: look again this often…
const LINGER_MS: u16 = 5;
/// …and give up after this many looks (5 s); the daemon removes the whole pod's cgroup later anyway.
const LINGER_LOOKS_MAX: u32 = 1000;

/// Names a connection for as long as it lives.
type ConnectionId = u64;

struct Connection {
    socket: OwnedFd,
}

/// Where an answer goes.
#[derive(Clone, Copy)]
struct ReplyTo {
    connection: ConnectionId,
    request: u64,
}

/// A creator or exec helper at work.
struct Pending {
    reply_to: ReplyTo,
    result: OwnedFd,
    kind: PendingKind,
}

enum PendingKind {
    Start { container: String, console: Option<UnixListener> },
    Exec { token: u64, fds: Vec<OwnedFd> },
}

struct Running {
    token: u64,
    pid: i32,
}

#[derive(Clone)]
enum Source {
    Signal,
    Listener,
    Connection(ConnectionId),
    Output(String, usize),
    Pending,
}

pub struct Server {
    held: Held,
    dir: PathBuf,
    signals: SignalFd,
    listener: OwnedFd,
    connections: BTreeMap<ConnectionId, Connection>,
    connection_next: ConnectionId,
    containers: BTreeMap<String, Container>,
    pending: Vec<Pending>,
    execs: Vec<Running>,
    /// Children that ended while a helper was at work, whose name is not known yet.
    early: Vec<(i32, i32)>,
    shutdown: Option<ReplyTo>,
    /// Who asked for the state while a container was starting: told when that is decided.
    asked: Vec<ReplyTo>,
    buffer: Vec<u8>,
}

impl Server {
    pub fn new(held: Held) -> io::Result<Server> {
        // Everything but SIGKILL is kept out: a shim that ends on SIGTERM orphans its pod. SIGCHLD is read from the descriptor.
        SigSet::all().thread_set_mask()?;
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let _ = fs::remove_file(SOCKET);
        // Relative to the pod's directory, which is this process's: socket addresses hold 108 bytes only.
        bind(listener.as_raw_fd(), &UnixAddr::new(SOCKET)?)?;
        listen(&listener, Backlog::new(4)?)?;
        Ok(Server {
            held,
            dir: std::env::current_dir()?,
            signals,
            listener,
            connections: BTreeMap::new(),
            connection_next: 1,
            containers: BTreeMap::new(),
            pending: Vec::new(),
            execs: Vec::new(),
            early: Vec::new(),
            shutdown: None,
            asked: Vec::new(),
            buffer: Vec::new(),
        })
    }

    pub fn run(mut self) -> io::Result<()> {
        loop {
            for source in self.wait()? {
                match source {
                    Source::Signal => self.reap(),
                    Source::Listener => self.accept(),
                    Source::Connection(id) => self.receive(id),
                    Source::Output(container, index) => self.read_output(&container, index),
                    // Looked at below, all of them.
                    Source::Pending => {}
                }
            }
            self.finish_pending();
            self.linger();
            if self.finish_shutdown() {
                return Ok(());
            }
        }
    }

    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources = vec![Source::Signal, Source::Listener];
        let mut fds: Vec<PollFd<'_>> = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        let mut add = |source: Source, fd: BorrowedFd<'_>| {
            // The borrow ends with this call of poll; the list is rebuilt for the next one.
            sources.push(source);
            fd.as_raw_fd()
        };
        let mut raw: Vec<RawFd> = Vec::new();
        for (id, connection) in &self.connections {
            raw.push(add(Source::Connection(*id), connection.socket.as_fd()));
        }
        for (name, container) in &self.containers {
            for (index, fd) in container.output.iter().enumerate() {
                if let Some(fd) = fd {
                    raw.push(add(Source::Output(name.clone(), index), fd.as_fd()));
                }
            }
        }
        for pending in &self.pending {
            raw.push(add(Source::Pending, pending.result.as_fd()));
        }
        fds.extend(raw.into_iter().map(|fd| {
            // JUSTIFICATION: borrows of `self`'s parts, gathered through a closure that cannot name their lifetime.
            // SAFETY: `self` is borrowed for the whole function, so all of these stay open.
            PollFd::new(unsafe { BorrowedFd::borrow_raw(fd) }, PollFlags::POLLIN)
        }));
        let lingering = self.containers.values().any(|c| c.lingering.is_some());
        let timeout = if lingering { PollTimeout::from(LINGER_MS) } else { PollTimeout::NONE };
        match poll(&mut fds, timeout) {
            Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            other => drop(other?),
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        Ok(sources.into_iter().zip(&fds).filter(|(_, fd)| ready(fd)).map(|(source, _)| source).collect())
    }

    fn accept(&mut self) {
        if let Ok(fd) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
            // JUSTIFICATION: accept returns a bare number.
            // SAFETY: it is new and nobody else's.
            let socket = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
            self.connections.insert(self.connection_next, Connection { socket });
            self.connection_next += 1;
        }
    }

    fn receive(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        match wire::receive::<Request>(connection.socket.as_fd(), &mut self.buffer) {
            Ok(Some((request, _))) => self.handle(ReplyTo { connection: id, request: request.id }, request.verb),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Also a verb from the future: its id is not known, so all that can be said is goodbye.
            Ok(None) | Err(_) => {
                self.connections.remove(&id);
            }
        }
        // A large request must not stay in the shim's memory.
        self.buffer = Vec::new();
    }

    fn handle(&mut self, to: ReplyTo, verb: Verb) {
        let done = |result: Result<(), Refusal>| result.map(|()| Reply::Done);
        let result = match verb {
            Verb::Hello { .. } => Ok(Reply::Hello { version: VERSION, pid: std::process::id() }),
            Verb::State => {
                self.asked.push(to);
                self.tell_state();
                return;
            }
            Verb::Start(start) => match self.start(*start, to) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Verb::Signal { container, signal } => done(self.signal(&container, signal)),
            Verb::Remove { container } => {
                if !self.containers.contains_key(&container) {
                    Err(not_found(&container))
                } else {
                    let _ = self.signal(&container, libc::SIGKILL);
                    if let Some(found) = self.containers.get_mut(&container) {
                        found.remove = Some(to);
                        found.lingering.get_or_insert(0);
                    }
                    return;
                }
            }
            Verb::Exec { container, exec } => match self.exec(&container, *exec, to) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Verb::SignalExec { token, signal } => {
                let pid = self.execs.iter().find(|running| running.token == token).map(|running| running.pid);
                // Exec'd processes lead a session and a group; killing means the group.
                let pid = pid.map(|pid| if signal == libc::SIGKILL { -pid } else { pid });
                done(pid.map_or(Ok(()), |pid| sys::kill(pid, signal)).map_err(failed))
            }
            Verb::Attach { container, streams } => match self.attach(&container, streams) {
                Ok(fds) => {
                    self.answer_with(to, Ok(Reply::Done), &fds);
                    return;
                }
                Err(refusal) => Err(refusal),
            },
            Verb::Resize { container, size } => {
                done(self.containers.get(&container).map_or(Ok(()), |found| match &found.output[0] {
                    Some(master) if found.start.tty => {
                        sys::set_terminal_size(master.as_fd(), size.columns, size.rows).map_err(failed)
                    }
                    _ => Ok(()),
                }))
            }
            Verb::ReopenLog { container } => done(match self.containers.get_mut(&container) {
                Some(found) => found.log.as_mut().map_or(Ok(()), Writer::reopen).map_err(failed),
                None => Err(not_found(&container)),
            }),
            Verb::Shutdown => {
                self.shutdown = Some(to);
                let names: Vec<String> = self.containers.keys().cloned().collect();
                for name in names {
                    let _ = self.signal(&name, libc::SIGKILL);
                    if let Some(found) = self.containers.get_mut(&name) {
                        found.lingering.get_or_insert(0);
                    }
                }
                return;
            }
        };
        self.answer(to, result);
    }

    fn answer(&mut self, to: ReplyTo, result: Result<Reply, Refusal>) {
        self.answer_with(to, result, &[]);
    }

    fn answer_with(&mut self, to: ReplyTo, result: Result<Reply, Refusal>, fds: &[OwnedFd]) {
        self.send(to.connection, &Message::Answer { id: to.request, result }, fds);
    }

    fn send(&mut self, id: ConnectionId, message: &Message, fds: &[OwnedFd]) {
        // A daemon that does not read its socket is treated like one that died; it looks at everything when it returns.
        let Some(connection) = self.connections.get(&id) else { return };
        if wire::send(connection.socket.as_fd(), message, fds).is_err() {
            self.connections.remove(&id);
        }
    }

    fn tell_all(&mut self, message: &Message) {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            self.send(id, message, &[]);
        }
    }

    fn container_dir(&self, name: &str) -> PathBuf {
        self.dir.join(CONTAINERS_DIR).join(name)
    }

    /// A start that an earlier daemon began is not lost on the next one: the state is told when no start is under way.
    fn tell_state(&mut self) {
        if self.containers.values().any(|container| container.pid == 0) {
            return;
        }
        for to in std::mem::take(&mut self.asked) {
            let containers = self.containers.iter().filter_map(report).collect();
            self.answer(to, Ok(Reply::State { containers }));
        }
    }

    fn signal(&mut self, name: &str, signal: i32) -> Result<(), Refusal> {
        let container = self.containers.get(name).ok_or_else(|| not_found(name))?;
        if container.pid == 0 || container.exit.is_some() {
            return Ok(());
        }
        sys::kill(container.pid, signal).map_err(failed)?;
        if signal == libc::SIGKILL && container.start.shared_pid {
            kill_all(container);
        }
        Ok(())
    }

    fn read_output(&mut self, name: &str, index: usize) {
        if let Some(container) = self.containers.get_mut(name) {
            read_some(container, index);
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            let mut status = 0;
            // JUSTIFICATION: nix's waitpid fails on real-time signals; the raw status is kept.
            // SAFETY: the pointer is to a live integer.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            let name = self.containers.iter().find(|(_, c)| c.pid == pid && c.exit.is_none()).map(|(n, _)| n.clone());
            if let Some(name) = name {
                self.exited(name, status);
            } else if let Some(at) = self.execs.iter().position(|running| running.pid == pid) {
                let running = self.execs.swap_remove(at);
                self.tell_all(&Message::ExecExited { token: running.token, code: exit_code(status) });
            } else if !self.pending.is_empty() {
                self.early.push((pid, status));
            }
        }
    }

    fn exited(&mut self, name: String, status: i32) {
        let dir = self.container_dir(&name);
        let Some(container) = self.containers.get_mut(&name) else { return };
        // Whatever the process wrote before it ended is in the pipes by now.
        for index in 0..2 {
            for _ in 0..DRAIN_READS_MAX {
                if !read_some(container, index) {
                    break;
                }
            }
            flush(container, index);
            container.output[index] = None;
        }
        let oom = fs::read_to_string(&container.start.oom_file).unwrap_or_default();
        let oom_killed = oom.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|n| n.trim() != "0"));
        let exit = Exit {
            code: exit_code(status),
            signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
            oom_killed,
            started_at_ns: container.started_at_ns,
            finished_at_ns: sys::now_ns(),
        };
        // Before anything else can fail: a daemon that finds no shim finds this.
        if let Err(error) = write_exit(&dir, &exit) {
            eprintln!("exit file of {name}: {error}");
        }
        container.exit = Some(exit.clone());
        container.stdin = None;
        container.attached.clear();
        container.log = None;
        container.lingering = Some(0);
        self.tell_all(&Message::ContainerExited { container: name, exit });
    }

    /// Removes cgroups of containers that ended or could not be started, and containers that were asked to go.
    fn linger(&mut self) {
        let mut answers = Vec::new();
        let mut refused = Vec::new();
        self.containers.retain(|_, container| {
            let Some(looks) = container.lingering else { return true };
            if container.exit.is_none() && container.refused.is_none() {
                // Asked to go, still dying: its end is told by a signal.
                return true;
            }
            if !clear(container) && looks < LINGER_LOOKS_MAX {
                container.lingering = Some(looks + 1);
                return true;
            }
            container.lingering = None;
            answers.extend(container.remove);
            let refusal = container.refused.take();
            let kept = container.remove.is_none() && refusal.is_none();
            refused.extend(refusal);
            kept
        });
        if !refused.is_empty() {
            for (to, refusal) in refused {
                self.answer(to, Err(refusal));
            }
            self.tell_state();
        }
        for to in answers {
            self.answer(to, Ok(Reply::Done));
        }
    }

    fn finish_shutdown(&mut self) -> bool {
        let Some(to) = self.shutdown else { return false };
        let busy = self.containers.values().any(|c| c.exit.is_none() || c.lingering.is_some());
        if busy || !self.pending.is_empty() {
            return false;
        }
        if let Some(init) = self.held.init.take() {
            let _ = sys::kill(init, libc::SIGKILL);
        }
        self.answer(to, Ok(Reply::Done));
        true
    }
}

fn failed(error: io::Error) -> Refusal {
    Refusal::new(RefusalKind::Failed, error.to_string())
}

fn not_found(name: &str) -> Refusal {
    Refusal::new(RefusalKind::NotFound, format!("container {name} is not known"))
}

fn exit_code(status: i32) -> i32 {
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}
