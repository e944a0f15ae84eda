//! The revision of a write as it stands in the bytes that are stored, so that they can be served as they are.
//!
//! Never looks at anything but the place it is told: what the bytes mean is the caller's business.

use crate::Revision;

/// Decimal digits of the largest `u64`.
pub(crate) const DIGITS_MAX: usize = 20;

/// The decimal digits of a revision, without an allocation: they are made for every write.
pub(crate) struct Digits {
    buffer: [u8; DIGITS_MAX],
    start: usize,
}

impl Digits {
    pub fn of(revision: Revision) -> Self {
        let (mut buffer, mut start, mut rest) = ([0; DIGITS_MAX], DIGITS_MAX, revision.0);
        loop {
            start -= 1;
            buffer[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return Self { buffer, start };
            }
        }
    }

    pub fn text(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

/// Whether the bytes carry exactly `revision` at `at`: a free check of every row that is loaded.
pub(crate) fn is_stamped(bytes: &[u8], at: Option<u32>, revision: Revision) -> bool {
    let Some(at) = at else { return true };
    bytes.get(at as usize..).is_some_and(|tail| tail.starts_with(Digits::of(revision).text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_decimal() {
        for n in [0, 1, 9, 10, 99, 100, 12_345, u64::MAX] {
            assert_eq!(Digits::of(Revision(n)).text(), n.to_string().as_bytes());
        }
    }

    #[test]
    fn a_stamp_is_where_it_is_said_to_be() {
        let rows: &[(&[u8], Option<u32>, u64, bool)] = &[
            (b"x9", Some(1), 9, true),
            (b"x9", Some(1), 8, false),
            (b"x9", Some(7), 9, false),
            (b"", Some(0), 0, false),
            (b"anything", None, 9, true),
        ];
        for (bytes, at, revision, expected) in rows {
            assert_eq!(is_stamped(bytes, *at, Revision(*revision)), *expected, "{bytes:?} {revision}");
        }
    }
}
