//! Names and ids that chance chooses. The only place, with `client::clock`, that draws random bytes.

use std::cell::RefCell;

const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Random bytes that are asked of the kernel at once: a dozen ids.
const DRAWN: usize = 256;

/// What a thread has drawn and not given out; given out is wiped.
struct Drawn {
    bytes: [u8; DRAWN],
    left: usize,
}

thread_local! {
    static DRAWN_BYTES: RefCell<Drawn> = const { RefCell::new(Drawn { bytes: [0; DRAWN], left: 0 }) };
}

/// Fills `buf` from the kernel's generator. The kernel's source cannot fail once it is seeded at boot.
pub fn fill(buf: &mut [u8]) {
    if buf.len() > DRAWN {
        return draw(buf);
    }
    DRAWN_BYTES.with_borrow_mut(|drawn| {
        if drawn.left < buf.len() {
            draw(&mut drawn.bytes);
            drawn.left = DRAWN;
        }
        let start = drawn.left - buf.len();
        let given = &mut drawn.bytes[start..start + buf.len()];
        buf.copy_from_slice(given);
        given.fill(0);
        drawn.left = start;
    });
}

#[expect(clippy::disallowed_methods, reason = "this is where randomness enters")]
fn draw(buf: &mut [u8]) {
    getrandom::fill(buf).expect("the kernel's random generator works");
}

/// A name suffix without vowels, so that it spells nothing. Source: apimachinery `pkg/util/rand`.
pub fn suffix(length: usize) -> String {
    let mut bytes = vec![0u8; length];
    fill(&mut bytes);
    encode(&bytes)
}

/// Bytes shown in the suffix alphabet, one character a byte.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|b| SUFFIX_ALPHABET[usize::from(*b) % SUFFIX_ALPHABET.len()] as char).collect()
}

/// A digest shown so that it cannot be mistaken for a word: each character of `text` is mapped into the alphabet.
/// Source: apimachinery `pkg/util/rand.SafeEncodeString`.
pub fn safe_encode(text: &str) -> String {
    encode(text.as_bytes())
}

/// A random UUID (version 4), lower case. Source: RFC 9562.
pub fn uuid() -> String {
    let mut b = [0u8; 16];
    fill(&mut b);
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let mut text = String::with_capacity(36);
    for (i, byte) in b.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let id = uuid();
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        let all: std::collections::BTreeSet<String> = (0..1000).map(|_| uuid()).collect();
        assert_eq!(all.len(), 1000);
        assert!(!all.contains(&id));
        let mut long = [0; DRAWN + 1];
        fill(&mut long);
        assert!(long.iter().any(|b| *b != 0));
        assert!(suffix(200).bytes().all(|b| SUFFIX_ALPHABET.contains(&b)));
        assert_eq!(safe_encode("0"), char::from(SUFFIX_ALPHABET[0x30 % 27]).to_string());
    }
}
