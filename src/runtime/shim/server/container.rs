//! A container as its shim knows it: its process, what it writes and who reads that, its cgroups.

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use super::ReplyTo;
use crate::shim::log::{Splitter, Writer, rfc3339, rotation_stamp};
use crate::shim::protocol::{ContainerReport, EXIT_FILE, Exit, Refusal, Start};
use crate::shim::sys;

/// Bytes read from a container's output at once: a pipe's default capacity would be 64 KiB; a quarter keeps the heap small.
const READ_BYTES: usize = 16 << 10;

pub(super) struct Container {
    pub(super) start: Start,
    /// 0 until the creator has answered.
    pub(super) pid: i32,
    pub(super) started_at_ns: i64,
    pub(super) exit: Option<Exit>,
    /// It could not be started: what is answered once nothing of it is left.
    pub(super) refused: Option<(ReplyTo, Refusal)>,
    /// Reading ends: stdout (or the terminal's master) and stderr.
    pub(super) output: [Option<OwnedFd>; 2],
    pub(super) splitters: [Splitter; 2],
    pub(super) stdin: Option<OwnedFd>,
    pub(super) log: Option<Writer>,
    pub(super) attached: Vec<[Option<OwnedFd>; 2]>,
    /// Looks at cgroups that would not go yet.
    pub(super) lingering: Option<u32>,
    pub(super) remove: Option<ReplyTo>,
}

pub(super) fn report((name, container): (&String, &Container)) -> Option<ContainerReport> {
    (container.pid != 0).then(|| ContainerReport {
        container: name.clone(),
        pid: container.pid as u32,
        started_at_ns: container.started_at_ns,
        exit: container.exit.clone(),
    })
}

pub(super) fn write_exit(dir: &std::path::Path, exit: &Exit) -> io::Result<()> {
    let temporary = dir.join("exit.tmp");
    fs::write(&temporary, serde_json::to_vec(exit)?)?;
    fs::rename(temporary, dir.join(EXIT_FILE))
}

/// Kills what is left in the container's cgroup. True when the cgroups are gone.
pub(super) fn clear(container: &mut Container) -> bool {
    if container.start.shared_pid || container.refused.is_some() {
        kill_all(container);
    }
    container.start.cgroups.iter().all(|dir| crate::cgroup::remove_tree(dir).is_ok())
}

pub(super) fn kill_all(container: &Container) {
    if let Some(dir) = container.start.cgroups.first() {
        let _ = crate::cgroup::kill_tree(dir);
    }
}

/// Reads once from an output. True when there may be more at once.
pub(super) fn read_some(container: &mut Container, index: usize) -> bool {
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

pub(super) fn flush(container: &mut Container, index: usize) {
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
