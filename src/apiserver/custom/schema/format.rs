//! Formats of strings and numbers that are checked; others say nothing.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/validation/formats.go`; kube-openapi `pkg/validation/strfmt`,
//! `pkg/internal/third_party/govalidator`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use types::names;

const STRINGS: &[&str] = &[
    "bsonobjectid",
    "byte",
    "cidr",
    "creditcard",
    "date",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "k8slongname",
    "k8sshortname",
    "mac",
    "password",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
];

/// A name without the dashes that do not count in it.
fn normal(format: &str) -> String {
    format.replace('-', "")
}

/// Whether it is a format of strings.
pub fn is_known(format: &str) -> bool {
    STRINGS.contains(&&*normal(format))
}

/// The format when values of that type are checked for it, else nothing.
pub fn checked<'a>(type_: &str, format: &'a str, int_or_string: bool) -> &'a str {
    let known = match type_ {
        _ if int_or_string => is_known(format),
        "" | "string" => is_known(format),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if known { format } else { "" }
}

/// Whether the text has the format, which [`is_known`].
pub fn matches(format: &str, text: &str) -> bool {
    match normal(format).as_str() {
        "bsonobjectid" => text.len() == 24 && hex(text),
        "byte" => base64(text),
        "cidr" => cidr(text),
        "creditcard" => credit_card(text),
        "date" => date(text),
        "datetime" => date_time(text),
        "duration" => duration(text),
        "email" => email(text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && hex(digits)
        }
        "hostname" => hostname(text),
        "ipv4" => text.contains('.') && ip(text).is_some(),
        "ipv6" => text.contains(':') && text.parse::<Ipv6Addr>().is_ok(),
        "isbn" => isbn10(text) || isbn13(text),
        "isbn10" => isbn10(text),
        "isbn13" => isbn13(text),
        "k8slongname" => names::dns1123_subdomain(text).is_empty(),
        "k8sshortname" => names::dns1123_label(text).is_empty(),
        "mac" => mac(text),
        "rgbcolor" => rgb(text),
        "ssn" => ssn(text),
        "uri" => uri(text),
        "uuid" => uuid(text, None),
        "uuid3" => uuid(text, Some('3')),
        "uuid4" => uuid(text, Some('4')),
        "uuid5" => uuid(text, Some('5')),
        // Any text is a password.
        _ => true,
    }
}

fn hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

fn base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let padding = text.len() - body.len();
    !text.is_empty()
        && text.len().is_multiple_of(4)
        && padding <= 2
        && body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
}

/// An address as Go once read them: with leading zeros in its numbers.
fn ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|p| !p.is_empty() && digits(p))?;
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then_some(IpAddr::V4(Ipv4Addr::from(octets)))
}

fn cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match ip(address) {
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) => 128,
        None => return false,
    };
    !bits.is_empty() && digits(bits) && bits.parse::<u32>().is_ok_and(|bits| bits <= most)
}

fn credit_card(text: &str) -> bool {
    let number: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let joined: String = text.chars().filter(char::is_ascii_digit).collect();
    let begins = |prefixes: &[&str]| prefixes.iter().any(|p| joined.starts_with(p));
    let issued = match joined.len() {
        13 => begins(&["4"]),
        14 => begins(&["300", "301", "302", "303", "304", "305", "36", "38"]),
        15 => begins(&["34", "37", "2131", "1800", "35"]),
        16 => begins(&["4", "51", "52", "53", "54", "55", "6011", "65"]),
        _ => false,
    };
    let sum: u32 = number
        .iter()
        .rev()
        .enumerate()
        .map(|(i, digit)| match i % 2 {
            0 => *digit,
            _ => digit * 2 / 10 + digit * 2 % 10,
        })
        .sum();
    issued && sum.is_multiple_of(10)
}

fn date(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 10 && bytes[4] == b'-' && bytes[7] == b'-' && text.parse::<jiff::civil::Date>().is_ok()
}

