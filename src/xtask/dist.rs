//! Static musl binaries for both architectures with one C compiler: zig, from PyPI.
//!
//! libseccomp is the one C library that cargo does not bring along; it is built from Debian's source package, once per
//! architecture. Why not Debian's own `libseccomp.a`: it is compiled against glibc's fortified headers.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, root};

const ZIG: &str = "ziglang==0.17.0";

fn build(arches: &[String]) -> Result<()> {
    let tools = root().join("target/tools");
    let zig = zig(&tools)?;
    for arch in arches {
        let triple = format!("{arch}-unknown-linux-musl");
        let wrappers = wrappers(&tools, &zig, arch)?;
        let seccomp = libseccomp(&tools, &wrappers, arch)?;
        let under = triple.replace('-', "_");
        let mut command = cargo();
        command
            .args(["build", "--release", "--locked", "--package", "kedge", "--target", &triple])
            .env(format!("CC_{under}"), &wrappers.cc)
            .env(format!("AR_{under}"), &wrappers.ar)
            .env(format!("RANLIB_{under}"), &wrappers.ranlib)
            .env("LIBSECCOMP_LINK_TYPE", "static")
            .env("LIBSECCOMP_LIB_PATH", &seccomp);
        crate::run(&mut command)?;
        let out = root().join("target/dist");
        fs::create_dir_all(&out)?;
        let to = out.join(format!("kedge-{arch}"));
        fs::copy(root().join(format!("target/{triple}/release/kedge")), &to)?;
        // what install.sh asks for beside a binary that it downloads
        let name = format!("kedge-{arch}");
        let sum = Command::new("sha256sum").current_dir(&out).arg(&name).output()?;
        fs::write(out.join(format!("{name}.sha256")), sum.stdout)?;
        println!("{} {} bytes", to.display(), fs::metadata(&to)?.len());
    }
    Ok(())
}

pub fn run(args: &[String]) -> Result<()> {
    for arch in args {
        if !matches!(arch.as_str(), "x86_64" | "aarch64") {
            bail!("architecture {arch:?} is not built: x86_64 and aarch64 are");
        }
    }
    if args.is_empty() { build(&[std::env::consts::ARCH.to_owned()]) } else { build(args) }
}

/// The Python of a private environment that has zig in it.
fn zig(tools: &Path) -> Result<PathBuf> {
    let env = tools.join(ZIG.replace("==", "-"));
    let python = env.join("bin/python3");
    if !env.join("ready").exists() {
        fs::create_dir_all(tools)?;
        run_quiet(Command::new("python3").args(["-m", "venv"]).arg(&env)).context("python3-venv is needed")?;
        run_quiet(Command::new(&python).args(["-m", "pip", "install", "--quiet", ZIG]))?;
        fs::write(env.join("ready"), "")?;
    }
    Ok(python)
}

struct Wrappers {
    cc: PathBuf,
    ar: PathBuf,
    ranlib: PathBuf,
}

/// Small scripts, because build scripts take a compiler's path, not a command line. `cc`'s own target flags are dropped:
/// zig names targets its own way.
fn wrappers(tools: &Path, python: &Path, arch: &str) -> Result<Wrappers> {
    let dir = tools.join(format!("bin-{arch}"));
    fs::create_dir_all(&dir)?;
    let write = |name: &str, verb: &str, filter: bool| -> Result<PathBuf> {
        let path = dir.join(name);
        let filter = if filter {
            "for a in \"$@\"; do shift; case \"$a\" in --target=*) ;; *) set -- \"$@\" \"$a\" ;; esac; done\n"
        } else {
            ""
        };
        fs::write(&path, format!("#!/bin/sh\n{filter}exec {} -m ziglang {verb} \"$@\"\n", python.display()))?;
        run_quiet(Command::new("chmod").arg("+x").arg(&path))?;
        Ok(path)
    };
    Ok(Wrappers {
        cc: write("cc", &format!("cc -target {arch}-linux-musl -fno-sanitize=undefined"), true)?,
        ar: write("ar", "ar", false)?,
        ranlib: write("ranlib", "ranlib", false)?,
    })
}

