//! Links in what a proxied server answers: those to its own root lead through the proxy afterwards.
//!
//! A tag is passed on as it is but for the values that change. What never lives here: a connection, a request.
//!
//! Source: apimachinery `pkg/util/proxy/transport.go`, HTML 4.01 index of attributes.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzDecoder, GzEncoder};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::BodyExt as _;

use crate::Body;

/// A tag that is longer is no tag whose links anybody follows; it goes through as it is.
const TAG_BYTES_MAX: usize = 64 * 1024;

/// Attributes that hold links, by tag; in order.
const ATTRIBUTES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose contents are text, whatever they look like.
const RAW: &[&str] =
    &["iframe", "noembed", "noframes", "noscript", "plaintext", "script", "style", "textarea", "title", "xmp"];

/// Where links lead from and to.
#[derive(Debug, Clone)]
pub(super) struct Links {
    /// The path of the proxy, without a slash at its end.
    pub prefix: String,
    /// The proxied server, as the API server dials it.
    pub server: String,
    /// The `Host` of the request.
    pub asked: String,
}

impl Links {
    /// The link through the proxy; `None` for one that stays as it is: to another host, or relative.
    fn through(&self, link: &str) -> Option<String> {
        let (before, rest) = match link.find([':', '/', '?', '#']) {
            Some(at) if link.as_bytes()[at] == b':' && at > 0 => link.split_at(at + 1),
            _ => ("", link),
        };
        let (host, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
            None => ("", rest),
        };
        let foreign = !host.is_empty() && host != self.server && host != self.asked;
        if foreign || !path.starts_with('/') || link.bytes().any(|b| b.is_ascii_control()) {
            return None;
        }
        // A link that names the proxy's own host keeps it; one to the server behind it cannot.
        let origin = if !host.is_empty() && host == self.asked { format!("{before}//{host}") } else { String::new() };
        let (path, tail) = path.split_at(path.find(['?', '#']).unwrap_or(path.len()));
        let through = if path.starts_with(&self.prefix) { path.to_owned() } else { self.below(path) };
        Some(format!("{origin}{through}{tail}")).filter(|new| new != link)
    }

    /// The path behind the prefix, without what leads nowhere.
    fn below(&self, path: &str) -> String {
        let mut parts: Vec<&str> = self.prefix.split('/').filter(|p| !p.is_empty()).collect();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        let end = if path.ends_with('/') { "/" } else { "" };
        format!("/{}{end}", parts.join("/"))
    }

    /// Rewrites the `Location` of an answer, or the links in its page.
    pub(super) fn rewrite(self, response: Response<Body>) -> Response<Body> {
        let (mut parts, body) = response.into_parts();
        if let Some(location) = parts.headers.get(LOCATION).and_then(|v| v.to_str().ok()).filter(|l| !l.is_empty()) {
            if let Some(new) = self.through(location).and_then(|new| HeaderValue::from_str(&new).ok()) {
                parts.headers.insert(LOCATION, new);
            }
            return Response::from_parts(parts, body);
        }
        let Some(pipe) = is_page(&parts.headers).then(|| Pipe::new(&parts.headers)).flatten() else {
            return Response::from_parts(parts, body);
        };
        parts.headers.remove(CONTENT_LENGTH);
        let page = Page::new(self);
        let state = Some((body, pipe, page));
        let pieces = futures_util::stream::unfold(state, |state| async move {
            let (mut body, mut pipe, mut page) = state?;
            loop {
                let end = match body.frame().await {
                    Some(Ok(frame)) => match frame.into_data().map(|data| pipe.push(&data, &mut page)) {
                        Ok(Err(error)) => return Some((Err(error.into()), None)),
                        _ => false,
                    },
                    Some(Err(error)) => return Some((Err(error), None)),
                    None => match pipe.finish(&mut page) {
                        Err(error) => return Some((Err(error.into()), None)),
                        Ok(()) => true,
                    },
                };
                let out = pipe.take();
                if end {
                    return (!out.is_empty()).then_some((Ok(Bytes::from(out)), None));
                }
                if !out.is_empty() {
                    return Some((Ok(Bytes::from(out)), Some((body, pipe, page))));
                }
            }
        });
        Response::from_parts(parts, Body::pieces(pieces))
    }
}

