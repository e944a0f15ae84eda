//! System calls that neither std nor nix offer as the shim needs them, each behind a safe signature. Only for the
//! single-threaded processes of this folder: forking and changing credentials here is sound because no other thread exists.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub fn cstring(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a string contains a zero byte"))
}

fn cpath(path: &Path) -> io::Result<CString> {
    cstring(path.as_os_str().as_bytes())
}

/// Now, as nanoseconds since the epoch.
pub fn now_ns() -> i64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "log lines and exit times are stamped where they happen, in the shim"
    )]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// Runs `child` in a forked process with an empty signal mask and exits with what it returns; a panic exits with 101.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<i32> {
    // JUSTIFICATION: std has no fork.
    // SAFETY: this process has one thread, so the child's copy of every lock is free and all state is consistent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(101);
            exit(code)
        }
        pid => Ok(pid),
    }
}

/// Ends the process without running exit handlers.
pub fn exit(code: i32) -> ! {
    // JUSTIFICATION: a forked child must not run its parent's exit handlers.
    // SAFETY: always sound.
    unsafe { libc::_exit(code) }
}

/// Makes `fd` the descriptor number `target`, which survives exec when `keep`.
pub fn move_fd(fd: BorrowedFd<'_>, target: RawFd, keep: bool) -> io::Result<()> {
    if fd.as_raw_fd() == target {
        let flags = if keep { nix::fcntl::FdFlag::empty() } else { nix::fcntl::FdFlag::FD_CLOEXEC };
        nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(flags))?;
        return Ok(());
    }
    // JUSTIFICATION: the target is a number that nobody owns as a type: stdio, or the namespace slots.
    // SAFETY: callers use targets 0..=5 only, which are reserved in these processes.
    check(i64::from(unsafe { libc::dup3(fd.as_raw_fd(), target, if keep { 0 } else { libc::O_CLOEXEC }) }))?;
    Ok(())
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: u32) {
    // JUSTIFICATION: std cannot close what it does not own.
    // SAFETY: called first thing in a fresh process, before anything else is opened.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if result < 0 {
        // Before Linux 5.9.
        for fd in first as i32..1024 {
            // JUSTIFICATION: as above.
            // SAFETY: as above; closing an unused number does nothing.
            unsafe { libc::close(fd) };
        }
    }
}

/// A descriptor that stands for a process, however its number is used later.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // JUSTIFICATION: no wrapper in std or nix.
    // SAFETY: plain integers; the kernel returns a new descriptor that is owned from here on.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

pub fn prctl(option: i32, argument: u64) -> io::Result<()> {
    // JUSTIFICATION: nix lacks some of the options used.
    // SAFETY: only options that take integers are passed.
    check(i64::from(unsafe { libc::prctl(option, argument, 0, 0, 0) }))?;
    Ok(())
}

pub fn set_name(name: &std::ffi::CStr) {
    // JUSTIFICATION: nix's prctl feature is not enabled for one call.
    // SAFETY: the pointer is a terminated string that lives through the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Mounts; `data` as the filesystem wants it.
pub fn mount(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: libc::c_ulong,
    data: Option<&str>,
) -> io::Result<()> {
    let flags = nix::mount::MsFlags::from_bits_retain(flags);
    Ok(nix::mount::mount(source, target, kind, flags, data)?)
}

/// Sets user, groups and the three capability sets of this process; the bounding set is cut as well. `effective` and so on
/// are bit masks. Keeps the capabilities across the change of user so that they can be narrowed to exactly the masks.
pub fn set_credentials(uid: u32, gid: u32, groups: &[u32], capabilities: u64, last_capability: u32) -> io::Result<()> {
    for capability in 0..=last_capability {
        if capabilities >> capability & 1 == 0 {
            prctl(libc::PR_CAPBSET_DROP, u64::from(capability))?;
        }
    }
    prctl(libc::PR_SET_KEEPCAPS, 1)?;
    // JUSTIFICATION: std's setters change only what exec needs later, nix's setgroups takes other types; raw calls here
    // change this process now.
    // SAFETY: one thread; pointers and lengths come from a live slice.
    unsafe {
        check(i64::from(libc::setgroups(groups.len(), groups.as_ptr())))?;
        check(i64::from(libc::setresgid(gid, gid, gid)))?;
        check(i64::from(libc::setresuid(uid, uid, uid)))?;
    }
    prctl(libc::PR_SET_KEEPCAPS, 0)?;
    set_capabilities(capabilities)
}

fn set_capabilities(mask: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    /// _LINUX_CAPABILITY_VERSION_3
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |bits: u64| Data { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    let data = [half(mask & 0xffff_ffff), half(mask >> 32)];
    // JUSTIFICATION: neither std nor nix wraps capset.
    // SAFETY: version 3 takes two data structs of this layout; both live through the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) })?;
    Ok(())
}

/// Replaces this process. Returns only the error.
pub fn execve(path: &Path, args: &[CString], env: &[CString]) -> io::Error {
    let path = match cpath(path) {
        Ok(path) => path,
        Err(error) => return error,
    };
    match nix::unistd::execve(&path, args, env) {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}

/// Gives a terminal to this session as its controlling one.
pub fn set_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // JUSTIFICATION: no wrapper in std or nix.
    // SAFETY: takes an integer.
    check(i64::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }))?;
    Ok(())
}

