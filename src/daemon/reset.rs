//! `kedge reset`: stops everything of Kedge on this host and removes every trace.
//!
//! Steps in the order in which they must happen; each is tried whatever became of the one before, and what could not be
//! removed is named at the end. Idempotent: run again, it finishes what was left.

use std::collections::BTreeSet;
use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::parser::ValueSource;
use clap::{Args, Command, FromArgMatches as _};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::Runtime as _;

use crate::config::{self, CLUSTER_CIDRS, ConfigError, check};
use crate::lock;
use crate::places::{self, Place};

#[derive(Debug, Clone, Args)]
pub struct Reset {
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Keep the binary, its service file and /etc/kedge
    #[arg(long)]
    pub keep_installation: bool,
    /// The daemon's configuration file: it says where the daemon kept things
    #[arg(long, env = "KEDGE_CONFIG", value_name = "FILE", default_value = "/etc/kedge/config.yaml")]
    pub config: PathBuf,
    #[arg(long, env = "KEDGE_DATA_DIR", value_name = "DIR", default_value = "/var/lib/kedge")]
    pub data_dir: PathBuf,
    #[arg(long, env = "KEDGE_RUN_DIR", value_name = "DIR", default_value = "/run/kedge")]
    pub run_dir: PathBuf,
    #[arg(long, env = "KEDGE_CGROUP_ROOT", value_name = "PATH", default_value = "/kedge")]
    pub cgroup_root: String,
    /// The run folder was named: only what belongs to it goes.
    #[arg(skip)]
    named_run_dir: bool,
    /// The data folder was named, so it ought to be there.
    #[arg(skip)]
    named_data_dir: bool,
}

impl Reset {
    /// # Errors
    /// Wrong usage, a configuration file that cannot be understood, or folders that are not Kedge's own.
    pub fn parse(command: Command, args: &[String]) -> Result<Self, ConfigError> {
        let parsed = config::shared(command, args)?;
        let mut reset = Self::from_arg_matches(&parsed.matches)?;
        let named = |id| parsed.matches.value_source(id) != Some(ValueSource::DefaultValue);
        (reset.named_run_dir, reset.named_data_dir) = (named("run_dir"), named("data_dir"));
        reset.check().map_err(|error| parsed.blame(error))?;
        Ok(reset)
    }

    /// Refuses what is not Kedge's own: all below these is ended and removed.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    fn check(&self) -> Result<(), ConfigError> {
        check::folder("data-dir", &self.data_dir)?;
        check::folder("run-dir", &self.run_dir)?;
        check::cgroup_root(&self.cgroup_root)
    }
}

/// Where install.sh notes what it put where: `BIN=…`, `SERVICE=…`.
const INSTALLED: &str = "/etc/kedge/installed";
/// The daemon's own pid, written while it runs.
pub const PID_FILE: &str = "kedge.pid";
/// A stopping daemon finishes open requests and flushes its store; longer than its own limits together.
const STOP_SECONDS: u64 = 30;
/// What was killed leaves its cgroup a moment after its parent has seen it end, and v1 tells nobody when: tried again for two
/// seconds, which also a loaded host stays far below.
const CGROUP_TRIES_MAX: u32 = 40;
const CGROUP_PAUSE: Duration = Duration::from_millis(50);

/// The cgroup of all pods below the root. Source: `node::translate::resources`, `Qos::cgroup`.
const PODS: &str = "kubepods";

