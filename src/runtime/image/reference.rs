//! Names of images as people write them, and the one form in which they are kept.
//!
//! Source: github.com/distribution/reference (grammar and normalisation), as CRI runtimes apply it: a digest makes the tag
//! meaningless, neither means `latest`.

use std::fmt;

use super::digest::Digest;
use super::error::Error;

const DEFAULT_HOST: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// Bytes of host and path together, and of a tag. Source: distribution/reference.
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// What is named within a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    Tag(String),
    Digest(Digest),
}

/// A fully qualified name; `Display` writes the canonical form, which parses to the same value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Registry with optional port; `docker.io` when none was written.
    pub host: String,
    /// Repository within the registry.
    pub path: String,
    pub version: Version,
}

impl Reference {
    /// Normalises as Docker does: `redis` is `docker.io/library/redis:latest`.
    pub fn parse(text: &str) -> Result<Reference, Error> {
        parse(text).map_err(|why| Error::InvalidReference { reference: text.to_owned(), why: why.to_owned() })
    }

    /// Host and path: `docker.io/library/redis`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The same repository at a digest: `docker.io/library/redis@sha256:…`.
    pub fn at(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.host, self.path)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}/{}:{tag}", self.host, self.path),
            Version::Digest(digest) => write!(f, "{}/{}@{digest}", self.host, self.path),
        }
    }
}

const INVALID: &str = "invalid reference format";

fn parse(text: &str) -> Result<Reference, &'static str> {
    if Digest::from_hex(text).is_some() {
        return Err("cannot specify 64-byte hexadecimal strings");
    }
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(Digest::parse(digest).map_err(|_| "invalid or unsupported digest")?)),
        None => (text, None),
    };
    let (host, rest) = match named.split_once('/') {
        Some((host, rest)) if is_host(host) => (host, rest),
        _ => (DEFAULT_HOST, named),
    };
    let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let path = match host == DEFAULT_HOST && !path.contains('/') {
        true => format!("library/{path}"),
        false => path.to_owned(),
    };
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("invalid reference format: repository name must be lowercase");
    }
    if !valid_host(host) || !path.split('/').all(valid_component) || !tag.is_none_or(valid_tag) {
        return Err(INVALID);
    }
    if host.len() + 1 + path.len() > NAME_BYTES_MAX {
        return Err("repository name must not be more than 255 characters");
    }
    let version = match digest {
        Some(digest) => Version::Digest(digest),
        None => Version::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
    };
    Ok(Reference { host: host.to_owned(), path, version })
}

/// Whether what stands before the first slash is a registry and not the first part of a path.
fn is_host(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost" || text.bytes().any(|b| b.is_ascii_uppercase())
}

fn valid_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => match port.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let port_valid = port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let name_valid = match host.starts_with('[') {
        true => !name.is_empty() && name.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        false => name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }),
    };
    port_valid && name_valid
}

/// Runs of lower-case letters and digits, between them one dot, one or two underscores, or any number of dashes.
fn valid_component(component: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(first)
        && alphanumeric(last)
        && component
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "4bc453b53cb3d914b45f4b250294236adba2c0e09ff6f03793949e7e39fd4cc1";

    #[test]
    fn names_are_normalised_as_docker_does() {
        let digest = format!("sha256:{HEX}");
        for (written, canonical) in [
            ("redis", "docker.io/library/redis:latest".to_owned()),
            ("redis:7", "docker.io/library/redis:7".into()),
            ("grafana/grafana", "docker.io/grafana/grafana:latest".into()),
            ("docker.io/redis", "docker.io/library/redis:latest".into()),
            ("index.docker.io/library/redis:7", "docker.io/library/redis:7".into()),
            ("localhost/x", "localhost/x:latest".into()),
            ("localhost:5000/x:1", "localhost:5000/x:1".into()),
            ("10.0.0.1:5000/a/b/c:v1.2-3", "10.0.0.1:5000/a/b/c:v1.2-3".into()),
            ("[::1]:5000/x", "[::1]:5000/x:latest".into()),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10".into()),
            ("a__b/c.d-e--f", "docker.io/a__b/c.d-e--f:latest".into()),
            (&format!("redis@{digest}"), format!("docker.io/library/redis@{digest}")),
            (&format!("redis:7@{digest}"), format!("docker.io/library/redis@{digest}")),
        ] {
            assert_eq!(Reference::parse(written).unwrap().to_string(), canonical, "{written}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        let long = format!("{}/x", "a".repeat(260));
        for (written, why) in [
            ("", INVALID),
            (":tag", INVALID),
            ("a//b", INVALID),
            ("/a", INVALID),
            ("a/", INVALID),
            ("a:", INVALID),
            ("a: b", INVALID),
            ("a b", INVALID),
            ("a___b", INVALID),
            ("a..b", INVALID),
            ("-a", INVALID),
            ("a.b:x/c", INVALID),
            ("a/../b", INVALID),
            ("https://docker.io/redis", INVALID),
            ("Redis", "invalid reference format: repository name must be lowercase"),
            ("x@sha256:12", "invalid or unsupported digest"),
            ("x@md5:12", "invalid or unsupported digest"),
            (HEX, "cannot specify 64-byte hexadecimal strings"),
            (&long, "repository name must not be more than 255 characters"),
        ] {
            match Reference::parse(written) {
                Err(Error::InvalidReference { why: got, .. }) => assert_eq!(got, why, "{written}"),
                other => panic!("{written}: {other:?}"),
            }
        }
    }

    proptest! {
        /// Anything at all: no panic, and what is accepted is a fixed point and safe to put into a URL.
        #[test]
        fn accepted_names_are_fixed_points(text in r"[a-zA-Z0-9:/@._\[\] -]{0,60}|\PC{0,20}") {
            if let Ok(reference) = Reference::parse(&text) {
                let canonical = reference.to_string();
                prop_assert_eq!(&Reference::parse(&canonical).unwrap(), &reference);
                prop_assert!(canonical.bytes().all(|b| b.is_ascii_graphic() && !b"?#%\\\"".contains(&b)));
                prop_assert!(!reference.path.split('/').any(|part| part == ".." || part == "." || part.is_empty()));
            }
        }

        #[test]
        fn well_formed_names_are_accepted(
            host in r"([a-z][a-z0-9]{0,8}\.){1,2}[a-z]{2,4}(:[1-9][0-9]{0,3})?",
            path in r"[a-z0-9]{1,6}([._]|__|-{1,3})[a-z0-9]{1,6}(/[a-z0-9]{1,8}){0,3}",
            tag in r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let reference = Reference::parse(&format!("{host}/{path}:{tag}")).unwrap();
            prop_assert_eq!((reference.host, reference.path, reference.version), (host, path, Version::Tag(tag)));
        }
    }
}