fn date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(day), Some(time)) = (parts.next(), parts.next()) else { return false };
    date(day) && clock(time).is_some()
}

/// `hh:mm:ss`, a fraction and a zone.
fn clock(text: &str) -> Option<()> {
    let two = |text: &str, max: &str| text.len() == 2 && digits(text) && text <= max;
    let (h, m, s) = (text.get(0..2)?, text.get(3..5)?, text.get(6..8)?);
    let separated = text.get(2..3)? == ":" && text.get(5..6)? == ":";
    let mut rest = text.get(8..)?;
    let first = rest.chars().next()?;
    if !matches!(first, 'z' | '+' | '-') || rest.len() > 6 {
        // Any character stands for the point.
        let fraction = &rest[first.len_utf8()..];
        let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
        if end == 0 {
            return None;
        }
        rest = &fraction[end..];
    }
    let zone = rest == "z"
        || (rest.len() == 6
            && rest.starts_with(['+', '-'])
            && digits(rest.get(1..3)?)
            && rest.get(3..4)? == ":"
            && digits(rest.get(4..6)?));
    (separated && zone && two(h, "23") && two(m, "59") && two(s, "59")).then_some(())
}

/// Go's durations, or numbers with the names of units somewhere in the text.
fn duration(text: &str) -> bool {
    if go_duration(text) {
        return true;
    }
    const UNITS: &[&[&str]] = &[
        &["ns", "nano"],
        &["us", "µs", "micro"],
        &["ms", "milli"],
        &["s", "sec"],
        &["m", "min"],
        &["h", "hr", "hour"],
        &["d", "day"],
        &["w", "wk", "week"],
    ];
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        rest = &rest[at..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number = &rest[..end];
        rest = rest[end..].trim_start();
        let end = rest.find(|c: char| !(c.is_ascii_alphabetic() || c == 'µ')).unwrap_or(rest.len());
        let unit = rest[..end].to_lowercase();
        rest = &rest[end..];
        let named = |names: &&[&str]| {
            names.iter().any(|name| *name == unit) || names.last().is_some_and(|name| unit.starts_with(name))
        };
        if !unit.is_empty() && number.parse::<i64>().is_ok() && UNITS.iter().any(named) {
            return true;
        }
    }
    false
}

fn go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let number = &rest[..end];
        if !number.bytes().any(|b| b.is_ascii_digit()) || number.matches('.').count() > 1 {
            return false;
        }
        rest = &rest[end..];
        let Some(unit) = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"].iter().find_map(|u| rest.strip_prefix(u))
        else {
            return false;
        };
        rest = unit;
    }
    true
}

