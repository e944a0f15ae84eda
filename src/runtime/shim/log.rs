//! Container logs in the CRI format: `<RFC 3339 with nanoseconds> <stdout|stderr> <P|F> <text>`, one line each, long lines in
//! parts. Rotated by size when a record would not fit. Synchronous, no buffering: what was written is in the file.
//!
//! Source: kubernetes/design-proposals-archive node/kubelet-cri-logging.md; pkg/kubelet/logs rotation names.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::spec::LogPolicy;

/// Longest text of one record; longer lines are cut and tagged partial. The same as containerd and CRI-O, which readers expect.
pub const PART_BYTES_MAX: usize = 16 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Cuts a stream of bytes into records. Pure; keeps at most one part.
pub struct Splitter {
    stream: Stream,
    pending: Vec<u8>,
}

impl Splitter {
    pub fn new(stream: Stream) -> Splitter {
        Splitter { stream, pending: Vec::new() }
    }

    /// Appends the records that `input` completes to `out`, each stamped with `now`.
    pub fn push(&mut self, input: &[u8], now: &str, out: &mut Vec<u8>) {
        let mut rest = input;
        while !rest.is_empty() {
            let room = PART_BYTES_MAX - self.pending.len();
            let window = &rest[..rest.len().min(room + 1)];
            match window.iter().position(|b| *b == b'\n') {
                Some(end) => {
                    self.record(&rest[..end], b'F', now, out);
                    rest = &rest[end + 1..];
                }
                None if rest.len() > room => {
                    self.record(&rest[..room], b'P', now, out);
                    rest = &rest[room..];
                }
                None => {
                    self.pending.extend_from_slice(rest);
                    return;
                }
            }
        }
    }

    /// End of the stream: what is left has no newline of its own.
    pub fn finish(&mut self, now: &str, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.record(&[], b'P', now, out);
        }
    }

    fn record(&mut self, text: &[u8], tag: u8, now: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(now.as_bytes());
        out.extend_from_slice(match self.stream {
            Stream::Stdout => b" stdout ",
            Stream::Stderr => b" stderr ",
        });
        out.extend_from_slice(&[tag, b' ']);
        out.append(&mut self.pending);
        out.extend_from_slice(text);
        out.push(b'\n');
    }
}

/// The file, and when to turn it over.
pub struct Writer {
    policy: LogPolicy,
    file: File,
    bytes: u64,
}

impl Writer {
    /// Opens for append, making parent directories. Errors: whatever the filesystem says.
    pub fn open(policy: LogPolicy) -> io::Result<Writer> {
        let (file, bytes) = open(&policy.path)?;
        Ok(Writer { policy, file, bytes })
    }

    /// Appends whole records, turning the file over first when they would not fit. `stamp` names the turned file:
    /// `YYYYMMDD-HHMMSS`. A full disk loses the records, not the container.
    pub fn write(&mut self, records: &[u8], stamp: &str) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + records.len() as u64 > self.policy.bytes_max {
            // Failing to rotate is no reason to lose output.
            let _ = self.rotate(stamp);
        }
        self.file.write_all(records)?;
        self.bytes += records.len() as u64;
        Ok(())
    }

    pub fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.bytes) = open(&self.policy.path)?;
        Ok(())
    }

    fn rotate(&mut self, stamp: &str) -> io::Result<()> {
        let path = &self.policy.path;
        let mut turned = with_suffix(path, stamp);
        // Twice in one second: keep the names in order.
        for n in 1..1000 {
            if !turned.exists() {
                break;
            }
            turned = with_suffix(path, &format!("{stamp}-{n:03}"));
        }
        fs::rename(path, turned)?;
        self.reopen()?;
        let mut old = rotated(&self.policy.path)?;
        let keep = self.policy.files_max.max(2) as usize - 1;
        old.truncate(old.len().saturating_sub(keep));
        for path in old {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = File::options().create(true).append(true).mode(0o640).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Turned files, oldest first: their names sort by time.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    Ok(found)
}

/// Date and time in UTC from seconds since the epoch: year, month, day, hour, minute, second. Own arithmetic because the
/// shim must not drag a calendar library into its pages.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
fn civil(seconds: i64) -> (i64, i64, i64, i64, i64, i64) {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day, rest / 3600, rest / 60 % 60, rest % 60)
}

