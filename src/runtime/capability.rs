//! Linux capabilities: the names, the default set, and how additions and drops combine. Pure.

/// Every capability, in the order of their bit numbers (0 = CAP_CHOWN). `Source: linux/capability.h (6.18)`
pub const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has when nothing is said: the same fourteen in containerd, CRI-O and Docker, so that images behave alike.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

/// The bit number of a capability named with its prefix.
pub fn number(name: &str) -> Option<u32> {
    ALL.iter().position(|c| *c == name).map(|n| n as u32)
}

/// The set that a container gets: `DEFAULT` (everything when privileged), with `add` and `drop` applied. Names may lack the
/// prefix and be in any case; `ALL` means all. A name both dropped and added is added; with `ALL` dropped only what is
/// added by name remains, with `ALL` added only what is dropped by name is missing. Ordered by bit number.
/// Errors: the first unknown name.
///
/// Source: containerd internal/cri/opts WithCapabilities semantics.
pub fn resolve(privileged: bool, add: &[String], drop: &[String]) -> Result<Vec<String>, String> {
    if privileged {
        return Ok(ALL.iter().map(|c| (*c).to_owned()).collect());
    }
    let (add_all, add) = parse(add)?;
    let (drop_all, drop) = parse(drop)?;
    let mut set = if add_all {
        u64::MAX
    } else if drop_all {
        0
    } else {
        DEFAULT.iter().filter_map(|c| number(c)).fold(0, |set, n| set | 1 << n)
    };
    set &= !drop;
    set |= add;
    Ok(ALL.iter().enumerate().filter(|(n, _)| set >> n & 1 == 1).map(|(_, c)| (*c).to_owned()).collect())
}

fn parse(names: &[String]) -> Result<(bool, u64), String> {
    let (mut all, mut set) = (false, 0);
    for name in names {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" || upper == "CAP_ALL" {
            all = true;
            continue;
        }
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        set |= 1u64 << number(&full).ok_or_else(|| format!("unknown capability \"{full}\""))?;
    }
    Ok((all, set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn additions_and_drops_combine() {
        let check = |add: &[&str], drop: &[&str], expected: &[&str]| {
            assert_eq!(
                resolve(false, &strings(add), &strings(drop)).unwrap(),
                strings(expected),
                "add {add:?} drop {drop:?}"
            );
        };
        check(&[], &[], &DEFAULT);
        check(&[], &["ALL"], &[]);
        check(&["NET_ADMIN"], &["all"], &["CAP_NET_ADMIN"]);
        check(&["cap_net_admin", "SYS_TIME"], &["ALL"], &["CAP_NET_ADMIN", "CAP_SYS_TIME"]);
        check(&["KILL"], &["KILL", "ALL"], &["CAP_KILL"]);
        let all_but_chown: Vec<&str> = ALL.iter().copied().filter(|c| *c != "CAP_CHOWN").collect();
        check(&["ALL"], &["CHOWN"], &all_but_chown);
        check(&["ALL"], &["ALL"], &ALL);
        assert_eq!(resolve(true, &[], &strings(&["ALL"])).unwrap(), strings(&ALL));
        assert_eq!(resolve(false, &strings(&["FLY"]), &[]).unwrap_err(), "unknown capability \"CAP_FLY\"");
    }

    #[test]
    fn default_is_ordered_by_bit_and_known() {
        let numbers: Vec<u32> = DEFAULT.iter().map(|c| number(c).unwrap()).collect();
        assert!(numbers.is_sorted());
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), Some(40));
    }
}
