//! The words of an expression. Source: cel-spec `doc/langdef.md`, cel-go `parser/gen/CEL.g4` and `parser/unescape.go`.

use std::sync::Arc;

use super::issue::Issue;

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// Operators and brackets, and the words `in`, `true`, `false`, `null`.
    Punct(&'static str),
    Ident(Arc<str>),
    /// `` `a.b` ``, without the quotes.
    Escaped(Arc<str>),
    Int(Result<u64, ()>),
    Uint(Result<u64, ()>),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    /// A string whose escapes are wrong.
    BadString(String),
    End,
}

#[derive(Debug, Clone)]
pub struct Word {
    pub token: Token,
    /// In code points.
    pub at: u32,
    /// As it is written, for errors.
    pub text: Box<str>,
}

const PUNCTUATION: [&str; 25] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*",
    "/", "%", "in",
];

/// Splits the text. Characters that begin nothing are reported and skipped, as ANTLR's lexers do.
pub fn lex(text: &str) -> (Vec<Word>, Vec<Issue>) {
    let mut lexer = Lexer { text, byte: 0, at: 0 };
    let mut words = Vec::new();
    let mut issues: Vec<Issue> = Vec::new();
    loop {
        lexer.skip_blank();
        let (start, at) = (lexer.byte, lexer.at);
        if start == text.len() {
            words.push(Word { token: Token::End, at, text: "<EOF>".into() });
            return (words, issues);
        }
        match lexer.next() {
            Some(token) => words.push(Word { token, at, text: text[start..lexer.byte].into() }),
            None => {
                let bad = lexer.bump_unknown();
                issues.push(Issue::new(at, format!("Syntax error: token recognition error at: '{bad}'")));
            }
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    byte: usize,
    at: u32,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.byte..]
    }
    fn advance(&mut self, bytes: usize) {
        let passed = &self.text[self.byte..self.byte + bytes];
        self.at += u32::try_from(passed.chars().count()).unwrap_or(u32::MAX);
        self.byte += bytes;
    }
    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches(['\t', ' ', '\r', '\n', '\u{c}']).len();
            let comment = if rest[blank..].starts_with("//") {
                rest[blank..].find('\n').unwrap_or(rest.len() - blank)
            } else {
                0
            };
            if blank + comment == 0 {
                return;
            }
            self.advance(blank + comment);
        }
    }
    /// What ANTLR quotes of a place that begins no token: a quote takes the rest of its line.
    fn bump_unknown(&mut self) -> &'a str {
        let rest = self.rest();
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let length = match rest.as_bytes().first() {
            Some(b'"' | b'\'' | b'`') => rest.find('\n').unwrap_or(rest.len()).max(first),
            // a single '|' or '&' or '=' fails at the character after it
            Some(b'|' | b'&' | b'=') => first + rest[first..].chars().next().map_or(0, char::len_utf8),
            _ => first,
        };
        self.advance(length);
        &rest[..length]
    }

    fn next(&mut self) -> Option<Token> {
        let rest = self.rest();
        let first = rest.bytes().next()?;
        if let Some(token) = self.string() {
            return Some(token);
        }
        if first.is_ascii_digit() || first == b'.' && rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit) {
            return Some(self.number());
        }
        if first.is_ascii_alphabetic() || first == b'_' {
            let length = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
            self.advance(length);
            return Some(match &rest[..length] {
                "in" => Token::Punct("in"),
                "true" => Token::Punct("true"),
                "false" => Token::Punct("false"),
                "null" => Token::Punct("null"),
                word => Token::Ident(word.into()),
            });
        }
        if first == b'`' {
            let inner = &rest[1..];
            let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"_.-/ ".contains(b);
            let length = inner.bytes().take_while(allowed).count();
            if length == 0 || inner.as_bytes().get(length) != Some(&b'`') {
                return None;
            }
            self.advance(length + 2);
            return Some(Token::Escaped(inner[..length].into()));
        }
        let punct = PUNCTUATION.into_iter().find(|p| rest.starts_with(p))?;
        self.advance(punct.len());
        Some(Token::Punct(punct))
    }

    fn number(&mut self) -> Token {
        let rest = self.rest().as_bytes();
        let digits = |from: usize| rest[from..].iter().take_while(|b| b.is_ascii_digit()).count();
        let unsigned = |at: usize| matches!(rest.get(at), Some(b'u' | b'U'));
        let text = self.rest();
        if text.starts_with("0x") {
            let hex = rest[2..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
            if hex > 0 {
                let value = u64::from_str_radix(&text[2..2 + hex], 16).map_err(drop);
                let is_unsigned = unsigned(2 + hex);
                self.advance(2 + hex + usize::from(is_unsigned));
                return if is_unsigned { Token::Uint(value) } else { Token::Int(value) };
            }
        }
        let whole = digits(0);
        let mut end = whole;
        let mut float = false;
        if rest.get(end) == Some(&b'.') && digits(end + 1) > 0 {
            float = true;
            end += 1 + digits(end + 1);
        }
        if matches!(rest.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(rest.get(end + 1), Some(b'+' | b'-')));
            let exponent = if end + 1 + sign <= rest.len() { digits(end + 1 + sign) } else { 0 };
            if exponent > 0 {
                float = true;
                end += 1 + sign + exponent;
            }
        }
        if float {
            let value = text[..end].parse().unwrap_or(f64::INFINITY);
            self.advance(end);
            return Token::Double(value);
        }
        let value = text[..end].parse::<u64>().map_err(drop);
        let is_unsigned = unsigned(end);
        self.advance(end + usize::from(is_unsigned));
        if is_unsigned { Token::Uint(value) } else { Token::Int(value) }
    }

    /// A string or bytes literal; `None` when there is none here or it does not end.
    fn string(&mut self) -> Option<Token> {
        let rest = self.rest();
        let mut prefix = 0;
        let (mut bytes, mut raw) = (false, false);
        if rest.starts_with(['b', 'B']) {
            bytes = true;
            prefix += 1;
        }
        if rest[prefix..].starts_with(['r', 'R']) {
            raw = true;
            prefix += 1;
        }
        let body = &rest[prefix..];
        let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|q| body.starts_with(q))?;
        let inner = &body[quote.len()..];
        let mut end = None;
        let mut skip = false;
        for (i, c) in inner.char_indices() {
            if skip {
                skip = false;
            } else if c == '\\' && !raw {
                skip = true;
            } else if inner[i..].starts_with(quote) {
                end = Some(i);
                break;
            } else if quote.len() == 1 && (c == '\n' || c == '\r') {
                return None;
            }
        }
        let end = end?;
        self.advance(prefix + quote.len() * 2 + end);
        Some(match unescape(&inner[..end], raw, bytes) {
            Err(why) => Token::BadString(why),
            Ok(value) if bytes => Token::Bytes(value.into()),
            Ok(value) => match String::from_utf8(value) {
                Ok(text) => Token::String(text.into()),
                Err(_) => Token::BadString("invalid unicode code point".into()),
            },
        })
    }
}

