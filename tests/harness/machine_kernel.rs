//! What a test machine is made of: Debian's kernel, its modules and a static busybox, for either architecture.
//!
//! Packages are downloaded with apt lists and folders of our own under `target/machines/<arch>/`, so that neither the
//! machine's apt state nor its set of architectures changes. What was unpacked once is used by every later run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::kedge::checkout;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// As Rust and `uname -m` say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As Debian and OCI images say it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}

/// A kernel with its modules, and the busybox that goes with it.
pub struct Kernel {
    pub arch: Arch,
    /// The kernel's release, as `uname -r` says it.
    pub release: String,
    pub image: PathBuf,
    pub busybox: PathBuf,
    modules: PathBuf,
    /// Each module's file with those it needs, as depmod found them.
    needs: BTreeMap<String, Vec<String>>,
}

impl Kernel {
    /// The cloud kernel of Debian's release that this machine runs; downloaded once.
    pub fn fetch(arch: Arch) -> Result<Self> {
        let folder = folder(arch);
        let ready = folder.join("ready");
        if !ready.exists() {
            download(arch, &folder).with_context(|| format!("kernel and busybox for {}", arch.debian()))?;
            fs::write(&ready, "")?;
        }
        let root = folder.join("root");
        let release = only_entry(&root.join("lib/modules"))?;
        let modules = root.join("lib/modules").join(&release);
        let text = fs::read_to_string(modules.join("modules.dep")).context("modules.dep")?;
        Ok(Self {
            arch,
            image: root.join("boot").join(format!("vmlinuz-{release}")),
            busybox: root.join("bin/busybox"),
            needs: parse_dependencies(&text),
            modules,
            release,
        })
    }

    /// The files of the named modules and of all that they need, in the order in which they can be loaded. A name that is
    /// built into the kernel adds nothing; a name that is nowhere is an error.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let builtin = fs::read_to_string(self.modules.join("modules.builtin"))?;
        let builtin: BTreeSet<String> = builtin.lines().map(module_name).collect();
        let by_name: BTreeMap<String, &String> = self.needs.keys().map(|path| (module_name(path), path)).collect();
        let mut order = Vec::new();
        for name in names {
            match by_name.get(*name) {
                Some(path) => self.load_order(path, &mut order),
                None if builtin.contains(*name) => {}
                None => bail!("kernel {} has no module {name}", self.release),
            }
        }
        Ok(order.into_iter().map(|path| self.modules.join(path)).collect())
    }

    /// Depth first: what a module needs comes before it.
    fn load_order(&self, path: &str, order: &mut Vec<String>) {
        if order.iter().any(|p| p == path) {
            return;
        }
        for needed in self.needs.get(path).into_iter().flatten() {
            self.load_order(needed, order);
        }
        order.push(path.to_owned());
    }
}

/// `kernel/net/bridge/br_netfilter.ko` is `br_netfilter`; dashes and underscores are the same to the kernel.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn parse_dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    let line = |line: &str| {
        let (path, needs) = line.split_once(':')?;
        Some((path.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
    };
    text.lines().filter_map(line).collect()
}

/// Where everything of an architecture is kept.
pub(crate) fn folder(arch: Arch) -> PathBuf {
    checkout().join("target/machines").join(arch.debian())
}

fn download(arch: Arch, folder: &Path) -> Result<()> {
    let apt = Apt::new(arch, folder)?;
    apt.run("apt-get", &["update"])?;
    let kernel = apt.depends(&format!("linux-image-cloud-{}", arch.debian()), "linux-image-")?;
    let root = folder.join("root");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    for package in [kernel.as_str(), "busybox-static"] {
        let archive = apt.download(package)?;
        run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&root))?;
        fs::remove_file(&archive)?;
    }
    // The package leaves this to the machine on which it is installed.
    let release = only_entry(&root.join("lib/modules"))?;
    run(Command::new("busybox").args(["depmod", "-b"]).arg(&root).arg(&release)).context("busybox-static is needed")?;
    Ok(())
}

