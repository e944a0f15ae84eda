//! The shim's loop: one poll(2) over the child signal, the socket, the connections, and the containers' output.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket};

use super::log::{Splitter, Stream, Writer, rfc3339, rotation_stamp};
use super::protocol::{
    CONTAINERS_DIR, ContainerReport, EXIT_FILE, Exec, Exit, Message, Refusal, RefusalKind, Reply, Request, SOCKET,
    Start, VERSION, Verb,
};
use super::{Held, creator, exec, sys, wire};
use crate::spec::AttachSpec;

/// Bytes read from a container's output at once: a pipe's default capacity would be 64 KiB; a quarter keeps the heap small.
const READ_BYTES: usize = 16 << 10;
/// Reads of an ended container's output before the rest is given up: more than a pipe can hold, less than a process that
/// was left behind could write for ever.
const DRAIN_READS_MAX: u32 = 256;
/// Output that an attached reader may leave unread before it is cut off: the largest pipe an unprivileged process may make.
const ATTACH_BYTES_MAX: i32 = 1 << 20;
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

struct Container {
    start: Start,
    /// 0 until the creator has answered.
    pid: i32,
    started_at_ns: i64,
    exit: Option<Exit>,
    /// Reading ends: stdout (or the terminal's master) and stderr.
    output: [Option<OwnedFd>; 2],
    splitters: [Splitter; 2],
    stdin: Option<OwnedFd>,
    log: Option<Writer>,
    attached: Vec<[Option<OwnedFd>; 2]>,
    /// Looks at cgroups that would not go yet.
    lingering: Option<u32>,
    remove: Option<ReplyTo>,
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

    fn start(&mut self, start: Start, to: ReplyTo) -> Result<(), Refusal> {
        let name = start.container.clone();
        if self.shutdown.is_some() {
            return Err(Refusal::new(RefusalKind::Failed, "the pod is being removed"));
        }
        if self.containers.contains_key(&name) {
            return Err(Refusal::new(RefusalKind::Exists, format!("container {name} exists already")));
        }
        let log = match &start.log {
            Some(policy) => Some(Writer::open(policy.clone()).map_err(|error| {
                Refusal::new(RefusalKind::Create, format!("log file {}: {error}", policy.path.display()))
            })?),
            None => None,
        };
        let dir = self.container_dir(&name);
        let mut output = [None, None];
        let mut stdin = None;
        let mut console = None;
        let stdio = if start.tty {
            let _ = fs::remove_file(dir.join("console.sock"));
            // Relative: see `Server::new`.
            let path = PathBuf::from(CONTAINERS_DIR).join(&name).join("console.sock");
            console = Some(UnixListener::bind(path).map_err(failed)?);
            creator::Stdio::Console(dir.join("console.sock"))
        } else {
            let (out_reader, stdout) = sys::pipe().map_err(failed)?;
            let (err_reader, stderr) = sys::pipe().map_err(failed)?;
            for fd in [&out_reader, &err_reader] {
                sys::set_nonblocking(fd.as_fd()).map_err(failed)?;
            }
            output = [Some(out_reader), Some(err_reader)];
            let reader = match start.stdin {
                true => {
                    let (reader, writer) = sys::pipe().map_err(failed)?;
                    stdin = Some(writer);
                    reader
                }
                false => sys::dev_null().map_err(failed)?,
            };
            creator::Stdio::Pipes { stdin: reader, stdout, stderr }
        };
        let (result, result_writer) = wire::pair().map_err(failed)?;
        // The creator must not keep the parent's end of stdin open in the container's processes: all of these are
        // close-on-exec, and the creator itself ends.
        sys::fork(|| {
            let answer = creator::run(&start, &dir, stdio);
            let _ = wire::send(result_writer.as_fd(), &answer, &[]);
            0
        })
        .map_err(failed)?;
        self.containers.insert(
            name.clone(),
            Container {
                start,
                pid: 0,
                started_at_ns: 0,
                exit: None,
                output,
                splitters: [Splitter::new(Stream::Stdout), Splitter::new(Stream::Stderr)],
                stdin,
                log,
                attached: Vec::new(),
                lingering: None,
                remove: None,
            },
        );
        self.pending.push(Pending { reply_to: to, result, kind: PendingKind::Start { container: name, console } });
        Ok(())
    }

