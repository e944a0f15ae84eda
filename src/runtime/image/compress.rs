//! Whatever compression a stream has, taken off: told by its first bytes, never by a name or a media type, because both lie.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Bytes of look-ahead on the compressed side.
const BUFFER_BYTES: usize = 64 << 10;

/// Largest window that a zstd frame may ask for: what `zstd --ultra -22` writes. This bounds the memory of one unpacking.
const ZSTD_WINDOW_BYTES_MAX: u64 = 128 << 20;

type Source<R> = BufReader<io::Chain<Cursor<Vec<u8>>, R>>;

/// A plain, gzip (also of several members) or zstd (also of several frames) stream, decompressed.
pub enum Decoder<R: Read> {
    Plain(Source<R>),
    Gzip(Box<MultiGzDecoder<Source<R>>>),
    Zstd(Box<Zstd<Source<R>>>),
}

impl<R: Read> Decoder<R> {
    pub fn new(mut source: R) -> io::Result<Decoder<R>> {
        let mut magic = Vec::with_capacity(4);
        source.by_ref().take(4).read_to_end(&mut magic)?;
        let gzip = magic.starts_with(&[0x1f, 0x8b]);
        // 0x184D2A5? are skippable frames, with which some tools start.
        let zstd = magic == [0x28, 0xb5, 0x2f, 0xfd] || matches!(magic[..], [0x50..=0x5f, 0x2a, 0x4d, 0x18]);
        let source = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(magic).chain(source));
        Ok(match (gzip, zstd) {
            (true, _) => Decoder::Gzip(Box::new(MultiGzDecoder::new(source))),
            (_, true) => Decoder::Zstd(Box::new(Zstd::new(source))),
            _ => Decoder::Plain(source),
        })
    }

    /// What is left of the compressed side.
    pub fn into_source(self) -> R {
        let buffered = match self {
            Decoder::Plain(source) => source,
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Zstd(decoder) => decoder.source,
        };
        buffered.into_inner().into_inner().1
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Plain(source) => source.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// A sequence of zstd frames.
pub struct Zstd<R> {
    source: R,
    frame: FrameDecoder,
    within: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Zstd<R> {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(ZSTD_WINDOW_BYTES_MAX);
        Zstd { source, frame, within: false }
    }

    /// Enters the next frame; false at the end of the stream.
    fn enter(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.frame.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(false)
    }

    /// The decoder words a cut stream in many ways; the source being at its end tells it.
    fn failed(&mut self, error: FrameDecoderError) -> io::Error {
        let ended = self.source.fill_buf().is_ok_and(<[u8]>::is_empty);
        let kind = if ended { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::InvalidData };
        io::Error::new(kind, format!("zstd: {error}"))
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.within {
                self.within = self.enter()?;
                if !self.within {
                    return Ok(0);
                }
            }
            while self.frame.can_collect() < buffer.len() && !self.frame.is_finished() {
                let wanted = BlockDecodingStrategy::UptoBytes(buffer.len() - self.frame.can_collect());
                if let Err(error) = self.frame.decode_blocks(&mut self.source, wanted) {
                    return Err(self.failed(error));
                }
            }
            let read = self.frame.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            if let (Some(said), Some(got)) = (self.frame.get_checksum_from_data(), self.frame.get_calculated_checksum())
                && said != got
            {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "zstd: wrong checksum"));
            }
            self.within = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decoder::new(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn every_form_gives_the_same_bytes() {
        let text: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let skippable = [&[0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let (left, right) = text.split_at(100_000);
        for (name, bytes) in [
            ("plain", text.clone()),
            ("gzip", gzip(&text)),
            ("gzip members", [gzip(left), gzip(right)].concat()),
            ("zstd", zstd(&text)),
            ("zstd frames", [zstd(left), skippable.clone(), zstd(right), skippable.clone()].concat()),
            ("zstd after skippable", [skippable, zstd(&text)].concat()),
        ] {
            assert!(decode(&bytes).unwrap() == text, "{name}");
        }
        assert_eq!(decode(b"").unwrap(), b"");
        assert_eq!(decode(b"ab").unwrap(), b"ab");
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        let text = vec![7u8; 300_000];
        for bytes in [gzip(&text), zstd(&text)] {
            for at in [5, bytes.len() / 2, bytes.len() - 1] {
                let error = decode(&bytes[..at]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error} at {at} of {}", bytes.len());
            }
        }
    }
}
