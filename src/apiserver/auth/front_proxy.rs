//! Whom a front proxy says that it asks for. Its own certificate, signed by an authority that signs nothing else, is what
//! makes it believed; the headers of anybody else are nobody's word.
//!
//! Source: apiserver `pkg/authentication/request/headerrequest/requestheader.go`.

use http::HeaderMap;

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
            let key = crate::http::query::percent_decode(key, false);
            identity.extra.entry(key).or_default().push(value.to_owned());
        }
    }
    identity.add_authenticated();
    Some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

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
