//! Images made on the spot: layers from a list of members, archives around them.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::image::{Digest, ImageStore, Options};
use crate::spec::Rootfs;

/// A tar stream under construction.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Tar {
        Tar(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32, owner: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.into());
        header.set_gid(owner.into());
        header.set_mtime(1_700_000_000);
        header.set_size(size as u64);
        header
    }

    fn add(mut self, mut header: tar::Header, path: &str, link: Option<&str>, body: &[u8]) -> Tar {
        // Straight into the header: the builder refuses what these tests are about.
        if let Some(link) = link {
            header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.0.append(&header, body).unwrap();
        self
    }

    pub fn file(self, path: &str, mode: u32, body: &str) -> Tar {
        self.add(Tar::header(tar::EntryType::Regular, mode, 0, body.len()), path, None, body.as_bytes())
    }

    pub fn bytes(self, path: &str, body: &[u8]) -> Tar {
        self.add(Tar::header(tar::EntryType::Regular, 0o644, 0, body.len()), path, None, body)
    }

    pub fn owned(self, path: &str, mode: u32, owner: u32, body: &str) -> Tar {
        self.add(Tar::header(tar::EntryType::Regular, mode, owner, body.len()), path, None, body.as_bytes())
    }

    pub fn dir(self, path: &str, mode: u32, owner: u32) -> Tar {
        self.add(Tar::header(tar::EntryType::Directory, mode, owner, 0), path, None, b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Tar {
        self.add(Tar::header(tar::EntryType::Symlink, 0o777, 0, 0), path, Some(target), b"")
    }

    pub fn hardlink(self, path: &str, target: &str) -> Tar {
        self.add(Tar::header(tar::EntryType::Link, 0o644, 0, 0), path, Some(target), b"")
    }

    pub fn device(self, path: &str, major: u32, minor: u32) -> Tar {
        let mut header = Tar::header(tar::EntryType::Char, 0o666, 0, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.add(header, path, None, b"")
    }

    pub fn fifo(self, path: &str) -> Tar {
        self.add(Tar::header(tar::EntryType::Fifo, 0o600, 0, 0), path, None, b"")
    }

    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Tar {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub fn long(mut self, path: &str, body: &[u8]) -> Tar {
        let mut header = Tar::header(tar::EntryType::Regular, 0o644, 0, body.len());
        self.0.append_data(&mut header, path, body).unwrap();
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A configuration for layers, as JSON bytes.
pub fn config(layers: &[Vec<u8>], architecture: &str) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = json!({
        "os": "linux", "architecture": architecture,
        "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&config).unwrap()
}

pub fn host() -> String {
    crate::image::Platform::host().architecture
}

/// An OCI layout, as `(member, bytes)`: blobs first, `index.json` last.
pub struct Layout {
    pub members: Vec<(String, Vec<u8>)>,
    pub manifests: Vec<Value>,
}

impl Layout {
    pub fn new() -> Layout {
        Layout {
            members: vec![("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())],
            manifests: Vec::new(),
        }
    }

    pub fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = Digest::of(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        let member = format!("blobs/sha256/{}", digest.hex());
        if !self.members.iter().any(|(name, _)| *name == member) {
            self.members.push((member, bytes));
        }
        descriptor
    }

    /// Adds an image's blobs; the descriptor of its manifest.
    pub fn image(&mut self, layers: &[Vec<u8>], architecture: &str, compress: fn(&[u8]) -> Vec<u8>) -> Value {
        let config = self.blob("application/vnd.oci.image.config.v1+json", config(layers, architecture));
        let layers: Vec<Value> = layers
            .iter()
            .map(|layer| self.blob("application/vnd.oci.image.layer.v1.tar+gzip", compress(layer)))
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers});
        let mut descriptor =
            self.blob("application/vnd.oci.image.manifest.v1+json", serde_json::to_vec(&manifest).unwrap());
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        descriptor
    }

    pub fn named(mut self, name: &str, mut descriptor: Value) -> Layout {
        descriptor["annotations"] = json!({"io.containerd.image.name": name});
        self.manifests.push(descriptor);
        self
    }

    pub fn tar(mut self) -> Vec<u8> {
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        self.members.push(("index.json".into(), serde_json::to_vec(&index).unwrap()));
        self.members.iter().fold(Tar::new(), |tar, (name, bytes)| tar.long(name, bytes)).finish()
    }
}

/// An archive of one image with this machine's platform.
pub fn oci(name: &str, layers: &[Vec<u8>], compress: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut layout = Layout::new();
    let image = layout.image(layers, &host(), compress);
    layout.named(name, image).tar()
}

pub fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

pub struct Home {
    pub dir: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Home {
        Home { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn open(&self) -> ImageStore {
        ImageStore::open(self.path(), Options::default()).unwrap()
    }

    /// Every path below the store but the lock, for comparing what is left.
    pub fn files(&self) -> Vec<String> {
        let out = Command::new("find").current_dir(self.path()).args([".", "!", "-name", "lock"]).output().unwrap();
        let mut lines: Vec<String> = String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

/// Runs a script in a mount namespace of its own, in which `$1` is the mounted root filesystem.
pub fn in_rootfs(rootfs: &Rootfs, script: &str) -> String {
    let Rootfs::Overlay { lower, upper, work } = rootfs else { panic!("not an overlay") };
    let target = upper.parent().unwrap().join("merged-for-test");
    std::fs::create_dir_all(&target).unwrap();
    let lower: Vec<String> = lower.iter().map(|path| path.display().to_string()).collect();
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    let out = Command::new("unshare")
        .args([
            "--mount",
            "sh",
            "-ec",
            &format!("mount -t overlay overlay -o \"$2\" \"$1\"; cd \"$1\"; {script}"),
            "sh",
        ])
        .arg(&target)
        .arg(&options)
        .output()
        .unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    std::fs::remove_dir(&target).unwrap();
    String::from_utf8(out.stdout).unwrap()
}

/// Hands out its bytes in small pieces, as a network does.
pub struct Trickle<'a>(pub &'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(777);
        self.0.read(&mut buffer[..most])
    }
}
