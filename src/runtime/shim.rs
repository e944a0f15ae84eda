//! The shim process: holds one pod, alone, for as long as the pod lives. `kedge shim <pod directory>`.
//!
//! It ends when the daemon tells it to remove the pod, and never by itself: not when the last container exits (restarted ones
//! need the same namespaces), not when the daemon dies. It has one thread and blocks in poll(2); each call into libcontainer
//! and each exec happens in a short-lived fork of it, which is sound because there is no second thread.
//!
//! Never in here: async, tracing, the allocator of the daemon, anything that the daemon could decide instead.

pub(crate) mod alive;
mod creator;
mod exec;
pub mod log;
pub mod protocol;
mod rootfs;
mod server;
pub(crate) mod sys;
pub mod wire;

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

use protocol::{IPC_FD, PID_FD, SHIM_FILE, SHIM_LOG, Setup, UTS_FD};

/// The hidden verb. `main` calls it first thing, before any thread exists and before any allocator but the system's is
/// chosen, with what follows `kedge shim`. Exits 0 once the shim runs in the background and answers on its socket; 1 with
/// one line on stderr when it cannot; 2 on wrong usage.
pub fn main(args: &[String]) -> ! {
    let [dir] = args else {
        eprintln!("usage: kedge shim <pod directory> (started by the daemon)");
        sys::exit(2);
    };
    match start(Path::new(dir)) {
        Ok(()) => sys::exit(0),
        Err(error) => {
            eprintln!("shim: {error}");
            sys::exit(1)
        }
    }
}

/// Starts the shim proper as a child of init's, and waits until it answers.
fn start(dir: &Path) -> io::Result<()> {
    // Whatever the daemon failed to mark close-on-exec.
    sys::close_from(3);
    // The slots must never be handed out to anything else, whatever this pod uses of them.
    let null = sys::dev_null()?;
    for slot in [UTS_FD, IPC_FD, PID_FD] {
        sys::move_fd(null.as_fd(), slot, false)?;
    }
    // `null` itself may own a slot by now.
    let _ = std::os::fd::IntoRawFd::into_raw_fd(null);
    std::env::set_current_dir(dir)?;
    let setup: Setup = serde_json::from_slice(&fs::read(SHIM_FILE)?)?;
    let (mut ready, ready_writer) = io::pipe()?;
    sys::fork(move || match serve(&setup, ready_writer) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    })?;
    let mut said = String::new();
    ready.read_to_string(&mut said)?;
    match said.as_str() {
        "ok" => Ok(()),
        "" => Err(io::Error::other("ended before it was ready")),
        why => Err(io::Error::other(why.to_owned())),
    }
}

fn serve(setup: &Setup, mut ready: io::PipeWriter) -> io::Result<()> {
    let _lock = alive::hold(Path::new(SHIM_FILE))?;
    let made = detach(setup).and_then(|()| {
        let held = namespaces(setup)?;
        server::Server::new(held)
    });
    match made {
        Ok(server) => {
            ready.write_all(b"ok")?;
            drop(ready);
            server.run()
        }
        Err(error) => {
            ready.write_all(error.to_string().as_bytes())?;
            Err(error)
        }
    }
}

/// Leaves everything that ties this process to the daemon: session, stdio, cgroup.
fn detach(setup: &Setup) -> io::Result<()> {
    nix::unistd::setsid()?;
    sys::set_name(c"kedge-shim");
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1)?;
    // The shim must be the last to go: without it the exit codes of its pod are lost. Needs CAP_SYS_RESOURCE; best effort.
    let _ = fs::write("/proc/self/oom_score_adj", "-998");
    for cgroup in &setup.shim_cgroups {
        crate::cgroup::join(cgroup)?;
    }
    let null = sys::dev_null()?;
    let log = OwnedFd::from(fs::File::options().create(true).append(true).open(SHIM_LOG)?);
    sys::move_fd(null.as_fd(), 0, true)?;
    sys::move_fd(null.as_fd(), 1, true)?;
    sys::move_fd(log.as_fd(), 2, true)?;
    Ok(())
}

/// What keeps the pod's namespaces alive. The descriptors sit in their fixed slots.
struct Held {
    /// Host pid of the pod's first process, when the pod shares a process namespace.
    init: Option<i32>,
}

