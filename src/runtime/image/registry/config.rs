//! `registries.yaml`: which endpoints stand for a registry, and how to speak to each.
//!
//! Source: docs.k3s.io/installation/private-registry (the file's form and meaning).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Credentials;
use crate::image::error::{Error, Result};

/// The whole file. Unknown keys are refused, because a misspelt one would silently send pulls elsewhere.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    /// By registry host as image names have it; `*` for all others.
    #[serde(default)]
    pub mirrors: BTreeMap<String, Mirror>,
    /// By endpoint host and port; `*` for all others.
    #[serde(default)]
    pub configs: BTreeMap<String, EndpointConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Tried in order, then the registry itself.
    #[serde(default)]
    pub endpoint: Vec<String>,
    /// Regular expression to replacement, for repository names at these endpoints; the first that matches is used.
    #[serde(default)]
    pub rewrite: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    #[serde(default)]
    pub auth: Option<Auth>,
    #[serde(default)]
    pub tls: Option<Tls>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    #[serde(default)]
    pub username: String,
    #[serde(default)]
    pub password: String,
    /// `username:password` in base64.
    #[serde(default)]
    pub auth: String,
    #[serde(default)]
    pub identity_token: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

/// One place to ask for images of one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Up to and including `/v2`, no slash at the end.
    pub base: String,
    /// Host and port, as `configs` names it.
    pub host: String,
    /// The repository's name there.
    pub repository: String,
    /// The registry that a mirror stands for.
    pub mirrors: Option<String>,
}

impl Registries {
    /// Reads the file; one that is not there is an empty one. Errors: [`Error::Registries`], [`Error::Io`].
    pub fn read(path: &Path) -> Result<Registries> {
        match std::fs::read_to_string(path) {
            Ok(text) => Registries::parse(&text).map_err(|why| Error::Registries { path: path.to_owned(), why }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Registries::default()),
            Err(error) => Err(Error::io("read", path)(error)),
        }
    }

    /// Errors: says what is wrong with the text.
    pub fn parse(text: &str) -> std::result::Result<Registries, String> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Registries::default());
        }
        let registries: Registries = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
        for (name, mirror) in &registries.mirrors {
            for endpoint in &mirror.endpoint {
                split(endpoint).map_err(|why| format!("mirrors.{name}.endpoint {endpoint:?}: {why}"))?;
            }
            for pattern in mirror.rewrite.keys() {
                regex::Regex::new(pattern).map_err(|error| format!("mirrors.{name}.rewrite: {error}"))?;
            }
        }
        Ok(registries)
    }

    /// Where to ask for `repository` of the registry `host`, in order.
    pub fn endpoints(&self, host: &str, repository: &str) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        if let Some(mirror) = self.mirrors.get(host).or_else(|| self.mirrors.get("*")) {
            let renamed = mirror.rewrite.iter().find_map(|(pattern, to)| {
                let pattern = regex::Regex::new(pattern).ok()?;
                pattern.is_match(repository).then(|| pattern.replace_all(repository, to.as_str()).into_owned())
            });
            for endpoint in &mirror.endpoint {
                let Ok((base, at)) = split(endpoint) else { continue };
                let mirrors = (at != host).then(|| host.to_owned());
                let repository = renamed.clone().unwrap_or_else(|| repository.to_owned());
                endpoints.push(Endpoint { base, host: at, repository, mirrors });
            }
        }
        let real = if host == "docker.io" { "registry-1.docker.io" } else { host };
        let plain = is_local(real) && self.config(real).is_none_or(|config| config.tls.is_none());
        let base = format!("{}://{real}/v2", if plain { "http" } else { "https" });
        if !endpoints.iter().any(|endpoint: &Endpoint| endpoint.host == real) {
            endpoints.push(Endpoint { base, host: real.to_owned(), repository: repository.to_owned(), mirrors: None });
        }
        endpoints
    }

    pub fn config(&self, host: &str) -> Option<&EndpointConfig> {
        let alias = if host == "registry-1.docker.io" { "docker.io" } else { host };
        self.configs.get(host).or_else(|| self.configs.get(alias)).or_else(|| self.configs.get("*"))
    }

    /// What the file says to use at an endpoint when the caller brings nothing.
    pub fn credentials(&self, host: &str) -> Option<Credentials> {
        let auth = self.config(host)?.auth.as_ref()?;
        let decoded = super::auth::decode_basic(&auth.auth);
        let (username, password) = decoded.unwrap_or_else(|| (auth.username.clone(), auth.password.clone()));
        let credentials =
            Credentials { registry: host.to_owned(), username, password, token: auth.identity_token.clone() };
        (!credentials.username.is_empty() || !credentials.token.is_empty()).then_some(credentials)
    }
}