fn is_page(headers: &HeaderMap) -> bool {
    let media = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    media.split(';').next().is_some_and(|m| m.trim() == "text/html")
}

/// Takes a page out of its encoding and puts it back. Its memory is what one piece makes of itself.
enum Pipe {
    Plain(Vec<u8>),
    Gzip(Pair<GzDecoder<Vec<u8>>, GzEncoder<Vec<u8>>>),
    Deflate(Pair<DeflateDecoder<Vec<u8>>, DeflateEncoder<Vec<u8>>>),
}

/// What decodes and what encodes again.
type Pair<D, E> = Box<(D, E)>;

impl Pipe {
    /// `None` for an encoding that is not known here.
    fn new(headers: &HeaderMap) -> Option<Self> {
        let fast = Compression::fast();
        match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"") => Some(Self::Plain(Vec::new())),
            Some(b"gzip") => Some(Self::Gzip(Box::new((GzDecoder::new(Vec::new()), GzEncoder::new(Vec::new(), fast))))),
            Some(b"deflate") => {
                Some(Self::Deflate(Box::new((DeflateDecoder::new(Vec::new()), DeflateEncoder::new(Vec::new(), fast)))))
            }
            Some(_) => None,
        }
    }

    fn push(&mut self, data: &[u8], page: &mut Page) -> io::Result<()> {
        match self {
            Self::Plain(out) => page.push(data, out),
            Self::Gzip(pair) => {
                let (decoder, encoder) = &mut **pair;
                // Small bites: what a small piece can unfold to is bounded by its size times a thousand.
                for bite in data.chunks(BITE_BYTES) {
                    decoder.write_all(bite)?;
                    page.push(&std::mem::take(decoder.get_mut()), encoder)?;
                }
                Ok(())
            }
            Self::Deflate(pair) => {
                let (decoder, encoder) = &mut **pair;
                for bite in data.chunks(BITE_BYTES) {
                    decoder.write_all(bite)?;
                    page.push(&std::mem::take(decoder.get_mut()), encoder)?;
                }
                Ok(())
            }
        }
    }

    fn finish(&mut self, page: &mut Page) -> io::Result<()> {
        match self {
            Self::Plain(out) => page.finish(out),
            Self::Gzip(pair) => {
                let (decoder, encoder) = &mut **pair;
                decoder.try_finish()?;
                page.push(&std::mem::take(decoder.get_mut()), encoder)?;
                page.finish(encoder)?;
                encoder.try_finish()
            }
            Self::Deflate(pair) => {
                let (decoder, encoder) = &mut **pair;
                decoder.try_finish()?;
                page.push(&std::mem::take(decoder.get_mut()), encoder)?;
                page.finish(encoder)?;
                encoder.try_finish()
            }
        }
    }

    /// What is ready to be sent.
    fn take(&mut self) -> Vec<u8> {
        match self {
            Self::Plain(out) => std::mem::take(out),
            Self::Gzip(pair) => std::mem::take(pair.1.get_mut()),
            Self::Deflate(pair) => std::mem::take(pair.1.get_mut()),
        }
    }
}

/// Of compressed data, decompressed at once.
const BITE_BYTES: usize = 4 * 1024;

/// A page on its way through: everything up to the first tag that is not complete has been passed on.
struct Page {
    links: Links,
    held: Vec<u8>,
    /// The element in whose text we are.
    text_of: Option<String>,
    /// A tag that was too long is passed on to its end.
    passing: bool,
    /// How far what is held has been looked through for the end of its tag.
    looked: Looked,
}