/// # Errors
/// Not confirmed, not root, or the list of what could not be removed.
pub fn run(reset: &Reset) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("this needs root: run it with sudo");
    }
    let scope = Scope::of(reset, places::noted(Path::new(places::FOLDER)));
    if !reset.yes && !confirmed(&scope)? {
        bail!("nothing was removed");
    }
    let installed = Installed::read();
    let mut left = Vec::new();
    let mut step = |what: &str, outcome: Result<()>| {
        if let Err(error) = outcome {
            left.push(format!("{what}: {error:#}"));
        }
    };
    let run_dirs: BTreeSet<&Path> = scope.places.iter().map(|p| p.run_dir.as_path()).collect();
    let data_dirs: BTreeSet<&Path> = scope.places.iter().map(|p| p.data_dir.as_path()).collect();
    let mut roots: Vec<&str> = scope.places.iter().map(|p| p.cgroup_root.as_str()).collect();
    // one may lie below another
    roots.sort_by_key(|root| (std::cmp::Reverse(root.len()), *root));
    roots.dedup();
    step("service", stop_service(&installed));
    for dir in &run_dirs {
        step("daemon", stop_daemon(dir));
    }
    let _held = match lock::for_reset(&run_dirs) {
        Ok(held) => held,
        Err(error) => bail!("{error:#}: stop it first; nothing was removed"),
    };
    if reset.named_data_dir && !reset.data_dir.exists() {
        step(&reset.data_dir.display().to_string(), Err(anyhow::anyhow!("not found")));
    }
    for place in &scope.places {
        step("pods", remove_pods(place));
    }
    for root in &roots {
        step(&format!("cgroup {root}"), remove_cgroups(root));
    }
    for dir in &run_dirs {
        step("network", remove_network(dir));
    }
    for dir in &data_dirs {
        step("kubelet", remove_link(Path::new(node::KUBELET_DIR), dir));
    }
    let folders: Vec<&Path> = run_dirs.iter().chain(&data_dirs).copied().collect();
    step("mounts", unmount_below(&folders));
    for path in &folders {
        step(&path.display().to_string(), remove_tree(path));
    }
    step("logs", remove_logs());
    left.extend(scope.unknown);
    if left.is_empty() {
        for note in &scope.notes {
            left.extend(remove_file(note).err().map(|error| format!("{error:#}")));
        }
        let _ = std::fs::remove_dir(places::FOLDER); // only when it is empty
    }
    left.extend(scope.others);
    if !reset.keep_installation {
        match left.as_slice() {
            [] => left.extend(remove_installation(&installed).err().map(|error| format!("installation: {error:#}"))),
            _ => left.push("the installation: kept, so that this can be run again".to_owned()),
        }
    }
    if left.is_empty() {
        let folders: Vec<String> = folders.iter().map(|path| path.display().to_string()).collect();
        println!("every trace of kedge is gone from {} and cgroup {}", folders.join(", "), roots.join(", "));
        return Ok(());
    }
    bail!("left behind (run it again, or after a reboot):\n  {}", left.join("\n  "))
}

/// What one reset is about. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scope {
    /// Those written down first: they say under which cgroup a run folder's pods are.
    places: Vec<Place>,
    /// The files in which they are written down.
    notes: Vec<PathBuf>,
    /// What other run folders have, when one was named.
    others: Vec<String>,
    /// Notes that say nothing.
    unknown: Vec<String>,
}

impl Scope {
    fn of(reset: &Reset, noted: Vec<(PathBuf, Result<Place>)>) -> Self {
        let (run_dir, data_dir) = (reset.run_dir.clone(), reset.data_dir.clone());
        let given = Place { run_dir, data_dir, cgroup_root: reset.cgroup_root.clone() };
        let mut scope = Self::default();
        for (file, place) in noted {
            match place {
                Ok(place) if reset.named_run_dir && place.run_dir != reset.run_dir => {
                    let (run_dir, data_dir) = (place.run_dir.display(), place.data_dir.display());
                    scope.others.push(format!("what the server of --run-dir {run_dir} keeps, {data_dir} too"));
                }
                Ok(place) => {
                    scope.places.push(place);
                    scope.notes.push(file);
                }
                Err(error) => scope.unknown.push(format!("{}: {error:#}", file.display())),
            }
        }
        if !scope.places.contains(&given) {
            scope.places.push(given);
        }
        scope
    }
}

fn confirmed(scope: &Scope) -> Result<bool> {
    let folders: BTreeSet<String> =
        scope.places.iter().flat_map(|p| [&p.data_dir, &p.run_dir]).map(|path| path.display().to_string()).collect();
    print!(
        "This ends every pod and removes {} and everything else of kedge on this host. Continue? [y/N] ",
        Vec::from_iter(folders).join(", ")
    );
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What install.sh put on this host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Installed {
    binary: Option<PathBuf>,
    services: Vec<String>,
}

impl Installed {
    fn read() -> Self {
        Self::parse(&std::fs::read_to_string(INSTALLED).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut installed = Self::default();
        for line in text.lines() {
            match line.split_once('=') {
                Some(("BIN", path)) => installed.binary = Some(path.into()),
                Some(("SERVICE", name)) if !name.contains('/') => installed.services.push(name.to_owned()),
                _ => {}
            }
        }
        installed
    }
}

fn stop_service(installed: &Installed) -> Result<()> {
    for service in &installed.services {
        if Path::new("/run/systemd/system").is_dir() {
            if Path::new(&format!("/etc/systemd/system/{service}.service")).exists() {
                quietly(process::Command::new("systemctl").args(["disable", "--now", service]))?;
            }
        } else if Path::new(&format!("/etc/init.d/{service}")).exists() {
            quietly(process::Command::new("rc-service").args([service, "stop"]))?;
            leave_runlevels(service)?;
        }
    }
    Ok(())
}

/// Not by `rc-update del`: for all runlevels it fails unless the service is in each, else it takes the current one alone.
/// Source: OpenRC, src/rc-update/rc-update.c (a runlevel is a folder of links).
fn leave_runlevels(service: &str) -> Result<()> {
    for runlevel in std::fs::read_dir("/etc/runlevels").into_iter().flatten().flatten() {
        remove_file(&runlevel.path().join(service))?;
    }
    Ok(())
}

fn quietly(command: &mut process::Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Ends a daemon that no service system runs.
fn stop_daemon(run_dir: &Path) -> Result<()> {
    let Ok(text) = std::fs::read_to_string(run_dir.join(PID_FILE)) else { return Ok(()) };
    let pid: i32 = text.trim().parse().context("the pid file is damaged")?;
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if comm.trim() != "kedge" {
        return Ok(());
    }
    // JUSTIFICATION: nix has no wrapper for pidfd_open.
    // SAFETY: the call takes two integers; what it returns is checked and owned once.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    if raw < 0 {
        return Ok(());
    }
    use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
    // JUSTIFICATION: the descriptor came from a raw system call.
    // SAFETY: it was just opened and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(raw)?) };
    let mut poll = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLIN)];
    let limit = u16::try_from(Duration::from_secs(STOP_SECONDS).as_millis()).unwrap_or(u16::MAX);
    if nix::poll::poll(&mut poll, limit)? == 0 {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        nix::poll::poll(&mut poll, limit)?;
    }
    Ok(())
}