/// The folder with `libseccomp.a` for `arch`.
fn libseccomp(tools: &Path, wrappers: &Wrappers, arch: &str) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("LIBSECCOMP_LIB_PATH") {
        return Ok(given.into());
    }
    let out = tools.join(format!("libseccomp-{arch}"));
    if out.join("libseccomp.a").exists() {
        return Ok(out);
    }
    let source = libseccomp_source(tools)?;
    let build = tools.join(format!("libseccomp-build-{arch}"));
    fs::create_dir_all(&build)?;
    run_quiet(
        Command::new(source.join("configure"))
            .current_dir(&build)
            .arg(format!("--host={arch}-linux-musl"))
            .args(["--disable-shared", "--enable-static", "CFLAGS=-O2"])
            .arg(format!("CC={}", wrappers.cc.display()))
            .arg(format!("AR={}", wrappers.ar.display()))
            .arg(format!("RANLIB={}", wrappers.ranlib.display())),
    )?;
    run_quiet(Command::new("make").current_dir(&build).args(["-C", "src", "libseccomp.la"]))
        .context("make and gperf are needed")?;
    fs::create_dir_all(&out)?;
    fs::copy(build.join("src/.libs/libseccomp.a"), out.join("libseccomp.a"))?;
    Ok(out)
}

/// Debian's source package, fetched with apt lists of our own so that the machine's stay as they are.
fn libseccomp_source(tools: &Path) -> Result<PathBuf> {
    let dir = tools.join("libseccomp-source");
    let unpacked = || -> Option<PathBuf> {
        fs::read_dir(&dir).ok()?.filter_map(|e| e.ok().map(|e| e.path())).find(|p| p.join("configure").exists())
    };
    if let Some(found) = unpacked() {
        return Ok(found);
    }
    let (lists, parts) = (tools.join("apt/lists/partial"), tools.join("apt/parts"));
    // What the machine's sources were last time does not count.
    match fs::remove_dir_all(&parts) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    fs::create_dir_all(&lists)?;
    fs::create_dir_all(&parts)?;
    fs::create_dir_all(&dir)?;
    write_source_lists(&parts)?;
    let apt = || {
        let mut command = Command::new("apt-get");
        command
            .current_dir(&dir)
            .arg("-qq")
            .args(["-o", "Dir::Etc::sourcelist=/dev/null", "-o", "APT::Sandbox::User=root"])
            .arg("-o")
            .arg(format!("Dir::Etc::sourceparts={}", parts.display()))
            .arg("-o")
            .arg(format!("Dir::State::lists={}", tools.join("apt/lists").display()));
        command
    };
    run_quiet(apt().arg("update"))?;
    run_quiet(apt().args(["source", "--download-only", "libseccomp"]))?;
    let archive = fs::read_dir(&dir)?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .find(|p| p.to_string_lossy().contains(".orig.tar.") && !p.to_string_lossy().ends_with(".asc"))
        .context("the source package of libseccomp has no archive")?;
    run_quiet(Command::new("tar").current_dir(&dir).arg("xf").arg(archive))?;
    unpacked().context("the archive of libseccomp has no configure script")
}

/// The machine's binary package sources, turned into source package sources.
fn write_source_lists(parts: &Path) -> Result<()> {
    let mut found = false;
    let folder = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
    let files = folder.filter_map(|e| e.ok().map(|e| e.path())).chain([PathBuf::from("/etc/apt/sources.list")]);
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let (name, text) = match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => ("sources", text.replace("Types: deb\n", "Types: deb-src\n")),
            Some("list") => ("list", text.replace("deb ", "deb-src ").replace("deb-src-src", "deb-src")),
            _ => continue,
        };
        if text.contains("deb-src") {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            fs::write(parts.join(format!("{stem}.{name}")), text)?;
            found = true;
        }
    }
    if !found {
        bail!(
            "no Debian package sources on this machine: set LIBSECCOMP_LIB_PATH to a folder with a musl libseccomp.a"
        );
    }
    Ok(())
}

/// Runs with its output kept back, shown when it fails.
fn run_quiet(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| shown.clone())?;
    if !output.status.success() {
        bail!(
            "{}: {shown}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
