//! `cp`: files to and from a container, by the `tar` that is in it.
//!
//! Source: kubectl `pkg/cmd/cp`.

use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::exec::{self, Ends};
use crate::failure::usage;
use crate::logs;
use crate::manifest::text;
use crate::session::Session;
use crate::target::Found;

/// Pieces of the archive that wait to be sent or unpacked: enough that neither side idles.
const QUEUE: usize = 16;
const PIECE_BYTES: usize = 32 * 1024;

#[derive(Debug, Clone, Args)]
pub struct Cp {
    /// FILE or [NAMESPACE/]POD:FILE, from where
    pub source: Option<String>,
    /// FILE or [NAMESPACE/]POD:FILE, to where
    pub target: Option<String>,
    /// This container
    #[arg(long, short = 'c', default_value = "", hide_default_value = true)]
    pub container: String,
    /// Leave the owners and permissions of copied files to the container
    #[arg(long)]
    pub no_preserve: bool,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
struct Side {
    /// Empty: the pod that stands for itself in the session's namespace.
    namespace: String,
    /// Empty: this machine.
    pod: String,
    file: String,
}

fn side(word: &str) -> Result<Side> {
    let malformed = || anyhow::anyhow!("filespec must match the canonical format: [[namespace/]pod:]file/path");
    let Some((pod, file)) = word.split_once(':') else {
        return Ok(Side { namespace: String::new(), pod: String::new(), file: word.to_owned() });
    };
    let (namespace, pod) = match pod.split('/').collect::<Vec<_>>().as_slice() {
        [pod] => ("", *pod),
        [namespace, pod] => (*namespace, *pod),
        _ => return Err(malformed()),
    };
    if pod.is_empty() {
        return Err(malformed());
    }
    Ok(Side { namespace: namespace.to_owned(), pod: pod.to_owned(), file: file.to_owned() })
}

pub async fn run(session: &Session, cp: &Cp) -> Result<()> {
    let (Some(source), Some(target)) = (&cp.source, &cp.target) else {
        return Err(usage("source and destination are required"));
    };
    let (source, target) = (side(source)?, side(target)?);
    anyhow::ensure!(
        source.pod.is_empty() || target.pod.is_empty(),
        "one of src or dest must be a local file specification"
    );
    anyhow::ensure!(!source.file.is_empty() && !target.file.is_empty(), "filepath can not be empty");
    if !source.pod.is_empty() {
        let place = Place::find(session, &source, cp).await?;
        return place.download(&source.file, Path::new(&target.file)).await;
    }
    anyhow::ensure!(!target.pod.is_empty(), "one of src or dest must be a remote file specification");
    anyhow::ensure!(Path::new(&source.file).exists(), "{} doesn't exist in local filesystem", source.file);
    let place = Place::find(session, &target, cp).await?;
    place.upload(Path::new(&source.file), &target.file, cp.no_preserve).await
}

/// The container that files go to or come from.
struct Place<'a> {
    session: &'a Session,
    pod: Found,
    container: String,
}

impl<'a> Place<'a> {
    async fn find(session: &'a Session, side: &Side, cp: &Cp) -> Result<Self> {
        let namespace = if side.namespace.is_empty() { &session.namespace } else { &side.namespace };
        let pod = logs::pod_in(session, namespace, &side.pod).await?;
        let phase = text(&pod.object, "/status/phase");
        anyhow::ensure!(
            !matches!(phase, "Succeeded" | "Failed"),
            "cannot exec into a container in a completed pod; current phase is {phase}"
        );
        let container = match cp.container.as_str() {
            "" => logs::default_container(session, &pod, false),
            named if logs::container_names(&pod.object).iter().any(|n| n == named) => named.to_owned(),
            named => anyhow::bail!("{}", logs::no_container(&pod, named)),
        };
        Ok(Self { session, pod, container })
    }

    async fn run(&self, command: &[&str], ends: Ends) -> Result<Vec<u8>> {
        exec::piped(self.session, &self.pod.path(), &self.container, command, ends).await
    }