/// An address, alone or behind a name. Source: RFC 5322 as far as Go's `net/mail` reads it.
fn email(text: &str) -> bool {
    let text = text.trim();
    let address = match (text.rfind('<'), text.ends_with('>')) {
        (Some(at), true) => &text[at + 1..text.len() - 1],
        (None, false) => text,
        _ => return false,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii();
    let dotted = |text: &str| text.split('.').all(|part| !part.is_empty() && part.chars().all(atom));
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let literal = domain.starts_with('[') && domain.ends_with(']');
    (quoted || dotted(local)) && (literal || dotted(domain))
}

fn hostname(text: &str) -> bool {
    let symbol = |c: char| c.is_ascii_alphanumeric() || (!c.is_ascii() && !c.is_whitespace() && !c.is_control());
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.chars().all(|c| symbol(c) || c == '-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let parts: Vec<&str> = text.split('.').collect();
    let top = parts.last().copied().unwrap_or_default();
    let letters = top.chars().all(char::is_alphabetic) && top.chars().count() >= 2;
    text.len() <= 255 && parts.iter().all(|part| label(part)) && (parts.len() == 1 || letters)
}

fn isbn_digits(text: &str) -> String {
    text.chars().filter(|c| !(c.is_whitespace() || *c == '-')).collect()
}

fn isbn10(text: &str) -> bool {
    let text = isbn_digits(text);
    if text.len() != 10 || !digits(&text[..9]) || !text.ends_with(|c: char| c.is_ascii_digit() || c == 'X') {
        return false;
    }
    let value = |b: u8| if b == b'X' { 10 } else { u32::from(b - b'0') };
    let sum: u32 = (1..).zip(text.bytes()).map(|(i, b)| i * value(b)).sum();
    sum.is_multiple_of(11)
}

fn isbn13(text: &str) -> bool {
    let text = isbn_digits(text);
    if text.len() != 13 || !digits(&text) {
        return false;
    }
    let digit: Vec<u32> = text.bytes().map(|b| u32::from(b - b'0')).collect();
    let sum: u32 = digit[..12].iter().enumerate().map(|(i, d)| d * if i % 2 == 0 { 1 } else { 3 }).sum();
    digit[12] == (10 - sum % 10) % 10
}

/// 6, 8 or 20 bytes, in pairs behind colons or dashes or in fours behind dots.
fn mac(text: &str) -> bool {
    let sized = |parts: &[&str], width: usize| {
        let bytes = parts.len() * width / 2;
        matches!(bytes, 6 | 8 | 20) && parts.iter().all(|p| p.len() == width && hex(p))
    };
    let by = |separator: char, width| sized(&text.split(separator).collect::<Vec<_>>(), width);
    by(':', 2) || by('-', 2) || by('.', 4)
}

fn rgb(text: &str) -> bool {
    let Some(inner) = text.strip_prefix("rgb(").and_then(|t| t.strip_suffix(')')) else { return false };
    let part = |text: &str| {
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
        digits(text) && (text == "0" || !text.starts_with('0')) && text.parse::<u8>().is_ok()
    };
    inner.split(',').count() == 3 && inner.split(',').all(part)
}

fn ssn(text: &str) -> bool {
    let parts: Vec<&str> = text.split(['-', ' ']).collect();
    text.len() == 11
        && matches!(parts.as_slice(), [a, b, c] if a.len() == 3 && b.len() == 2 && c.len() == 4)
        && parts.iter().all(|p| digits(p))
}

/// What Go's `ParseRequestURI` takes: an absolute URI or an absolute path.
fn uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return false;
    }
    if text == "*" {
        return true;
    }
    let rest = match text.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))) {
        Some(0) => text,
        Some(at) if text[at..].starts_with(':') && text.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            let rest = &text[at + 1..];
            if !rest.starts_with('/') {
                return !rest.is_empty();
            }
            rest
        }
        _ => return false,
    };
    let authority = rest.strip_prefix("//").map_or("", |r| r.split(['/', '?']).next().unwrap_or_default());
    rest.starts_with('/') && !authority.contains([' ', '<', '>', '"', '{', '}', '^', '`', '\\']) && escapes(rest)
}

/// Every `%` is followed by two digits.
fn escapes(text: &str) -> bool {
    let path = text.split('?').next().unwrap_or_default();
    path.split('%').skip(1).all(|part| part.get(..2).is_some_and(hex))
}

fn uuid(text: &str, version: Option<char>) -> bool {
    let bytes = text.as_bytes();
    let mut plain = String::with_capacity(32);
    for (i, byte) in bytes.iter().enumerate() {
        if *byte == b'-' {
            // Each dash may be left out, but stands nowhere else.
            if !matches!(plain.len(), 8 | 12 | 16 | 20) || i == 0 || bytes[i - 1] == b'-' {
                return false;
            }
        } else {
            plain.push(char::from(*byte));
        }
    }
    let variant = |c: char| matches!(c.to_ascii_lowercase(), '8' | '9' | 'a' | 'b');
    let at = |i: usize| plain[i..].chars().next().unwrap_or_default();
    plain.len() == 32 && hex(&plain) && version.is_none_or(|v| at(12) == v && (v == '3' || variant(at(16))))
}
