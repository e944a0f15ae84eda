//! Names and ids that chance chooses. The only place, with `client::clock`, that draws random bytes.

const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Fills `buf` from the kernel's generator. The kernel's source cannot fail once it is seeded at boot.
#[expect(clippy::disallowed_methods, reason = "this is where randomness enters")]
pub fn fill(buf: &mut [u8]) {
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
        assert_ne!(id, uuid());
        assert!(suffix(200).bytes().all(|b| SUFFIX_ALPHABET.contains(&b)));
        assert_eq!(safe_encode("0"), char::from(SUFFIX_ALPHABET[0x30 % 27]).to_string());
    }
}
