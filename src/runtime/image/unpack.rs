//! A layer's tar stream becomes a directory that overlayfs takes as a lower one.
//!
//! Every name is resolved below the layer's own root by the kernel (`openat2` with `RESOLVE_IN_ROOT`), so that no `..`, no
//! absolute path and no symbolic link of the archive leads out of it. Marks of deletion become overlayfs' own.
//! Source: OCI image spec 1.1, layer.md; kernel Documentation/filesystems/overlayfs.rst.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use super::compress::Decoder;
use super::digest::{Digest, HashReader};
use super::error::Error;
use super::tarball::{Kind, Member, TarReader};

/// Members of one layer. The largest images have some 500,000 files; this bounds what is kept per directory meanwhile.
const MEMBERS_MAX: u64 = 4_000_000;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &[u8] = b"trusted.overlay.opaque";

/// What unpacking found out about a layer.
#[derive(Debug)]
pub struct Unpacked {
    /// Of the uncompressed stream.
    pub diff_id: Digest,
    /// Of the stream as it came.
    pub blob: Digest,
    /// Sum of the files' sizes.
    pub size_bytes: u64,
    /// Directories that only exist because something lies in them: owner and mode are those of the layer below.
    pub implied: Vec<PathBuf>,
    /// Hard links whose target is not in this layer: link and target.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// The layer says what owner and mode `/` has.
    pub root: bool,
}

/// Reads `source` to its end, in whatever compression, and unpacks it into the empty directory `root`. Blocks; belongs on a
/// blocking thread. Memory: the decompressor's window and a few words per directory.
///
/// Errors: [`Error::BadDigest`] when the stream is not the `expected` one, whatever else is wrong with it, [`Error::CutShort`],
/// [`Error::Layer`], [`Error::Io`] (also for what reading `source` fails with).
pub fn unpack(source: impl Read, expected: Option<&Digest>, root: &Path) -> Result<Unpacked, Error> {
    let mut source = HashReader::new(source);
    let unpacked = unpack_from(&mut source, root);
    // What is wrong with the form is a consequence when the bytes are not the right ones: those are read to their end.
    let unpacked = match unpacked {
        Err(error @ Error::Io { .. }) => return Err(error),
        other => other,
    };
    match (source.finish(), expected, unpacked) {
        (Ok((actual, ..)), Some(expected), _) if actual != *expected => {
            Err(Error::BadDigest { what: "layer".to_owned(), expected: expected.clone(), actual })
        }
        (Ok((blob, ..)), _, Ok(found)) => {
            let Found { diff_id, size_bytes, implied, links, root } = found;
            Ok(Unpacked { diff_id, blob, size_bytes, implied, links, root })
        }
        (_, _, Err(error)) => Err(error),
        (Err(error), _, Ok(_)) => Err(Error::io("read layer for", root)(error)),
    }
}

struct Found {
    diff_id: Digest,
    size_bytes: u64,
    implied: Vec<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    root: bool,
}

fn unpack_from(source: &mut HashReader<impl Read>, root: &Path) -> Result<Found, Error> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::CutShort("a layer ends within a file".to_owned()),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Error::malformed("layer", error),
        _ => Error::Io { what: "read layer for", path: root.to_owned(), source: error },
    };
    let decoder = Decoder::new(source).map_err(failed)?;
    let mut tar = TarReader::new(HashReader::new(decoder));
    let mut tree = Tree::open(root)?;
    let mut members = 0u64;
    while let Some(member) = tar.next().map_err(failed)? {
        members += 1;
        if members > MEMBERS_MAX {
            return Err(Error::malformed("layer", format!("more than {MEMBERS_MAX} entries")));
        }
        tree.apply(&member, &mut tar).map_err(|error| match error {
            Failure::Refused(why) => Error::Layer { path: String::from_utf8_lossy(&member.path).into_owned(), why },
            Failure::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => failed(source),
            Failure::Io(source) if source.raw_os_error().is_some_and(|raw| names_only(Errno::from_raw(raw))) => {
                Error::Layer { path: String::from_utf8_lossy(&member.path).into_owned(), why: source.to_string() }
            }
            Failure::Io(source) => {
                Error::Io { what: "unpack", path: root.join(OsStr::from_bytes(trim(&member.path))), source }
            }
        })?;
    }
    // What follows the end mark is part of both digests.
    let (diff_id, ..) = tar.into_source().finish().map_err(failed)?;
    tree.finish(diff_id)
}

