//! Frames as bytes. Pure. Source: SPDY draft 3.1, 2.2 and 2.6.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::headers::{Deflater, HeaderError, Headers, Inflater};

/// Largest frame taken; clients send 32 KiB.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
const VERSION: u16 = 3;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    SynReply {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    Rst {
        stream: u32,
        status: u32,
    },
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    Data {
        stream: u32,
        data: Bytes,
        fin: bool,
    },
    /// Of no meaning here: settings, window updates, kinds of later versions.
    Other,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    #[error("frame of {0} bytes is too large")]
    TooLarge(usize),
    #[error("SPDY version {0} is not spoken here")]
    Version(u16),
    #[error("frame is shorter than its kind")]
    Short,
    #[error(transparent)]
    Headers(#[from] HeaderError),
}

/// Takes one frame off the front of `buffer`; `None` until all of it is there.
pub fn decode(buffer: &mut BytesMut, inflater: &mut Inflater) -> Result<Option<Frame>, FrameError> {
    if buffer.len() < 8 {
        return Ok(None);
    }
    let word = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
    let flags = buffer[4];
    let length = u32::from_be_bytes([0, buffer[5], buffer[6], buffer[7]]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(length));
    }
    if buffer.len() < 8 + length {
        buffer.reserve(8 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(8);
    let mut body = buffer.split_to(length).freeze();
    let fin = flags & FIN != 0;
    if word >> 31 == 0 {
        return Ok(Some(Frame::Data { stream: word, data: body, fin }));
    }
    let (version, kind) = ((word >> 16 & 0x7fff) as u16, word as u16);
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    let number = |body: &mut Bytes| if body.len() >= 4 { Ok(body.get_u32()) } else { Err(FrameError::Short) };
    Ok(Some(match kind {
        SYN_STREAM => {
            let stream = number(&mut body)? & 0x7fff_ffff;
            number(&mut body)?;
            if body.len() < 2 {
                return Err(FrameError::Short);
            }
            body.advance(2);
            Frame::SynStream { stream, headers: inflater.block(&body)?, fin }
        }
        SYN_REPLY => Frame::SynReply { stream: number(&mut body)? & 0x7fff_ffff, headers: inflater.block(&body)?, fin },
        HEADERS => Frame::Headers { stream: number(&mut body)? & 0x7fff_ffff, headers: inflater.block(&body)?, fin },
        RST_STREAM => Frame::Rst { stream: number(&mut body)? & 0x7fff_ffff, status: number(&mut body)? },
        PING => Frame::Ping(number(&mut body)?),
        GOAWAY => Frame::GoAway { last: number(&mut body)?, status: number(&mut body)? },
        SETTINGS | WINDOW_UPDATE => Frame::Other,
        _ => Frame::Other,
    }))
}

/// Appends a frame.
pub fn encode(frame: &Frame, deflater: &mut Deflater, out: &mut BytesMut) {
    let mut control = |kind: u16, fin: bool, body: &[u8]| {
        out.put_u16(0x8000 | VERSION);
        out.put_u16(kind);
        out.put_u32(u32::from(if fin { FIN } else { 0 }) << 24 | body.len() as u32);
        out.extend_from_slice(body);
    };
    match frame {
        Frame::SynStream { stream, headers, fin } => {
            let mut body = Vec::new();
            body.put_u32(*stream);
            body.put_u32(0);
            body.put_u16(0);
            body.extend(deflater.block(headers));
            control(SYN_STREAM, *fin, &body);
        }
        Frame::SynReply { stream, headers, fin } => {
            let mut body = stream.to_be_bytes().to_vec();
            body.extend(deflater.block(headers));
            control(SYN_REPLY, *fin, &body);
        }
        Frame::Headers { stream, headers, fin } => {
            let mut body = stream.to_be_bytes().to_vec();
            body.extend(deflater.block(headers));
            control(HEADERS, *fin, &body);
        }
        Frame::Rst { stream, status } => {
            control(RST_STREAM, false, &[stream.to_be_bytes(), status.to_be_bytes()].concat())
        }
        Frame::Ping(id) => control(PING, false, &id.to_be_bytes()),
        Frame::GoAway { last, status } => control(GOAWAY, false, &[last.to_be_bytes(), status.to_be_bytes()].concat()),
        Frame::Data { stream, data, fin } => {
            out.put_u32(stream & 0x7fff_ffff);
            out.put_u32(u32::from(if *fin { FIN } else { 0 }) << 24 | data.len() as u32);
            out.extend_from_slice(data);
        }
        Frame::Other => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let headers = || proptest::collection::vec(("[a-z]{1,9}", "[ -~]{0,30}"), 0..4);
        let id = || 0u32..0x7fff_ffff;
        prop_oneof![
            (id(), headers(), any::<bool>()).prop_map(|(stream, headers, fin)| Frame::SynStream {
                stream,
                headers,
                fin
            }),
            (id(), headers(), any::<bool>()).prop_map(|(stream, headers, fin)| Frame::SynReply {
                stream,
                headers,
                fin
            }),
            (id(), headers(), any::<bool>()).prop_map(|(stream, headers, fin)| Frame::Headers { stream, headers, fin }),
            (id(), any::<u32>()).prop_map(|(stream, status)| Frame::Rst { stream, status }),
            any::<u32>().prop_map(Frame::Ping),
            (any::<u32>(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            (id(), proptest::collection::vec(any::<u8>(), 0..100), any::<bool>())
                .prop_map(|(stream, data, fin)| Frame::Data { stream, data: data.into(), fin }),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_the_wire_in_any_pieces(list in proptest::collection::vec(frames(), 1..10), piece in 1usize..50) {
            let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
            let mut wire = BytesMut::new();
            list.iter().for_each(|f| encode(f, &mut deflater, &mut wire));
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for chunk in wire.chunks(piece) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = decode(&mut buffer, &mut inflater).unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, list);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut inflater = Inflater::new();
            while let Ok(Some(_)) = decode(&mut buffer, &mut inflater) {}
        }
    }

    #[test]
    fn a_frame_on_the_wire() {
        let mut out = BytesMut::new();
        encode(&Frame::Data { stream: 5, data: "hi".into(), fin: true }, &mut Deflater::new(), &mut out);
        assert_eq!(&out[..], [0, 0, 0, 5, 1, 0, 0, 2, b'h', b'i']);
        let mut out = BytesMut::new();
        encode(&Frame::Ping(7), &mut Deflater::new(), &mut out);
        assert_eq!(&out[..], [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]);
        let mut wrong = BytesMut::from(&[0x80u8, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7][..]);
        assert_eq!(decode(&mut wrong, &mut Inflater::new()), Err(FrameError::Version(2)));
    }
}