fn remove_pods(place: &Place) -> Result<()> {
    if !place.run_dir.exists() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let shims = runtime::Shims::open(runtime::Config::new(&place.run_dir, &place.cgroup_root))?;
        let pods = shims.list().await?;
        let mut failed = Vec::new();
        for pod in pods {
            if let Err(error) = shims.remove_pod(&pod.id).await {
                failed.push(format!("{}: {error}", pod.id));
            }
        }
        if failed.is_empty() { Ok(()) } else { bail!(failed.join("; ")) }
    })
}

/// Removes the cgroups of pods and shims below `root`, empty by now, and then the root itself, which stays when something else is
/// below it or in it: that is somebody else's.
fn remove_cgroups(root: &str) -> Result<()> {
    let driver = runtime::cgroup::Driver::detect(root)?;
    let attempt = || -> Result<()> {
        for own in [PODS, runtime::SHIMS_CGROUP] {
            driver.remove(own)?;
        }
        for dir in driver.dirs("") {
            use std::io::ErrorKind::{DirectoryNotEmpty, NotFound, ResourceBusy};
            match std::fs::remove_dir(&dir) {
                Err(error) if !matches!(error.kind(), NotFound | ResourceBusy | DirectoryNotEmpty) => {
                    return Err(error).with_context(|| dir.display().to_string());
                }
                _ => {}
            }
        }
        Ok(())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tries = 1;
        while let Err(error) = attempt() {
            if tries == CGROUP_TRIES_MAX {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(CGROUP_PAUSE).await;
        }
        Ok(())
    })
}

fn remove_network(run_dir: &Path) -> Result<()> {
    // What is removed goes by its names; the ranges only have to be ranges.
    let cluster: Vec<ipnet::IpNet> = CLUSTER_CIDRS.iter().filter_map(|c| c.parse().ok()).collect();
    let nodes = crate::network::node_ranges(&cluster)?;
    Ok(net::remove_all(&crate::network::config(run_dir, &nodes, &cluster, &[], &[]))?)
}

