//! Tags, varints and lengths.

/// Errors are worded as Go's generated code words them.
pub type Result<T> = std::result::Result<T, String>;

pub struct Reader<'a> {
    rest: &'a [u8],
}

/// One field as it stands on the wire.
#[derive(Clone, Copy)]
pub enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// No API field has this type; it can only be skipped.
    Fixed32,
}

const EOF: &str = "unexpected EOF";

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field's number and value.
    pub fn next(&mut self) -> Result<Option<(u64, Raw<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > u64::from(u32::MAX >> 3) {
            return Err(format!("proto: illegal tag {number} (wire type {tag})"));
        }
        let raw = match tag & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length =
                    usize::try_from(self.varint()?).map_err(|_| "proto: negative length found during unmarshaling")?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(EOF)?;
                self.rest = rest;
                Raw::Bytes(bytes)
            }
            5 => {
                self.array::<4>()?;
                Raw::Fixed32
            }
            other => return Err(format!("proto: illegal wireType {other}")),
        };
        Ok(Some((number, raw)))
    }

    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(EOF)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("proto: integer overflow".into())
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(EOF)?;
        self.rest = rest;
        Ok(*bytes)
    }
}

impl<'a> Raw<'a> {
    pub fn varint(self, field: &str) -> Result<u64> {
        match self {
            Raw::Varint(value) => Ok(value),
            other => Err(other.wrong(field)),
        }
    }
    pub fn bytes(self, field: &str) -> Result<&'a [u8]> {
        match self {
            Raw::Bytes(bytes) => Ok(bytes),
            other => Err(other.wrong(field)),
        }
    }
    pub fn text(self, field: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(self.bytes(field)?).into_owned())
    }
    pub fn fixed64(self, field: &str) -> Result<u64> {
        match self {
            Raw::Fixed64(value) => Ok(value),
            other => Err(other.wrong(field)),
        }
    }
    fn wrong(self, field: &str) -> String {
        let wire_type = match self {
            Raw::Varint(_) => 0,
            Raw::Fixed64(_) => 1,
            Raw::Bytes(_) => 2,
            Raw::Fixed32 => 5,
        };
        format!("proto: wrong wireType = {wire_type} for field {field}")
    }
}

/// A `runtime.Unknown`.
pub struct Unknown<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub raw: &'a [u8],
}

/// Opens the envelope.
pub fn open(body: &[u8]) -> Result<Unknown<'_>> {
    if body.is_empty() {
        return Err("empty data".into());
    }
    let data = body
        .strip_prefix(super::MAGIC)
        .ok_or("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")?;
    if data.is_empty() {
        return Err("empty body".into());
    }
    let mut unknown = Unknown { api_version: "", kind: "", raw: &[] };
    let mut reader = Reader::new(data);
    while let Some((number, raw)) = reader.next()? {
        match number {
            1 => {
                let mut meta = Reader::new(raw.bytes("TypeMeta")?);
                while let Some((number, raw)) = meta.next()? {
                    let text = |field| std::str::from_utf8(raw.bytes(field)?).map_err(|e| e.to_string());
                    match number {
                        1 => unknown.api_version = text("APIVersion")?,
                        2 => unknown.kind = text("Kind")?,
                        _ => {}
                    }
                }
            }
            2 => unknown.raw = raw.bytes("Raw")?,
            _ => {}
        }
    }
    Ok(unknown)
}
