//! Files of an image as its stacked layers show them, without mounting anything: what a layer takes from those below it, and
//! small files (`/etc/passwd`) that decide how a container starts.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use super::error::{Error, Result};
use super::store::ImageStore;
use super::unpack::{Unpacked, get_xattr_path, is_opaque, set_time, set_xattr_path};

/// Symbolic links followed in one path, as the kernel does.
const LINKS_MAX: usize = 40;

/// Bytes of a file read for a caller. Large `/etc/passwd` files have some thousand lines.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Where `path` (components, no `..`) is found in `layers` (topmost first) without following any link; the metadata tells what.
fn find(layers: &[PathBuf], path: &Path) -> Option<(PathBuf, fs::Metadata)> {
    for layer in layers {
        let mut at = layer.clone();
        let mut hides = false;
        let mut found = None;
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            hides |= is_opaque(&at);
            at.push(component);
            found = fs::symlink_metadata(&at).ok();
            match &found {
                None => break,
                Some(metadata) if metadata.file_type().is_char_device() && metadata.rdev() == 0 => return None,
                // What is no directory covers everything below that name in lower layers; a link here is not followed, it would
                // lead into the host.
                Some(metadata) if components.peek().is_some() && !metadata.is_dir() => return None,
                Some(_) => {}
            }
        }
        match found {
            Some(metadata) => return Some((at, metadata)),
            None if hides => return None,
            None => {}
        }
    }
    None
}

/// The place of `path` in one layer, links of its directories followed within the layer; the last part need not exist.
fn place(root: &Path, path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?;
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    match above {
        Some(above) => Some(open(&[root.to_owned()], above)?.join(name)),
        None => Some(root.join(name)),
    }
}

/// As a process whose root these layers are would open it.
fn open(layers: &[PathBuf], path: &Path) -> Option<PathBuf> {
    let parts = |path: &Path| path.components().map(|c| c.as_os_str().to_owned()).collect::<VecDeque<OsString>>();
    let mut ahead = parts(path);
    let mut behind = PathBuf::new();
    let mut links = 0;
    let mut at = None;
    while let Some(part) = ahead.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => behind = PathBuf::new(),
            Some(Component::ParentDir) => drop(behind.pop()),
            Some(Component::Normal(name)) => {
                let (real, metadata) = find(layers, &behind.join(name))?;
                if metadata.is_symlink() {
                    links += 1;
                    if links > LINKS_MAX {
                        return None;
                    }
                    let mut target = parts(&fs::read_link(real).ok()?);
                    target.append(&mut ahead);
                    ahead = target;
                } else {
                    behind.push(name);
                    at = Some(real);
                }
            }
            _ => {}
        }
    }
    at
}

impl ImageStore {
    /// A text file of an image (name or id) as its layers show it, links followed within; `None` when there is none.
    ///
    /// Errors: [`Error::InvalidReference`], [`Error::Missing`], [`Error::Malformed`] for one that is no text or beyond 4 MiB,
    /// [`Error::Io`].
    pub fn read_file(&self, image: &str, path: &str) -> Result<Option<String>> {
        let layers = self.layers(image)?;
        let Some(real) = open(&layers, Path::new(path)) else { return Ok(None) };
        if !fs::symlink_metadata(&real).map_err(Error::io("read", &real))?.is_file() {
            return Ok(None);
        }
        let mut text = String::new();
        let file = fs::File::open(&real).map_err(Error::io("open", &real))?;
        match file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text) {
            Ok(read) if read as u64 > FILE_BYTES_MAX => Err(Error::malformed(path, "too large to be read")),
            Ok(_) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(Error::malformed(path, "not a text file")),
            Err(error) => Err(Error::io("read", real)(error)),
        }
    }
}

/// Gives a layer what it left to those below (topmost first): owner and mode of directories that it only implied, and the files
/// that it links to.
pub(super) fn complete(root: &Path, unpacked: &Unpacked, below: &[PathBuf]) -> Result<()> {
    for implied in &unpacked.implied {
        let from = find(below, implied).filter(|(_, metadata)| metadata.is_dir());
        // Replaced by something else later in the archive: then there is nothing to do.
        let to = place(root, implied).filter(|to| fs::symlink_metadata(to).is_ok_and(|metadata| metadata.is_dir()));
        if let (Some((from, metadata)), Some(to)) = (from, to) {
            copy_attributes(&from, &metadata, &to)?;
        }
    }
    for (link, target) in &unpacked.links {
        let refused = |why: &str| Error::Layer { path: link.display().to_string(), why: why.to_owned() };
        let dangling = || refused(&format!("hard link to {}, which does not exist", target.display()));
        let Some(to) = place(root, link).filter(|to| fs::symlink_metadata(to).is_err()) else { continue };
        let here =
            place(root, target).filter(|here| fs::symlink_metadata(here).is_ok_and(|metadata| metadata.is_file()));
        if let Some(here) = here {
            // The target came later in this layer.
            fs::hard_link(here, &to).map_err(Error::io("link", to))?;
            continue;
        }
        let (from, metadata) = find(below, target).ok_or_else(dangling)?;
        if !metadata.is_file() {
            return Err(refused(&format!("hard link to {}, which is not a file", target.display())));
        }
        fs::copy(&from, &to).map_err(Error::io("copy", &to))?;
        copy_attributes(&from, &metadata, &to)?;
    }
    Ok(())
}

fn copy_attributes(from: &Path, metadata: &fs::Metadata, to: &Path) -> Result<()> {
    std::os::unix::fs::lchown(to, Some(metadata.uid()), Some(metadata.gid()))
        .and_then(|()| fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777)))
        .map_err(Error::io("set owner and mode of", to))?;
    if let Some(capability) = get_xattr_path(from, b"security.capability") {
        set_xattr_path(to, b"security.capability", &capability).map_err(Error::nix("set attributes of", to))?;
    }
    let mtime = (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap_or(0));
    set_time(nix::fcntl::AT_FDCWD, to, mtime).map_err(Error::nix("set time of", to))
}
