//! The audit log's file: a line of JSON for each event, and a new file when one has grown large enough.
//!
//! Requests put lines into a bounded queue and go on; a thread of its own writes them. What never lives here: what is in a
//! line.
//!
//! Source: kube-apiserver `--audit-log-*`, lumberjack v2.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use jiff::SignedDuration;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use crate::Clock;

/// Lines that may wait. Source: the buffer of upstream's batching backends.
const LINES_MAX: usize = 10_000;
/// Bytes that may wait: a slow disk must not fill the memory.
const BYTES_MAX: usize = 32 << 20;
/// Nobody else reads who did what.
const FILE_MODE: u32 = 0o600;
const MIB: u64 = 1 << 20;

/// Where the lines go and how much of them is kept. Zero: no limit.
#[derive(Debug, Clone)]
pub struct Place {
    /// `-` is the standard output.
    pub path: PathBuf,
    pub age_days_max: u32,
    pub backups_max: usize,
    pub size_mib_max: u64,
}

/// The way into the log.
pub struct Log {
    lines: Mutex<Option<SyncSender<Bytes>>>,
    waiting: Arc<AtomicUsize>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Counted in `/metrics`.
    pub events: Counter,
    pub lost: Counter,
}

impl Log {
    /// Opens the file and starts the thread that writes it.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn open(place: Place, clock: Clock) -> std::io::Result<Arc<Self>> {
        let output = Output::open(place, clock)?;
        let (sender, receiver) = sync_channel(LINES_MAX);
        let waiting = Arc::new(AtomicUsize::new(0));
        let counted = waiting.clone();
        let writer =
            std::thread::Builder::new().name("audit log".into()).spawn(move || write(output, &receiver, &counted))?;
        Ok(Arc::new(Self {
            lines: Mutex::new(Some(sender)),
            waiting,
            writer: Mutex::new(Some(writer)),
            events: Counter::default(),
            lost: Counter::default(),
        }))
    }

    /// Puts a line into the queue. One that finds no room is lost, which is counted and said once.
    pub fn put(&self, line: Bytes) {
        static SAID: OnceLock<()> = OnceLock::new();
        let length = line.len();
        let room = self.waiting.fetch_add(length, Ordering::Relaxed) + length <= BYTES_MAX;
        let sent = room && self.lines.lock().as_ref().is_some_and(|lines| lines.try_send(line).is_ok());
        if sent {
            self.events.inc();
            return;
        }
        self.waiting.fetch_sub(length, Ordering::Relaxed);
        self.lost.inc();
        SAID.get_or_init(|| tracing::warn!("the audit log does not keep up: events are lost"));
    }

    /// Writes what is waiting and ends. Later lines are lost. Blocks.
    pub fn close(&self) {
        self.lines.lock().take();
        if let Some(writer) = self.writer.lock().take() {
            // A panic of the writer has been logged where it happened.
            let _ = writer.join();
        }
    }
}

fn write(mut output: Output, lines: &Receiver<Bytes>, waiting: &AtomicUsize) {
    while let Ok(line) = lines.recv() {
        waiting.fetch_sub(line.len(), Ordering::Relaxed);
        if let Err(error) = output.line(&line) {
            tracing::error!(%error, path = %output.place.path.display(), "the audit log cannot be written");
        }
    }
}

struct Output {
    place: Place,
    clock: Clock,
    /// `None`: the standard output.
    file: Option<File>,
    size: u64,
}

impl Output {
    fn open(place: Place, clock: Clock) -> std::io::Result<Self> {
        let (file, size) = match place.path.as_os_str().as_encoded_bytes() {
            b"-" => (None, 0),
            _ => {
                if let Some(folder) = place.path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                let file = append(&place.path)?;
                let size = file.metadata()?.len();
                (Some(file), size)
            }
        };
        Ok(Self { place, clock, file, size })
    }