/// apt with state of its own.
struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(arch: Arch, folder: &Path) -> Result<Self> {
        let apt = folder.join("apt");
        for sub in ["lists/partial", "cache/archives/partial", "sources", "downloads"] {
            fs::create_dir_all(apt.join(sub))?;
        }
        fs::write(apt.join("status"), "")?; // nothing is installed, so nothing decides which version is taken
        debian_sources(&apt.join("sources"))?;
        let own = |key: &str, name: &str| format!("{key}={}", apt.join(name).display());
        let options = vec![
            format!("APT::Architecture={}", arch.debian()),
            format!("APT::Architectures={}", arch.debian()),
            "Dir::Etc::sourcelist=/dev/null".into(),
            own("Dir::Etc::sourceparts", "sources"),
            own("Dir::State::lists", "lists"),
            own("Dir::State::status", "status"),
            own("Dir::Cache", "cache"),
            "APT::Sandbox::User=root".into(), // the folder may be closed to apt's own user
            "APT::Update::Post-Invoke=".into(),
        ];
        Ok(Self { folder: apt, options })
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.current_dir(self.folder.join("downloads")).arg("-qq");
        for option in &self.options {
            command.args(["-o", option]);
        }
        run(command.args(args))
    }

    /// The package that `meta` depends on whose name begins with `prefix`.
    fn depends(&self, meta: &str, prefix: &str) -> Result<String> {
        let text = self.run("apt-cache", &["depends", meta])?;
        let mut names = text.lines().filter_map(|l| l.trim().strip_prefix("Depends: "));
        let found = names.find(|n| n.starts_with(prefix));
        found.map(str::to_owned).with_context(|| format!("{meta} depends on no {prefix}… package: {text}"))
    }

    /// Downloads one package's archive.
    fn download(&self, package: &str) -> Result<PathBuf> {
        let folder = self.folder.join("downloads");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        self.run("apt-get", &["download", package])?;
        Ok(folder.join(only_entry(&folder)?))
    }
}

/// Copies this machine's package sources that are Debian's own; others may not serve a foreign architecture.
fn debian_sources(to: &Path) -> Result<()> {
    let folder = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
    let files = folder.filter_map(|e| e.ok().map(|e| e.path())).chain([PathBuf::from("/etc/apt/sources.list")]);
    let mut found = false;
    for file in files {
        let known = matches!(file.extension().and_then(|e| e.to_str()), Some("sources" | "list"));
        let Ok(text) = fs::read_to_string(&file) else { continue };
        if known && text.contains("/debian") {
            fs::write(to.join(file.file_name().context("a source list has a name")?), text)?;
            found = true;
        }
    }
    if !found {
        bail!("no Debian package sources on this machine (/etc/apt/sources.list, /etc/apt/sources.list.d)");
    }
    Ok(())
}

fn only_entry(folder: &Path) -> Result<String> {
    let mut entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let first = entries.next().with_context(|| format!("{} is empty", folder.display()))??;
    if entries.next().is_some() {
        bail!("{} has more than one entry", folder.display());
    }
    Ok(first.file_name().to_string_lossy().into_owned())
}

/// Runs to the end; a failure carries what was printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| shown.clone())?;
    if !output.status.success() {
        bail!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_those_it_needs() {
        let kernel = Kernel {
            arch: Arch::X86_64,
            release: "test".into(),
            image: PathBuf::new(),
            busybox: PathBuf::new(),
            modules: PathBuf::from("/m"),
            needs: parse_dependencies("a/veth.ko:\na/nf-nat.ko: b/ct.ko c/crc.ko\nb/ct.ko: c/crc.ko\nc/crc.ko:\n"),
        };
        let mut order = Vec::new();
        kernel.load_order("a/nf-nat.ko", &mut order);
        kernel.load_order("b/ct.ko", &mut order);
        assert_eq!(order, ["c/crc.ko", "b/ct.ko", "a/nf-nat.ko"]);
        assert_eq!(module_name("a/nf-nat.ko"), "nf_nat");
        assert_eq!(module_name("a/veth.ko.xz"), "veth");
    }
}
