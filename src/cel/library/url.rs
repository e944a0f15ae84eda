//! URLs, read as Go reads them. Source: apiserver `pkg/cel/library/urls.go`; Go `net/url`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::signature::Function;
use crate::value::{Answer, Key, Value, fault, no_overload};
use types::percent::{IN_PATH, percent_encode};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Url {
    scheme: String,
    host: String,
    /// As it is written.
    path: String,
    query: String,
}

pub const FUNCTIONS: &[Function] = &[
    Function {
        run: |args| match args {
            [Value::String(text)] => match parse(text, true).and_then(|_| parse(text, false)) {
                Ok(url) => Ok(Value::Url(Arc::new(url))),
                Err(why) => fault(format!("URL parse error during conversion from string: parse {:?}: {why}", &**text)),
            },
            _ => no_overload(),
        },
        overloads: &[("url", "string_to_url", "(string) kubernetes.URL")],
    },
    Function {
        run: |args| match args {
            [Value::String(text)] => Ok(Value::Bool(parse(text, true).is_ok())),
            _ => no_overload(),
        },
        overloads: &[("isURL", "is_url_string", "(string) bool")],
    },
    Function {
        run: |args| get(args, |url| url.scheme.clone()),
        overloads: &[("getScheme", "url_get_scheme", "kubernetes.URL.() string")],
    },
    Function {
        run: |args| get(args, |url| url.host.clone()),
        overloads: &[("getHost", "url_get_host", "kubernetes.URL.() string")],
    },
    Function {
        run: |args| get(args, |url| split_port(&url.host).0.trim_matches(['[', ']']).to_owned()),
        overloads: &[("getHostname", "url_get_hostname", "kubernetes.URL.() string")],
    },
    Function {
        run: |args| get(args, |url| split_port(&url.host).1.to_owned()),
        overloads: &[("getPort", "url_get_port", "kubernetes.URL.() string")],
    },
    Function {
        run: |args| get(args, escaped_path),
        overloads: &[("getEscapedPath", "url_get_escaped_path", "kubernetes.URL.() string")],
    },
    Function { run: query, overloads: &[("getQuery", "url_get_query", "kubernetes.URL.() map(string, list(string))")] },
];

/// What is wrong with the text as a request's URI.
pub fn request_uri_error(text: &str) -> Option<String> {
    parse(text, true).err().map(|why| format!("parse {text:?}: {why}"))
}

fn get<'a>(args: &[Value<'a>], part: fn(&Url) -> String) -> Answer<'a> {
    match args {
        [Value::Url(url)] => Ok(Value::text(part(url))),
        _ => no_overload(),
    }
}

/// `request`: as in a request line, where a fragment is not split off and a relative path is an error.
fn parse(text: &str, request: bool) -> Result<Url, String> {
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err("net/url: invalid control character in URL".into());
    }
    let text = if request { text } else { text.split_once('#').map_or(text, |(before, _)| before) };
    if text.is_empty() && request {
        return Err("empty url".into());
    }
    let mut url = Url::default();
    if text == "*" {
        url.path = text.into();
        return Ok(url);
    }
    let mut rest = text;
    if let Some((scheme, behind)) = scheme(text)? {
        url.scheme = scheme.to_ascii_lowercase();
        rest = behind;
    }
    if let Some((before, query)) = rest.split_once('?') {
        rest = before;
        url.query = query.into();
    }
    if !rest.starts_with('/') {
        if !url.scheme.is_empty() {
            // opaque, as in `mailto:x`
            return Ok(url);
        }
        if request {
            return Err("invalid URI for request".into());
        }
        let first = rest.split('/').next().unwrap_or_default();
        if first.contains(':') {
            return Err("first path segment in URL cannot contain colon".into());
        }
    }
    let authority = !url.scheme.is_empty() || !request && !rest.starts_with("///");
    if let Some(behind) = rest.strip_prefix("//").filter(|_| authority) {
        let end = behind.find('/').unwrap_or(behind.len());
        url.host = host(&behind[..end])?;
        rest = &behind[end..];
    }
    unescape(rest)?;
    url.path = rest.into();
    Ok(url)
}

