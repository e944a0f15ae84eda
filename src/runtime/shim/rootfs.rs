//! What the creator mounts before the OCI runtime takes over: the overlay and the staged volumes, in a mount namespace of its
//! own. The container inherits them, the host never sees them, and they go with the container's last process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::protocol::{ROOTFS_DIR, Staged, StagedKind, Start};
use super::sys;

/// Enters a mount namespace of its own and mounts what `start` needs below `dir`, the container's directory.
pub fn prepare(start: &Start, dir: &Path) -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    if start.lower.is_empty() && start.staged.is_empty() {
        return Ok(());
    }
    make_private(dir)?;
    if !start.lower.is_empty() {
        let target = dir.join(ROOTFS_DIR);
        overlay(&start.lower, Some((&start.upper, &start.work)), &target)
            .map_err(|error| named("mount overlay", &target, &error))?;
    }
    for staged in &start.staged {
        stage(staged, dir).map_err(|error| named("mount volume", &dir.join(&staged.name), &error))?;
    }
    Ok(())
}

fn named(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{what} {}: {error}", path.display()))
}

/// Cuts the mount that contains `dir` off its peers, in this namespace only, so that what is mounted below stays here.
pub fn make_private(dir: &Path) -> io::Result<()> {
    // Only the top of a mount can be changed; anything else is refused with EINVAL, which saves parsing mountinfo.
    for path in dir.ancestors() {
        match sys::mount(None, path, None, libc::MS_PRIVATE, None) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            other => return other,
        }
    }
    Ok(())
}

fn stage(staged: &Staged, dir: &Path) -> io::Result<()> {
    let target = dir.join(&staged.name);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match &staged.kind {
        StagedKind::Private(source) => {
            bind(source, &target)?;
            sys::mount(None, &target, None, libc::MS_PRIVATE | libc::MS_REC, None)
        }
        StagedKind::Peer(source) => bind(source, &target),
        StagedKind::Layers(layers) => {
            fs::create_dir_all(&target)?;
            overlay(layers, None, &target)
        }
    }
}

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    if fs::metadata(source)?.is_dir() {
        fs::create_dir_all(target)?;
    } else {
        drop(fs::File::options().create(true).append(true).open(target)?);
    }
    sys::mount(Some(source), target, None, libc::MS_BIND | libc::MS_REC, None)
}

/// Mounts an overlay. mount(2) takes one page of options, so that some thirty layers with honest paths would not fit, and
/// colons and commas in paths would need escapes: each directory is opened, and named by its descriptor number, relative to
/// `/proc/self/fd`. 127 layers take 500 bytes. (The list with `lowerdir+` of fsconfig needs Linux 6.5.)
pub fn overlay(lower: &[PathBuf], upper_and_work: Option<(&PathBuf, &PathBuf)>, target: &Path) -> io::Result<()> {
    let open = |path: &Path| -> io::Result<OwnedFd> {
        use std::os::unix::fs::OpenOptionsExt;
        let opened = fs::File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path);
        opened.map(OwnedFd::from).map_err(|error| named("open layer", path, &error))
    };
    let mut fds = lower.iter().map(|path| open(path)).collect::<io::Result<Vec<_>>>()?;
    // An overlay of one directory and nothing above it is refused by the kernel.
    if let ([only], None) = (lower, upper_and_work) {
        let flags = libc::MS_BIND | libc::MS_REC;
        sys::mount(Some(only), target, None, flags, None)?;
        return sys::mount(None, target, None, libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY, None);
    }
    let numbers: Vec<String> = fds.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let mut options = format!("lowerdir={}", numbers.join(":"));
    if let Some((upper, work)) = upper_and_work {
        let (upper, work) = (open(upper)?, open(work)?);
        options.push_str(&format!(",upperdir={},workdir={}", upper.as_raw_fd(), work.as_raw_fd()));
        fds.extend([upper, work]);
    }
    let target = open(target)?;
    let before = fs::File::open(".")?;
    std::env::set_current_dir("/proc/self/fd")?;
    let mounted = sys::mount(
        Some(Path::new("overlay")),
        Path::new(&target.as_raw_fd().to_string()),
        Some("overlay"),
        0,
        Some(&options),
    );
    nix::unistd::fchdir(before.as_fd())?;
    mounted
}
