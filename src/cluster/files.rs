//! Files that are either whole or absent, and readable by nobody else. What never lives here: what is in them.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::Error;

/// Keys are in them: the owner alone may read.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::File { verb, path, source }
}

/// Makes the folder and its parents, closed to others.
pub fn make_folder(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path).map_err(failed("create", path))
}

/// The file's text, `None` when there is no such file.
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
    }
}

/// Replaces the file with `content`, mode 0600. Whoever reads it, now or after a power cut, sees the old or the new
/// content whole: written beside, flushed, renamed, the folder flushed.
pub fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    // A leftover of an interrupted write may have been made with another mode; the new one must not inherit it.
    match fs::remove_file(beside) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed("replace", beside)(e)),
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(beside)
        .map_err(failed("create", beside))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed("write", beside))?;
    fs::rename(beside, path).map_err(failed("rename into", path))?;
    if let Some(folder) = path.parent() {
        File::open(folder).and_then(|f| f.sync_all()).map_err(failed("flush", folder))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn writes_whole_and_closed() {
        let dir = std::env::temp_dir().join(format!("kedge-files-{}", std::process::id()));
        make_folder(&dir).unwrap();
        let path = dir.join("key");
        assert_eq!(read(&path).unwrap(), None);
        fs::write(dir.join("key.new"), "half").unwrap();
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!dir.join("key.new").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
