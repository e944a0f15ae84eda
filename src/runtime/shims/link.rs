//! The daemon's end of a shim's socket: one task per pod owns it, hands requests out and answers back, and tells what the
//! shim says by itself. When the socket closes, the shim is gone.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

use crate::shim::protocol::{Exit, Message, Refusal, Reply, Request, SOCKET, Verb};
use crate::shim::wire;

/// Requests that wait for the socket; more make their callers wait.
const REQUESTS_MAX: usize = 64;

type Answer = Result<(Reply, Vec<OwnedFd>), Refusal>;
type Waiting<T> = Arc<Mutex<HashMap<u64, oneshot::Sender<T>>>>;

/// Cheap to clone; all clones share the socket.
#[derive(Clone)]
pub struct Link {
    requests: mpsc::Sender<(Verb, oneshot::Sender<Answer>)>,
    execs: Waiting<i32>,
    closed: watch::Receiver<bool>,
}

/// The shim is gone, or never answered.
#[derive(Debug)]
pub struct Gone;

impl Link {
    /// Connects to the shim of the pod in `dir`. `on_exit` is called for each container that ends, in the task of the link;
    /// `on_close` once, when the shim is gone.
    pub fn connect(
        dir: &Path,
        on_exit: impl Fn(String, Exit) + Send + 'static,
        on_close: impl FnOnce() + Send + 'static,
    ) -> io::Result<Link> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        // Through the directory's descriptor: socket addresses hold 108 bytes only.
        let dir = std::fs::File::open(dir)?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
        connect(fd.as_raw_fd(), &UnixAddr::new(path.as_str())?)?;
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let (closing, closed) = watch::channel(false);
        let execs: Waiting<i32> = Arc::default();
        // JUSTIFICATION: tokio asks for a promise about the descriptor's lifetime that it cannot check for arbitrary types.
        // SAFETY: an `OwnedFd` owns its open descriptor until dropped and always reports the same number.
        let socket = unsafe { AsyncFd::register(fd)? };
        let table = execs.clone();
        tokio::spawn(async move {
            let error = serve(socket, receiver, &table, on_exit).await;
            tracing::debug!(%error, "shim connection closed");
            table.lock().clear();
            on_close();
            let _ = closing.send(true);
        });
        Ok(Link { requests, execs, closed })
    }

    /// Asks the shim. Errors: it is gone.
    pub async fn call(&self, verb: Verb) -> Result<Answer, Gone> {
        let (sender, receiver) = oneshot::channel();
        self.requests.send((verb, sender)).await.map_err(|_| Gone)?;
        receiver.await.map_err(|_| Gone)
    }

    /// Registers for the end of an exec; before the call that starts it.
    pub fn expect_exec(&self, token: u64) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        self.execs.lock().insert(token, sender);
        receiver
    }

    pub fn forget_exec(&self, token: u64) {
        self.execs.lock().remove(&token);
    }

    /// Waits until the shim is gone.
    pub async fn closed(&self) {
        let _ = self.closed.clone().wait_for(|closed| *closed).await;
    }

    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }
}

async fn serve(
    socket: AsyncFd<OwnedFd>,
    mut requests: mpsc::Receiver<(Verb, oneshot::Sender<Answer>)>,
    execs: &Waiting<i32>,
    on_exit: impl Fn(String, Exit),
) -> io::Error {
    let mut answers: HashMap<u64, oneshot::Sender<Answer>> = HashMap::new();
    let mut id = 0u64;
    let mut buffer = Vec::new();
    let mut handles = true;
    loop {
        tokio::select! {
            request = requests.recv(), if handles => {
                let Some((verb, answer)) = request else {
                    // Every handle is gone: the daemon is done with this pod, but its events are still wanted until the end.
                    handles = false;
                    continue;
                };
                id += 1;
                answers.insert(id, answer);
                let request = Request { id, verb };
                loop {
                    match wire::send(socket.get_ref().as_fd(), &request, &[]) {
                        Ok(()) => break,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            match socket.writable().await {
                                Ok(mut guard) => guard.clear_ready(),
                                Err(error) => return error,
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                            answers.remove(&id);
                            break;
                        }
                        Err(error) => return error,
                    }
                }
            }
            readable = socket.readable() => {
                let mut guard = match readable { Ok(guard) => guard, Err(error) => return error };
                match wire::receive::<Message>(socket.get_ref().as_fd(), &mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                    Err(error) => return error,
                    Ok(None) => return io::ErrorKind::UnexpectedEof.into(),
                    Ok(Some((Message::Answer { id, result }, fds))) => {
                        if let Some(answer) = answers.remove(&id) {
                            let _ = answer.send(result.map(|reply| (reply, fds)));
                        }
                    }
                    Ok(Some((Message::ContainerExited { container, exit }, _))) => on_exit(container, exit),
                    Ok(Some((Message::ExecExited { token, code }, _))) => {
                        if let Some(waiting) = execs.lock().remove(&token) {
                            let _ = waiting.send(code);
                        }
                    }
                }
                // Idle daemons hold hundreds of links: none keeps a packet's worth of memory.
                buffer = Vec::new();
            }
        }
    }
}