fn scheme(text: &str) -> Result<Option<(&str, &str)>, String> {
    for (i, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme".into()),
            ':' => return Ok(Some((&text[..i], &text[i + 1..]))),
            _ => return Ok(None),
        }
    }
    Ok(None)
}
fn host(authority: &str) -> Result<String, String> {
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains([' ', '<', '>', '"', '[', ']', '@']) {
        return Err("net/url: invalid userinfo".into());
    }
    let port = match host.strip_prefix('[') {
        Some(inner) => {
            let Some((_, port)) = inner.split_once(']') else { return Err("missing ']' in host".into()) };
            port
        }
        None => host.rfind(':').map_or("", |colon| &host[colon..]),
    };
    let numeric = port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    if !port.is_empty() && !numeric {
        return Err(format!("invalid port {port:?} after host"));
    }
    if let Some(bad) =
        host.chars().find(|c| matches!(c, ' ' | '"' | '\\' | '^' | '`' | '{' | '|' | '}' | '#' | '/' | '?'))
    {
        return Err(format!("invalid character {:?} in host name", bad.to_string()));
    }
    String::from_utf8(unescape(host)?).map_err(|_| "invalid host".into())
}
fn split_port(host: &str) -> (&str, &str) {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => (&host[..colon], &host[colon + 1..]),
        _ => (host, ""),
    }
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'%' {
            let code = bytes.get(i + 1..i + 3).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
            let Some(code) = code.and_then(|hex| std::str::from_utf8(hex).ok()) else {
                let end = (i + 3).min(bytes.len());
                return Err(format!("invalid URL escape {:?}", String::from_utf8_lossy(&bytes[i..end])));
            };
            out.push(u8::from_str_radix(code, 16).unwrap_or_default());
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    Ok(out)
}
/// Source: Go `net/url` `validEncoded`.
fn escaped_path(url: &Url) -> String {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"-_.~!'()*[]%".contains(&b) || IN_PATH.contains(&b);
    if url.path.bytes().all(valid) {
        return url.path.clone();
    }
    let mut out = String::new();
    percent_encode(&mut out, &unescape(&url.path).unwrap_or_default(), IN_PATH);
    out
}

fn query<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::Url(url)] = args else { return no_overload() };
    let mut values: BTreeMap<Key, Vec<Value>> = BTreeMap::new();
    for pair in url.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| unescape(&text.replace('+', " ")).ok().and_then(|b| String::from_utf8(b).ok());
        if let (Some(key), Some(value)) = (decode(key), decode(value)) {
            values.entry(Key::String(key.into())).or_default().push(Value::text(value));
        }
    }
    Ok(Value::map(values.into_iter().map(|(key, values)| (key, Value::list(values))).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let url = parse("HTTPS://user@[::1]:8443/a%20b/ü?k=1&k=2#frag", false).unwrap();
        assert_eq!((url.scheme.as_str(), url.host.as_str(), url.query.as_str()), ("https", "[::1]:8443", "k=1&k=2"));
        assert_eq!(split_port(&url.host), ("[::1]", "8443"));
        assert_eq!(escaped_path(&url), "/a%20b/%C3%BC");
    }

    #[test]
    fn what_is_none() {
        for (text, why) in [
            ("", "empty url"),
            ("../path", "invalid URI for request"),
            ("https://a:b/", "invalid port \":b\" after host"),
            ("/%zz", "invalid URL escape \"%zz\""),
            ("https://a b/", "invalid character \" \" in host name"),
            (":x", "missing protocol scheme"),
        ] {
            assert_eq!(parse(text, true).unwrap_err(), why, "{text}");
        }
        for text in ["/path", "https://example.com", "mailto:x@y", "*"] {
            assert!(parse(text, true).is_ok(), "{text}");
        }
    }
}