    fn line(&mut self, line: &[u8]) -> std::io::Result<()> {
        let mut whole = Vec::with_capacity(line.len() + 1);
        whole.extend_from_slice(line);
        whole.push(b'\n');
        let Some(file) = &mut self.file else { return std::io::stdout().write_all(&whole) };
        let limit = self.place.size_mib_max * MIB;
        if limit > 0 && self.size > 0 && self.size + whole.len() as u64 > limit {
            let stamp = (self.clock)().strftime("%Y-%m-%dT%H-%M-%S.%3f").to_string();
            std::fs::rename(&self.place.path, backup(&self.place.path, &stamp))?;
            *file = append(&self.place.path)?;
            self.size = 0;
            self.forget();
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(&whole)?;
        self.size += whole.len() as u64;
        Ok(())
    }

    /// Removes the files that are too many or too old.
    fn forget(&self) {
        let mut old = backups(&self.place.path);
        old.sort_by(|a, b| b.0.cmp(&a.0));
        let begun = (self.clock)() - SignedDuration::from_hours(24 * i64::from(self.place.age_days_max));
        let begun = begun.strftime("%Y-%m-%dT%H-%M-%S").to_string();
        for (i, (stamp, path)) in old.iter().enumerate() {
            let too_many = self.place.backups_max > 0 && i >= self.place.backups_max;
            let too_old = self.place.age_days_max > 0 && *stamp < begun;
            if (too_many || too_old)
                && let Err(error) = std::fs::remove_file(path)
            {
                tracing::warn!(%error, path = %path.display(), "an old audit log cannot be removed");
            }
        }
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)
}

/// `audit.log` of a time is `audit-<time>.log`.
fn backup(path: &Path, stamp: &str) -> PathBuf {
    let (stem, extension) = parts(path);
    path.with_file_name(format!("{stem}-{stamp}{extension}"))
}

fn parts(path: &Path) -> (String, String) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    (stem, path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default())
}

/// The earlier files with their times.
fn backups(path: &Path) -> Vec<(String, PathBuf)> {
    let (stem, extension) = parts(path);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let stamped = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let stamp = name.strip_prefix(&stem)?.strip_prefix('-')?.strip_suffix(&extension)?;
        let time = stamp.len() == 23 && stamp.as_bytes()[10] == b'T' && stamp.starts_with(|c: char| c.is_ascii_digit());
        time.then(|| (stamp.to_owned(), entry.path()))
    });
    stamped.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use super::*;

    #[test]
    fn full_files_are_put_aside_and_the_oldest_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/audit.log");
        let now = Arc::new(AtomicI64::new(1_800_000_000));
        let clock: Clock = {
            let now = now.clone();
            Arc::new(move || jiff::Timestamp::from_second(now.load(Ordering::Relaxed)).unwrap())
        };
        let place = Place { path: path.clone(), age_days_max: 30, backups_max: 2, size_mib_max: 1 };
        let mut output = Output::open(place.clone(), clock.clone()).unwrap();
        let line = vec![b'x'; 600_000];
        for _ in 0..5 {
            output.line(&line).unwrap();
            now.fetch_add(86_400, Ordering::Relaxed);
        }
        assert_eq!(backups(&path).len(), 2);
        assert_eq!(std::fs::read(&path).unwrap().len(), line.len() + 1);
        // Much later the rest is too old, whatever the number.
        now.fetch_add(86_400 * 40, Ordering::Relaxed);
        output.line(&line).unwrap();
        assert_eq!(backups(&path).len(), 1);
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, FILE_MODE);
    }

    #[test]
    fn what_was_put_is_written_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let place = Place { path: path.clone(), age_days_max: 0, backups_max: 0, size_mib_max: 0 };
        let log = Log::open(place, Arc::new(|| jiff::Timestamp::UNIX_EPOCH)).unwrap();
        for i in 0..100 {
            log.put(Bytes::from(i.to_string()));
        }
        log.put(Bytes::from(vec![b'x'; BYTES_MAX + 1]));
        log.close();
        log.put(Bytes::from("late"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 100);
        assert_eq!((log.events.get(), log.lost.get()), (100, 2));
    }
}
