//! Reads container logs in the CRI format: tail, since, limits, previous instance, and following through rotations.
//!
//! Following sleeps in inotify until the file changes or the container ends. Source: `pkg/kubelet/kuberuntime/logs/logs.go`,
//! CRI log format.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Read at once; also what tail steps back by.
const BLOCK: usize = 32 * 1024;
/// A line that is longer is passed on in pieces. The runtime splits at 16 KiB.
const LINE_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub tail_lines: Option<usize>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
    pub timestamps: bool,
    pub follow: bool,
    /// `Stdout` or `Stderr` only.
    pub stream: Option<String>,
}

/// One entry of a log file.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub time: &'a str,
    pub stream: &'a str,
    /// The line goes on in the next entry.
    pub partial: bool,
    pub text: &'a [u8],
}

/// `<time> <stream> <tags> <text>`, without the line end. `None`: not an entry.
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let text = parts.next().unwrap_or_default();
    if !time.starts_with(|c: char| c.is_ascii_digit()) || !matches!(stream, "stdout" | "stderr") {
        return None;
    }
    Some(Entry { time, stream, partial: tags.split(|b| *b == b':').next() == Some(b"P"), text })
}

/// Turns entries into what a reader gets. Keeps count of the limit.
#[derive(Debug)]
pub struct Filter {
    since: Option<Timestamp>,
    timestamps: bool,
    stream: Option<String>,
    left: Option<u64>,
    line_begins: bool,
}

impl Filter {
    pub fn new(options: &Options) -> Filter {
        Filter {
            since: options.since,
            timestamps: options.timestamps,
            stream: options.stream.as_ref().map(|s| s.to_ascii_lowercase()).filter(|s| s != "all"),
            left: options.limit_bytes,
            line_begins: true,
        }
    }

    /// Adds a line's output to `out`; false when the limit is reached.
    pub fn take(&mut self, line: &[u8], out: &mut BytesMut) -> bool {
        let Some(entry) = parse(line) else { return true };
        if self.stream.as_deref().is_some_and(|s| s != entry.stream) {
            return true;
        }
        if let Some(since) = self.since
            && entry.time.parse::<Timestamp>().is_ok_and(|t| t < since)
        {
            return true;
        }
        let begin = out.len();
        if self.timestamps && self.line_begins {
            match entry.time.parse::<Timestamp>() {
                Ok(t) => out.extend_from_slice(types::time::rfc3339_nanos(t).as_bytes()),
                Err(_) => out.extend_from_slice(entry.time.as_bytes()),
            }
            out.extend_from_slice(b" ");
        }
        out.extend_from_slice(entry.text);
        if !entry.partial {
            out.extend_from_slice(b"\n");
        }
        self.line_begins = !entry.partial;
        if let Some(left) = &mut self.left {
            let added = (out.len() - begin) as u64;
            if added >= *left {
                out.truncate(begin + *left as usize);
                *left = 0;
                return false;
            }
            *left -= added;
        }
        true
    }
}

/// Where the last `lines` lines of a file begin. Reads backwards, no more than needed.
pub fn tail_start(file: &mut File, lines: usize) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let (mut at, mut seen) = (end, 0);
    let mut buffer = vec![0u8; BLOCK];
    while at > 0 {
        let size = (at as usize).min(BLOCK);
        at -= size as u64;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut buffer[..size])?;
        for (i, _) in buffer[..size].iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let position = at + i as u64;
            // The last byte ends the last line; it does not begin another.
            if position + 1 == end {
                continue;
            }
            seen += 1;
            if seen == lines {
                return Ok(position + 1);
            }
        }
    }
    Ok(0)
}

/// The text of the last lines of a log, for termination messages.
pub fn last_lines(path: &Path, lines: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let start = tail_start(&mut file, lines)?;
    file.seek(SeekFrom::Start(start))?;
    let mut raw = Vec::new();
    // A bound for lines of any length: 80 lines of 16 KiB.
    file.take(2 << 20).read_to_end(&mut raw)?;
    let mut filter = Filter::new(&Options::default());
    let mut out = BytesMut::new();
    for line in raw.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        filter.take(line, &mut out);
    }
    Ok(out.to_vec())
}

