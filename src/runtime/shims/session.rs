//! Exec and attach: descriptors that a shim hands over become the streams of a session.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::link::Gone;
use super::pod::Pod;
use super::{Shims, refused};
use crate::api::{ContainerState, Reader, Resizer, Session, Writer};
use crate::shim::protocol::{Exec, RefusalKind, Verb};
use crate::shim::sys;
use crate::spec::{AttachSpec, ContainerId, ExecSpec, PodId};
use crate::{Error, Result};

impl Shims {
    pub(super) async fn exec_now(self, pod: PodId, container: ContainerId, spec: ExecSpec) -> Result<Session> {
        let pod = self.found(&pod).await?;
        if spec.args.first().is_none_or(String::is_empty) {
            return Err(Error::Invalid("no command specified".into()));
        }
        if let ContainerState::Exited(_) = pod.container(&container)?.state {
            return Err(Error::NotRunning(container));
        }
        let link = pod.link()?;
        let token = self.inner.token.fetch_add(1, Ordering::Relaxed);
        let (tty, wanted) = (spec.tty, [spec.stdin, spec.stdout, spec.stderr]);
        let exec = Exec {
            token,
            args: spec.args,
            env: spec.env,
            cwd: spec.cwd,
            user: spec.user,
            tty,
            size: spec.size,
            stdin: spec.stdin,
            stdout: spec.stdout,
            stderr: spec.stderr,
        };
        let exit = link.expect_exec(token);
        let verb = Verb::Exec { container: container.0.clone(), exec: Box::new(exec) };
        let fds = match link.call(verb).await {
            Ok(Ok((_, fds))) => fds,
            Ok(Err(refusal)) => {
                link.forget_exec(token);
                return Err(match refusal.kind {
                    RefusalKind::Start | RefusalKind::Failed | RefusalKind::Create => {
                        Error::Exec { container, message: refusal.message }
                    }
                    _ => refused(&container, refusal),
                });
            }
            Err(Gone) => return Err(pod.gone()),
        };
        let fault = Error::io("stream of", PathBuf::from(&container.0));
        let gone = pod.gone();
        let exit = async move { exit.await.map_err(|_| gone) }.boxed();
        let killer = killer(pod.clone(), move |signal| Verb::SignalExec { token, signal });
        if tty {
            let master = one(fds).map_err(fault)?;
            return terminal_session(master, spec.stdin, exit, killer).map_err(Error::io("terminal of", container.0));
        }
        let (stdin, stdout, stderr) = streams(fds, wanted).map_err(fault)?;
        Ok(Session { stdin, stdout, stderr, resizer: None, exit, killer })
    }

    pub(super) async fn attach_now(self, pod: PodId, container: ContainerId, spec: AttachSpec) -> Result<Session> {
        let pod = self.found(&pod).await?;
        let info = pod.container(&container)?;
        let verb = Verb::Attach { container: container.0.clone(), streams: spec };
        let (_, fds) = self.ask(&pod, &container, verb).await?;
        let fault = Error::io("stream of", PathBuf::from(&container.0));
        let (stdin, stdout, stderr) = streams(fds, [spec.stdin, spec.stdout, spec.stderr]).map_err(fault)?;
        let resizer = info.tty.then(|| {
            let (pod, container) = (pod.clone(), container.clone());
            Resizer::new(move |size| {
                let verb = Verb::Resize { container: container.0.clone(), size };
                tell(pod.clone(), verb)
            })
        });
        let (waiting, id) = (pod.clone(), container.clone());
        Ok(Session {
            stdin,
            stdout,
            stderr,
            resizer,
            exit: async move { Ok(waiting.wait(&id).await?.code) }.boxed(),
            killer: killer(pod, move |signal| Verb::Signal { container: container.0.clone(), signal }),
        })
    }
}

fn killer(
    pod: Arc<Pod>,
    verb: impl Fn(i32) -> Verb + Send + Sync + 'static,
) -> Arc<dyn Fn(i32) -> BoxFuture<'static, Result<()>> + Send + Sync> {
    Arc::new(move |signal| tell(pod.clone(), verb(signal)))
}

/// Asks for something whose subject may be gone by now.
fn tell(pod: Arc<Pod>, verb: Verb) -> BoxFuture<'static, Result<()>> {
    async move {
        match pod.link()?.call(verb).await {
            Ok(_) => Ok(()),
            Err(Gone) => Err(pod.gone()),
        }
    }
    .boxed()
}

fn one(fds: Vec<OwnedFd>) -> io::Result<OwnedFd> {
    fds.into_iter().next().ok_or_else(|| io::Error::other("no descriptor arrived"))
}

/// Sorts descriptors that arrived in order to the streams that were wanted.
fn streams(fds: Vec<OwnedFd>, wanted: [bool; 3]) -> io::Result<(Option<Writer>, Option<Reader>, Option<Reader>)> {
    let mut fds = fds.into_iter();
    let mut next = |wanted: bool| -> io::Result<Option<OwnedFd>> {
        match wanted {
            true => fds.next().map(Some).ok_or_else(|| io::Error::other("a descriptor is missing")),
            false => Ok(None),
        }
    };
    let [stdin, stdout, stderr] = [next(wanted[0])?, next(wanted[1])?, next(wanted[2])?];
    Ok((
        stdin.map(Writer::new).transpose()?,
        stdout.map(Reader::new).transpose()?,
        stderr.map(Reader::new).transpose()?,
    ))
}

fn terminal_session(
    master: OwnedFd,
    stdin: bool,
    exit: BoxFuture<'static, Result<i32>>,
    killer: Arc<dyn Fn(i32) -> BoxFuture<'static, Result<()>> + Send + Sync>,
) -> io::Result<Session> {
    let size = Arc::new(master.try_clone()?);
    let resizer = Resizer::new(move |to| {
        let size = size.clone();
        async move {
            let done = sys::set_terminal_size(size.as_fd(), to.columns, to.rows);
            done.map_err(Error::io("resize", "terminal"))
        }
        .boxed()
    });
    let writer = if stdin { Some(Writer::new(master.try_clone()?)?) } else { None };
    Ok(Session {
        stdin: writer,
        stdout: Some(Reader::new(master)?),
        stderr: None,
        resizer: Some(resizer),
        exit,
        killer,
    })
}
