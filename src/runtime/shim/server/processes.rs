//! What a shim starts on request: containers, further processes in them, readers and writers of their streams. Each by a forked
//! helper whose answer is waited for like everything else.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::container::Container;
use super::{Pending, PendingKind, ReplyTo, Running, Server, exit_code, failed, not_found};
use crate::shim::log::{Splitter, Stream, Writer};
use crate::shim::protocol::{CONTAINERS_DIR, Exec, Message, Refusal, RefusalKind, Reply, Start};
use crate::shim::{creator, exec, sys, wire};
use crate::spec::AttachSpec;

/// Output that an attached reader may leave unread before it is cut off: the largest pipe an unprivileged process may make.
const ATTACH_BYTES_MAX: i32 = 1 << 20;

impl Server {
    pub(super) fn start(&mut self, start: Start, to: ReplyTo) -> Result<(), Refusal> {
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
                refused: None,
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

    pub(super) fn exec(&mut self, name: &str, exec: Exec, to: ReplyTo) -> Result<(), Refusal> {
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
    pub(super) fn finish_pending(&mut self) {
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
                if pid != 0 {
                    let _ = sys::kill(pid, libc::SIGKILL);
                    container.pid = 0;
                }
                // Its creator may still be ending, and is in its cgroups.
                container.refused = Some((to, refusal));
                container.lingering = Some(0);
            }
        }
        self.tell_state();
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

    pub(super) fn attach(&mut self, name: &str, streams: AttachSpec) -> Result<Vec<OwnedFd>, Refusal> {
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
}