/// An open log: complete lines out, the rest kept.
struct Source {
    file: File,
    pending: Vec<u8>,
}

impl Source {
    /// Reads up to a block and passes complete lines on. `Ok(None)`: the limit is reached; `Ok(Some(0))`: end of file.
    fn read(&mut self, filter: &mut Filter, out: &mut BytesMut) -> io::Result<Option<usize>> {
        let mut buffer = vec![0u8; BLOCK];
        let n = self.file.read(&mut buffer)?;
        self.pending.extend_from_slice(&buffer[..n]);
        let mut begin = 0;
        while let Some(end) = self.pending[begin..].iter().position(|b| *b == b'\n') {
            let line = &self.pending[begin..begin + end];
            begin += end + 1;
            if !filter.take(line, out) {
                return Ok(None);
            }
        }
        self.pending.drain(..begin);
        if self.pending.len() > LINE_BYTES_MAX {
            self.pending.clear();
        }
        Ok(Some(n))
    }
}

/// Sends a log to `out`, to its end or, following, until `ended` completes (the container has exited) and everything is read.
/// Ends early when nobody takes it. Errors: the file cannot be read; none when it does not exist yet and is followed.
pub async fn send(
    path: PathBuf,
    options: Options,
    ended: impl Future<Output = ()> + Send,
    out: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let mut watch = if options.follow { Some(Watch::new(&path)?) } else { None };
    let mut filter = Filter::new(&options);
    let mut source = match File::open(&path) {
        Ok(mut file) => {
            let start = match options.tail_lines {
                Some(lines) => tail_start(&mut file, lines)?,
                None => 0,
            };
            file.seek(SeekFrom::Start(start))?;
            Some(Source { file, pending: Vec::new() })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && options.follow => None,
        Err(e) => return Err(e),
    };
    if options.limit_bytes == Some(0) {
        return Ok(());
    }
    tokio::pin!(ended);
    let mut over = false;
    loop {
        if let Some(source) = &mut source {
            loop {
                let mut chunk = BytesMut::new();
                let read = source.read(&mut filter, &mut chunk)?;
                if !chunk.is_empty() && out.send(chunk.freeze()).await.is_err() {
                    return Ok(());
                }
                match read {
                    None => return Ok(()),
                    Some(0) => break,
                    Some(_) => {}
                }
            }
        }
        // The file that has been read to its end may have been moved away since: go on in the new one.
        let replaced = match (&source, std::fs::metadata(&path)) {
            (Some(source), Ok(now)) => {
                use std::os::unix::fs::MetadataExt as _;
                let before = source.file.metadata()?;
                (before.dev(), before.ino()) != (now.dev(), now.ino())
            }
            (None, Ok(_)) => true,
            (_, Err(_)) => false,
        };
        if replaced && let Ok(file) = File::open(&path) {
            source = Some(Source { file, pending: Vec::new() });
            continue;
        }
        let Some(watch) = watch.as_mut().filter(|_| !over) else { return Ok(()) };
        tokio::select! {
            changed = watch.changed() => changed?,
            // One look more: what it wrote last may lie between the last read and its end.
            () = &mut ended, if !over => over = true,
            () = out.closed() => return Ok(()),
        }
    }
}

/// Tells of writes to a file and of files that take its place.
struct Watch {
    inotify: AsyncFd<OwnedFd>,
}

impl Watch {
    fn new(path: &Path) -> io::Result<Watch> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(folder)?;
        // The folder: that sees writes to the live file, renames, and the next file alike.
        inotify.add_watch(folder, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
        let fd = inotify.as_fd().try_clone_to_owned()?;
        debug_assert!(path.file_name().map(OsStr::len).unwrap_or(0) > 0);
        // JUSTIFICATION: tokio asks for a promise about the descriptor's lifetime that it cannot check for arbitrary types.
        // SAFETY: an `OwnedFd` owns its open descriptor until dropped and always reports the same number.
        let inotify = unsafe { AsyncFd::register(fd)? };
        Ok(Watch { inotify })
    }

    /// Waits for something to happen and forgets what it was.
    async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.inotify.readable().await?;
            let mut buffer = [0u8; 4096];
            match guard.try_io(|fd| nix::unistd::read(fd.get_ref(), &mut buffer).map_err(io::Error::from)) {
                Ok(result) => return result.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.1Z stdout F one\n\
        2026-01-01T00:00:01.000000002Z stderr P tw\n\
        2026-01-01T00:00:01.000000003Z stderr F o\n\
        garbage\n\
        2026-01-01T00:00:02Z stdout F \n\
        2026-01-01T00:00:03Z stdout F four words in it\n";

    async fn read(text: &str, options: Options) -> String {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("0.log");
        std::fs::write(&path, text).unwrap();
        let (sender, mut receiver) = mpsc::channel(64);
        send(path, options, std::future::ready(()), sender).await.unwrap();
        let mut out = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            out.extend_from_slice(&chunk);
        }
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn options() {
        let o = Options::default();
        for (options, expected) in [
            (o.clone(), "one\ntwo\n\nfour words in it\n"),
            (Options { tail_lines: Some(1), ..o.clone() }, "four words in it\n"),
            (Options { tail_lines: Some(0), ..o.clone() }, ""),
            (Options { tail_lines: Some(100), ..o.clone() }, "one\ntwo\n\nfour words in it\n"),
            (Options { limit_bytes: Some(5), ..o.clone() }, "one\nt"),
            (Options { limit_bytes: Some(0), ..o.clone() }, ""),
            (
                Options { since: Some("2026-01-01T00:00:01.000000003Z".parse().unwrap()), ..o.clone() },
                "o\n\nfour words in it\n",
            ),
            (Options { stream: Some("Stderr".into()), ..o.clone() }, "two\n"),
            (
                Options { timestamps: true, tail_lines: Some(5), ..o },
                "2026-01-01T00:00:01.000000002Z two\n2026-01-01T00:00:02.000000000Z \n2026-01-01T00:00:03.000000000Z four words in it\n",
            ),
        ] {
            assert_eq!(read(LOG, options.clone()).await, expected, "{options:?}");
        }
    }

    #[test]
    fn tails_across_blocks() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("l");
        let line = |i: usize| format!("2026-01-01T00:00:00Z stdout F {i:05}\n");
        std::fs::write(&path, (0..5000).map(line).collect::<String>()).unwrap();
        for n in [1, 2, 1000, 4999, 5000, 6000] {
            let text = String::from_utf8(last_lines(&path, n).unwrap()).unwrap();
            assert_eq!(text.lines().count(), n.min(5000));
            assert_eq!(text.lines().last(), Some("04999"));
        }
    }

    #[tokio::test]
    async fn following_goes_through_a_rotation_to_the_end() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("0.log");
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let (sender, mut receiver) = mpsc::channel(64);
        let options = Options { follow: true, ..Options::default() };
        let task = tokio::spawn(send(
            path.clone(),
            options,
            async {
                let _ = ended.await;
            },
            sender,
        ));
        let line = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
        let mut file = File::create(&path).unwrap();
        file.write_all(line("a").as_bytes()).unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "a\n");
        // a line that comes in two writes
        let two = line("b");
        file.write_all(&two.as_bytes()[..10]).unwrap();
        file.write_all(&two.as_bytes()[10..]).unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "b\n");
        std::fs::rename(&path, tmp.path().join("0.log.20260101-000000")).unwrap();
        std::fs::write(&path, line("c")).unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "c\n");
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(line("d").as_bytes()).unwrap();
        end.send(()).unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "d\n");
        assert_eq!(receiver.recv().await, None);
        task.await.unwrap().unwrap();
    }
}