    fn exec(&mut self, name: &str, exec: Exec, to: ReplyTo) -> Result<(), Refusal> {
        let container = self.containers.get(name).ok_or_else(|| not_found(name))?;
        if container.pid == 0 || container.exit.is_some() {
            return Err(Refusal::new(RefusalKind::NotRunning, format!("container {name} is not running")));
        }
        let dir = self.container_dir(name);
        let mut ours = Vec::new();
        let stdio = if exec.tty {
            exec::Stdio::Terminal
        } else {
            let null = || sys::dev_null().map_err(failed);
            let mut wanted = |wanted: bool, input: bool| -> Result<OwnedFd, Refusal> {
                if !wanted {
                    return null();
                }
                let (reader, writer) = sys::pipe().map_err(failed)?;
                let (mine, theirs) = if input { (writer, reader) } else { (reader, writer) };
                ours.push(mine);
                Ok(theirs)
            };
            exec::Stdio::Pipes([wanted(exec.stdin, true)?, wanted(exec.stdout, false)?, wanted(exec.stderr, false)?])
        };
        let (result, result_writer) = wire::pair().map_err(failed)?;
        let (init, cgroups) = (container.pid, container.start.cgroups.clone());
        let oom_score_adj = container.start.oom_score_adj.unwrap_or(0);
        let token = exec.token;
        sys::fork(|| {
            match exec::run(&exec, init, &dir, &cgroups, oom_score_adj, stdio) {
                Ok((pid, master)) => {
                    let fds: Vec<OwnedFd> = master.into_iter().collect();
                    let _ = wire::send(result_writer.as_fd(), &Ok::<u32, Refusal>(pid), &fds);
                }
                Err(refusal) => {
                    let _ = wire::send(result_writer.as_fd(), &Err::<u32, Refusal>(refusal), &[]);
                }
            }
            0
        })
        .map_err(failed)?;
        let kind = PendingKind::Exec { token, fds: ours };
        self.pending.push(Pending { reply_to: to, result, kind });
        Ok(())
    }