    /// What `file` is in the container is unpacked as `to`.
    async fn download(&self, file: &str, to: &Path) -> Result<()> {
        let (sender, pieces) = mpsc::channel(QUEUE);
        let prefix = inside(file);
        let to = to.to_owned();
        let unpacking = tokio::task::spawn_blocking(move || unpack(Queue::new(pieces), &prefix, &to));
        let ends = Ends { output: Some(sender), ..Ends::default() };
        let command = ["tar", "cf", "-", file];
        let (status, unpacked) = tokio::join!(self.run(&command, ends), unpacking);
        let notes = unpacked.context("unpack")?;
        // What the container says went wrong comes before what is missing here for that reason.
        exec::finish(self.session, &status?)?;
        for note in notes? {
            self.session.note(note);
        }
        Ok(())
    }

    /// `file` of this machine goes into the folder that `to` is, or becomes `to`.
    async fn upload(&self, file: &Path, to: &str, no_preserve: bool) -> Result<()> {
        let to = if self.is_folder(to).await? { join(to, &base(file)?) } else { to.trim_end_matches('/').to_owned() };
        let (folder, name) = to.rsplit_once('/').map_or((".", &*to), |(f, n)| (if f.is_empty() { "/" } else { f }, n));
        let mut command = vec!["tar"];
        if no_preserve {
            command.extend(["--no-same-permissions", "--no-same-owner"]);
        }
        command.extend(["-xmf", "-", "-C", folder]);
        let (sender, pieces) = mpsc::channel(QUEUE);
        let (file, name) = (file.to_owned(), name.to_owned());
        let packing = tokio::task::spawn_blocking(move || pack(Pieces::new(sender), &file, &name));
        let ends = Ends { input: Some(pieces), ..Ends::default() };
        let (status, packed) = tokio::join!(self.run(&command, ends), packing);
        exec::finish(self.session, &status?)?;
        match packed.context("pack")? {
            // The container's tar was content with less than the padding at the archive's end.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            packed => packed.context("read what is copied"),
        }
    }

    async fn is_folder(&self, path: &str) -> Result<bool> {
        let status = self.run(&["test", "-d", path], Ends { quiet: true, ..Ends::default() }).await?;
        let status: Value = serde_json::from_slice(&status).unwrap_or_default();
        Ok(status["status"] == "Success")
    }
}

fn base(file: &Path) -> Result<String> {
    let whole = file.canonicalize().with_context(|| file.display().to_string())?;
    let name = file.file_name().or(whole.file_name()).context("the root folder has no name")?;
    Ok(name.to_string_lossy().into_owned())
}

fn join(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}

/// The path as `tar` names it: from the root, without what leads above it.
fn inside(file: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let relative = !file.starts_with('/');
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    // A relative path may be spelled from where it is.
    if relative && parts.is_empty() { ".".into() } else { parts.join("/") }
}

/// Writes the archive of a file or folder, whose root is called `name` in it.
fn pack(out: impl Write, file: &Path, name: &str) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    // A link is copied as one.
    archive.follow_symlinks(false);
    let metadata = std::fs::metadata(file)?;
    if metadata.is_dir() {
        archive.append_dir_all(name, file)?;
    } else {
        // The file that was named may be a link; what it leads to is meant.
        archive.append_file(name, &mut std::fs::File::open(file)?)?;
    }
    archive.into_inner()?.flush()
}

/// Unpacks what lies below `prefix` to `to`; returns what is to be said about it.
fn unpack(from: impl Read, prefix: &str, to: &Path) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let own = name.trim_start_matches('/');
        let own = if prefix == "." { own } else { own.strip_prefix("./").unwrap_or(own) };
        let below = own.strip_prefix(prefix).context("tar contents corrupted")?;
        let below = Path::new(below.trim_start_matches('/'));
        let path = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
        if below.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
            notes.push(format!("warning: file {:?} is outside target destination, skipping", path.display()));
            continue;
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            std::fs::create_dir_all(&path)?;
        } else if kind.is_symlink() || kind.is_hard_link() {
            let link = entry.link_name()?.unwrap_or_default().display().to_string();
            notes.push(format!("warning: skipping symlink: {:?} -> {link:?}", path.display().to_string()));
        } else if kind.is_file() || kind.is_contiguous() {
            write(&mut entry, &path)?;
        }
    }
    // What comes behind the end of the archive is read, so that the sender is not held up.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(notes)
}

/// A file in place of whatever had its name; never through a link that lies there.
fn write(from: &mut impl Read, path: &PathBuf) -> Result<()> {
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink()) {
        std::fs::remove_file(path)?;
    }
    let mut file = std::fs::File::create(path).with_context(|| format!("open {}", path.display()))?;
    io::copy(from, &mut file).with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

