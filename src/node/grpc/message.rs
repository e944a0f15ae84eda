//! Protobuf's wire format, as far as small messages need it. Reading never fails on what it does not know; what is cut off ends
//! the message there.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

use std::collections::BTreeMap;

/// A message that is being written. Fields with the default value are left out, as proto3 has it.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    pub fn done(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push((n as u8) | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn bytes(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    #[must_use]
    pub fn text(mut self, field: u32, value: &str) -> Writer {
        if !value.is_empty() {
            self.bytes(field, value.as_bytes());
        }
        self
    }

    #[must_use]
    pub fn texts(mut self, field: u32, values: &[String]) -> Writer {
        values.iter().for_each(|value| self.bytes(field, value.as_bytes()));
        self
    }

    #[must_use]
    pub fn number(mut self, field: u32, value: u64) -> Writer {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
        self
    }

    #[must_use]
    pub fn flag(self, field: u32, value: bool) -> Writer {
        self.number(field, u64::from(value))
    }

    /// A message within; it is there even when it is empty.
    #[must_use]
    pub fn within(mut self, field: u32, value: Writer) -> Writer {
        self.bytes(field, &value.0);
        self
    }

    #[must_use]
    pub fn map(self, field: u32, map: &BTreeMap<String, String>) -> Writer {
        map.iter().fold(self, |all, (key, value)| all.within(field, Writer::new().text(1, key).text(2, value)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order: number and value. Those of fixed width are passed over: nobody here has one.
#[derive(Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub fn of(message: &'a [u8]) -> Fields<'a> {
        Fields(message)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            n |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// The text of a field; the last one counts.
    pub fn text(self, field: u32) -> String {
        self.texts(field).pop().unwrap_or_default()
    }

    pub fn texts(self, field: u32) -> Vec<String> {
        self.messages(field).map(|f| String::from_utf8_lossy(f.0).into_owned()).collect()
    }

    pub fn number(self, field: u32) -> u64 {
        let mut found = 0;
        for (number, value) in self {
            if let Value::Number(n) = value
                && number == field
            {
                found = n;
            }
        }
        found
    }

    /// The messages of a field.
    pub fn messages(self, field: u32) -> impl Iterator<Item = Fields<'a>> {
        self.filter_map(move |(number, value)| match value {
            Value::Bytes(bytes) if number == field => Some(Fields(bytes)),
            Value::Bytes(_) | Value::Number(_) => None,
        })
    }

    pub fn map(self, field: u32) -> BTreeMap<String, String> {
        self.messages(field).map(|entry| (entry.text(1), entry.text(2))).collect()
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let tag = self.varint()?;
            let field = u32::try_from(tag >> 3).ok()?;
            match tag & 7 {
                0 => return Some((field, Value::Number(self.varint()?))),
                2 => {
                    let length = self.varint()?;
                    return Some((field, Value::Bytes(self.take(length)?)));
                }
                1 => {
                    self.take(8)?;
                }
                5 => {
                    self.take(4)?;
                }
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let map: BTreeMap<String, String> = [("a".into(), "1".into()), ("b".into(), String::new())].into();
        let message = Writer::new()
            .text(1, "text")
            .text(2, "")
            .number(3, 300)
            .flag(4, true)
            .within(5, Writer::new())
            .map(6, &map)
            .texts(7, &["x".into(), "y".into()])
            .done();
        assert_eq!(message[..8], [0x0a, 4, b't', b'e', b'x', b't', 0x18, 0xac]);
        let fields = Fields::of(&message);
        assert_eq!(
            (fields.text(1), fields.text(2), fields.number(3), fields.number(4)),
            ("text".into(), String::new(), 300, 1)
        );
        assert_eq!(
            (fields.messages(5).count(), fields.map(6), fields.texts(7)),
            (1, map, vec!["x".into(), "y".into()])
        );
        // A field of fixed width before one that is wanted.
        let other = [[0x09].as_slice(), &[1; 8], &[0x15], &[1; 4], &[0x18, 7]].concat();
        assert_eq!(Fields::of(&other).number(3), 7);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let fields = Fields::of(&bytes);
            let _ = (fields.text(1), fields.number(2), fields.map(3), fields.count());
        }
    }
}
