//! `/logs/`: the host's own logs, read only.
//!
//! Source: `pkg/kubelet/server/server.go` (getLogs), Go's `http.FileServer`, whose pages these are. Unlike there, no link leads out
//! of the folder: who may read logs may read no more.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use futures_util::StreamExt as _;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::{Body, text};

/// What of a file is looked at to tell text from other bytes, as Go does.
const SNIFFED_BYTES: usize = 512;
/// Names of one folder that are listed; a page beyond that helps nobody.
const NAMES_MAX: usize = 10_000;

enum Found {
    Folder(Vec<String>),
    File { file: File, bytes: u64, is_text: bool },
}

/// Answers for `path` below `root`. A folder is listed as HTML, under a path that ends with a slash; a file comes as long as it is now.
pub async fn answer(root: &Path, path: &str, ends_with_slash: bool) -> Response<Body> {
    let (root, sub) = (root.to_owned(), path.to_owned());
    let found = tokio::task::spawn_blocking(move || find(&root, &sub)).await;
    match found {
        Ok(Ok(Found::Folder(_))) if !ends_with_slash => moved(path, "/"),
        Ok(Ok(Found::File { .. })) if ends_with_slash && !path.is_empty() => moved(path, ""),
        Ok(Ok(Found::Folder(names))) => {
            let mut page = text(StatusCode::OK, listing(&names));
            page.headers_mut().insert("content-type", HeaderValue::from_static("text/html; charset=utf-8"));
            page
        }
        Ok(Ok(Found::File { file, bytes, is_text })) => {
            let frames = ReaderStream::new(tokio::fs::File::from_std(file).take(bytes)).map(|b| b.map(Frame::data));
            let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
            let kind = if is_text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
            response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
            response
        }
        Ok(Err(Errno::EACCES | Errno::EPERM)) => text(StatusCode::FORBIDDEN, "403 Forbidden\n"),
        Ok(Err(_)) => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n"),
    }
}

/// To the same thing by its proper name, relative to what was asked.
fn moved(path: &str, slash: &str) -> Response<Body> {
    let name = path.rsplit('/').next().filter(|n| !n.is_empty()).unwrap_or("logs");
    let mut response = text(StatusCode::MOVED_PERMANENTLY, "");
    let to = if slash.is_empty() { format!("../{}", escaped(name)) } else { format!("{}/", escaped(name)) };
    if let Ok(to) = HeaderValue::from_str(&to) {
        response.headers_mut().insert("location", to);
    }
    response
}

fn find(root: &Path, sub: &str) -> Result<Found, Errno> {
    let root = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    // A pipe or a device in there must not keep us waiting.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd = openat2(&root, if sub.is_empty() { "." } else { sub }, how)?;
    let file = File::from(fd);
    let facts = file.metadata().map_err(|_| Errno::ENOENT)?;
    if facts.is_dir() {
        return Ok(Found::Folder(names(&file)?));
    }
    if !facts.is_file() {
        return Err(Errno::ENOENT);
    }
    let mut head = [0; SNIFFED_BYTES];
    let mut again = file.try_clone().map_err(|_| Errno::EIO)?;
    let read = again.read(&mut head).map_err(|_| Errno::EIO)?;
    nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekSet)?;
    Ok(Found::File { file, bytes: facts.len(), is_text: is_text(&head[..read]) })
}

fn names(folder: &File) -> Result<Vec<String>, Errno> {
    // The folder itself, whatever its name leads to by now.
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd())).map_err(|_| Errno::ENOENT)?;
    let name = |entry: std::fs::DirEntry| {
        let slash = if entry.file_type().is_ok_and(|t| t.is_dir()) { "/" } else { "" };
        entry.file_name().to_string_lossy().into_owned() + slash
    };
    let mut names: Vec<String> = entries.take(NAMES_MAX).flatten().map(name).collect();
    names.sort();
    Ok(names)
}

/// No byte that text does not have. Source: mimesniff.spec.whatwg.org, "binary data byte".
fn is_text(head: &[u8]) -> bool {
    !head.iter().any(|b| matches!(b, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f))
}

fn listing(names: &[String]) -> String {
    let mut page = String::from("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for name in names {
        let shown = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
        page.push_str(&format!("<a href=\"{}\">{shown}</a>\n", escaped(name)));
    }
    page + "</pre>\n"
}

/// As part of a relative reference (RFC 3986): all but unreserved characters and the slash by their bytes.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    async fn ask(root: &Path, path: &str, slash: bool) -> (u16, String, String) {
        let response = answer(root, path, slash).await;
        let header = |name: &str| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let (code, told) = (response.status().as_u16(), header("location").or(header("content-type")).unwrap());
        let body: Bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, told, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn logs_are_listed_and_read_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("log"), folder.path().join("secret"));
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::fs::write(&outside, "secret").unwrap();
        std::fs::write(root.join("sys log"), "a line\n").unwrap();
        std::fs::write(root.join("bytes"), [0, 1, 2]).unwrap();
        std::os::unix::fs::symlink("sys log", root.join("inside")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("out")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), Mode::S_IRWXU).unwrap();

        let (code, kind, page) = ask(&root, "", true).await;
        assert_eq!((code, kind.as_str()), (200, "text/html; charset=utf-8"));
        assert!(page.contains("<a href=\"pods/\">pods/</a>\n<a href=\"sys%20log\">sys log</a>"), "{page}");
        let text = "text/plain; charset=utf-8";
        for (path, slash, expected) in [
            ("sys log", false, (200, text, "a line\n")),
            ("inside", false, (200, text, "a line\n")),
            ("bytes", false, (200, "application/octet-stream", "\0\u{1}\u{2}")),
            ("pods", false, (301, "pods/", "")),
            ("", false, (301, "logs/", "")),
            ("sys log", true, (301, "../sys%20log", "")),
            ("out", false, (404, text, "404 page not found\n")),
            ("../secret", false, (404, text, "404 page not found\n")),
            ("pipe", false, (404, text, "404 page not found\n")),
            ("none", false, (404, text, "404 page not found\n")),
        ] {
            let (code, told, body) = ask(&root, path, slash).await;
            assert_eq!((code, told.as_str(), body.as_str()), expected, "{path:?}");
        }
    }
}