/// RFC 3339 in UTC with all nine digits.
pub fn rfc3339(unix_ns: i64) -> String {
    let (y, mo, d, h, mi, s) = civil(unix_ns.div_euclid(1_000_000_000));
    let ns = unix_ns.rem_euclid(1_000_000_000);
    format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}.{ns:09}Z")
}

/// Suffix of a file that is turned over now.
pub fn rotation_stamp(unix_ns: i64) -> String {
    let (y, mo, d, h, mi, s) = civil(unix_ns.div_euclid(1_000_000_000));
    format!("{y:04}{mo:02}{d:02}-{h:02}{mi:02}{s:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(inputs: &[&[u8]]) -> String {
        let mut splitter = Splitter::new(Stream::Stdout);
        let mut out = Vec::new();
        for input in inputs {
            splitter.push(input, "T", &mut out);
        }
        splitter.finish("T", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_become_records() {
        let check = |inputs: &[&[u8]], expected: &str| assert_eq!(split(inputs), expected, "{inputs:?}");
        check(&[b"a\n"], "T stdout F a\n");
        check(&[b"a", b"b\nc\n"], "T stdout F ab\nT stdout F c\n");
        check(&[b"\n\n"], "T stdout F \nT stdout F \n");
        check(&[b"end"], "T stdout P end\n");
        check(&[], "");
        let exact = [b'x'; PART_BYTES_MAX];
        let full = "x".repeat(PART_BYTES_MAX);
        check(&[&exact, b"\n"], &format!("T stdout F {full}\n"));
        check(&[&exact, b"y\n"], &format!("T stdout P {full}\nT stdout F y\n"));
        check(&[&exact], &format!("T stdout P {full}\n"));
    }

    proptest! {
        /// However the bytes arrive, joining the records gives them back, and no record is too long.
        #[test]
        fn nothing_is_lost(lines in proptest::collection::vec("[a-z]{0,40000}", 0..5), cuts in proptest::collection::vec(0usize..60_000, 0..6)) {
            let input = lines.join("\n").into_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(input.len())).collect();
            cuts.sort_unstable();
            let mut parts = Vec::new();
            let mut from = 0;
            for cut in cuts { parts.push(&input[from..cut]); from = cut; }
            parts.push(&input[from..]);
            let mut joined = String::new();
            for record in split(&parts).lines() {
                let text = &record["T stdout F ".len()..];
                prop_assert!(text.len() <= PART_BYTES_MAX);
                joined.push_str(text);
                if record.starts_with("T stdout F") { joined.push('\n'); }
            }
            prop_assert_eq!(joined.into_bytes(), input);
        }
    }

    #[test]
    fn dates_are_civil() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_827_696_000_000_007), "2000-02-29T12:34:56.000000007Z");
        assert_eq!(rfc3339(4_107_542_399_999_999_999), "2100-02-28T23:59:59.999999999Z");
        assert_eq!(rotation_stamp(1_763_684_413_000_000_000), "20251121-002013");
    }

    #[test]
    fn files_turn_over_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/0.log");
        let mut writer = Writer::open(LogPolicy { path: path.clone(), bytes_max: 10, files_max: 3 }).unwrap();
        for (n, text) in
            ["aaaaaaaa\n", "bbbbbbbb\n", "cccccccc\n", "dddddddd\n", "too long for one file\n"].iter().enumerate()
        {
            writer.write(text.as_bytes(), &format!("2025-{n}")).unwrap();
        }
        let old = rotated(&path).unwrap();
        assert_eq!(old.len(), 2, "{old:?}");
        assert_eq!(fs::read_to_string(&old[0]).unwrap(), "cccccccc\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "too long for one file\n");
        fs::rename(&path, dir.path().join("moved")).unwrap();
        writer.reopen().unwrap();
        writer.write(b"new\n", "z").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
    }
}
