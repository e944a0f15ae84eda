//! The creator: a forked process that lives for one libcontainer call. Whatever that call does to its process (working
//! directory, dumpable flag, heap) ends with it.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};

use super::protocol::{LENT, Refusal, RefusalKind, SECCOMP_FILE, Start};
use super::{rootfs, sys};

/// Where the container's first three descriptors come from.
pub enum Stdio {
    Pipes {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A listening socket (absolute path) to which the terminal's master is sent.
    Console(PathBuf),
}

/// libcontainer's state lies here, below the container's directory.
const STATE_DIR: &str = "oci";
/// What libcontainer adds to the reason of a failure. Source: libcontainer `CreateContainerError`.
const CLEANUP_FAILED: &str = ". error during cleanup: ";

/// Creates and starts; when it returns, the process was executed. `dir` is absolute and holds the OCI spec.
pub fn run(start: &Start, dir: &Path, stdio: Stdio) -> Result<u32, Refusal> {
    // Inherited by the container. Lowering needs CAP_SYS_RESOURCE and is best effort; the shim's own value must not leak.
    let _ = fs::write("/proc/self/oom_score_adj", start.oom_score_adj.unwrap_or(0).to_string());
    let create = |message: String| Refusal::new(RefusalKind::Create, message);
    rootfs::prepare(start, dir).map_err(|error| create(error.to_string()))?;
    join_cgroups(start).map_err(|error| create(format!("join cgroup: {error}")))?;
    if let Some(rules) = &start.device_rules {
        crate::cgroup::restrict_devices(&start.cgroups, rules)
            .map_err(|error| create(format!("device rules: {error}")))?;
    }
    let (mut failure, failure_writer) = io::pipe().map_err(|error| create(error.to_string()))?;
    let filter = read_filter(dir).map_err(|error| create(format!("seccomp filter: {error}")))?.map(std::rc::Rc::new);
    let mut builder = ContainerBuilder::new(start.container.clone(), SyscallType::default())
        .with_root_path(dir.join(STATE_DIR))
        .map_err(|error| create(chain(&error)))?
        .with_executor(Exec { failure: std::rc::Rc::new(failure_writer.into()), filter });
    builder = match stdio {
        Stdio::Pipes { stdin, stdout, stderr } => builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr),
        Stdio::Console(path) => builder.with_console_socket(Some(path)),
    };
    let built = builder.as_init(dir).with_systemd(false).with_detach(true).build();
    let mut container = match built {
        Ok(container) => container,
        Err(error) => {
            // The text was written before the error was sent; the failed process may still hold the writer.
            let mut text = String::new();
            let _ = sys::set_nonblocking(std::os::fd::AsFd::as_fd(&failure));
            let _ = failure.read_to_string(&mut text);
            return Err(match text.is_empty() {
                true => create(chain(&error)),
                false => Refusal::new(RefusalKind::Start, text),
            });
        }
    };
    let pid = container.pid().map(|pid| pid.as_raw().unsigned_abs()).unwrap_or_default();
    container.start().map_err(|error| create(chain(&error)))?;
    let mut text = String::new();
    let _ = failure.read_to_string(&mut text);
    if text.is_empty() { Ok(pid) } else { Err(Refusal::new(RefusalKind::Start, text)) }
}