/// Base and host of an endpoint as written: a URL, or a host alone.
fn split(endpoint: &str) -> std::result::Result<(String, String), &'static str> {
    let written = match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("https://{endpoint}"),
    };
    let url: http::Uri = written.trim_end_matches('/').parse().map_err(|_| "not a URL")?;
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else { return Err("not a URL") };
    if !matches!(scheme, "http" | "https") {
        return Err("neither http nor https");
    }
    let path = url.path().trim_end_matches('/');
    let path = if path.is_empty() { "/v2" } else { path };
    Ok((format!("{scheme}://{authority}{path}"), authority.to_string()))
}

/// Whether a host is this machine, where registries speak plain HTTP unless told otherwise.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint: ["https://mirror.example.com:5000", "http://10.0.0.5/v2/hub"]
    rewrite:
      "^library/(.*)": "hub/$1"
  "*":
    endpoint: ["http://cache.local"]
configs:
  "mirror.example.com:5000":
    auth: {username: u, password: p}
    tls: {ca_file: /ca.pem, insecure_skip_verify: true}
  "cache.local":
    auth: {auth: "YTpiOmM="}
"#;

    fn bases(file: &str, host: &str, repository: &str) -> Vec<String> {
        let endpoints = Registries::parse(file).unwrap().endpoints(host, repository);
        endpoints
            .iter()
            .map(|e| format!("{}/{} {}", e.base, e.repository, e.mirrors.as_deref().unwrap_or("-")))
            .collect()
    }

    #[test]
    fn endpoints_are_tried_in_the_order_of_the_file() {
        assert_eq!(
            bases(FILE, "docker.io", "library/redis"),
            [
                "https://mirror.example.com:5000/v2/hub/redis docker.io",
                "http://10.0.0.5/v2/hub/hub/redis docker.io",
                "https://registry-1.docker.io/v2/library/redis -",
            ]
        );
        assert_eq!(bases(FILE, "ghcr.io", "a/b"), ["http://cache.local/v2/a/b ghcr.io", "https://ghcr.io/v2/a/b -"]);
        assert_eq!(bases("", "localhost:5000", "a"), ["http://localhost:5000/v2/a -"]);
        assert_eq!(bases("# nothing\n", "127.0.0.1:5000", "a"), ["http://127.0.0.1:5000/v2/a -"]);
        assert_eq!(
            bases("configs: {'127.0.0.1:5000': {tls: {}}}", "127.0.0.1:5000", "a"),
            ["https://127.0.0.1:5000/v2/a -"]
        );
    }

    #[test]
    fn credentials_come_from_either_form() {
        let registries = Registries::parse(FILE).unwrap();
        let of = |host: &str| registries.credentials(host).map(|c| (c.username, c.password));
        assert_eq!(of("mirror.example.com:5000"), Some(("u".into(), "p".into())));
        assert_eq!(of("cache.local"), Some(("a".into(), "b:c".into())));
        assert_eq!(of("ghcr.io"), None);
    }

    #[test]
    fn mistakes_are_named() {
        for (file, why) in [
            ("mirror: {}", "unknown field `mirror`"),
            ("mirrors: {a: {endpoints: []}}", "unknown field `endpoints`"),
            ("mirrors: {a: {endpoint: ['ftp://x']}}", "neither http nor https"),
            ("mirrors: {a: {endpoint: ['http://x'], rewrite: {'(': x}}}", "mirrors.a.rewrite: "),
            ("configs: {a: {auth: {user: x}}}", "unknown field `user`"),
        ] {
            let got = Registries::parse(file).unwrap_err();
            assert!(got.contains(why), "{file}: {got}");
        }
    }
}