/// What the kernel says about names and never about the disk: the archive's fault, not this host's.
fn names_only(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ELOOP
            | Errno::ENAMETOOLONG
            | Errno::EEXIST
            | Errno::ENOENT
            | Errno::ENOTDIR
            | Errno::EISDIR
            | Errno::EXDEV
            | Errno::EMLINK
    )
}

enum Failure {
    /// The archive asks for something that is not done.
    Refused(String),
    Io(io::Error),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Io(errno.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

fn trim(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|b| *b != b'/').unwrap_or(path.len());
    &path[start..]
}

/// A member's path below the root: no `.`, no empty part, not absolute. `None` if it has `..` or a NUL.
pub fn clean(path: &[u8]) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            part if part.contains(&0) => return None,
            part => out.push(OsStr::from_bytes(part)),
        }
    }
    Some(out)
}

struct Tree {
    root: Rc<OwnedFd>,
    /// Where the last member was: archives go directory by directory.
    last: (PathBuf, Rc<OwnedFd>),
    implied: BTreeSet<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    /// Times of directories, set at the end because filling them changes them.
    times: Vec<(PathBuf, (i64, u32))>,
    root_said: bool,
    size_bytes: u64,
}

fn resolve() -> OpenHow {
    OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

impl Tree {
    fn open(root: &Path) -> Result<Tree, Error> {
        let fd =
            openat(nix::fcntl::AT_FDCWD, root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(Error::nix("open", root))?;
        let root = Rc::new(fd);
        Ok(Tree {
            last: (PathBuf::new(), root.clone()),
            root,
            implied: BTreeSet::new(),
            links: Vec::new(),
            times: Vec::new(),
            root_said: false,
            size_bytes: 0,
        })
    }

    fn finish(mut self, diff_id: Digest) -> Result<Found, Error> {
        // Deepest first, or setting a child's time would change its parent's.
        self.times.sort_by(|a, b| b.0.cmp(&a.0));
        for (path, mtime) in &self.times {
            // Within the layer's root, like everything else: a link among the directories may point into the host.
            let above = path.parent().filter(|above| !above.as_os_str().is_empty());
            let found = match (above, path.file_name()) {
                (_, None) => set_time(&*self.root, Path::new("."), *mtime),
                (None, Some(name)) => set_time(&*self.root, Path::new(name), *mtime),
                (Some(above), Some(name)) => openat2(&*self.root, above, resolve())
                    .and_then(|directory| set_time(&directory, Path::new(name), *mtime)),
            };
            match found {
                // Replaced by something else later in the archive.
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(errno) => return Err(Error::nix("set time of", path)(errno)),
            }
        }
        Ok(Found {
            diff_id,
            size_bytes: self.size_bytes,
            implied: self.implied.into_iter().collect(),
            links: self.links,
            root: self.root_said,
        })
    }

    /// The directory that holds `path`'s last part, made where it is missing.
    fn parent(&mut self, path: &Path) -> Result<Rc<OwnedFd>, Failure> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent.as_os_str().is_empty() {
            return Ok(self.root.clone());
        }
        if self.last.0 == parent {
            return Ok(self.last.1.clone());
        }
        let fd = Rc::new(self.directory(parent)?);
        self.last = (parent.to_owned(), fd.clone());
        Ok(fd)
    }

    fn directory(&mut self, path: &Path) -> Result<OwnedFd, Failure> {
        match openat2(&*self.root, path, resolve()) {
            Ok(fd) => Ok(fd),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                let above = self.parent(path)?;
                let name = path.file_name().unwrap_or_default();
                match kind_at(&above, name)? {
                    // A mark of deletion, then something in a new directory of that name.
                    Some(found) if is_whiteout(&found) => {
                        unlinkat(&*above, name, UnlinkatFlags::NoRemoveDir)?;
                        mkdirat(&*above, name, Mode::from_bits_truncate(0o755))?;
                        set_xattr(&above, name, OPAQUE_XATTR, b"y")?;
                    }
                    Some(_) => return Err(Failure::Refused("lies in something that is not a directory".to_owned())),
                    None => mkdirat(&*above, name, Mode::from_bits_truncate(0o755))?,
                }
                self.implied.insert(path.to_owned());
                Ok(openat2(&*self.root, path, resolve())?)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn apply(&mut self, member: &Member, body: &mut impl Read) -> Result<(), Failure> {
        let Some(path) = clean(&member.path) else {
            return Err(Failure::Refused("leads out of the root filesystem".to_owned()));
        };
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The root itself.
            if member.kind == Kind::Directory {
                self.root_said = true;
                let dot = OsStr::new(".");
                return self.attributes(&self.root.clone(), dot, member);
            }
            return Err(Failure::Refused("replaces the root directory".to_owned()));
        };
        let parent = self.parent(&path)?;
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&parent, name.as_bytes());
        }
        let mut opaque = false;
        if let Some(found) = kind_at(&parent, &name)? {
            let is_directory = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR;
            match (is_directory, member.kind == Kind::Directory) {
                (true, true) => {}
                (true, false) => {
                    std::fs::remove_dir_all(through(&parent, &name))?;
                    self.last = (PathBuf::new(), self.root.clone());
                    self.implied.retain(|implied| !implied.starts_with(&path));
                }
                (false, directory) => {
                    if member.kind == Kind::HardLink && clean(&member.link).as_ref() == Some(&path) {
                        return Ok(());
                    }
                    opaque = directory && is_whiteout(&found);
                    unlinkat(&*parent, name.as_os_str(), UnlinkatFlags::NoRemoveDir)?;
                }
            }
        }
        match member.kind {
            Kind::Directory => {
                match mkdirat(&*parent, name.as_os_str(), Mode::from_bits_truncate(0o700)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                self.implied.remove(&path);
                self.times.push((path, member.mtime));
                self.attributes(&parent, &name, member)?;
                if opaque {
                    set_xattr(&parent, &name, OPAQUE_XATTR, b"y")?;
                }
                Ok(())
            }
            Kind::File => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let fd = openat(&*parent, name.as_os_str(), flags, Mode::from_bits_truncate(0o600))?;
                self.size_bytes += io::copy(body, &mut File::from(fd))?;
                self.attributes(&parent, &name, member)
            }
            Kind::HardLink => self.hard_link(&parent, &name, path, member),
            Kind::Symlink => {
                symlinkat(OsStr::from_bytes(&member.link), &*parent, name.as_os_str())?;
                self.attributes(&parent, &name, member)
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let kind = match member.kind {
                    Kind::CharDevice => SFlag::S_IFCHR,
                    Kind::BlockDevice => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                let device = nix::sys::stat::makedev(member.device.0.into(), member.device.1.into());
                mknodat(&*parent, name.as_os_str(), kind, Mode::from_bits_truncate(0o600), device)?;
                self.attributes(&parent, &name, member)
            }
        }
    }

    /// `.wh..wh..opq` hides everything below this directory in lower layers, `.wh.<name>` one name of it.
    fn whiteout(&mut self, parent: &Rc<OwnedFd>, name: &[u8]) -> Result<(), Failure> {
        if name == OPAQUE {
            return Ok(set_xattr(parent, OsStr::new("."), OPAQUE_XATTR, b"y")?);
        }
        let hidden = OsStr::from_bytes(&name[WHITEOUT.len()..]);
        // The rest of the `.wh..wh.` names is AUFS' bookkeeping.
        if hidden.as_bytes().starts_with(WHITEOUT) {
            return Ok(());
        }
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Err(Failure::Refused("deletes no name".to_owned()));
        }
        match kind_at(parent, hidden)? {
            None => mknodat(&**parent, hidden, SFlag::S_IFCHR, Mode::empty(), 0)?,
            // It only hides what lies below this layer, and a file does that by itself.
            Some(found) if found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() => {
                set_xattr(parent, hidden, OPAQUE_XATTR, b"y")?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn hard_link(&mut self, parent: &OwnedFd, name: &OsStr, path: PathBuf, member: &Member) -> Result<(), Failure> {
        let Some(target) = clean(&member.link).filter(|target| target.file_name().is_some()) else {
            return Err(Failure::Refused("hard link leads out of the root filesystem".to_owned()));
        };
        let above = target.parent().unwrap_or(Path::new(""));
        let linked = match above.as_os_str().is_empty() {
            true => linkat(&*self.root, &target, parent, name, AtFlags::empty()),
            false => openat2(&*self.root, above, resolve()).and_then(|directory| {
                linkat(&directory, target.file_name().unwrap_or_default(), parent, name, AtFlags::empty())
            }),
        };
        match linked {
            Ok(()) => Ok(()),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                self.links.push((path, target));
                Ok(())
            }
            Err(Errno::EPERM) => Err(Failure::Refused("hard link to a directory".to_owned())),
            Err(errno) => Err(errno.into()),
        }
    }

    fn attributes(&self, parent: &OwnedFd, name: &OsStr, member: &Member) -> Result<(), Failure> {
        let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
        fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if member.kind != Kind::Symlink {
            // After the owner, whose change clears the set-user-id bit. Nobody else writes here, the name is what was made.
            fchmodat(parent, name, Mode::from_bits_truncate(member.mode), FchmodatFlags::FollowSymlink)?;
        }
        for (key, value) in &member.xattrs {
            // Overlayfs' own attributes are ours to set; labels of another host's policy mean nothing here.
            let ours = [&b"trusted.overlay."[..], b"user.overlay.", b"security.selinux"];
            if ours.iter().any(|prefix| key.starts_with(prefix)) {
                continue;
            }
            match set_xattr(parent, name, key, value) {
                // Filesystems without them, kinds of files that cannot have them, namespaces that may not set them.
                Ok(()) | Err(Errno::ENOTSUP | Errno::EPERM) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if member.kind != Kind::Directory {
            set_time(parent, Path::new(name), member.mtime)?;
        }
        Ok(())
    }
}

pub(super) fn set_time(parent: impl AsFd, path: &Path, mtime: (i64, u32)) -> Result<(), Errno> {
    let time = TimeSpec::new(mtime.0, i64::from(mtime.1));
    utimensat(parent, path, &time, &time, UtimensatFlags::NoFollowSymlink)
}

fn kind_at(parent: &OwnedFd, name: &OsStr) -> Result<Option<FileStat>, Errno> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A character device 0/0, which is how overlayfs keeps a deleted name.
pub fn is_whiteout(found: &FileStat) -> bool {
    found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits() && found.st_rdev == 0
}

/// A path to `name` in an open directory, for calls that know no directory descriptors.
fn through(parent: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name)
}

fn set_xattr(parent: &OwnedFd, name: &OsStr, key: &[u8], value: &[u8]) -> Result<(), Errno> {
    set_xattr_path(&through(parent, name), key, value)
}

/// Sets an extended attribute without following a symbolic link.
pub(super) fn set_xattr_path(path: &Path, key: &[u8], value: &[u8]) -> Result<(), Errno> {
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| Errno::EINVAL);
    let (path, key) = (text(path.as_os_str().to_owned().into_vec())?, text(key.to_vec())?);
    // JUSTIFICATION: neither std nor nix sets extended attributes.
    // SAFETY: both strings end with NUL, the value's pointer and length are those of one slice, and the kernel only reads.
    let set = unsafe { libc::lsetxattr(path.as_ptr(), key.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(set).map(drop)
}

/// An extended attribute of the file itself, if it has it.
pub(super) fn get_xattr_path(path: &Path, key: &[u8]) -> Option<Vec<u8>> {
    let (path, key) = (CString::new(path.as_os_str().as_bytes()).ok()?, CString::new(key).ok()?);
    let mut value = vec![0u8; 256];
    // JUSTIFICATION: neither std nor nix reads extended attributes.
    // SAFETY: both strings end with NUL; the kernel writes at most the length given, which is the buffer's.
    let read = unsafe { libc::lgetxattr(path.as_ptr(), key.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(read).ok()?);
    Some(value)
}

/// Whether a directory hides what lies below it in lower layers.
pub fn is_opaque(directory: &Path) -> bool {
    get_xattr_path(directory, OPAQUE_XATTR).as_deref() == Some(b"y")
}
