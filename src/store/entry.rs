//! One stored object in memory: everything that is known of it in one piece of memory, shared by all who hold it.
//!
//! A server holds as many of these as it has objects, so that their own size is what an object costs beside its value: a head,
//! the key, the value, the facts, one after the other, and one reference count. Nothing is allocated for a reader but what he
//! takes along ([`Entry::bytes`]).

use std::fmt;
use std::iter::repeat_n;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::Revision;
use crate::stamp::{self, Digits};

/// One stored object, immutable. A clone is one more reference to it.
#[derive(Clone)]
pub struct Entry(Arc<[u8]>);

/// Where the parts of the head stand, each little-endian; the key follows it.
const CREATED: Range<usize> = 0..8;
const MODIFIED: Range<usize> = 8..16;
const VALUE_LEN: Range<usize> = 16..20;
const KEY_LEN: Range<usize> = 20..24;
const STAMP_AT: Range<usize> = 24..28;
const HEAD: usize = 28;

/// `STAMP_AT` when no revision is stamped.
const NO_STAMP: u32 = u32::MAX;

/// The longest value: what its length is kept in, less the digits of a revision. SQLite's own limit is far below it.
pub(crate) const VALUE_BYTES_MAX: usize = u32::MAX as usize - stamp::DIGITS_MAX;

/// What an entry is made of.
struct Parts<'a> {
    key: &'a str,
    created: Revision,
    modified: Revision,
    stamp_at: Option<u32>,
    /// The value in pieces: before the stamp, the stamp, after it.
    value: [&'a [u8]; 3],
    facts: &'a [u8],
}

impl Parts<'_> {
    fn entry(&self) -> Entry {
        let value_len: usize = self.value.iter().map(|piece| piece.len()).sum();
        let len = HEAD + self.key.len() + value_len + self.facts.len();
        // Of exactly that length, zeroed; the only reference there is.
        let mut memory: Arc<[u8]> = repeat_n(0, len).collect();
        let out = Arc::get_mut(&mut memory).expect("nobody else has it yet");
        let (head, mut rest) = out.split_at_mut(HEAD);
        head[CREATED].copy_from_slice(&self.created.0.to_le_bytes());
        head[MODIFIED].copy_from_slice(&self.modified.0.to_le_bytes());
        head[VALUE_LEN].copy_from_slice(&narrow(value_len).to_le_bytes());
        head[KEY_LEN].copy_from_slice(&narrow(self.key.len()).to_le_bytes());
        head[STAMP_AT].copy_from_slice(&self.stamp_at.unwrap_or(NO_STAMP).to_le_bytes());
        let [before, stamp, after] = self.value;
        for piece in [self.key.as_bytes(), before, stamp, after, self.facts] {
            let (place, others) = rest.split_at_mut(piece.len());
            place.copy_from_slice(piece);
            rest = others;
        }
        Entry(memory)
    }
}

/// Keys and values are shorter than 4 GiB: the store refuses others before it comes to this.
fn narrow(len: usize) -> u32 {
    u32::try_from(len).expect("a key or value of less than 4 GiB")
}

impl Entry {
    /// An entry as it is. `stamp_at`: where in `value` the decimal digits of `modified` stand.
    ///
    /// # Panics
    /// Key or value are longer than 4 GiB.
    pub fn new(
        key: &str,
        value: &[u8],
        created: Revision,
        modified: Revision,
        stamp_at: Option<u32>,
        facts: &[u8],
    ) -> Self {
        Parts { key, created, modified, stamp_at, value: [value, &[], &[]], facts }.entry()
    }

    /// The entry that a write makes: the digits of `modified` are put in at `stamp_at`.
    pub(crate) fn written(
        key: &str,
        value: &[u8],
        created: Revision,
        modified: Revision,
        stamp_at: Option<u32>,
        facts: &[u8],
    ) -> Self {
        let Some(at) = stamp_at else { return Self::new(key, value, created, modified, None, facts) };
        let digits = Digits::of(modified);
        let (before, after) = value.split_at(at as usize);
        Parts { key, created, modified, stamp_at, value: [before, digits.text(), after], facts }.entry()
    }

    /// The same with another value, in which no revision is stamped.
    pub fn with_value(&self, value: &[u8]) -> Self {
        Self::new(self.key(), value, self.created(), self.modified(), None, self.facts())
    }

    /// The same at another revision, which is stamped into the value.
    pub(crate) fn at(&self, revision: Revision) -> Self {
        let digits = Digits::of(revision);
        let value = self.restamped(&digits);
        let (key, facts) = (self.key(), self.facts());
        Parts { key, created: self.created(), modified: revision, stamp_at: self.stamp_at(), value, facts }.entry()
    }

