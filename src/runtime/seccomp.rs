//! The default system call filter as a table, and from profile to what the OCI spec says. Pure.
//!
//! The default denies (EPERM) what no ordinary program needs and what has been a way out of containers; the set is the one
//! that Docker, containerd and CRI-O agree on, so that images behave alike.
//! Source: moby/profiles seccomp (default_linux.go); containerd contrib/seccomp.

use serde_json::{Value, json};

use crate::spec::Seccomp;

/// Allowed for everybody, with any arguments.
const ALWAYS: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
    close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat
    faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
    fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
    fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
    getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
    get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr
    getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents
    io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
    listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr
    mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal
    msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open
    openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
    ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev
    pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
    removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
    sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg
    sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority
    setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid
    setsockopt set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown
    sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64
    statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink
    unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
    process_vm_readv process_vm_writev ptrace
";

/// Allowed beyond that on one architecture.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: &str = "arch_prctl modify_ldt";
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: &str = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: &str = "sync_file_range2";

/// Allowed with a capability.
const WITH_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname
         sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// Execution domains that change nothing dangerous: Linux, BSD, their UNAME26 forms, and "what is it now?".
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x20000, 0x20008, 0xffff_ffff];
/// Any CLONE_NEW… flag of clone(2).
const CLONE_NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// Virtual machine sockets reach the hypervisor past every network policy.
const AF_VSOCK: u64 = 40;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [&str; 2] = ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURES: [&str; 0] = [];

/// The `linux.seccomp` of a container with these (effective) capabilities; `None` is no filter. Errors: the profile is not
/// JSON, or not one.
pub fn profile(seccomp: &Seccomp, capabilities: &[String]) -> Result<Option<Value>, String> {
    match seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::RuntimeDefault => Ok(Some(default_profile(capabilities))),
        Seccomp::Profile(text) => {
            let value = serde_json::from_str(text).map_err(|error| format!("seccomp profile: {error}"))?;
            convert(value, capabilities).map(Some)
        }
    }
}

/// Compiles a profile to the kernel's filter program. Takes libseccomp some ten milliseconds for the default one, which is
/// why it is done once per profile, and not in each container's start as the OCI runtimes do. (libcontainer 0.7 also turns
/// mask and value of a masked comparison round, which lets every namespace flag of clone through.)
///
/// Errors: an action, operator or flag that is not known; a system call that is not known is left out.
pub fn compile(profile: &Value) -> Result<Vec<u8>, String> {
    use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
    let fault = |error: &dyn std::fmt::Display| format!("seccomp profile: {error}");
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let errno = |value: &Value, key: &str| Some(value[key].as_i64().map_or(libc::EPERM, |n| n as i32));
    let action = |name: String, errno: Option<i32>| match name.as_str() {
        "SCMP_ACT_NOTIFY" => Err("seccomp profile: SCMP_ACT_NOTIFY is not supported".to_owned()),
        name => ScmpAction::from_str(name, errno).map_err(|error| fault(&error)),
    };
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let default = action(text(profile, "defaultAction"), errno(profile, "defaultErrnoRet"))?;
    let mut context = ScmpFilterContext::new(default).map_err(|error| fault(&error))?;
    context.set_ctl_nnp(false).map_err(|error| fault(&error))?;
    for name in list(profile, "architectures").iter().filter_map(Value::as_str) {
        let architecture: ScmpArch = name.parse().map_err(|error: libseccomp::error::SeccompError| fault(&error))?;
        context.add_arch(architecture).map_err(|error| fault(&error))?;
    }
    for rule in list(profile, "syscalls") {
        let action = action(text(&rule, "action"), errno(&rule, "errnoRet"))?;
        if action == default {
            continue;
        }
        let mut comparisons = Vec::new();
        for arg in list(&rule, "args") {
            let number = |key: &str| arg[key].as_u64().unwrap_or(0);
            let (operator, datum) = match text(&arg, "op").as_str() {
                "SCMP_CMP_NE" => (ScmpCompareOp::NotEqual, number("value")),
                "SCMP_CMP_LT" => (ScmpCompareOp::Less, number("value")),
                "SCMP_CMP_LE" => (ScmpCompareOp::LessOrEqual, number("value")),
                "SCMP_CMP_EQ" => (ScmpCompareOp::Equal, number("value")),
                "SCMP_CMP_GE" => (ScmpCompareOp::GreaterEqual, number("value")),
                "SCMP_CMP_GT" => (ScmpCompareOp::Greater, number("value")),
                // The OCI spec: argument & value == valueTwo.
                "SCMP_CMP_MASKED_EQ" => (ScmpCompareOp::MaskedEqual(number("value")), number("valueTwo")),
                other => return Err(format!("seccomp profile: operator {other:?}")),
            };
            comparisons.push(ScmpArgCompare::new(number("index") as u32, operator, datum));
        }
        // Several comparisons of one argument cannot be one rule: each becomes its own, as runc has it.
        let mut indexes: Vec<u64> = list(&rule, "args").iter().filter_map(|arg| arg["index"].as_u64()).collect();
        indexes.sort_unstable();
        let repeated = indexes.windows(2).any(|pair| pair[0] == pair[1]);
        for name in list(&rule, "names").iter().filter_map(Value::as_str) {
            // Newer than the library: denied, as everything that is not named.
            let Ok(syscall) = ScmpSyscall::from_name(name) else { continue };
            let sets: Vec<&[ScmpArgCompare]> =
                if repeated { comparisons.chunks(1).collect() } else { vec![&comparisons[..]] };
            for set in sets {
                context.add_rule_conditional(action, syscall, set).map_err(|error| fault(&error))?;
            }
        }
    }
    let mut file = tempfile_in_memory().map_err(|error| fault(&error))?;
    context.export_bpf(&file).map_err(|error| fault(&error))?;
    let mut program = Vec::new();
    std::io::Seek::rewind(&mut file).map_err(|error| fault(&error))?;
    std::io::Read::read_to_end(&mut file, &mut program).map_err(|error| fault(&error))?;
    Ok(program)
}