/// Makes the pod's namespaces in a forked child, so that the shim itself stays in the host's, and takes hold of them.
fn namespaces(setup: &Setup) -> io::Result<Held> {
    let (told, tell) = wire::pair()?;
    let child = sys::fork(|| {
        // The namespaces must live until the shim has opened them; it then ends this process.
        let _ = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
        let init = enter(setup).and_then(|()| if setup.pid { pod_init(setup).map(Some) } else { Ok(None) });
        let _ = wire::send(tell.as_fd(), &init.map_err(|error| error.to_string()), &[]);
        loop {
            nix::unistd::pause();
        }
    })?;
    drop(tell);
    let opened = hold(setup, child, &told);
    sys::kill(child, libc::SIGKILL)?;
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None);
    Ok(Held { init: opened? })
}

fn hold(setup: &Setup, child: i32, told: &OwnedFd) -> io::Result<Option<i32>> {
    let mut buffer = Vec::new();
    wire::wait_readable(told)?;
    let answer = wire::receive::<Result<Option<i32>, String>>(told.as_fd(), &mut buffer)?;
    let init = match answer {
        Some((Ok(init), _)) => init,
        Some((Err(error), _)) => return Err(io::Error::other(error)),
        None => return Err(io::Error::other("the namespace helper ended early")),
    };
    let hold = |path: String, slot: i32| -> io::Result<()> {
        let file = fs::File::open(path)?;
        sys::move_fd(file.as_fd(), slot, false)
    };
    if setup.uts.is_some() {
        hold(format!("/proc/{child}/ns/uts"), UTS_FD)?;
    }
    if setup.ipc {
        hold(format!("/proc/{child}/ns/ipc"), IPC_FD)?;
    }
    if let Some(init) = init {
        hold(format!("/proc/{init}/ns/pid"), PID_FD)?;
    }
    Ok(init)
}

/// In the helper: unshares, names the host, writes the sysctls.
fn enter(setup: &Setup) -> io::Result<()> {
    if let Some(path) = &setup.network {
        let file = fs::File::open(path)
            .map_err(|error| io::Error::other(format!("network namespace {}: {error}", path.display())))?;
        setns(file, CloneFlags::CLONE_NEWNET)?;
    }
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWUTS, setup.uts.is_some());
    flags.set(CloneFlags::CLONE_NEWIPC, setup.ipc);
    unshare(flags)?;
    if let Some(uts) = &setup.uts {
        nix::unistd::sethostname(&uts.hostname)?;
        if !uts.domainname.is_empty() {
            fs::write("/proc/sys/kernel/domainname", &uts.domainname)?;
        }
    }
    for (name, value) in &setup.sysctls {
        // Dots separate, slashes are dots of a name: `net/ipv4/conf/eth0.1/…` and `net.ipv4.…` are both in use.
        let path = match name.find(['.', '/']) {
            Some(at) if name.as_bytes()[at] == b'.' => name
                .chars()
                .map(|c| {
                    if c == '.' {
                        '/'
                    } else if c == '/' {
                        '.'
                    } else {
                        c
                    }
                })
                .collect(),
            _ => name.clone(),
        };
        if path.split('/').any(|part| part == "..") {
            return Err(io::Error::other(format!("sysctl {name}: not a name")));
        }
        fs::write(Path::new("/proc/sys").join(path), value)
            .map_err(|error| io::Error::other(format!("sysctl {name}: {error}")))?;
    }
    Ok(())
}

/// Starts the first process of the pod's process namespace: it only reaps.
fn pod_init(setup: &Setup) -> io::Result<i32> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    sys::fork(|| {
        for cgroup in &setup.init_cgroups {
            if let Err(error) = crate::cgroup::join(cgroup) {
                eprintln!("pod init: {}: {error}", cgroup.display());
                return 1;
            }
        }
        sys::close_from(3);
        let _ = nix::unistd::setsid();
        sys::set_name(c"kedge-init");
        let _ = fs::write("/proc/self/oom_score_adj", "-998");
        use nix::sys::signal::{SigSet, Signal};
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        let _ = set.thread_block();
        loop {
            while !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Err(_) | Ok(WaitStatus::StillAlive)) {}
            let _ = set.wait();
        }
    })
}
