//! A long answer while it is written: bytes that grow without being moved, to be sent piece by piece.

use bytes::Bytes;

/// A piece is closed when it has become longer than this: few enough to be counted, none so long that growing it would copy
/// much.
const PIECE_BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
pub struct Pieces {
    closed: Vec<Bytes>,
    open: Vec<u8>,
    length: usize,
}

impl Pieces {
    /// Where the next part is written.
    pub fn room(&mut self) -> &mut Vec<u8> {
        if self.open.len() >= PIECE_BYTES {
            self.close();
            // What follows is about as long; a part that does not fit any more makes it grow once.
            self.open.reserve(PIECE_BYTES + PIECE_BYTES / 8);
        }
        &mut self.open
    }

    fn close(&mut self) {
        let piece = std::mem::take(&mut self.open);
        self.length += piece.len();
        if !piece.is_empty() {
            self.closed.push(piece.into());
        }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.length + self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces in order, with these around them.
    pub fn between(mut self, head: Vec<u8>, tail: Vec<u8>) -> Vec<Bytes> {
        self.close();
        let mut all = Vec::with_capacity(self.closed.len() + 2);
        all.push(head.into());
        all.append(&mut self.closed);
        all.push(tail.into());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_between_pieces() {
        let (mut pieces, mut expected) = (Pieces::default(), b"head".to_vec());
        for n in 0..2_000u32 {
            let part = n.to_string().repeat(n as usize % 600);
            pieces.room().extend_from_slice(part.as_bytes());
            expected.extend_from_slice(part.as_bytes());
        }
        assert_eq!(pieces.len() + 4, expected.len());
        expected.extend_from_slice(b"tail");
        let all = pieces.between(b"head".to_vec(), b"tail".to_vec());
        assert!(all.len() > 4);
        assert_eq!(all.concat(), expected);
    }
}