/// What comes in pieces, read as one stream. Blocks.
struct Queue {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Queue {
    fn new(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self { pieces, piece: Bytes::new() }
    }
}

impl Read for Queue {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(into.len());
        into[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

/// One stream, sent in pieces. Blocks.
struct Pieces {
    sender: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

impl Pieces {
    fn new(sender: mpsc::Sender<Bytes>) -> Self {
        Self { sender, piece: Vec::new() }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        if piece.is_empty() {
            return Ok(());
        }
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the container takes no more");
        self.sender.blocking_send(piece.into()).map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides() {
        for (word, expected) in [
            ("/a/b", Some(("", "", "/a/b"))),
            ("p:/a", Some(("", "p", "/a"))),
            ("n/p:a:b", Some(("n", "p", "a:b"))),
            ("p:", Some(("", "p", ""))),
            (":/a", None),
            ("n/:/a", None),
            ("a/b/c:/d", None),
        ] {
            let found = side(word).ok();
            let expected = expected.map(|(namespace, pod, file)| Side {
                namespace: namespace.into(),
                pod: pod.into(),
                file: file.into(),
            });
            assert_eq!(found, expected, "{word}");
        }
        for (file, expected) in [("/a/b/", "a/b"), ("../a", "a"), ("/a/../b", "b"), (".", "."), ("a", "a"), ("/", "")] {
            assert_eq!(inside(file), expected, "{file}");
        }
    }

    #[test]
    fn there_and_back() {
        let tmp = tempfile::tempdir().unwrap();
        let source = tmp.path().join("source");
        std::fs::create_dir_all(source.join("sub/empty")).unwrap();
        std::fs::write(source.join("a"), "A").unwrap();
        std::fs::write(source.join("sub/b"), vec![7; 100_000]).unwrap();
        std::os::unix::fs::symlink("a", source.join("link")).unwrap();
        let mut archive = Vec::new();
        pack(&mut archive, &source, "there").unwrap();
        let target = tmp.path().join("target");
        let notes = unpack(&archive[..], "there", &target).unwrap();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].starts_with("warning: skipping symlink: ") && notes[0].ends_with("-> \"a\""), "{notes:?}");
        assert_eq!(std::fs::read(target.join("a")).unwrap(), b"A");
        assert_eq!(std::fs::read(target.join("sub/b")).unwrap(), vec![7; 100_000]);
        assert!(target.join("sub/empty").is_dir() && !target.join("link").exists());
        // A single file is what it is called there.
        let mut archive = Vec::new();
        pack(&mut archive, &source.join("link"), "x").unwrap();
        unpack(&archive[..], "x", &tmp.path().join("one")).unwrap();
        assert_eq!(std::fs::read(tmp.path().join("one")).unwrap(), b"A");
        assert_eq!(unpack(&archive[..], "y", &target).unwrap_err().to_string(), "tar contents corrupted");
    }

    #[test]
    fn archives_that_lead_elsewhere() {
        let tmp = tempfile::tempdir().unwrap();
        let outside = tmp.path().join("outside");
        std::fs::write(&outside, "kept").unwrap();
        let target = tmp.path().join("in");
        std::fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&outside, target.join("link")).unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        for name in ["d/../../outside", "d/link"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(3);
            // The builder refuses such names; whoever means harm does not.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, &b"bad"[..]).unwrap();
        }
        let archive = builder.into_inner().unwrap();
        let notes = unpack(&archive[..], "d", &target).unwrap();
        assert!(notes.iter().any(|n| n.contains("is outside target destination")), "{notes:?}");
        assert_eq!(std::fs::read(&outside).unwrap(), b"kept");
        assert_eq!(std::fs::read(target.join("link")).unwrap(), b"bad");
    }

    #[test]
    fn streams_in_pieces() {
        let (sender, pieces) = mpsc::channel(2);
        let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let sent = bytes.clone();
        let writing = std::thread::spawn(move || {
            let mut out = Pieces::new(sender);
            out.write_all(&sent).unwrap();
            out.flush().unwrap();
        });
        let mut read = Vec::new();
        Queue::new(pieces).read_to_end(&mut read).unwrap();
        writing.join().unwrap();
        assert_eq!(read, bytes);
    }
}