/// A place in a tag, and how it is meant there: a tag that comes byte by byte is looked at once.
#[derive(Default)]
struct Looked {
    at: usize,
    quote: Option<u8>,
    after_equals: bool,
}

impl Page {
    fn new(links: Links) -> Self {
        Self { links, held: Vec::new(), text_of: None, passing: false, looked: Looked::default() }
    }

    fn push(&mut self, data: &[u8], out: &mut impl Write) -> io::Result<()> {
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(data);
        let mut done = 0;
        while let Some(token) = self.token(&held[done..]) {
            self.looked = Looked::default();
            self.write(&held[done..done + token], out)?;
            done += token;
        }
        held.drain(..done);
        self.held = held;
        if self.held.len() > TAG_BYTES_MAX {
            out.write_all(&std::mem::take(&mut self.held))?;
            self.looked = Looked::default();
            self.passing = true;
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&std::mem::take(&mut self.held))
    }

    /// The length of the next token: text up to a `<`, a tag, or a comment; `None` when it is not all there.
    fn token(&mut self, rest: &[u8]) -> Option<usize> {
        let from = self.looked.at;
        let mut find = |what: &[u8]| {
            // Its beginning may have been there before.
            let from = from.saturating_sub(what.len() - 1);
            self.looked.at = rest.len();
            memchr::memmem::find(&rest[from..], what).map(|at| from + at)
        };
        if rest.is_empty() {
            return None;
        }
        if self.passing {
            return find(b">").map(|at| at + 1).or(Some(rest.len()));
        }
        let Some(open) = memchr::memchr(b'<', rest) else { return Some(rest.len()) };
        if open > 0 {
            return Some(open);
        }
        match rest.get(1)? {
            b'!' if rest.len() < 4 => None,
            b'!' if rest.starts_with(b"<!--") => find(b"-->").map(|at| at + 3),
            b'/' | b'!' | b'?' => find(b">").map(|at| at + 1),
            c if c.is_ascii_alphabetic() && self.text_of.is_none() => end_of_tag(rest, &mut self.looked),
            // A `<` in a text.
            _ => Some(1),
        }
    }

    fn write(&mut self, token: &[u8], out: &mut impl Write) -> io::Result<()> {
        if std::mem::take(&mut self.passing) {
            self.passing = !token.ends_with(b">");
            return out.write_all(token);
        }
        let name = |from: usize| {
            let name = token[from..].iter().take_while(|b| b.is_ascii_alphanumeric());
            name.map(|b| char::from(b.to_ascii_lowercase())).collect::<String>()
        };
        match (token.first(), token.get(1), token.last()) {
            (Some(b'<'), Some(b'/'), Some(b'>')) => {
                if self.text_of.as_deref() == Some(&*name(2)) {
                    self.text_of = None;
                }
                out.write_all(token)
            }
            (Some(b'<'), Some(c), Some(b'>')) if c.is_ascii_alphabetic() && self.text_of.is_none() => {
                let name = name(1);
                let attributes = ATTRIBUTES.binary_search_by(|(tag, _)| (*tag).cmp(name.as_str()));
                let raw = RAW.contains(&name.as_str()) && !token.ends_with(b"/>");
                self.text_of = raw.then_some(name);
                match attributes {
                    Ok(at) => self.write_tag(token, ATTRIBUTES[at].1, out),
                    Err(_) => out.write_all(token),
                }
            }
            _ => out.write_all(token),
        }
    }

