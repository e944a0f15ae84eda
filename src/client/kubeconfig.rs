//! Kubeconfig files: who to talk to, and as whom. Read only; writing one is the daemon's and the CLI's affair.
//!
//! Source: client-go `tools/clientcmd` (merge order, relative paths, precedence of inline data over files).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not a kubeconfig: {source}")]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_yaml_ng::Error,
    },
    #[error("context {0:?} does not exist")]
    NoContext(String),
    #[error("no current context is set; name one with --context")]
    NoCurrentContext,
    #[error("cluster {0:?} does not exist")]
    NoCluster(String),
    #[error("user {0:?} does not exist")]
    NoUser(String),
    #[error("{field} is not valid base64")]
    Base64 { field: &'static str },
    #[error("user {user:?} logs in by {method}, which is not supported")]
    Unsupported { user: String, method: &'static str },
    #[error("server {0:?} is not a URL")]
    Server(String),
    #[error("{0}")]
    Tls(String),
}

/// What a client needs to know, with every file read in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `https://host:port`, maybe with a path.
    pub server: String,
    pub tls_server_name: Option<String>,
    /// Do not verify the server. Only for people who insist.
    pub insecure: bool,
    /// PEM; none: the public roots.
    pub ca: Option<Vec<u8>>,
    /// PEM certificate chain and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    pub token: Option<String>,
    pub basic: Option<(String, String)>,
    /// Where commands without `-n` work; `default` when the context names none.
    pub namespace: String,
}

/// Keys and tokens are not for logs.
impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("server", &self.server)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Which parts of a file to use; unset: what its current context says.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    pub context: Option<String>,
    pub cluster: Option<String>,
    pub user: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Kubeconfig {
    pub current_context: String,
    #[serde(deserialize_with = "or_empty")]
    clusters: Vec<Named<Cluster>>,
    #[serde(deserialize_with = "or_empty")]
    users: Vec<Named<User>>,
    #[serde(deserialize_with = "or_empty")]
    contexts: Vec<Named<Context>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    value: T,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
    exec: Option<serde::de::IgnoredAny>,
    auth_provider: Option<serde::de::IgnoredAny>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

fn or_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

impl Kubeconfig {
    /// Reads one file; paths in it are relative to its folder.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let mut config: Self =
            serde_yaml_ng::from_str(&text).map_err(|source| ConfigError::Parse { path: path.into(), source })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let anchor = |file: &mut Option<PathBuf>| {
            if let Some(file) = file {
                *file = folder.join(&*file);
            }
        };
        for c in &mut config.clusters {
            anchor(&mut c.value.certificate_authority);
        }
        for u in &mut config.users {
            anchor(&mut u.value.client_certificate);
            anchor(&mut u.value.client_key);
            anchor(&mut u.value.token_file);
        }
        Ok(config)
    }

    /// Reads several files, as in `KUBECONFIG=a:b`: for each name the first file that has it counts.
    pub fn read_all<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Self, ConfigError> {
        let mut all = Self::default();
        for path in paths {
            let next = Self::read(path)?;
            if all.current_context.is_empty() {
                all.current_context = next.current_context;
            }
            merge(&mut all.clusters, next.clusters);
            merge(&mut all.users, next.users);
            merge(&mut all.contexts, next.contexts);
        }
        Ok(all)
    }

    pub fn context_names(&self) -> Vec<&str> {
        self.contexts.iter().map(|c| c.name.as_str()).collect()
    }

    /// The chosen context with every file read in.
    pub fn resolve(&self, choice: &Choice) -> Result<Config, ConfigError> {
        let name = choice.context.as_deref().unwrap_or(&self.current_context);
        let context = match find(&self.contexts, name) {
            Some(context) => context.clone(),
            None if !name.is_empty() => return Err(ConfigError::NoContext(name.into())),
            None if choice.cluster.is_some() => Context::default(),
            None => return Err(ConfigError::NoCurrentContext),
        };
        let cluster_name = choice.cluster.as_deref().unwrap_or(&context.cluster);
        let cluster = find(&self.clusters, cluster_name).ok_or_else(|| ConfigError::NoCluster(cluster_name.into()))?;
        let user_name = choice.user.as_deref().unwrap_or(&context.user);
        let nobody = User::default();
        let user = match find(&self.users, user_name) {
            Some(user) => user,
            None if user_name.is_empty() => &nobody,
            None => return Err(ConfigError::NoUser(user_name.into())),
        };
        let unsupported = |method| Err(ConfigError::Unsupported { user: user_name.into(), method });
        let certificate = data_or_file(
            user.client_certificate_data.as_deref(),
            user.client_certificate.as_deref(),
            "client-certificate-data",
        )?;
        let key = data_or_file(user.client_key_data.as_deref(), user.client_key.as_deref(), "client-key-data")?;
        let token = match (&user.token, &user.token_file) {
            (Some(token), _) if !token.is_empty() => Some(token.clone()),
            (_, Some(path)) => Some(String::from_utf8_lossy(&file(path)?).trim().to_owned()),
            (_, None) => None,
        };
        let basic = user.username.clone().map(|u| (u, user.password.clone().unwrap_or_default()));
        if token.is_none() && certificate.is_none() && basic.is_none() {
            if user.exec.is_some() {
                return unsupported("an exec plugin");
            }
            if user.auth_provider.is_some() {
                return unsupported("an auth provider");
            }
        }
        Ok(Config {
            server: cluster.server.trim_end_matches('/').to_owned(),
            tls_server_name: cluster.tls_server_name.clone(),
            insecure: cluster.insecure_skip_tls_verify,
            ca: data_or_file(
                cluster.certificate_authority_data.as_deref(),
                cluster.certificate_authority.as_deref(),
                "certificate-authority-data",
            )?,
            identity: certificate.zip(key),
            token,
            basic,
            namespace: context.namespace.filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into()),
        })
    }
}

