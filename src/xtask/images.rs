//! OCI images from Debian packages, without Docker and without a running system: `images/<name>/recipe.json`.
//!
//! mmdebstrap extracts the packages and what they depend on into one reproducible layer; nothing of them is run, so that an
//! image of another architecture is made as easily. The result is an OCI image layout in a tar archive, as `kedge image
//! import` and `skopeo` read it.
//! Source: OCI Image Specification 1.1 (layout, manifest, config).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::root;

const SUITE: &str = "bookworm";
/// One fixed time, so that the same packages give the same digests.
const EPOCH: &str = "1700000000";
const CREATED: &str = "2023-11-14T22:13:20Z";
/// What a container never reads.
const LEFT_OUT: &[&str] = &[
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "usr/share/perl",
    "usr/share/perl5",
    "usr/lib/*-linux-gnu/perl",
    "usr/lib/*-linux-gnu/perl-base",
    "usr/lib/*-linux-gnu/gconv",
    "usr/bin/perl*",
    "usr/lib/systemd",
    "lib/systemd",
];

/// Makes the named images (all by default) for the architecture in `KEDGE_IMAGE_ARCH` (this machine's by default).
pub fn run(names: &[String]) -> Result<()> {
    let folder = root().join("images");
    let arch = std::env::var("KEDGE_IMAGE_ARCH").unwrap_or_else(|_| std::env::consts::ARCH.into());
    let debian = match arch.as_str() {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no images are made for {other}"),
    };
    let mut all: Vec<String> = names.to_vec();
    if all.is_empty() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.path().join("recipe.json").exists() {
                all.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        all.sort();
    }
    let out = folder.join("out");
    fs::create_dir_all(&out)?;
    for name in &all {
        let recipe = folder.join(name).join("recipe.json");
        let text = fs::read_to_string(&recipe).with_context(|| format!("no image {name:?}"))?;
        let recipe: Value = serde_json::from_str(&text).with_context(|| recipe.display().to_string())?;
        let archive = out.join(format!("{name}-{debian}.tar"));
        build(&folder, &recipe, debian, &archive).with_context(|| format!("image {name}"))?;
        println!("{} {} bytes", archive.display(), fs::metadata(&archive)?.len());
    }
    Ok(())
}

fn texts(recipe: &Value, key: &str) -> Vec<String> {
    let list = recipe[key].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn pairs(recipe: &Value, key: &str) -> Vec<(String, String)> {
    let map = recipe[key].as_object().into_iter().flatten();
    map.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

fn build(folder: &Path, recipe: &Value, debian: &str, archive: &Path) -> Result<()> {
    let work = archive.with_extension("work");
    let _ = fs::remove_dir_all(&work);
    let blobs = work.join("layout/blobs/sha256");
    fs::create_dir_all(&blobs)?;

    let layer = work.join("layer.tar");
    let hook = write_hook(folder, recipe, &work)?;
    sh(Command::new("mmdebstrap")
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .args(["--quiet", "--variant=extract", "--format=tar", "--architectures", debian])
        .arg(format!("--include={}", texts(recipe, "packages").join(",")))
        .arg(format!("--extract-hook={} \"$1\"", hook.display()))
        .arg(SUITE)
        .arg(&layer))
    .context("mmdebstrap is needed (apt-get install mmdebstrap)")?;
    let diff_id = sha256(&layer)?;
    sh(Command::new("gzip").args(["-n", "-6"]).arg(&layer))?;
    let (layer_digest, layer_size) = keep(&blobs, &work.join("layer.tar.gz"))?;

    let env = {
        let mut env = texts(recipe, "env");
        if !env.iter().any(|e| e.starts_with("PATH=")) {
            env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
        }
        env
    };
    let ports: serde_json::Map<String, Value> = texts(recipe, "ports").into_iter().map(|p| (p, json!({}))).collect();
    let mut config = json!({ "Env": env, "WorkingDir": recipe["workdir"].as_str().unwrap_or("/") });
    for (key, name) in [("entrypoint", "Entrypoint"), ("cmd", "Cmd"), ("user", "User"), ("stop_signal", "StopSignal")] {
        if !recipe[key].is_null() {
            config[name] = recipe[key].clone();
        }
    }
    if !ports.is_empty() {
        config["ExposedPorts"] = Value::Object(ports);
    }
    let image = json!({
        "architecture": debian, "os": "linux", "created": CREATED, "config": config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
        "history": [{ "created": CREATED, "created_by": format!("debian packages: {}", texts(recipe, "packages").join(" ")) }],
    });
    let (config_digest, config_size) = keep_json(&work, &blobs, &image)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{config_digest}"), "size": config_size },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": format!("sha256:{layer_digest}"), "size": layer_size }],
    });
    let (manifest_digest, manifest_size) = keep_json(&work, &blobs, &manifest)?;
    let reference = recipe["reference"].as_str().context("the recipe has no reference")?;
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{manifest_digest}"), "size": manifest_size,
            "platform": { "architecture": debian, "os": "linux" },
            "annotations": {
                "io.containerd.image.name": reference,
                "org.opencontainers.image.ref.name": reference.rsplit_once(':').map_or("latest", |(_, tag)| tag),
            },
        }],
    });
    fs::write(work.join("layout/index.json"), serde_json::to_vec(&index)?)?;
    fs::write(work.join("layout/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    sh(Command::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=ustar"])
        .arg(format!("--mtime=@{EPOCH}"))
        .arg("-cf")
        .arg(archive)
        .arg("-C")
        .arg(work.join("layout"))
        .args(["oci-layout", "index.json", "blobs"]))?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