/// The library writes programs to descriptors only (to memory since 2.6).
fn tempfile_in_memory() -> std::io::Result<std::fs::File> {
    use std::os::fd::FromRawFd;
    // JUSTIFICATION: nix's memfd call is behind a feature that nothing else needs.
    // SAFETY: the name is a terminated string; the descriptor is new and owned from here on.
    unsafe {
        let fd = crate::shim::sys::check(i64::from(libc::memfd_create(c"seccomp".as_ptr(), libc::MFD_CLOEXEC)))?;
        Ok(std::fs::File::from_raw_fd(fd as i32))
    }
}

/// Puts a compiled filter on this process, for good. Needs no_new_privs or CAP_SYS_ADMIN.
pub fn load(program: &[u8]) -> std::io::Result<()> {
    /// Bytes of one instruction.
    const INSTRUCTION: usize = 8;
    let header = libc::sock_fprog {
        len: u16::try_from(program.len() / INSTRUCTION).map_err(std::io::Error::other)?,
        filter: program.as_ptr() as *mut libc::sock_filter,
    };
    // JUSTIFICATION: no wrapper in std or nix.
    // SAFETY: the kernel only reads, and copies, `len` instructions from the slice, which lives through the call.
    crate::shim::sys::check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &header) })?;
    Ok(())
}

fn names(list: &str) -> Vec<&str> {
    list.split_whitespace().collect()
}

fn default_profile(capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|c| c == name);
    let mut allowed = names(ALWAYS);
    allowed.extend(names(ARCHITECTURE));
    for (capability, list) in WITH_CAPABILITY {
        if has(capability) {
            allowed.extend(names(list));
        }
    }
    allowed.sort_unstable();
    allowed.dedup();
    let allow = |names: Vec<&str>, args: Value| json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": args});
    let compare = |op: &str, value: u64| json!([{"index": 0, "value": value, "valueTwo": 0, "op": op}]);
    let mut rules = vec![json!({"names": allowed, "action": "SCMP_ACT_ALLOW"})];
    rules.extend(PERSONALITIES.map(|value| allow(vec!["personality"], compare("SCMP_CMP_EQ", value))));
    rules.push(allow(vec!["socket"], compare("SCMP_CMP_NE", AF_VSOCK)));
    if !has("CAP_SYS_ADMIN") {
        let masked = json!([{"index": 0, "value": CLONE_NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]);
        rules.push(allow(vec!["clone"], masked));
        // Its flags lie in memory where no filter can see them; callers fall back to clone on ENOSYS.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": ARCHITECTURES,
        "syscalls": rules,
    })
}