    /// A tag whose values may be links.
    fn write_tag(&self, tag: &[u8], wanted: &[&str], out: &mut impl Write) -> io::Result<()> {
        let mut written = 0;
        let mut at = 1 + tag[1..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        while let Some((key, value)) = attribute(tag, &mut at) {
            let key = String::from_utf8_lossy(&tag[key]).to_ascii_lowercase();
            let Ok(text) = std::str::from_utf8(&tag[value.clone()]) else { continue };
            if !wanted.contains(&key.as_str()) {
                continue;
            }
            // In an attribute only the ampersand has another spelling in links that anybody writes.
            let Some(link) = self.links.through(&text.trim().replace("&amp;", "&")) else { continue };
            out.write_all(&tag[written..value.start])?;
            out.write_all(link.replace('&', "&amp;").replace('"', "%22").as_bytes())?;
            written = value.end;
        }
        out.write_all(&tag[written..])
    }
}

/// The length of the tag with which the bytes begin: to the first `>` outside of quotes.
fn end_of_tag(rest: &[u8], looked: &mut Looked) -> Option<usize> {
    for byte in &rest[looked.at..] {
        looked.at += 1;
        match (looked.quote, byte) {
            (Some(open), byte) if open == *byte => looked.quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') if looked.after_equals => looked.quote = Some(*byte),
            (None, b'>') => return Some(looked.at),
            (None, _) => {}
        }
        looked.after_equals = *byte == b'=' || (looked.after_equals && byte.is_ascii_whitespace());
    }
    None
}

type Span = std::ops::Range<usize>;

/// The next attribute at or behind `at`: its name and its value without quotes.
fn attribute(tag: &[u8], at: &mut usize) -> Option<(Span, Span)> {
    let skip = |from: usize, what: fn(&u8) -> bool| from + tag[from..].iter().take_while(|b| what(b)).count();
    let start = skip(*at, |b| b.is_ascii_whitespace() || *b == b'/');
    let end = skip(start, |b| !b.is_ascii_whitespace() && !matches!(b, b'=' | b'>' | b'/'));
    if start == end {
        return None;
    }
    let mut next = skip(end, u8::is_ascii_whitespace);
    if tag.get(next) != Some(&b'=') {
        *at = next;
        return Some((start..end, end..end));
    }
    next = skip(next + 1, u8::is_ascii_whitespace);
    let value = match tag.get(next) {
        Some(quote @ (b'"' | b'\'')) => {
            let from = next + 1;
            let to = from + tag[from..].iter().take_while(|b| *b != quote).count();
            *at = (to + 1).min(tag.len());
            from..to
        }
        _ => {
            let to = skip(next, |b| !b.is_ascii_whitespace() && *b != b'>');
            *at = to;
            next..to
        }
    };
    Some((start..end, value))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn links() -> Links {
        Links {
            prefix: "/api/v1/namespaces/a/pods/p/proxy".into(),
            server: "10.0.0.1:80".into(),
            asked: "127.0.0.1:6443".into(),
        }
    }

    #[test]
    fn attributes_are_in_order() {
        assert!(ATTRIBUTES.is_sorted_by_key(|(tag, _)| tag));
    }

    #[test]
    fn single_links() {
        let below = "/api/v1/namespaces/a/pods/p/proxy";
        for (link, expected) in [
            ("/", Some(format!("{below}/"))),
            ("/a/b/?x=/y#z", Some(format!("{below}/a/b/?x=/y#z"))),
            ("/a/../b//c", Some(format!("{below}/b/c"))),
            ("http://10.0.0.1:80/a", Some(format!("{below}/a"))),
            ("https://127.0.0.1:6443/a", Some(format!("https://127.0.0.1:6443{below}/a"))),
            ("//10.0.0.1:80/a", Some(format!("{below}/a"))),
            ("http://example.com/a", None),
            ("//example.com/a", None),
            ("a/b", None),
            ("?x", None),
            ("#x", None),
            ("", None),
            ("mailto:a@b", None),
            ("javascript:alert('/')", None),
            ("/api/v1/namespaces/a/pods/p/proxy/a", None),
        ] {
            assert_eq!(links().through(link), expected, "{link}");
        }
    }

    const PAGE: &str = "<!DOCTYPE html><html manifest=/m><!-- <a href='/no'> --><head><title>1 < 2 <a href=\"/no\"></title>\
        <script src='/s.js'>if (a<b) document.write('<a href=\"/no\">')</script></head>\n\
        <body><a class=x href=\"/a?b=1&amp;c=2\">é</a><A HREF = '/b'><img src=\"http://10.0.0.1:80/i.png\" alt=\"a > b\"/>\
        <a href=\"rel\"><a href=\"http://example.com/\"><p href=\"/no\">1 < 2";

    fn expected() -> String {
        let proxy = links().prefix;
        PAGE.replace("=/m", &format!("={proxy}/m"))
            .replace("'/s.js'", &format!("'{proxy}/s.js'"))
            .replace("/a?b", &format!("{proxy}/a?b"))
            .replace("'/b'", &format!("'{proxy}/b'"))
            .replace("http://10.0.0.1:80/i.png", &format!("{proxy}/i.png"))
    }

    async fn rewritten(body: Vec<u8>, piece: usize, encoding: &'static str) -> (HeaderMap, Vec<u8>) {
        let pieces: Vec<_> = body.chunks(piece).map(|p| Ok(Bytes::copy_from_slice(p))).collect();
        let mut response = Response::new(Body::pieces(futures_util::stream::iter(pieces)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        if !encoding.is_empty() {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        let (parts, body) = links().rewrite(response).into_parts();
        (parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
    }

    #[tokio::test]
    async fn pages_in_pieces_of_any_size() {
        for piece in [1, 2, 3, 7, 64, PAGE.len()] {
            let (headers, page) = rewritten(PAGE.into(), piece, "").await;
            assert_eq!(String::from_utf8(page).unwrap(), expected(), "in pieces of {piece}");
            assert!(!headers.contains_key(CONTENT_LENGTH));
        }
    }

    #[tokio::test]
    async fn compressed_pages() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(PAGE.as_bytes()).unwrap();
        let (_, page) = rewritten(encoder.finish().unwrap(), 10, "gzip").await;
        let mut text = String::new();
        flate2::read::GzDecoder::new(&page[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, expected());
        let (headers, page) = rewritten(b"unknown".to_vec(), 10, "br").await;
        assert_eq!((&page[..], headers.contains_key(CONTENT_LENGTH)), (&b"unknown"[..], true));
    }

    #[tokio::test]
    async fn a_tag_without_an_end_takes_no_memory() {
        let long = format!("<a href='{}", "/x".repeat(TAG_BYTES_MAX));
        let (_, page) = rewritten(format!("{long}'><a href='/b'>").into(), 1000, "").await;
        let text = String::from_utf8(page).unwrap();
        assert!(text.starts_with(&long) && text.ends_with("/proxy/b'>"), "{}", &text[text.len() - 100..]);
    }

    /// What has been looked at is not looked at again: a `>` that comes up there changes nothing.
    #[test]
    fn a_tag_in_many_pieces_is_looked_at_once() {
        for (begins, ends) in
            [("<a href=\"/x", "\">"), ("<a b", " c>"), ("<!-- a", "-->"), ("</scr", "ipt>"), ("<!DOC", ">")]
        {
            let (mut page, mut out) = (Page::new(links()), Vec::new());
            page.push(begins.as_bytes(), &mut out).unwrap();
            page.held[3..].fill(b'>');
            for byte in ends.bytes() {
                assert!(out.is_empty(), "{begins}: {}", String::from_utf8_lossy(&out));
                page.push(&[byte], &mut out).unwrap();
            }
            assert_eq!(page.held, b"", "{begins}");
        }
    }

    #[tokio::test]
    async fn redirects() {
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert(LOCATION, HeaderValue::from_static("/login"));
        let response = links().rewrite(response);
        assert_eq!(response.headers()[LOCATION], "/api/v1/namespaces/a/pods/p/proxy/login");
    }
}