    /// The value with another revision stamped in.
    pub fn value_at(&self, revision: Revision) -> Vec<u8> {
        self.restamped(&Digits::of(revision)).concat()
    }

    /// The value in pieces, with other digits.
    fn restamped<'a>(&'a self, digits: &'a Digits) -> [&'a [u8]; 3] {
        let value = self.value();
        match self.stamp_at() {
            Some(at) => {
                let (before, after) = value.split_at(at as usize);
                [before, digits.text(), &after[Digits::of(self.modified()).text().len()..]]
            }
            None => [value, &[], &[]],
        }
    }

    fn number<const N: usize>(&self, place: Range<usize>) -> [u8; N] {
        self.0[place].try_into().expect("the head has this part")
    }

    fn key_end(&self) -> usize {
        HEAD + u32::from_le_bytes(self.number(KEY_LEN)) as usize
    }

    fn value_end(&self) -> usize {
        self.key_end() + u32::from_le_bytes(self.number(VALUE_LEN)) as usize
    }

    pub fn key(&self) -> &str {
        std::str::from_utf8(self.key_bytes()).expect("it was made of text")
    }

    /// The key as it is compared: the order of its bytes is that of its text.
    pub(crate) fn key_bytes(&self) -> &[u8] {
        &self.0[HEAD..self.key_end()]
    }

    /// The bytes exactly as they are served, with the revision stamped in.
    pub fn value(&self) -> &[u8] {
        &self.0[self.key_end()..self.value_end()]
    }

    /// The value to be taken along: shared, not copied.
    pub fn bytes(&self) -> Bytes {
        Bytes::from_owner(Value(self.clone()))
    }

    /// What its writer, or [`FactsOf`](crate::FactsOf), noted of the value.
    pub fn facts(&self) -> &[u8] {
        &self.0[self.value_end()..]
    }

    /// The revision that created the key (a key that was deleted and created again has a new one).
    pub fn created(&self) -> Revision {
        Revision(u64::from_le_bytes(self.number(CREATED)))
    }

    pub fn modified(&self) -> Revision {
        Revision(u64::from_le_bytes(self.number(MODIFIED)))
    }

    /// Where in the value the decimal digits of `modified` stand; `None` when no revision is stamped.
    pub fn stamp_at(&self) -> Option<u32> {
        Some(u32::from_le_bytes(self.number(STAMP_AT))).filter(|at| *at != NO_STAMP)
    }

    /// Whether both are the very same piece of memory.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The value alone, which keeps its entry.
struct Value(Entry);

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self.0.value()
    }
}

impl fmt::Debug for Entry {
    /// Without the value: it may be a secret, and entries end up in logs and panics.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key())
            .field("created", &self.created().0)
            .field("modified", &self.modified().0)
            .field("value_len", &self.value().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_what_it_was_made_of() {
        type Row = (&'static str, &'static str, Option<u32>, u64, &'static str, &'static str);
        let rows: &[Row] = &[
            ("a/b", r#"{"v":""}"#, Some(6), 7, r#"{"v":"7"}"#, r#"{"v":"1007"}"#),
            ("", "", Some(0), 12, "12", "1012"),
            ("k", "x", Some(1), 9, "x9", "x1009"),
            ("k", "left alone", None, 9, "left alone", "left alone"),
        ];
        for (key, bytes, stamp_at, revision, stamped, later) in rows {
            let made = Entry::written(key, bytes.as_bytes(), Revision(3), Revision(*revision), *stamp_at, b"facts");
            let parts = |e: &Entry| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                (e.key().to_owned(), text(e.value()), e.created().0, e.modified().0, e.stamp_at(), text(e.facts()))
            };
            let expected = |value: &str, modified: u64, stamp_at: Option<u32>| {
                (key.to_string(), value.to_owned(), 3, modified, stamp_at, "facts".to_owned())
            };
            assert_eq!(parts(&made), expected(stamped, *revision, *stamp_at));
            assert_eq!(parts(&made.at(Revision(revision + 1_000))), expected(later, revision + 1_000, *stamp_at));
            assert_eq!(made.value_at(Revision(revision + 1_000)), later.as_bytes());
            assert_eq!(parts(&made.with_value(b"another")), expected("another", *revision, None));
            assert_eq!(made.bytes(), stamped.as_bytes());
            assert!(made.is(&made.clone()) && !made.is(&made.at(made.modified())));
        }
    }

    #[test]
    fn bytes_outlive_their_entry_and_are_not_copied() {
        let entry = Entry::new("k", b"value", Revision(1), Revision(1), None, &[]);
        let place = entry.value().as_ptr();
        let bytes = entry.bytes();
        drop(entry);
        assert_eq!((&bytes[..], bytes.as_ptr()), (&b"value"[..], place));
    }
}
