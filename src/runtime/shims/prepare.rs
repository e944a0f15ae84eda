//! What must lie on the disk, in the cgroups and in the pod's directory before a shim or a container can start.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::devices::devices;
use super::pod::{ContainerFile, Pod, PodFile};
use super::{INIT_CGROUP, Inner, SHIMS_CGROUP};
use crate::cgroup::Version;
use crate::oci::{self, Place};
use crate::shim::protocol::{
    CONTAINER_FILE, CONTAINERS_DIR, MESSAGE_FILE, OCI_FILE, POD_FILE, ROOTFS_DIR, SECCOMP_FILE, SHIM_FILE, Setup,
    Start, Uts,
};
use crate::shim::sys;
use crate::spec::{MountSource, Namespace, NetworkNamespace, Rootfs};
use crate::{Error, Result};

/// Compiled filters that are kept, of about 5 KiB each: a node has a handful of profiles and sets of capabilities.
const FILTERS_MAX: usize = 32;

impl Inner {
    /// Everything of a pod up to a shim that answers. Blocking; what it leaves behind on error is swept by the caller.
    pub(super) fn prepare_pod(&self, pod: &Pod) -> Result<()> {
        let (dir, spec) = (&pod.dir, &*pod.spec);
        let made =
            fs::DirBuilder::new().mode(0o700).create(dir).and_then(|()| fs::create_dir(dir.join(CONTAINERS_DIR)));
        made.map_err(Error::io("make", dir))?;
        self.driver.ensure(SHIMS_CGROUP)?;
        self.driver.ensure(&spec.cgroup)?;
        self.driver.apply(&spec.cgroup, &spec.resources)?;
        let init = format!("{}/{INIT_CGROUP}", spec.cgroup);
        if spec.pid == Namespace::Pod {
            self.driver.ensure(&init)?;
        }
        if spec.ipc == Namespace::Pod {
            let shm = dir.join("shm");
            fs::create_dir(&shm).map_err(Error::io("make", &shm))?;
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            let options = format!("mode=1777,size={}", spec.shm_size_bytes);
            sys::mount(Some(Path::new("shm")), &shm, Some("tmpfs"), flags, Some(&options))
                .map_err(Error::io("mount", &shm))?;
        }
        let setup = Setup {
            uts: (spec.uts == Namespace::Pod)
                .then(|| Uts { hostname: spec.hostname.clone(), domainname: spec.domainname.clone() }),
            ipc: spec.ipc == Namespace::Pod,
            pid: spec.pid == Namespace::Pod,
            network: match &spec.network {
                NetworkNamespace::Path(path) => Some(path.clone()),
                NetworkNamespace::Host => None,
            },
            sysctls: spec.sysctls.clone(),
            shim_cgroups: self.driver.dirs(SHIMS_CGROUP),
            init_cgroups: if spec.pid == Namespace::Pod { self.driver.dirs(&init) } else { Vec::new() },
        };
        write_json(&dir.join(SHIM_FILE), &setup)?;
        // Last: a directory without it is half made, and swept by the next daemon.
        write_json(
            &dir.join(POD_FILE),
            &PodFile { spec: spec.clone(), created_at_ns: i64::try_from(pod.created_at.as_nanosecond()).unwrap_or(0) },
        )?;
        self.spawn(dir)
    }

    /// Starts the shim and waits until it answers. std's Command starts processes without copying this one's page tables.
    fn spawn(&self, dir: &Path) -> Result<()> {
        let [program, args @ ..] = &self.config.shim_command[..] else {
            return Err(Error::Invalid("no shim command".into()));
        };
        let output = std::process::Command::new(program)
            .args(args)
            .arg(dir)
            .env_clear()
            .stdin(std::process::Stdio::null())
            .output()
            .map_err(Error::io("start shim", program))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(Error::Io { what: "start shim in", path: dir.into(), source: io::Error::other(text.trim().to_owned()) })
    }