    /// Takes the answers of helpers that have one.
    fn finish_pending(&mut self) {
        let mut index = 0;
        while index < self.pending.len() {
            let received = wire::receive::<Result<u32, Refusal>>(self.pending[index].result.as_fd(), &mut self.buffer);
            let (result, fds) = match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    index += 1;
                    continue;
                }
                Ok(Some(answer)) => answer,
                Ok(None) => (Err(Refusal::new(RefusalKind::Failed, "the helper process ended early")), Vec::new()),
                Err(error) => (Err(failed(error)), Vec::new()),
            };
            self.buffer = Vec::new();
            let pending = self.pending.swap_remove(index);
            match pending.kind {
                PendingKind::Start { container, console } => {
                    self.started(pending.reply_to, &container, console, result)
                }
                PendingKind::Exec { token, fds: ours } => {
                    self.exec_started(pending.reply_to, token, ours, result, fds);
                }
            }
        }
        if self.pending.is_empty() {
            self.early.clear();
        }
    }

    fn started(&mut self, to: ReplyTo, name: &str, console: Option<UnixListener>, result: Result<u32, Refusal>) {
        let _ = fs::remove_file(self.container_dir(name).join("console.sock"));
        let Some(container) = self.containers.get_mut(name) else { return };
        let result = result.and_then(|pid| {
            container.pid = pid as i32;
            container.started_at_ns = sys::now_ns();
            if let Some(listener) = console {
                let (socket, _) = listener.accept().map_err(failed)?;
                let master = sys::receive_one_fd(socket.as_fd()).map_err(failed)?;
                sys::set_nonblocking(master.as_fd()).map_err(failed)?;
                container.output[0] = Some(master);
            }
            Ok(Reply::Started { pid, started_at_ns: container.started_at_ns })
        });
        let pid = container.pid;
        match result {
            Ok(reply) => {
                self.answer(to, Ok(reply));
                if let Some(at) = self.early.iter().position(|(early, _)| *early == pid) {
                    let (_, status) = self.early.swap_remove(at);
                    self.exited(name.to_owned(), status);
                } else if self.shutdown.is_some() || self.containers.get(name).is_some_and(|c| c.remove.is_some()) {
                    let _ = self.signal(name, libc::SIGKILL);
                }
            }
            Err(refusal) => {
                if let Some(mut container) = self.containers.remove(name) {
                    if pid != 0 {
                        let _ = sys::kill(pid, libc::SIGKILL);
                    }
                    // What is still busy goes with the pod's cgroup.
                    kill_all(&container);
                    clear(&mut container);
                    if let Some(remove) = container.remove {
                        self.answer(remove, Ok(Reply::Done));
                    }
                }
                self.answer(to, Err(refusal));
            }
        }
        self.tell_state();
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

    fn exec_started(
        &mut self,
        to: ReplyTo,
        token: u64,
        ours: Vec<OwnedFd>,
        result: Result<u32, Refusal>,
        terminal: Vec<OwnedFd>,
    ) {
        let pid = match result {
            Ok(pid) => pid,
            Err(refusal) => return self.answer(to, Err(refusal)),
        };
        let fds = if terminal.is_empty() { ours } else { terminal };
        self.answer_with(to, Ok(Reply::Started { pid, started_at_ns: sys::now_ns() }), &fds);
        drop(fds);
        match self.early.iter().position(|(early, _)| *early == pid as i32) {
            Some(at) => {
                let (_, status) = self.early.swap_remove(at);
                self.tell_all(&Message::ExecExited { token, code: exit_code(status) });
            }
            None => self.execs.push(Running { token, pid: pid as i32 }),
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

    fn attach(&mut self, name: &str, streams: AttachSpec) -> Result<Vec<OwnedFd>, Refusal> {
        let container = self.containers.get_mut(name).ok_or_else(|| not_found(name))?;
        if container.pid == 0 || container.exit.is_some() {
            return Err(Refusal::new(RefusalKind::NotRunning, format!("container {name} is not running")));
        }
        let mut fds = Vec::new();
        if streams.stdin {
            // A terminal is written through its master; a pipe through a copy of our end, so that the reader sees end of
            // file only when every copy is closed.
            let tty = container.start.tty && container.start.stdin;
            let copy = if tty { container.output[0].as_ref() } else { container.stdin.as_ref() };
            match copy {
                Some(fd) => fds.push(fd.try_clone().map_err(failed)?),
                // Nothing to write to: an end that nobody reads.
                None => fds.push(sys::pipe().map_err(failed)?.1),
            }
            if container.start.stdin_once {
                container.stdin = None;
            }
        }
        let mut ends = [None, None];
        for (index, wanted) in [streams.stdout, streams.stderr].into_iter().enumerate() {
            if wanted {
                let (reader, writer) = sys::pipe().map_err(failed)?;
                sys::set_pipe_bytes(writer.as_fd(), ATTACH_BYTES_MAX);
                sys::set_nonblocking(writer.as_fd()).map_err(failed)?;
                fds.push(reader);
                ends[index] = Some(writer);
            }
        }
        container.attached.push(ends);
        Ok(fds)
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

    /// Removes cgroups of ended containers, and containers that were asked to go.
    fn linger(&mut self) {
        let mut answers = Vec::new();
        self.containers.retain(|_, container| {
            let Some(looks) = container.lingering else { return true };
            if container.exit.is_none() {
                // Asked to go, still dying: its end is told by a signal.
                return true;
            }
            if !clear(container) && looks < LINGER_LOOKS_MAX {
                container.lingering = Some(looks + 1);
                return true;
            }
            container.lingering = None;
            match container.remove {
                Some(to) => {
                    answers.push(to);
                    false
                }
                None => true,
            }
        });
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

fn report((name, container): (&String, &Container)) -> Option<ContainerReport> {
    (container.pid != 0).then(|| ContainerReport {
        container: name.clone(),
        pid: container.pid as u32,
        started_at_ns: container.started_at_ns,
        exit: container.exit.clone(),
    })
}

fn exit_code(status: i32) -> i32 {
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}

fn write_exit(dir: &std::path::Path, exit: &Exit) -> io::Result<()> {
    let temporary = dir.join("exit.tmp");
    fs::write(&temporary, serde_json::to_vec(exit)?)?;
    fs::rename(temporary, dir.join(EXIT_FILE))
}

/// Kills what is left in the container's cgroup. True when the cgroups are gone.
fn clear(container: &mut Container) -> bool {
    if container.start.shared_pid {
        kill_all(container);
    }
    container.start.cgroups.iter().all(|dir| crate::cgroup::remove_tree(dir).is_ok())
}

fn kill_all(container: &Container) {
    if let Some(dir) = container.start.cgroups.first() {
        let _ = crate::cgroup::kill_tree(dir);
    }
}

/// Reads once from an output. True when there may be more at once.
fn read_some(container: &mut Container, index: usize) -> bool {
    let Some(fd) = &container.output[index] else { return false };
    let mut buffer = [0u8; READ_BYTES];
    match nix::unistd::read(fd, &mut buffer) {
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => false,
        // End of file, or EIO from a terminal that nobody holds any more.
        Ok(0) | Err(_) => {
            flush(container, index);
            container.output[index] = None;
            false
        }
        Ok(count) => {
            let bytes = &buffer[..count];
            if container.log.is_some() {
                let now = sys::now_ns();
                let mut records = Vec::with_capacity(count + 128);
                container.splitters[index].push(bytes, &rfc3339(now), &mut records);
                write_log(container, &records, now);
            }
            for ends in &mut container.attached {
                if let Some(fd) = &ends[index] {
                    // Whole or not at all: a reader with a gap in its stream is worse off than one that was cut off.
                    let written = nix::unistd::write(fd, bytes);
                    if written != Ok(count) {
                        ends[index] = None;
                    }
                }
            }
            container.attached.retain(|ends| ends.iter().any(Option::is_some));
            true
        }
    }
}

fn flush(container: &mut Container, index: usize) {
    if container.log.is_some() {
        let now = sys::now_ns();
        let mut records = Vec::new();
        container.splitters[index].finish(&rfc3339(now), &mut records);
        write_log(container, &records, now);
    }
}

fn write_log(container: &mut Container, records: &[u8], now: i64) {
    if let Some(log) = &mut container.log
        && !records.is_empty()
        && let Err(error) = log.write(records, &rotation_stamp(now))
    {
        let _ = writeln!(io::stderr(), "log of {}: {error}", container.start.container);
    }
}
