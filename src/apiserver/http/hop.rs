//! Headers that are of one connection, when a request or an answer is passed on over another.
//!
//! Source: RFC 9110 §7.6.1, Go `net/http/httputil/reverseproxy.go`, apimachinery `pkg/util/httpstream` `IsUpgradeRequest`.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, UPGRADE};

const OF_ONE_CONNECTION: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a request asks for another protocol: it names one, and says that this is meant for whom it is sent to.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && named(headers).any(|name| name == "upgrade")
}

/// Removes what is of the connection, and what `Connection` says is.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<String> = named(headers).collect();
    remove(headers, |name| OF_ONE_CONNECTION.contains(&name) || named.iter().any(|n| n == name));
}

/// The same of a request; one that asks for another protocol goes on asking for it, and for nothing else of the connection.
/// It has no body.
pub fn strip_request(headers: &mut HeaderMap) {
    let wanted = is_upgrade(headers).then(|| headers.get(UPGRADE).cloned()).flatten();
    strip(headers);
    if let Some(wanted) = wanted {
        headers.remove(CONTENT_LENGTH);
        headers.insert(UPGRADE, wanted);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

pub fn remove(headers: &mut HeaderMap, which: impl Fn(&str) -> bool) {
    let names: Vec<_> = headers.keys().filter(|name| which(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// What `Connection` names, in lower case.
fn named(headers: &HeaderMap) -> impl Iterator<Item = String> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',').map(|name| name.trim().to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_is_of_the_connection_stays() {
        let mut answer =
            headers(&[("connection", "X-Mine, close"), ("x-mine", "1"), ("te", "trailers"), ("accept", "a")]);
        strip(&mut answer);
        assert_eq!(answer, headers(&[("accept", "a")]));
    }

    #[test]
    fn another_protocol_is_asked_for_with_both_headers() {
        let mut both = headers(&[
            ("connection", "keep-alive, UPGRADE, X-Mine"),
            ("upgrade", "a"),
            ("x-mine", "1"),
            ("content-length", "3"),
        ]);
        assert!(is_upgrade(&both));
        strip_request(&mut both);
        assert_eq!(both, headers(&[("upgrade", "a"), ("connection", "Upgrade")]));
        for pairs in
            [&[("upgrade", "a")][..], &[("connection", "upgrade")], &[("connection", "close"), ("upgrade", "a")]]
        {
            let mut one = headers(pairs);
            assert!(!is_upgrade(&one), "{pairs:?}");
            one.insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
            strip_request(&mut one);
            assert_eq!(one, headers(&[("content-length", "3")]));
        }
    }
}
