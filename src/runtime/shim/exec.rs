//! Further processes in a running container. Not libcontainer's: its exec runs as root whatever the container's user is, and
//! without the container's seccomp filter. Two forks: the first enters the namespaces, the second is inside them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use libcontainer::oci_spec::runtime::{Process, Spec};
use nix::sched::{CloneFlags, setns};

use super::protocol::{Exec, OCI_FILE, Refusal, RefusalKind};
use super::{creator, sys};
use crate::spec::User;

/// What the new process gets as stdin, stdout, stderr.
pub enum Stdio {
    Pipes([OwnedFd; 3]),
    /// A terminal of the container's own is opened; its master is returned.
    Terminal,
}

/// Runs in a forked child of the shim. Returns the host's pid of the process once it was executed, and the terminal's master.
pub fn run(
    exec: &Exec,
    init: i32,
    dir: &Path,
    cgroups: &[std::path::PathBuf],
    oom_score_adj: i32,
    stdio: Stdio,
) -> Result<(u32, Option<OwnedFd>), Refusal> {
    let failed =
        |what: &'static str| move |error: io::Error| Refusal::new(RefusalKind::Failed, format!("{what}: {error}"));
    let spec = Spec::load(dir.join(OCI_FILE)).map_err(|error| Refusal::new(RefusalKind::Failed, error.to_string()))?;
    let process = spec.process().as_ref().ok_or_else(|| Refusal::new(RefusalKind::Failed, "spec without process"))?;
    let filter = creator::read_filter(dir).map_err(failed("seccomp filter"))?;
    let pidfd = sys::pidfd_open(init).map_err(|_| Refusal::new(RefusalKind::NotRunning, "container is not running"))?;
    let _ = fs::write("/proc/self/oom_score_adj", oom_score_adj.to_string());
    for cgroup in cgroups {
        crate::cgroup::join(cgroup).map_err(failed("join cgroup"))?;
    }
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP;
    setns(&pidfd, all).map_err(|errno| failed("enter namespaces")(errno.into()))?;
    let (stdio, master) = match stdio {
        Stdio::Pipes(fds) => (fds, None),
        Stdio::Terminal => {
            let (master, slave) = sys::open_terminal().map_err(failed("open terminal"))?;
            if let Some(size) = exec.size {
                sys::set_terminal_size(master.as_fd(), size.columns, size.rows).map_err(failed("size terminal"))?;
            }
            let copy = || slave.try_clone().map_err(failed("open terminal"));
            ([copy()?, copy()?, slave], Some(master))
        }
    };
    let (mut failure, failure_writer) = io::pipe().map_err(failed("pipe"))?;
    let pid = sys::fork(|| {
        let error = inside(exec, &spec, process, &stdio, master.is_some(), filter.as_deref());
        let _ = nix::unistd::write(&failure_writer, error.as_bytes());
        127
    })
    .map_err(failed("fork"))?;
    drop((failure_writer, stdio));
    let mut text = String::new();
    let _ = failure.read_to_string(&mut text);
    if !text.is_empty() {
        return Err(Refusal::new(RefusalKind::Start, text));
    }
    Ok((pid.unsigned_abs(), master))
}

/// The process itself, up to exec; returns why it failed.
fn inside(
    exec: &Exec,
    spec: &Spec,
    process: &Process,
    stdio: &[OwnedFd; 3],
    terminal: bool,
    filter: Option<&[u8]>,
) -> String {
    match prepare(exec, spec, process, stdio, terminal, filter) {
        Ok(env) => creator::execute(&exec.args, &env),
        Err(error) => error.to_string(),
    }
}

fn prepare(
    exec: &Exec,
    spec: &Spec,
    process: &Process,
    stdio: &[OwnedFd; 3],
    terminal: bool,
    filter: Option<&[u8]>,
) -> io::Result<Vec<String>> {
    let named = |what: &'static str| move |error: io::Error| io::Error::other(format!("{what}: {error}"));
    nix::unistd::setsid()?;
    for (target, fd) in stdio.iter().enumerate() {
        sys::move_fd(fd.as_fd(), target as i32, true)?;
    }
    if terminal {
        sys::set_controlling_terminal(stdio[0].as_fd()).map_err(named("controlling terminal"))?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    for rlimit in process.rlimits().iter().flatten() {
        sys::set_rlimit(&json_name(&rlimit.typ()), rlimit.soft(), rlimit.hard()).map_err(named("rlimit"))?;
    }
    if let Some(profile) = process.apparmor_profile() {
        fs::write("/proc/self/attr/apparmor/exec", format!("exec {profile}"))
            .or_else(|_| fs::write("/proc/self/attr/exec", format!("exec {profile}")))
            .map_err(named("apparmor"))?;
    }
    let user = exec.user.clone().unwrap_or_else(|| User {
        uid: process.user().uid(),
        gid: process.user().gid(),
        additional_gids: process.user().additional_gids().clone().unwrap_or_default(),
    });
    let env = environment(process, exec, user.uid);
    let cwd = exec.cwd.clone().unwrap_or_else(|| process.cwd().clone());
    let entered = std::env::set_current_dir(&cwd);
    let no_new_privileges = process.no_new_privileges() == Some(true);
    // Loading a filter needs CAP_SYS_ADMIN or no_new_privs: before the capabilities go, or after the flag is set.
    let load = || filter.map_or(Ok(()), crate::seccomp::load);
    if no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    } else {
        load().map_err(named("seccomp"))?;
    }
    let capabilities = process.capabilities().as_ref().and_then(|c| c.bounding().clone()).unwrap_or_default();
    let mask = capabilities
        .iter()
        .filter_map(|c| crate::capability::number(&json_name(c)))
        .fold(0u64, |mask, n| mask | 1 << n);
    let mask = creator::lent(spec).fold(mask, |mask, n| mask & !(1 << n));
    sys::set_credentials(user.uid, user.gid, &user.additional_gids, mask, last_capability())
        .map_err(named("credentials"))?;
    if let Err(error) = entered {
        // A directory that only the user may enter.
        std::env::set_current_dir(&cwd).map_err(|_| io::Error::other(format!("chdir to cwd ({cwd:?}): {error}")))?;
    }
    if no_new_privileges {
        load().map_err(named("seccomp"))?;
    }
    Ok(env)
}

/// An enum of the OCI spec as its text says it.
fn json_name(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The highest capability that this kernel knows.
fn last_capability() -> u32 {
    let known = fs::read_to_string("/proc/sys/kernel/cap_last_cap");
    known.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(40)
}

fn environment(process: &Process, exec: &Exec, uid: u32) -> Vec<String> {
    let mut env: BTreeMap<&str, &str> = BTreeMap::new();
    for entry in process.env().iter().flatten().chain(&exec.env) {
        if let Some((name, value)) = entry.split_once('=') {
            env.insert(name, value);
        }
    }
    let home = home(uid);
    env.entry("HOME").or_insert(&home);
    if exec.tty {
        env.entry("TERM").or_insert("xterm");
    }
    env.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The home directory that the container's passwd file gives, else `/`.
fn home(uid: u32) -> String {
    let mut text = String::new();
    if let Ok(file) = fs::File::open("/etc/passwd") {
        let _ = file.take(crate::user::FILE_BYTES_MAX).read_to_string(&mut text);
    }
    let found = text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).map(|home| (*home).to_owned())).flatten()
    });
    found.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".into())
}