fn merge<T>(into: &mut Vec<Named<T>>, from: Vec<Named<T>>) {
    let known: BTreeMap<String, ()> = into.iter().map(|n| (n.name.clone(), ())).collect();
    into.extend(from.into_iter().filter(|n| !known.contains_key(&n.name)));
}

fn find<'a, T>(list: &'a [Named<T>], name: &str) -> Option<&'a T> {
    list.iter().find(|n| n.name == name).map(|n| &n.value)
}

fn file(path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::Read { path: path.into(), source })
}

fn data_or_file(data: Option<&str>, path: Option<&Path>, field: &'static str) -> Result<Option<Vec<u8>>, ConfigError> {
    match (data, path) {
        (Some(data), _) if !data.is_empty() => {
            let text: String = data.split_whitespace().collect();
            base64::engine::general_purpose::STANDARD.decode(text).map(Some).map_err(|_| ConfigError::Base64 { field })
        }
        (_, Some(path)) => file(path).map(Some),
        (_, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
apiVersion: v1
kind: Config
current-context: home
clusters:
- name: pi
  cluster: {server: 'https://pi:6443/', certificate-authority: ca.crt}
users:
- name: admin
  user: {client-certificate-data: Y2VydA==, client-key-data: a2V5}
- name: robot
  user: {tokenFile: token}
- name: plugin
  user: {exec: {command: x}}
contexts:
- name: home
  context: {cluster: pi, user: admin, namespace: shop}
- name: robot
  context: {cluster: pi, user: robot}
- name: plugin
  context: {cluster: pi, user: plugin}
- name: broken
  context: {cluster: none, user: robot}
";

    #[test]
    fn contexts_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, TEXT).unwrap();
        std::fs::write(dir.path().join("ca.crt"), "CA").unwrap();
        std::fs::write(dir.path().join("token"), "t0ken\n").unwrap();
        let all = Kubeconfig::read_all([path.as_path()]).unwrap();
        assert_eq!(all.context_names(), ["home", "robot", "plugin", "broken"]);
        let home = all.resolve(&Choice::default()).unwrap();
        assert_eq!((home.server.as_str(), home.namespace.as_str()), ("https://pi:6443", "shop"));
        assert_eq!(home.identity, Some((b"cert".to_vec(), b"key".to_vec())));
        assert_eq!(home.ca.as_deref(), Some(&b"CA"[..]));
        let of = |name: &str| all.resolve(&Choice { context: Some(name.into()), ..Choice::default() });
        let robot = of("robot").unwrap();
        assert_eq!((robot.token.as_deref(), robot.namespace.as_str()), (Some("t0ken"), "default"));
        for (name, text) in [
            ("plugin", "user \"plugin\" logs in by an exec plugin, which is not supported"),
            ("broken", "cluster \"none\" does not exist"),
            ("nowhere", "context \"nowhere\" does not exist"),
        ] {
            assert_eq!(of(name).unwrap_err().to_string(), text);
        }
        assert!(!format!("{home:?}").contains("key"));
    }

    #[test]
    fn the_first_file_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "current-context: x\nusers: null\nclusters: [{name: c, cluster: {server: 'https://a'}}]\n")
            .unwrap();
        std::fs::write(&b, "current-context: y\ncontexts: [{name: x, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: 'https://b'}}]\n").unwrap();
        let config = Kubeconfig::read_all([a.as_path(), b.as_path()]).unwrap().resolve(&Choice::default()).unwrap();
        assert_eq!(config.server, "https://a");
    }
}