pub fn set_terminal_size(fd: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // JUSTIFICATION: no wrapper in std or nix.
    // SAFETY: the struct lives through the call.
    check(i64::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &size) }))?;
    Ok(())
}

/// Opens a new terminal of the devpts instance at `/dev/ptmx` of this process's root: its master and its slave.
pub fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::fcntl::OFlag;
    use nix::sys::stat::Mode;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = nix::fcntl::open("/dev/ptmx", flags, Mode::empty())?;
    let stat = nix::sys::stat::fstat(&master)?;
    // The image must not pass us some other device: 5:2 is the one.
    if stat.st_rdev != libc::makedev(5, 2) {
        return Err(io::Error::other("/dev/ptmx of the container is not a terminal multiplexer"));
    }
    let unlock: libc::c_int = 0;
    // JUSTIFICATION: no wrapper in std or nix; opening the slave by ioctl needs no path in the container.
    // SAFETY: the integer lives through the call; the second call returns a new descriptor.
    let slave = unsafe {
        check(i64::from(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock)))?;
        let fd = check(i64::from(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits())))?;
        OwnedFd::from_raw_fd(fd as RawFd)
    };
    Ok((master, slave))
}

/// Sends a signal; a process that is gone is no error.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // JUSTIFICATION: nix knows no real-time signals.
    // SAFETY: plain integers.
    match check(i64::from(unsafe { libc::kill(pid, signal) })) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map(drop),
    }
}

/// Raises the room of a pipe; refused silently above the system's limit.
pub fn set_pipe_bytes(fd: BorrowedFd<'_>, bytes: i32) {
    let _ = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETPIPE_SZ(bytes));
}

pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Close-on-exec pipe: reading end, writing end.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

/// `/dev/null` of this process's root.
pub fn dev_null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

/// The descriptor that arrives on a connected stream socket (an OCI console socket).
pub fn receive_one_fd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut bytes = [0u8; 256];
    let mut slices = [io::IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    for control in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(fd) = fds.first()
        {
            // JUSTIFICATION: descriptors arrive as bare numbers.
            // SAFETY: the kernel has just made it for this process.
            return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    Err(io::Error::other("no descriptor arrived"))
}

/// Resource limits by the names of the OCI spec.
pub fn rlimit_number(name: &str) -> Option<i64> {
    // The constants' type differs between C libraries.
    Some(i64::from(match name {
        "RLIMIT_CPU" => libc::RLIMIT_CPU,
        "RLIMIT_FSIZE" => libc::RLIMIT_FSIZE,
        "RLIMIT_DATA" => libc::RLIMIT_DATA,
        "RLIMIT_STACK" => libc::RLIMIT_STACK,
        "RLIMIT_CORE" => libc::RLIMIT_CORE,
        "RLIMIT_RSS" => libc::RLIMIT_RSS,
        "RLIMIT_NPROC" => libc::RLIMIT_NPROC,
        "RLIMIT_NOFILE" => libc::RLIMIT_NOFILE,
        "RLIMIT_MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "RLIMIT_AS" => libc::RLIMIT_AS,
        "RLIMIT_LOCKS" => libc::RLIMIT_LOCKS,
        "RLIMIT_SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "RLIMIT_MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => libc::RLIMIT_NICE,
        "RLIMIT_RTPRIO" => libc::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => libc::RLIMIT_RTTIME,
        _ => return None,
    }))
}

pub fn set_rlimit(name: &str, soft: u64, hard: u64) -> io::Result<()> {
    let number = rlimit_number(name).ok_or_else(|| io::Error::other(format!("unknown limit {name}")))?;
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // JUSTIFICATION: the number's type differs between C libraries, which nix's names hide but std lacks.
    // SAFETY: the struct lives through the call.
    check(i64::from(unsafe { libc::setrlimit(number as _, &limit) }))?;
    Ok(())
}

/// This process's hard limit.
pub fn hard_rlimit(name: &str) -> Option<u64> {
    let number = rlimit_number(name)?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // JUSTIFICATION: as above.
    // SAFETY: the struct lives through the call.
    check(i64::from(unsafe { libc::getrlimit(number as _, &mut limit) })).ok()?;
    Some(limit.rlim_max)
}
