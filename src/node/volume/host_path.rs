//! hostPath volumes: the path is used as it is, after the check or creation that its type asks for.
//! Source: `pkg/volume/hostpath/host_path.go`; containerd `internal/cri/opts/spec_linux_opts.go` (what is not there is made).

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

/// Errors: as upstream words them.
pub fn prepare(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let metadata = fs::metadata(path);
    let io = |e: std::io::Error| format!("hostPath {shown}: {e}");
    let what = |expected: &str| Err(format!("hostPath type check failed: {shown} is not {expected}"));
    match (kind, &metadata) {
        ("", Ok(_)) => Ok(()),
        // Without a type a folder is made too: upstream by the container runtime.
        ("" | "DirectoryOrCreate", Err(_)) => {
            fs::create_dir_all(path).map_err(io)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(io)
        }
        ("FileOrCreate", Err(_)) => {
            fs::write(path, b"").map_err(io)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(io)
        }
        ("Directory" | "DirectoryOrCreate", Ok(m)) if m.is_dir() => Ok(()),
        ("File" | "FileOrCreate", Ok(m)) if m.is_file() => Ok(()),
        ("Socket", Ok(m)) if m.file_type().is_socket() => Ok(()),
        ("CharDevice", Ok(m)) if m.file_type().is_char_device() => Ok(()),
        ("BlockDevice", Ok(m)) if m.file_type().is_block_device() => Ok(()),
        ("Directory" | "DirectoryOrCreate", _) => what("a directory"),
        ("File" | "FileOrCreate", _) => what("a file"),
        ("Socket", _) => what("a socket file"),
        ("CharDevice", _) => what("a character device"),
        ("BlockDevice", _) => what("a block device"),
        (other, _) => Err(format!("{other} is an invalid volume type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, file) = (tmp.path().join("d/e"), tmp.path().join("f"));
        assert!(prepare(&tmp.path().join("any/thing"), "").is_ok() && tmp.path().join("any/thing").is_dir());
        assert_eq!(
            prepare(&dir, "Directory").unwrap_err(),
            format!("hostPath type check failed: {} is not a directory", dir.display())
        );
        assert!(prepare(&dir, "DirectoryOrCreate").is_ok());
        assert!(prepare(&dir, "Directory").is_ok());
        assert!(prepare(&file, "File").is_err());
        assert!(prepare(&file, "FileOrCreate").is_ok());
        assert!(prepare(&file, "File").is_ok() && prepare(&file, "").is_ok());
        assert!(prepare(&file, "DirectoryOrCreate").is_err());
        assert!(prepare(Path::new("/dev/null"), "CharDevice").is_ok());
        assert!(prepare(Path::new("/dev/null"), "BlockDevice").is_err());
    }
}
