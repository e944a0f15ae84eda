//! Tar archives as streams: header by header, with the long names and attributes of GNU and pax folded in. Reads only; what a
//! member becomes is decided elsewhere.
//!
//! Not the `tar` crate's iterator, because that one reads pax and long-name records of any size into memory.
//! Source: POSIX.1-2017 pax; GNU tar manual, "Basic Tar Format".

use std::io::{self, Read};

use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// Bytes of one pax header or long name. Names are at most 4096 bytes, extended attributes at most 64 KiB each.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// Nesting of extension headers before one member; writers make at most three.
const EXTENSIONS_MAX: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One member's header; its bytes, if any, are read from the [`TarReader`] before the next call of `next`.
#[derive(Debug, Clone)]
pub struct Member {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Major and minor.
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub struct TarReader<R> {
    source: R,
    /// Bytes of the current member not yet read, and what fills its last block.
    left: u64,
    padding: u64,
    ended: bool,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Whether a block can start a tar archive: a header with a right checksum, or the zeros of an empty one.
pub fn is_tar_start(block: &[u8]) -> bool {
    block.len() == BLOCK && (block.iter().all(|b| *b == 0) || checksum_right(block))
}

fn checksum_right(block: &[u8]) -> bool {
    let header = Header::from_byte_slice(block);
    let sum = |range: &[u8]| range.iter().map(|b| u32::from(*b)).sum::<u32>();
    header.cksum().is_ok_and(|said| said == sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]))
}

impl<R: Read> TarReader<R> {
    pub fn new(source: R) -> TarReader<R> {
        TarReader { source, left: 0, padding: 0, ended: false }
    }

    /// The next member, skipping what was not read of the one before. Errors: `UnexpectedEof` for a stream that ends within a
    /// member, `InvalidData` for one that is no tar archive.
    pub fn next(&mut self) -> io::Result<Option<Member>> {
        let mut extensions = Extensions::default();
        for _ in 0..EXTENSIONS_MAX {
            self.skip()?;
            let Some(block) = self.block()? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            let old = header.as_old();
            let size = field(header.entry_size(), &old.size)?;
            let kind = match header.entry_type() {
                EntryType::GNULongName => {
                    extensions.path = Some(until_nul(self.extension(size)?));
                    continue;
                }
                EntryType::GNULongLink => {
                    extensions.link = Some(until_nul(self.extension(size)?));
                    continue;
                }
                EntryType::XHeader => {
                    let records = self.extension(size)?;
                    extensions.pax(&records)?;
                    continue;
                }
                EntryType::XGlobalHeader => {
                    self.body(size);
                    continue;
                }
                // Old writers mark directories by the slash alone.
                EntryType::Regular | EntryType::Continuous => match header.path_bytes().ends_with(b"/") {
                    true => Kind::Directory,
                    false => Kind::File,
                },
                EntryType::Directory => Kind::Directory,
                EntryType::Symlink => Kind::Symlink,
                EntryType::Link => Kind::HardLink,
                EntryType::Char => Kind::CharDevice,
                EntryType::Block => Kind::BlockDevice,
                EntryType::Fifo => Kind::Fifo,
                other => {
                    return Err(invalid(format!("tar member type {:?} is not supported", char::from(other.as_byte()))));
                }
            };
            let size = extensions.size.unwrap_or(size);
            let regular = matches!(header.entry_type(), EntryType::Regular | EntryType::Continuous);
            // Links carry no bytes, whatever their size field says; what is only named like a directory does.
            self.body(if regular { size } else { 0 });
            return Ok(Some(Member {
                path: extensions.path.unwrap_or_else(|| header.path_bytes().into_owned()),
                link: extensions
                    .link
                    .unwrap_or_else(|| header.link_name_bytes().map(|l| l.into_owned()).unwrap_or_default()),
                kind,
                size: if kind == Kind::File { size } else { 0 },
                mode: field(header.mode().map(u64::from), &old.mode)? as u32 & 0o7777,
                uid: extensions.uid.map_or_else(|| narrow(field(header.uid(), &old.uid)), Ok)?,
                gid: extensions.gid.map_or_else(|| narrow(field(header.gid(), &old.gid)), Ok)?,
                mtime: extensions.mtime.map_or_else(|| field(header.mtime(), &old.mtime).map(|s| (s as i64, 0)), Ok)?,
                device: (
                    header.device_major().ok().flatten().unwrap_or(0),
                    header.device_minor().ok().flatten().unwrap_or(0),
                ),
                xattrs: extensions.xattrs,
            }));
        }
        Err(invalid("too many extension headers before one tar member"))
    }

    /// What the members were read from, wherever it stands.
    pub fn into_source(self) -> R {
        self.source
    }

    fn body(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > EXTENSION_BYTES_MAX {
            return Err(invalid(format!("tar extension header of {size} bytes")));
        }
        self.body(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(&mut self) -> io::Result<()> {
        let all = self.left + self.padding;
        let skipped = io::copy(&mut self.source.by_ref().take(all), &mut io::sink())?;
        (self.left, self.padding) = (0, 0);
        if skipped < all { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// A header block; `None` at the end mark or, as every reader forgives, at an end without a mark.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        if self.ended {
            return Ok(None);
        }
        let mut block = Vec::with_capacity(BLOCK);
        self.source.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        let block: [u8; BLOCK] = match block.try_into() {
            Ok(block) => block,
            Err(short) if short.is_empty() => {
                self.ended = true;
                return Ok(None);
            }
            Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        if block.iter().all(|b| *b == 0) {
            self.ended = true;
            return Ok(None);
        }
        if !checksum_right(&block) {
            return Err(invalid("not a tar header (wrong checksum)"));
        }
        Ok(Some(block))
    }
}

/// The bytes of the current member.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.source.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// A number of a header. Blank ones are zero, as Go's and GNU's readers take them.
fn field(number: io::Result<u64>, raw: &[u8]) -> io::Result<u64> {
    match number {
        Err(_) if raw.iter().all(|b| matches!(b, 0 | b' ')) => Ok(0),
        number => number.map_err(|error| invalid(error.to_string())),
    }
}

fn narrow(id: io::Result<u64>) -> io::Result<u32> {
    u32::try_from(id?).map_err(|_| invalid("owner id beyond 32 bits"))
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()));
    bytes
}

impl Extensions {
    /// Records of the form `<length> <key>=<value>\n`, where the length counts itself and the newline.
    fn pax(&mut self, mut records: &[u8]) -> io::Result<()> {
        let broken = || invalid("malformed pax header");
        while !records.is_empty() && records[0] != 0 {
            let space = records.iter().position(|b| *b == b' ').ok_or_else(broken)?;
            let length: usize = number(&records[..space]).ok_or_else(broken)?;
            if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
                return Err(broken());
            }
            let record = &records[space + 1..length - 1];
            records = &records[length..];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(broken)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number(value).ok_or_else(broken)?),
                b"uid" => self.uid = Some(number(value).ok_or_else(broken)?),
                b"gid" => self.gid = Some(number(value).ok_or_else(broken)?),
                b"mtime" => self.mtime = Some(time(value).ok_or_else(broken)?),
                _ if key.starts_with(b"GNU.sparse.") => return Err(invalid("sparse tar members are not supported")),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction, perhaps negative.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    Some(match (whole.starts_with('-'), nanos) {
        (true, 1..) => (seconds.checked_sub(1)?, 1_000_000_000 - nanos),
        _ => (seconds, nanos),
    })
}
