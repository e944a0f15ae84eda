//! Finds the first syntax error of a JSON text and words it as Go's scanner does. Runs only after parsing has failed.

/// What one byte may be followed by.
enum Frame {
    Object,
    Array,
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// `None` when the text is well-formed JSON by Go's rules (what failed is then not syntax: a lone surrogate, a number out
/// of range).
pub fn syntax_error(text: &[u8]) -> Option<String> {
    Scanner { text, at: 0 }.document().err()
}

const END: &str = "unexpected end of JSON input";

impl Scanner<'_> {
    fn document(&mut self) -> Result<(), String> {
        let mut stack: Vec<Frame> = Vec::new();
        loop {
            // A value begins here.
            self.spaces();
            match self.peek()? {
                b'{' => {
                    self.at += 1;
                    self.spaces();
                    if self.peek()? == b'}' {
                        self.at += 1;
                    } else {
                        self.key("looking for beginning of object key string")?;
                        stack.push(Frame::Object);
                        continue;
                    }
                }
                b'[' => {
                    self.at += 1;
                    self.spaces();
                    if self.peek()? == b']' {
                        self.at += 1;
                    } else {
                        stack.push(Frame::Array);
                        continue;
                    }
                }
                b'"' => self.string()?,
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                b'-' | b'0'..=b'9' => self.number()?,
                _ => return self.wrong("looking for beginning of value"),
            }
            // A value has ended: close what it ends, or go on to the next.
            loop {
                self.spaces();
                let Some(frame) = stack.last() else {
                    return if self.at == self.text.len() { Ok(()) } else { self.wrong("after top-level value") };
                };
                match (frame, self.peek()?) {
                    (Frame::Object, b',') => {
                        self.at += 1;
                        self.spaces();
                        self.key("looking for beginning of object key string")?;
                        break;
                    }
                    (Frame::Array, b',') => {
                        self.at += 1;
                        break;
                    }
                    (Frame::Object, b'}') | (Frame::Array, b']') => {
                        self.at += 1;
                        stack.pop();
                    }
                    (Frame::Object, _) => return self.wrong("after object key:value pair"),
                    (Frame::Array, _) => return self.wrong("after array element"),
                }
            }
        }
    }

    fn peek(&self) -> Result<u8, String> {
        self.text.get(self.at).copied().ok_or_else(|| END.to_owned())
    }

    /// Within a literal, a number or an escape Go's scanner reads the end of the text as one more space.
    fn peek_or_space(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(b' ')
    }

    fn spaces(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn key(&mut self, context: &str) -> Result<(), String> {
        if self.peek()? != b'"' {
            return self.wrong(context);
        }
        self.string()?;
        self.spaces();
        if self.peek()? != b':' {
            return self.wrong("after object key");
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => {
                    self.at += 1;
                    match self.peek_or_space() {
                        b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.at += 1,
                        b'u' => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.peek_or_space().is_ascii_hexdigit() {
                                    return self.wrong("in \\u hexadecimal character escape");
                                }
                                self.at += 1;
                            }
                        }
                        _ => return self.wrong("in string escape code"),
                    }
                }
                0..0x20 => return self.wrong("in string literal"),
                _ => self.at += 1,
            }
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for (i, expected) in word.bytes().enumerate() {
            if self.peek_or_space() != expected {
                let context = format!("in literal {word} (expecting {})", quote(expected));
                return if i == 0 { self.wrong("looking for beginning of value") } else { self.wrong(&context) };
            }
            self.at += 1;
        }
        Ok(())
    }

    fn digits(&mut self) {
        while matches!(self.text.get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek_or_space() {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return self.wrong("in numeric literal"),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            if !self.peek_or_space().is_ascii_digit() {
                return self.wrong("after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.text.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !self.peek_or_space().is_ascii_digit() {
                return self.wrong("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(())
    }

    fn wrong(&self, context: &str) -> Result<(), String> {
        Err(format!("invalid character {} {context}", quote(self.peek_or_space())))
    }
}

/// A byte as Go quotes it.
fn quote(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        b'\\' => r"'\\'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        0x07 => r"'\a'".into(),
        0x08 => r"'\b'".into(),
        0x0c => r"'\f'".into(),
        0x0b => r"'\v'".into(),
        0x00..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..=0x9f => format!("'\\u{byte:04x}'"),
        0xad => "'\\u00ad'".into(),
        other => format!("'{}'", char::from(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_gos() {
        for (text, expected) in [
            ("", Some("unexpected end of JSON input")),
            ("{", Some("unexpected end of JSON input")),
            ("{\"a\":", Some("unexpected end of JSON input")),
            ("{a:1}", Some("invalid character 'a' looking for beginning of object key string")),
            ("{\"a\" 1}", Some("invalid character '1' after object key")),
            ("{\"a\":1 \"b\"}", Some("invalid character '\"' after object key:value pair")),
            ("{\"a\":1,}", Some("invalid character '}' looking for beginning of object key string")),
            ("[1,]", Some("invalid character ']' looking for beginning of value")),
            ("[1 2]", Some("invalid character '2' after array element")),
            ("{} x", Some("invalid character 'x' after top-level value")),
            ("tru", Some("invalid character ' ' in literal true (expecting 'e')")),
            ("trux", Some("invalid character 'x' in literal true (expecting 'e')")),
            ("\"\\x\"", Some("invalid character 'x' in string escape code")),
            ("\"\n\"", Some("invalid character '\\n' in string literal")),
            ("-x", Some("invalid character 'x' in numeric literal")),
            ("1.x", Some("invalid character 'x' after decimal point in numeric literal")),
            ("apiVersion: v1", Some("invalid character 'a' looking for beginning of value")),
            (" {\"a\": [1, {\"b\": null}]} ", None),
        ] {
            assert_eq!(syntax_error(text.as_bytes()).as_deref(), expected, "{text:?}");
        }
    }
}
