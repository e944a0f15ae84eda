//! Writes the revision of a write into the bytes that are stored, so that they can be served as they are.
//!
//! Never looks at anything but the place it is told: what the bytes mean is the caller's business.

use bytes::Bytes;

use crate::{Entry, Revision};

/// Decimal digits of the largest `u64`.
const DIGITS_MAX: usize = 20;

/// The decimal digits of `revision`, without an allocation: it happens for every write.
fn digits(revision: Revision, buffer: &mut [u8; DIGITS_MAX]) -> &[u8] {
    let mut rest = revision.0;
    let mut start = DIGITS_MAX;
    loop {
        start -= 1;
        buffer[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return &buffer[start..];
        }
    }
}

fn digits_len(revision: Revision) -> usize {
    revision.0.checked_ilog10().unwrap_or(0) as usize + 1
}

fn spliced(before: &[u8], revision: Revision, after: &[u8]) -> Bytes {
    let mut buffer = [0; DIGITS_MAX];
    let digits = digits(revision, &mut buffer);
    // Exact capacity: a vector that is full becomes `Bytes` without being copied again.
    let mut out = Vec::with_capacity(before.len() + digits.len() + after.len());
    out.extend_from_slice(before);
    out.extend_from_slice(digits);
    out.extend_from_slice(after);
    out.into()
}

/// `bytes` with the digits of `revision` inserted at `at`.
pub(crate) fn stamp(bytes: &Bytes, at: Option<usize>, revision: Revision) -> Bytes {
    match at {
        Some(at) => spliced(&bytes[..at], revision, &bytes[at..]),
        None => bytes.clone(),
    }
}

/// The value of `entry` with its digits replaced by those of `revision`.
pub(crate) fn restamp(entry: &Entry, revision: Revision) -> Bytes {
    match entry.stamp_at {
        Some(at) => {
            let at = at as usize;
            spliced(&entry.value[..at], revision, &entry.value[at + digits_len(entry.modified)..])
        }
        None => entry.value.clone(),
    }
}

/// Whether the bytes carry exactly `revision` at `at`: a free check of every row that is loaded.
pub(crate) fn is_stamped(bytes: &[u8], at: Option<u32>, revision: Revision) -> bool {
    let Some(at) = at else { return true };
    let mut buffer = [0; DIGITS_MAX];
    bytes.get(at as usize..).is_some_and(|tail| tail.starts_with(digits(revision, &mut buffer)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn digits_are_decimal() {
        for n in [0, 1, 9, 10, 99, 100, 12_345, u64::MAX] {
            let mut buffer = [0; DIGITS_MAX];
            assert_eq!(digits(Revision(n), &mut buffer), n.to_string().as_bytes());
            assert_eq!(digits_len(Revision(n)), n.to_string().len());
        }
    }

    #[test]
    fn stamps_and_restamps() {
        let rows: &[(&str, Option<usize>, u64, &str)] = &[
            (r#"{"v":""}"#, Some(6), 7, r#"{"v":"7"}"#),
            ("", Some(0), 12, "12"),
            ("x", Some(1), 9, "x9"),
            ("left alone", None, 9, "left alone"),
        ];
        for (bytes, at, revision, expected) in rows {
            let value = stamp(&Bytes::from_static(bytes.as_bytes()), *at, Revision(*revision));
            assert_eq!(value, expected.as_bytes());
            let stamp_at = at.map(|at| at as u32);
            assert!(is_stamped(&value, stamp_at, Revision(*revision)));
            let entry = Entry {
                key: "k".into(),
                value,
                created: Revision(1),
                modified: Revision(*revision),
                stamp_at,
                facts: Arc::new(()),
            };
            let later = Revision(revision + 1_000);
            assert_eq!(restamp(&entry, later), stamp(&Bytes::from_static(bytes.as_bytes()), *at, later));
        }
        assert!(!is_stamped(b"x9", Some(1), Revision(8)));
        assert!(!is_stamped(b"x9", Some(7), Revision(9)));
    }
}
