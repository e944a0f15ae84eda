//! Percent escapes of URLs. What never lives here: what a URL means.

/// Decodes `%XX`, and `+` as a space when `plus`. What is not a valid escape stays as it is; invalid UTF-8 is replaced.
pub fn percent_decode(text: &str, plus: bool) -> String {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'+' if plus => out.push(b' '),
            b'%' => match bytes.get(i + 1..i + 3).and_then(|hex| {
                let digit = |b: u8| char::from(b).to_digit(16);
                u8::try_from(digit(hex[0])? * 16 + digit(hex[1])?).ok()
            }) {
                Some(byte) => {
                    out.push(byte);
                    i += 2;
                }
                None => out.push(b'%'),
            },
            other => out.push(other),
        }
        i += 1;
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// What stands in a path as it is, besides letters and digits. Source: Go `net/url` `shouldEscape`.
pub const IN_PATH: &[u8] = b"$&+,/:;=@";

/// Appends the bytes; all but letters, digits, `-_.~` and `plain` as `%XX`.
pub fn percent_encode(out: &mut String, bytes: &[u8], plain: &[u8]) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) || plain.contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let mut path = String::new();
        percent_encode(&mut path, "/a b/ü?:;*'(".as_bytes(), IN_PATH);
        assert_eq!(path, "/a%20b/%C3%BC%3F:;%2A%27%28");
    }
}
