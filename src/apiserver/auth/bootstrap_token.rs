//! Bootstrap tokens: `id.secret`, kept in a Secret of `kube-system`, with which a machine that knows nothing else asks for
//! its first certificate.
//!
//! What never lives here: what the group `system:bootstrappers` may do.
//!
//! Source: `plugin/pkg/auth/authenticator/token/bootstrap/bootstrap.go`, cluster-bootstrap `token/{api,util}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use store::View;

use super::identity::Identity;
use super::token::same;

/// In every token's identity.
const GROUP_BOOTSTRAPPERS: &str = "system:bootstrappers";
const USER_PREFIX: &str = "system:bootstrap:";
const SECRET_PREFIX: &str = "core/secrets/kube-system/bootstrap-token-";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
/// Characters of a group's name after `system:bootstrappers:`.
const GROUP_LENGTH_MAX: usize = 256;

/// The two halves of a text that has the form of a bootstrap token.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (plain(id, ID_LENGTH) && plain(secret, SECRET_LENGTH)).then_some((id, secret))
}

/// Who the token stands for.
///
/// # Errors
/// Why it stands for nobody; for the log.
pub fn check(id: &str, secret: &str, now: Timestamp, view: &dyn View) -> Result<Identity, String> {
    let entry = view.get(&format!("{SECRET_PREFIX}{id}")).ok_or("there is no such bootstrap token")?;
    if crate::verbs::facts::facts(&entry).deleting() {
        return Err("its Secret is deleted and awaiting removal".into());
    }
    let object: Value = serde_json::from_slice(entry.value()).map_err(|e| e.to_string())?;
    if object["type"] != SECRET_TYPE {
        return Err("its Secret has another type".into());
    }
    let data = |key: &str| {
        let encoded = object["data"][key].as_str().unwrap_or_default();
        STANDARD.decode(encoded).ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
    };
    if !same(data("token-secret").as_bytes(), secret.as_bytes()) || data("token-id") != id {
        return Err("it is not the one that its Secret holds".into());
    }
    let expires = data("expiration");
    if !expires.is_empty() {
        // A time that nobody can read is one that has passed.
        let at: Timestamp = expires.parse().map_err(|_| "its expiration cannot be read")?;
        if now >= at {
            return Err("it has expired".into());
        }
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("it is not for authentication".into());
    }
    let mut groups = vec![GROUP_BOOTSTRAPPERS.to_owned()];
    for group in data("auth-extra-groups").split(',').filter(|g| !g.is_empty()) {
        if !is_group(group) {
            return Err(format!("its extra group {group:?} is not allowed"));
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    Ok(Identity::new(format!("{USER_PREFIX}{id}"), &groups))
}

/// `system:bootstrappers:` and a name of lower-case letters, digits, colons and hyphens that does not end in one of the last
/// two.
fn is_group(group: &str) -> bool {
    let Some(name) = group.strip_prefix(GROUP_BOOTSTRAPPERS).and_then(|rest| rest.strip_prefix(':')) else {
        return false;
    };
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= GROUP_LENGTH_MAX
        && name.bytes().all(|b| word(b) || b == b':' || b == b'-')
        && name.bytes().last().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_of_the_form_are_tokens() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for text in ["", "abcdef", "abcdef.", "abcdeF.0123456789abcdef", "abcdef.0123456789abcde", "a.b.c"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn extra_groups_are_below_the_first() {
        for (group, good) in [
            ("system:bootstrappers:kubeadm:default-node-token", true),
            ("system:bootstrappers:a", true),
            ("system:bootstrappers:", false),
            ("system:bootstrappers:a-", false),
            ("system:bootstrappers:A", false),
            ("system:masters", false),
            ("system:bootstrappers", false),
        ] {
            assert_eq!(is_group(group), good, "{group}");
        }
    }
}