/// A profile in Docker's format has conditions (`includes`, `excludes`) and an `archMap`, which the OCI spec lacks: decided here.
fn convert(mut value: Value, capabilities: &[String]) -> Result<Value, String> {
    let profile = value.as_object_mut().ok_or("seccomp profile: not an object")?;
    if !profile.contains_key("defaultAction") {
        return Err("seccomp profile: defaultAction is missing".into());
    }
    if profile.remove("archMap").is_some() {
        profile.insert("architectures".into(), json!(ARCHITECTURES));
    }
    let holds = |condition: Option<&Value>, key: &str, matches: &dyn Fn(&str) -> bool, any: bool| -> Option<bool> {
        let list = condition?.get(key)?.as_array()?;
        let mut results = list.iter().filter_map(Value::as_str).map(matches);
        Some(if any { results.any(|r| r) } else { results.all(|r| r) })
    };
    let has = |name: &str| capabilities.iter().any(|c| c == name);
    let here = |name: &str| {
        matches!((name, std::env::consts::ARCH), ("amd64" | "x32" | "x86", "x86_64") | ("arm64" | "arm", "aarch64"))
    };
    if let Some(Value::Array(rules)) = profile.get_mut("syscalls") {
        rules.retain_mut(|rule| {
            let (includes, excludes) = (rule.get("includes").cloned(), rule.get("excludes").cloned());
            let wanted = holds(includes.as_ref(), "caps", &has, false).unwrap_or(true)
                && holds(includes.as_ref(), "arches", &here, true).unwrap_or(true)
                && !holds(excludes.as_ref(), "caps", &has, true).unwrap_or(false)
                && !holds(excludes.as_ref(), "arches", &here, true).unwrap_or(false);
            if let Some(rule) = rule.as_object_mut() {
                for key in ["includes", "excludes", "comment"] {
                    rule.remove(key);
                }
                if let Some(name) = rule.remove("name").filter(|_| !rule.contains_key("names")) {
                    rule.insert("names".into(), json!([name]));
                }
                // `null` is Go's empty list.
                rule.retain(|_, value| !value.is_null());
            }
            wanted
        });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(profile: &Value, name: &str) -> Option<String> {
        let rules = profile["syscalls"].as_array().unwrap();
        let rule = rules.iter().find(|rule| rule["names"].as_array().unwrap().iter().any(|n| n == name))?;
        Some(rule["action"].as_str().unwrap().to_owned())
    }

    #[test]
    fn default_follows_capabilities() {
        let plain = profile(&Seccomp::RuntimeDefault, &[]).unwrap().unwrap();
        let admin = profile(&Seccomp::RuntimeDefault, &["CAP_SYS_ADMIN".into()]).unwrap().unwrap();
        for (name, without, with) in [
            ("read", Some("SCMP_ACT_ALLOW"), Some("SCMP_ACT_ALLOW")),
            ("mount", None, Some("SCMP_ACT_ALLOW")),
            ("unshare", None, Some("SCMP_ACT_ALLOW")),
            ("keyctl", None, None),
            ("kexec_load", None, None),
            ("clone3", Some("SCMP_ACT_ERRNO"), Some("SCMP_ACT_ALLOW")),
            ("chroot", None, None),
            ("io_uring_setup", None, None),
        ] {
            assert_eq!(allowed(&plain, name).as_deref(), without, "{name} without capabilities");
            assert_eq!(allowed(&admin, name).as_deref(), with, "{name} with CAP_SYS_ADMIN");
        }
        assert_eq!(plain["defaultErrnoRet"], 1);
        assert_eq!(profile(&Seccomp::Unconfined, &[]).unwrap(), None);
    }

    #[test]
    fn docker_profiles_are_decided() {
        let text = r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64"}],"syscalls":[
            {"names":["a"],"action":"SCMP_ACT_ALLOW","args":null,"comment":"","includes":{},"excludes":{}},
            {"names":["b"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_BPF"]}},
            {"names":["c"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_BPF"]}},
            {"name":"d","action":"SCMP_ACT_ALLOW","includes":{"arches":["s390x"]}}]}"#;
        let named = |capabilities: &[String]| -> Vec<String> {
            let value = profile(&Seccomp::Profile(text.into()), capabilities).unwrap().unwrap();
            assert!(value.get("archMap").is_none());
            value["syscalls"].as_array().unwrap().iter().map(|r| r["names"][0].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(named(&[]), ["a", "c"]);
        assert_eq!(named(&["CAP_BPF".into()]), ["a", "b"]);
        assert!(profile(&Seccomp::Profile("{".into()), &[]).is_err());
        assert!(profile(&Seccomp::Profile("{}".into()), &[]).is_err());
    }
}
