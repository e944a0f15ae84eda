//! What a registry asks for and what is answered: basic and bearer authorization, and whose credentials fit which image.
//!
//! Source: distribution spec "Token Authentication"; RFC 9110 section 11; Kubernetes docs, "Pull an Image from a Private Registry"
//! (matching of registry names).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Who asks a registry.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Credentials {
    /// Host (and path) that they are for, as `dockerconfigjson` has it; `*` matches within one part of the host.
    pub registry: String,
    pub username: String,
    pub password: String,
    /// An identity token instead of a password.
    pub token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Credentials {
    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)))
    }

    /// Whether they are for an image of this registry and repository; more specific ones give larger numbers.
    pub fn fits(&self, host: &str, repository: &str) -> Option<usize> {
        let written = self.registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        let written = written.strip_suffix("/v1").or_else(|| written.strip_suffix("/v2")).unwrap_or(written);
        let (their_host, their_path) = written.split_once('/').unwrap_or((written, ""));
        let hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
        let host_fits = (hub(host) && hub(their_host)) || host_matches(their_host, host);
        let path_fits = their_path.is_empty()
            || repository.strip_prefix(their_path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        (host_fits && path_fits).then_some(written.len())
    }
}

fn host_matches(pattern: &str, host: &str) -> bool {
    let port = |text: &str| text.rsplit_once(':').map(|(_, port)| port.to_owned());
    if !pattern.contains('*') {
        return pattern == host;
    }
    let (a, b): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    port(pattern) == port(host) && a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| part_matches(a, b))
}

fn part_matches(pattern: &str, part: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == part,
        Some((before, after)) => part.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && part_matches(after, &rest[at..]))
        }),
    }
}

/// `username:password` out of base64.
pub fn decode_basic(text: &str) -> Option<(String, String)> {
    if text.is_empty() {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// A `WWW-Authenticate` header, the scheme that is used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The first usable one; bearer before basic within one header.
    pub fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
        let mut basic = None;
        for header in headers {
            let lower = header.to_ascii_lowercase();
            if let Some(at) = lower.find("bearer ") {
                let parameters = parameters(&header[at + "bearer ".len()..]);
                let get = |key: &str| parameters.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
                if let Some(realm) = get("realm") {
                    return Some(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
                }
            } else if lower.starts_with("basic") {
                basic = Some(Challenge::Basic);
            }
        }
        basic
    }
}

/// `key="value", key=value` with backslash escapes.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| *c == ',' || c.is_whitespace()).is_some() {}
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && *c != ',') {
            key.push(c);
        }
        if chars.next_if_eq(&'=').is_none() {
            return out;
        }
        let mut value = String::new();
        if chars.next_if_eq(&'"').is_some() {
            while let Some(c) = chars.next().filter(|c| *c != '"') {
                value.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                value.push(c);
            }
        }
        out.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// A value within a query string.
pub fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => drop(write!(out, "%{byte:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = Challenge::Bearer {
            realm: "https://auth.docker.io/token".into(),
            service: Some("registry.docker.io".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io", scope="repository:a/b:pull,push""#;
        for (headers, expected) in [
            (vec![header], Some(bearer.clone())),
            (vec!["Basic realm=\"x\"", header], Some(bearer)),
            (vec!["Basic realm=\"x\""], Some(Challenge::Basic)),
            (
                vec!["bearer realm=http://x/y"],
                Some(Challenge::Bearer { realm: "http://x/y".into(), service: None, scope: None }),
            ),
            (vec!["Bearer service=\"x\""], None),
            (vec!["Negotiate"], None),
            (vec![], None),
        ] {
            assert_eq!(Challenge::parse(headers.iter().copied()), expected, "{headers:?}");
        }
    }

    #[test]
    fn credentials_fit_their_registry() {
        for (written, host, repository, fits) in [
            ("https://index.docker.io/v1/", "docker.io", "library/redis", true),
            ("docker.io", "docker.io", "a/b", true),
            ("ghcr.io", "docker.io", "a/b", false),
            ("ghcr.io", "ghcr.io", "a/b", true),
            ("ghcr.io/a", "ghcr.io", "a/b", true),
            ("ghcr.io/a", "ghcr.io", "ab/b", false),
            ("ghcr.io", "ghcr.io:444", "a", false),
            ("*.example.com", "reg.example.com", "a", true),
            ("*.example.com", "example.com", "a", false),
            ("*.example.com", "a.b.example.com", "a", false),
            ("r*g.example.com:5000", "reg.example.com:5000", "a", true),
            ("*.example.com", "reg.example.com:5000", "a", false),
        ] {
            let credentials = Credentials { registry: written.into(), ..Credentials::default() };
            assert_eq!(credentials.fits(host, repository).is_some(), fits, "{written} for {host}/{repository}");
        }
    }
}
