//! The runtime on this host, for real: shims, containers, cgroups. Needs root. Everything made here has names of its own,
//! below `/kedge-test-<pid>` and a temporary directory, and is removed whatever happens.

#![expect(clippy::unwrap_used, reason = "a test binary: a panic is how a test fails")]

mod bench;
mod processes;
mod sharing;
mod shims;
mod streams;

use runtime::Seccomp;

/// This test is its own shim: `/proc/self/exe shim <dir>` must become one before the test harness exists.
#[used]
// JUSTIFICATION: nothing else runs before `main` of the test harness, which starts threads.
// SAFETY: the C library calls functions in this section with the process's arguments before `main`.
#[unsafe(link_section = ".init_array")]
static BECOME_SHIM: extern "C" fn() = {
    extern "C" fn become_shim() {
        let args: Vec<String> = std::env::args().collect();
        if args.get(1).is_some_and(|verb| verb == "shim") {
            runtime::shim::main(&args[2..]);
        }
        if args.get(1).is_some_and(|verb| verb == "probe-seccomp") {
            probe_seccomp();
        }
    }
    become_shim
};

/// Puts the default filter on this process and prints what some system calls with arguments answer.
fn probe_seccomp() -> ! {
    let profile = runtime::seccomp::profile(&Seccomp::RuntimeDefault, &[]).unwrap().unwrap();
    let filter = runtime::seccomp::compile(&profile).unwrap();
    // JUSTIFICATION: nix's prctl feature is not enabled for one call.
    // SAFETY: takes integers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    runtime::seccomp::load(&filter).unwrap();
    let call = |name: &str, number: i64, first: i64| {
        // JUSTIFICATION: no library makes these calls with these arguments.
        // SAFETY: each takes integers only; a child that clone makes ends at once.
        let result = unsafe { libc::syscall(number, first, 0, 0, 0, 0) };
        if result == 0 && number == libc::SYS_clone {
            std::process::exit(0);
        }
        let answer = if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap() } else { 0 };
        println!("{name} {answer}");
    };
    call("clone", libc::SYS_clone, i64::from(libc::SIGCHLD));
    call("clone-user", libc::SYS_clone, i64::from(libc::CLONE_NEWUSER | libc::SIGCHLD));
    call("clone-net", libc::SYS_clone, i64::from(libc::CLONE_NEWNET | libc::SIGCHLD));
    call("clone3", libc::SYS_clone3, 0);
    call("personality-linux", libc::SYS_personality, 0);
    call("personality-no-random", libc::SYS_personality, 0x0004_0000);
    call("socket-vsock", libc::SYS_socket, 40);
    call("unshare", libc::SYS_unshare, 0);
    std::process::exit(0)
}

#[test]
fn the_default_filter_looks_at_arguments() {
    let output = std::process::Command::new("/proc/self/exe").arg("probe-seccomp").output().unwrap();
    let (eperm, enosys) = (libc::EPERM, libc::ENOSYS);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!(
            "clone 0\nclone-user {eperm}\nclone-net {eperm}\nclone3 {enosys}\npersonality-linux 0\n\
             personality-no-random {eperm}\nsocket-vsock {eperm}\nunshare {eperm}\n"
        ),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