    fn filter(&self, profile: &serde_json::Value) -> Result<Arc<Vec<u8>>> {
        let key = profile.to_string();
        if let Some(known) = self.filters.lock().get(&key) {
            return Ok(known.clone());
        }
        let program = Arc::new(crate::seccomp::compile(profile).map_err(Error::Invalid)?);
        let mut filters = self.filters.lock();
        if filters.len() >= FILTERS_MAX {
            filters.clear();
        }
        filters.insert(key, program.clone());
        Ok(program)
    }

    /// Writes a container's directory: record, OCI spec, termination message file.
    pub(super) fn prepare_container(&self, pod: &Pod, file: &ContainerFile, pid_target: Option<u32>) -> Result<Start> {
        let spec = &file.spec;
        let dir = pod.container_dir(&spec.id);
        // Left by a start that a crash cut off: the shim does not know it, or it would be in the list.
        let _ = fs::remove_dir_all(&dir);
        let rootfs = dir.join(ROOTFS_DIR);
        fs::create_dir_all(&rootfs).map_err(Error::io("make", &rootfs))?;
        let message = match &spec.termination_message_path {
            Some(path) => {
                let host = dir.join(MESSAGE_FILE);
                fs::write(&host, "").map_err(Error::io("write", &host))?;
                // Any user of the container may write it.
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
                fs::set_permissions(&host, mode).map_err(Error::io("write", &host))?;
                Some((host, path.clone()))
            }
            None => None,
        };
        let mut files = Vec::new();
        for mount in &spec.mounts {
            if let MountSource::Bind(source) = &mount.source {
                let metadata = fs::metadata(source).map_err(|error| Error::Create {
                    container: spec.id.clone(),
                    message: format!("mount source {}: {error}", source.display()),
                })?;
                if !metadata.is_dir() {
                    files.push(source.clone());
                }
            }
        }
        files.extend(message.iter().map(|(host, _)| host.clone()));
        let cgroup = pod.container_cgroup(&spec.id);
        let shm = match pod.spec.ipc {
            Namespace::Pod => pod.dir.join("shm"),
            Namespace::Host | Namespace::Container => "/dev/shm".into(),
        };
        let place = Place {
            dir: dir.clone(),
            shm,
            cgroup: self.driver.oci_path(&cgroup),
            controllers: match self.driver.version() {
                Version::V1 => self.driver.controller_dirs(&cgroup),
                Version::V2 => BTreeMap::new(),
            },
            files,
            devices: devices(spec)?,
            pid_target,
            message,
        };
        let built = oci::build(&pod.spec, spec, &place, &self.facts).map_err(Error::Invalid)?;
        if let Some(profile) = &built.seccomp {
            let path = dir.join(SECCOMP_FILE);
            fs::write(&path, &*self.filter(profile)?).map_err(Error::io("write", &path))?;
        }
        write_json(&dir.join(OCI_FILE), &built.config)?;
        write_json(&dir.join(CONTAINER_FILE), file)?;
        let (lower, upper, work) = match &spec.rootfs {
            Rootfs::Overlay { lower, upper, work } => (lower.clone(), upper.clone(), work.clone()),
            Rootfs::Directory(_) => Default::default(),
        };
        Ok(Start {
            container: spec.id.0.clone(),
            tty: spec.tty,
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            log: spec.log.clone(),
            lower,
            upper,
            work,
            staged: built.staged,
            oom_score_adj: spec.oom_score_adj,
            cgroups: self.driver.dirs(&cgroup),
            oom_file: self.driver.oom_file(&cgroup),
            shared_pid: pid_target.is_some() || pod.spec.pid != Namespace::Container,
            device_rules: built.device_rules,
        })
    }
}

/// By rename, so that a reader finds all of it or nothing. Not synced: the run directory does not survive a boot.
fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let bytes = serde_json::to_vec(value).map_err(|error| Error::io("encode", path)(error.into()))?;
    fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path)).map_err(Error::io("write", path))
}