/// Removes the name by which drivers know the daemon's folder, when it is ours.
fn remove_link(name: &Path, data_dir: &Path) -> Result<()> {
    match std::fs::read_link(name) {
        Ok(target) if target.starts_with(data_dir) => remove_file(name),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Takes down every mount below `paths`, the deepest first. What is mounted on them is somebody else's (a data disk).
fn unmount_below(paths: &[&Path]) -> Result<()> {
    let table = std::fs::read_to_string("/proc/self/mounts")?;
    let mut points: Vec<PathBuf> = table.lines().filter_map(|l| l.split_whitespace().nth(1)).map(unescape).collect();
    points.retain(|p| paths.iter().any(|root| p.starts_with(root) && p != root));
    // mounts are listed in the order in which they were made: the last made is the first to go
    for point in points.iter().rev() {
        match umount2(point, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => bail!("{}: {error}", point.display()),
        }
    }
    Ok(())
}

/// Octal escapes of /proc/mounts. Source: fstab(5), getmntent(3).
fn unescape(text: &str) -> PathBuf {
    let mut out = text.to_owned();
    for (escape, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(escape, plain);
    }
    out.into()
}

fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        // a mount point of somebody else (a data disk): empty is as good as gone
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn remove_logs() -> Result<()> {
    let pods = Path::new("/var/log/pods");
    if let Ok(links) = std::fs::read_dir("/var/log/containers") {
        for link in links.flatten() {
            if std::fs::read_link(link.path()).is_ok_and(|to| to.starts_with(pods)) {
                std::fs::remove_file(link.path())?;
            }
        }
        let _ = std::fs::remove_dir("/var/log/containers"); // only when it is empty
    }
    remove_tree(pods)?;
    remove_file(Path::new("/var/log/kedge.log"))
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

fn remove_installation(installed: &Installed) -> Result<()> {
    for service in &installed.services {
        remove_file(Path::new(&format!("/etc/systemd/system/{service}.service")))?;
        remove_file(Path::new(&format!("/etc/init.d/{service}")))?;
    }
    if Path::new("/run/systemd/system").is_dir() && !installed.services.is_empty() {
        quietly(process::Command::new("systemctl").arg("daemon-reload"))?;
    }
    if let Some(binary) = &installed.binary {
        remove_file(binary)?;
        remove_file(&binary.with_file_name("kedge.previous"))?;
    }
    remove_tree(Path::new("/etc/kedge"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[String]) -> Result<Reset, ConfigError> {
        Reset::parse(Reset::augment_args(Command::new("reset")), args)
    }

    #[test]
    fn what_was_installed_is_read_back() {
        assert_eq!(Installed::parse(""), Installed::default());
        assert_eq!(
            Installed::parse("BIN=/opt/kedge\nSERVICE=kedge\nSERVICE=../evil\nOTHER=x\n"),
            Installed { binary: Some("/opt/kedge".into()), services: vec!["kedge".into()] }
        );
    }

    #[test]
    fn only_what_is_kedges_own_is_removed() {
        let given = |flag: &str| {
            let args = ["reset", "--config=/dev/null", flag].map(str::to_owned);
            parse(&args).map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(given("--yes"), Ok(()));
        for flag in
            ["--cgroup-root=../..", "--cgroup-root=/kedge/..", "--cgroup-root=/", "--data-dir=/", "--run-dir=run"]
        {
            let name = flag.split_once('=').unwrap().0;
            assert!(given(flag).unwrap_err().starts_with(name), "{flag}");
        }
    }

    #[test]
    fn what_the_daemon_was_told_of_its_folders_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, "max-pods: 7\ndata-dir: /srv/kedge\ncgroup-root: /edge\nyes: true\n").unwrap();
        let named = format!("--config={}", file.display());
        let reset = parse(&["reset".into(), named.clone()]).unwrap();
        assert_eq!((reset.data_dir, reset.cgroup_root.as_str(), reset.yes), ("/srv/kedge".into(), "/edge", false));
        let reset = parse(&["reset".into(), named.clone(), "--data-dir=/mnt/kedge".into()]).unwrap();
        assert_eq!(reset.data_dir, PathBuf::from("/mnt/kedge"));
        std::fs::write(&file, "data-dir: /\n").unwrap();
        assert!(parse(&["reset".into(), named]).unwrap_err().to_string().contains(": key \"data-dir\": "));
    }

    #[test]
    fn what_servers_wrote_down_goes_too() {
        let place = |run: &str, data: &str, root: &str| Place {
            run_dir: run.into(),
            data_dir: data.into(),
            cgroup_root: root.into(),
        };
        let noted = || {
            vec![
                ("1".into(), Ok(place("/run/kedge", "/srv/kedge", "/edge"))),
                ("2".into(), Ok(place("/run/two", "/srv/two", "/two"))),
                ("3".into(), Err(anyhow::anyhow!("damaged"))),
            ]
        };
        let scope = |flags: &[&str]| {
            let words = ["reset", "--config=/dev/null"].iter().chain(flags).map(ToString::to_string);
            Scope::of(&parse(&words.collect::<Vec<_>>()).unwrap(), noted())
        };
        let all = scope(&[]);
        assert_eq!(all.places.len(), 3);
        assert_eq!(
            (all.notes.len(), all.others.len(), all.unknown.as_slice()),
            (2, 0, ["3: damaged".into()].as_slice())
        );
        let one = scope(&["--run-dir=/run/two"]);
        let expected = [place("/run/two", "/srv/two", "/two"), place("/run/two", "/var/lib/kedge", "/kedge")];
        assert_eq!(one.places, expected);
        assert_eq!(one.notes, [PathBuf::from("2")]);
        assert_eq!(one.others, ["what the server of --run-dir /run/kedge keeps, /srv/kedge too"]);
    }

    #[test]
    fn mount_points_with_spaces() {
        assert_eq!(unescape("/a\\040b"), PathBuf::from("/a b"));
    }
}