/// The script that mmdebstrap runs on the extracted tree, with the tree's folder as its argument.
fn write_hook(folder: &Path, recipe: &Value, work: &Path) -> Result<PathBuf> {
    let mut script = String::from("#!/bin/sh\nset -eu\nr=$1\n");
    for pattern in LEFT_OUT {
        script.push_str(&format!("rm -rf \"$r\"/{pattern}\n"));
    }
    script.push_str("mkdir -p \"$r\"/etc \"$r\"/tmp \"$r\"/proc \"$r\"/sys \"$r\"/dev \"$r\"/run \"$r\"/bin \"$r\"/usr/bin\nchmod 1777 \"$r\"/tmp\n");
    for (to, from) in [("/etc/passwd", "common/passwd"), ("/etc/group", "common/group")] {
        script.push_str(&format!("cp '{}' \"$r\"{to}\n", folder.join(from).display()));
    }
    if recipe["busybox"] == json!(true) {
        // The applets of this machine's busybox, which is Debian's as well: the image's own may be for another processor.
        let applets = Command::new("busybox").arg("--list").output().context("busybox-static is needed")?;
        for applet in String::from_utf8_lossy(&applets.stdout).lines() {
            script.push_str(&format!(
                "[ -e \"$r\"/bin/{applet} ] || [ -e \"$r\"/usr/bin/{applet} ] || ln -s busybox \"$r\"/bin/{applet}\n"
            ));
        }
    }
    for (to, from) in pairs(recipe, "files") {
        script.push_str(&format!("mkdir -p \"$r\"$(dirname {to})\ncp '{}' \"$r\"{to}\n", folder.join(from).display()));
    }
    for path in texts(recipe, "executable") {
        script.push_str(&format!("chmod 755 \"$r\"{path}\n"));
    }
    for (path, owner) in pairs(recipe, "folders") {
        script.push_str(&format!("mkdir -p \"$r\"{path}\nchown {owner} \"$r\"{path}\n"));
    }
    let path = work.join("hook");
    fs::write(&path, script)?;
    sh(Command::new("chmod").arg("+x").arg(&path))?;
    Ok(path)
}

/// Moves a file into the blobs under its digest; returns digest and size in bytes.
fn keep(blobs: &Path, file: &Path) -> Result<(String, u64)> {
    let digest = sha256(file)?;
    let to = blobs.join(&digest);
    fs::rename(file, &to)?;
    Ok((digest, fs::metadata(&to)?.len()))
}

fn keep_json(work: &Path, blobs: &Path, value: &Value) -> Result<(String, u64)> {
    let file = work.join("blob.json");
    fs::write(&file, serde_json::to_vec(value)?)?;
    keep(blobs, &file)
}

fn sha256(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output()?;
    let text = String::from_utf8(output.stdout)?;
    text.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
}

fn sh(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| shown.clone())?;
    if !output.status.success() {
        bail!("{}: {shown}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
