//! Header blocks: names and values, deflated with a dictionary that both sides know, one stream per direction for the whole
//! connection. Source: SPDY draft 3.1, 2.6.10.

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Largest block after inflation: some headers of a few bytes each.
const BLOCK_BYTES_MAX: usize = 16 * 1024;
const PAIRS_MAX: usize = 128;

/// Lower-case names with values; several values of one name are joined by a NUL on the wire and here alike.
pub type Headers = Vec<(String, String)>;

pub fn get<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed header block: {0}")]
pub struct HeaderError(&'static str);

/// Words that the dictionary begins with, each behind its length.
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// The rest of it, as plain text.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct \
    Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
    application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
    utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
});

/// Deflates the blocks of one direction.
pub struct Deflater(Compress);

impl Default for Deflater {
    fn default() -> Self {
        Deflater::new()
    }
}

impl Deflater {
    pub fn new() -> Deflater {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&DICTIONARY).expect("a fresh compressor takes a dictionary");
        Deflater(compress)
    }

    pub fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.extend_from_slice(&(headers.len() as u32).to_be_bytes());
        for (name, value) in headers {
            for text in [name.to_ascii_lowercase().as_str(), value] {
                plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let mut taken = 0;
        loop {
            out.reserve(256);
            let before = self.0.total_in();
            self.0.compress_vec(&plain[taken..], &mut out, FlushCompress::Sync).expect("deflate of memory into memory");
            taken += (self.0.total_in() - before) as usize;
            // Room left over means that the flush is complete.
            if taken == plain.len() && out.len() < out.capacity() {
                return out;
            }
        }
    }
}

/// Inflates the blocks of one direction.
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Inflater::new()
    }
}

impl Inflater {
    pub fn new() -> Inflater {
        Inflater(Decompress::new(true))
    }

    /// Errors: after one the connection's header state is lost, and with it the connection.
    pub fn block(&mut self, bytes: &[u8]) -> Result<Headers, HeaderError> {
        let mut plain = Vec::with_capacity(1024);
        let mut taken = 0;
        loop {
            if plain.len() >= BLOCK_BYTES_MAX {
                return Err(HeaderError("too large"));
            }
            plain.reserve(1024);
            let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
            match self.0.decompress_vec(&bytes[taken..], &mut plain, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::BufError | Status::StreamEnd) => {}
                Err(e) if e.needs_dictionary().is_some() => {
                    taken += (self.0.total_in() - before_in) as usize;
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| HeaderError("unknown dictionary"))?;
                    continue;
                }
                Err(_) => return Err(HeaderError("not deflated")),
            }
            taken += (self.0.total_in() - before_in) as usize;
            let idle = self.0.total_in() == before_in && self.0.total_out() == before_out;
            if (taken == bytes.len() && plain.len() < plain.capacity()) || idle {
                break;
            }
        }
        parse(&plain)
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers, HeaderError> {
    let number = |plain: &mut &[u8]| -> Result<usize, HeaderError> {
        let (head, rest) = plain.split_first_chunk::<4>().ok_or(HeaderError("cut short"))?;
        *plain = rest;
        Ok(u32::from_be_bytes(*head) as usize)
    };
    let count = number(&mut plain)?;
    if count > PAIRS_MAX {
        return Err(HeaderError("too many headers"));
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let mut text = || -> Result<String, HeaderError> {
            let length = number(&mut plain)?;
            let (text, rest) = plain.split_at_checked(length).ok_or(HeaderError("cut short"))?;
            plain = rest;
            String::from_utf8(text.to_vec()).map_err(|_| HeaderError("not text"))
        };
        headers.push((text()?, text()?));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_dictionary_is_the_one_that_everybody_has() {
        // What a zlib stream with this dictionary begins with is its Adler-32.
        let (mut a, mut b) = (1u32, 0u32);
        for byte in DICTIONARY.iter() {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((DICTIONARY.len(), b << 16 | a), (1423, 0xe3c6_a7c2));
        let block = Deflater::new().block(&vec![("streamtype".into(), "error".into())]);
        assert_eq!(&block[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(Inflater::new().block(b"no zlib at all").is_err());
        assert!(parse(&[0, 0, 0, 1, 0, 0, 0, 9, b'x']).is_err());
        assert!(parse(&[255, 255, 255, 255]).is_err());
    }

    proptest! {
        #[test]
        fn blocks_survive_the_wire(blocks in proptest::collection::vec(
            proptest::collection::vec(("[a-z-]{1,20}", "[ -~]{0,200}"), 0..8), 1..6))
        {
            let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
            for headers in blocks {
                let block = deflater.block(&headers);
                prop_assert_eq!(inflater.block(&block), Ok(headers));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Inflater::new().block(&bytes);
            let _ = parse(&bytes);
        }
    }
}
