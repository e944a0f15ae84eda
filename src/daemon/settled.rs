//! Gives back what only the start needed, once, when the start is over.
//!
//! Two things: memory that the allocator keeps ready for a load like that of the start, and pages of the program itself. Half
//! of the code runs at the start alone (configuration, certificates, schemas, the first listing of everything), but each page
//! of it counts as the server's until the kernel is short of memory and looks for such pages. Those that run again are mapped
//! again from the page cache, a microsecond for each sixteen; the others stay there as long as there is room for them.
//!
//! ```text
//! READY ─ the start's own work ends ─► main thread: pages of the program, its heap
//!                                 └──► each worker, when it next has nothing to do: its heap
//! ```

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long after READY the start's own work counts as over: the first listings, the objects that controllers make in a new
/// cluster, and the threads that opened files, which end after ten idle seconds.
pub const AFTER: Duration = Duration::from_secs(15);

/// Gives back what the calling thread's heap keeps ready.
pub type Collect = fn();

static OVER: AtomicBool = AtomicBool::new(false);

thread_local! {
    static COLLECTED: Cell<bool> = const { Cell::new(false) };
}

/// To be called by each worker that has nothing to do: the first time after the start it gives back what its heap keeps.
pub fn idle(collect: Collect) {
    if OVER.load(Ordering::Relaxed) && !COLLECTED.replace(true) {
        collect();
    }
}

/// To be called once, when the start is over.
pub fn give_back(collect: Collect) {
    OVER.store(true, Ordering::Relaxed);
    idle(collect);
    match std::fs::read_to_string("/proc/self/smaps") {
        Ok(smaps) => {
            let bytes: usize = droppable(&smaps, give_back as fn(Collect) as usize).into_iter().map(drop_pages).sum();
            tracing::debug!(bytes, "pages of the program are given back");
        }
        // They are given back by the kernel then, when it needs them.
        Err(error) => tracing::debug!(%error, "the pages of the program are not known"),
    }
}

/// The mappings of the file that the code at `inside` is of which hold nothing but the file's own bytes: they are not
/// writable, and none of their pages was ever made the process's own.
///
/// Source: proc_pid_smaps(5).
fn droppable(smaps: &str, inside: usize) -> Vec<Range<usize>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        match (Mapping::of(line), mappings.last_mut()) {
            (Some(mapping), _) => mappings.push(mapping),
            (None, Some(last)) if line.starts_with("Anonymous:") => {
                last.untouched = line.split_ascii_whitespace().nth(1) == Some("0");
            }
            (None, _) => {}
        }
    }
    let own = mappings.iter().find(|mapping| mapping.range.contains(&inside)).map(|mapping| mapping.file);
    let mut found = Vec::new();
    for Mapping { range, flags, file, untouched } in mappings {
        if untouched && matches!(flags, "r--p" | "r-xp") && Some(file) == own {
            found.push(range);
        }
    }
    found
}

/// The head of a mapping's lines.
struct Mapping<'a> {
    range: Range<usize>,
    flags: &'a str,
    /// Device and inode.
    file: (&'a str, &'a str),
    /// It is known that no page of it is the process's own.
    untouched: bool,
}

impl<'a> Mapping<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let range = number(start)?..number(end)?;
        let (flags, _, device, inode) = (words.next()?, words.next()?, words.next()?, words.next()?);
        Some(Self { range, flags, file: (device, inode), untouched: false })
    }
}

/// Unmaps the pages of a mapping that [`droppable`] found; how many bytes that is.
fn drop_pages(range: Range<usize>) -> usize {
    let len = range.len();
    // JUSTIFICATION: nothing in the standard library says to the kernel that pages are not needed now.
    // SAFETY: the range is a private mapping of a file, in which nothing can be written and nothing was (the kernel counts no
    // page of it as anonymous), so that each page reads the same when it is mapped again. It stays mapped, as it is of the
    // running program.
    let result = unsafe { libc::madvise(range.start as *mut libc::c_void, len, libc::MADV_DONTNEED) };
    if result == 0 { len } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(head: &str, anonymous: u32) -> String {
        format!("{head}\nSize: 4 kB\nRss: 4 kB\nAnonymous:             {anonymous} kB\nVmFlags: rd ex mr mw me\n")
    }

    #[test]
    fn only_the_programs_own_untouched_pages_are_dropped() {
        let rows = [
            ("00200000-00852000 r--p 00000000 fe:00 77                    /usr/local/bin/kedge (deleted)", 0, true),
            ("00854000-01a66000 r-xp 00653000 fe:00 77                    /usr/local/bin/kedge (deleted)", 0, true),
            ("01a66000-01a6e000 rw-p 01864000 fe:00 77                    /usr/local/bin/kedge (deleted)", 0, false),
            // Relocated, then made read-only.
            ("01b00000-01b01000 r--p 01864000 fe:00 77                    /usr/local/bin/kedge (deleted)", 4, false),
            ("01b02000-01b03000 r--s 01864000 fe:00 77                    /usr/local/bin/kedge (deleted)", 0, false),
            ("02000000-02001000 r--p 00000000 fe:01 77                    /data/other", 0, false),
            ("02002000-02003000 r-xp 00000000 fe:00 78                    /lib/other.so", 0, false),
            ("02004000-02005000 rw-p 00000000 00:00 0                     [heap]", 0, false),
            ("7fff0000-7fff2000 r-xp 00000000 00:00 0                     [vdso]", 0, false),
        ];
        let smaps: String = rows.iter().map(|(head, anonymous, _)| lines(head, *anonymous)).collect();
        let expected: Vec<Range<usize>> =
            rows.iter().filter(|row| row.2).filter_map(|row| Mapping::of(row.0)).map(|mapping| mapping.range).collect();
        assert_eq!(droppable(&smaps, 0x0085_4000), expected);
        // Code of nobody: nothing is known to be the program's.
        assert_eq!(droppable(&smaps, 0x10), Vec::<Range<usize>>::new());
        // Without the line that says so, nothing is known to be untouched.
        assert_eq!(droppable(rows[0].0, 0x0020_0000), Vec::<Range<usize>>::new());
    }

    #[test]
    fn a_program_runs_on_without_its_pages() {
        let table = include_bytes!("settled.rs");
        let sum =
            |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        let before = sum(table);
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let found = droppable(&smaps, a_program_runs_on_without_its_pages as fn() as usize);
        assert!(!found.is_empty());
        for range in found {
            let len = range.len();
            assert_eq!(drop_pages(range), len);
        }
        assert_eq!(sum(table), before);
    }
}