/// The value of a literal's inside. In bytes, `\x` and octal escapes are bytes; in strings they are code points.
fn unescape(inner: &str, raw: bool, bytes: bool) -> Result<Vec<u8>, String> {
    // line ends are one newline, whatever the file has
    let inner = inner.replace("\r\n", "\n").replace('\r', "\n");
    if raw || !inner.contains('\\') {
        return Ok(inner.into_bytes());
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let e = chars.next().ok_or("unable to unescape string, found '\\' as last character")?;
        let simple = match e {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' | '\'' | '"' | '`' | '?' => u8::try_from(e).ok(),
            _ => None,
        };
        if let Some(byte) = simple {
            out.push(byte);
            continue;
        }
        let (digits, radix) = match e {
            'x' | 'X' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='3' => (2, 8),
            _ => return Err(format!("unable to unescape string: unknown escape '\\{e}'")),
        };
        if bytes && matches!(e, 'u' | 'U') {
            return Err("unable to unescape string: unicode escape in bytes".into());
        }
        let text: String = chars.by_ref().take(digits).collect();
        let text = if radix == 8 { format!("{e}{text}") } else { text };
        let wanted = if radix == 8 { digits + 1 } else { digits };
        let value = (text.len() == wanted).then(|| u32::from_str_radix(&text, radix).ok()).flatten();
        let value = value.ok_or("unable to unescape string")?;
        if bytes {
            out.push(u8::try_from(value).map_err(|_| "unable to unescape string")?);
        } else {
            let c = char::from_u32(value).ok_or("invalid unicode code point")?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok(out)
}