/// v1: joins the container's cgroups, so that all that is forked from here is born in them. libcontainer would write the
/// number of its process to `cgroup.procs`, which takes as long as all the rest (see [`crate::cgroup::join`]); in this mount
/// namespace it writes that to /dev/null.
fn join_cgroups(start: &Start) -> io::Result<()> {
    if !start.cgroups.first().and_then(|dir| dir.parent()).is_some_and(crate::cgroup::is_v1) {
        return Ok(());
    }
    for dir in &start.cgroups {
        crate::cgroup::make_v1(dir)?;
        crate::cgroup::join(dir)?;
        rootfs::make_private(dir)?;
        sys::mount(Some(Path::new("/dev/null")), &dir.join("cgroup.procs"), None, libc::MS_BIND, None)?;
    }
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    // libcontainer cannot remove cgroups that this process is in; the shim does, and the user need not know.
    if let Some(at) = text.find(CLEANUP_FAILED) {
        text.truncate(at);
    }
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

/// Finds and executes the container's executable, and says precisely why not. The library's own one insists on execute
/// permission for everybody, and loses the error of exec itself.
#[derive(Clone)]
struct Exec {
    /// Closed by a successful exec.
    failure: std::rc::Rc<OwnedFd>,
    filter: Option<std::rc::Rc<Vec<u8>>>,
}

/// The container's compiled filter, if it has one. Read before its directory is out of reach.
pub fn read_filter(dir: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(dir.join(SECCOMP_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Numbers of the capabilities that the spec only lends.
pub fn lent(spec: &Spec) -> impl Iterator<Item = u32> {
    let names = spec.annotations().as_ref().and_then(|all| all.get(LENT)).map_or("", String::as_str);
    names.split(',').filter_map(crate::capability::number)
}

impl Exec {
    fn fail(&self, text: &str) {
        let _ = nix::unistd::write(&*self.failure, text.as_bytes());
    }
}

impl Executor for Exec {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = spec.process().as_ref();
        let args = process.and_then(|p| p.args().as_deref()).unwrap_or_default();
        let env = process.and_then(|p| p.env().as_deref()).unwrap_or_default();
        find_executable(args.first().map_or("", String::as_str), env).map(drop).map_err(|text| {
            self.fail(&text);
            ExecutorValidationError::ArgValidationError(text)
        })
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let args = process.args().as_deref().unwrap_or_default();
        // Last of all: exec applies the bounding set, so the filter need not allow giving capabilities back.
        let confined = lent(spec)
            .try_for_each(|capability| sys::prctl(libc::PR_CAPBSET_DROP, u64::from(capability)))
            .and_then(|()| self.filter.as_ref().map_or(Ok(()), |filter| crate::seccomp::load(filter)));
        if let Err(error) = confined {
            self.fail(&format!("seccomp: {error}"));
            return Err(ExecutorError::Other("seccomp".into()));
        }
        let env: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
        let text = execute(args, &env);
        self.fail(&text);
        Err(ExecutorError::Other(text))
    }
}

/// Replaces this process with `args`, looked up in the `PATH` of `env`. Returns only the reason why not, in the words that
/// users know from other runtimes.
pub fn execute(args: &[String], env: &[String]) -> String {
    let name = args.first().map_or("", String::as_str);
    let path = match find_executable(name, env) {
        Ok(path) => path,
        Err(text) => return text,
    };
    let strings =
        |list: &[String]| list.iter().map(|s| sys::cstring(s.as_bytes())).collect::<io::Result<Vec<CString>>>();
    match (strings(args), strings(env)) {
        (Ok(args), Ok(env)) => format!("exec {}: {}", path.display(), reason(&sys::execve(&path, &args, &env))),
        (Err(error), _) | (_, Err(error)) => format!("exec: {name:?}: {error}"),
    }
}

/// Errors of exec as Go programs word them, which is what users search for.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".into(),
        Some(libc::EACCES) => "permission denied".into(),
        Some(libc::ENOEXEC) => "exec format error".into(),
        Some(libc::ENOTDIR) => "not a directory".into(),
        Some(libc::E2BIG) => "argument list too long".into(),
        _ => error.to_string(),
    }
}

/// Source: Go os/exec LookPath, whose errors runc passes on.
fn find_executable(name: &str, env: &[String]) -> Result<PathBuf, String> {
    let usable = |path: &Path| -> Result<(), String> {
        let metadata = fs::metadata(path).map_err(|error| reason(&error))?;
        if metadata.is_dir() {
            return Err("is a directory".into());
        }
        nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).map_err(|errno| reason(&errno.into()))
    };
    if name.contains('/') {
        let path = PathBuf::from(name);
        return usable(&path).map(|()| path).map_err(|why| match why.as_str() {
            "no such file or directory" => format!("exec: {name:?}: stat {name}: {why}"),
            _ => format!("exec: {name:?}: {why}"),
        });
    }
    let mut denied = false;
    let search = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    for dir in search.split(':').filter(|_| !name.is_empty()) {
        let path = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match usable(&path) {
            Ok(()) => return Ok(path),
            Err(why) => denied |= why == "permission denied",
        }
    }
    let why = if denied { "permission denied" } else { "executable file not found in $PATH" };
    Err(format!("exec: {name:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_or_the_reason_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        for (name, mode) in [("run", 0o755), ("data", 0o644)] {
            fs::write(dir.path().join(name), "").unwrap();
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let env = [format!("PATH=/nowhere:{path}")];
        let check = |name: &str, expected: Result<&str, &str>| {
            let expected = expected.map(PathBuf::from).map_err(str::to_owned);
            assert_eq!(find_executable(name, &env), expected, "{name}");
        };
        check("run", Ok(&format!("{path}/run")));
        check("gone", Err("exec: \"gone\": executable file not found in $PATH"));
        check("", Err("exec: \"\": executable file not found in $PATH"));
        check("data", Err("exec: \"data\": permission denied"));
        check("/gone/x", Err("exec: \"/gone/x\": stat /gone/x: no such file or directory"));
        check(path, Err(&format!("exec: {path:?}: is a directory")));
    }
}
