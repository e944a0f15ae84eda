//! Whom a front proxy says that it asks for. Its own certificate, signed by an authority that signs nothing else, is what
//! makes it believed; the headers of anybody else are nobody's word. This server reads them, and is such a proxy itself before
//! aggregated servers.
//!
//! Source: apiserver `pkg/authentication/request/headerrequest/requestheader.go`; client-go `transport/round_trippers.go`.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::identity::Identity;

/// The headers, as extension servers learn them from the ConfigMap `extension-apiserver-authentication`.
pub const USER: &str = "x-remote-user";
pub const UID: &str = "x-remote-uid";
pub const GROUP: &str = "x-remote-group";
pub const EXTRA_PREFIX: &str = "x-remote-extra-";

/// The identity in the headers; `None` when they name nobody.
pub fn identity(headers: &HeaderMap) -> Option<Identity> {
    let texts = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        values.filter(|v| !v.is_empty()).map(str::to_owned).collect()
    };
    let user = texts(USER).into_iter().next()?;
    let uid = texts(UID).into_iter().next().unwrap_or_default();
    let mut identity = Identity { user, uid, groups: texts(GROUP), ..Identity::default() };
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA_PREFIX), value.to_str()) {
            let key = types::percent::percent_decode(key, false);
            identity.extra.entry(key).or_default().push(value.to_owned());
        }
    }
    identity.add_authenticated();
    Some(identity)
}

/// Says in the headers for whom a request is sent, and nothing else: whatever the client claimed is gone.
pub fn introduce(headers: &mut HeaderMap, identity: &Identity) {
    let claimed: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
    let mut say = |name: &str, value: &str| {
        // What no header can hold is left out, as one of several.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    };
    say(USER, &identity.user);
    if !identity.uid.is_empty() {
        say(UID, &identity.uid);
    }
    for group in &identity.groups {
        say(GROUP, group);
    }
    for (key, values) in &identity.extra {
        let name = format!("{EXTRA_PREFIX}{}", escaped(key));
        for value in values {
            say(&name, value);
        }
    }
}

/// A key as a part of a header's name: what none may hold is written in percent. Source: client-go `headerKeyEscape`.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_headers() {
        let mut ann = Identity::new("ann", &["one", "two"]);
        ann.uid = "7".into();
        ann.extra.insert("example.org/a b%".into(), vec!["x".into(), "y".into()]);
        let mut headers = HeaderMap::new();
        for claimed in [USER, GROUP, UID, "x-remote-extra-scope", "x-remote-anything"] {
            headers.append(claimed, HeaderValue::from_static("root"));
        }
        introduce(&mut headers, &ann);
        assert_eq!(identity(&headers), Some(ann));
        assert!(headers.contains_key("x-remote-extra-example.org%2fa%20b%25"), "{headers:?}");
    }

    #[test]
    fn headers_become_an_identity() {
        let mut headers = HeaderMap::new();
        assert_eq!(identity(&headers), None);
        for (name, value) in [
            (USER, "ann"),
            (GROUP, "one"),
            (GROUP, "two"),
            ("x-remote-extra-example.org%2fscope", "a"),
            ("x-remote-extra-example.org%2fscope", "b"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let ann = identity(&headers).unwrap();
        assert_eq!((ann.user.as_str(), ann.uid.as_str()), ("ann", ""));
        assert_eq!(ann.groups, ["one", "two", "system:authenticated"]);
        assert_eq!(ann.extra["example.org/scope"], ["a", "b"]);
    }
}
