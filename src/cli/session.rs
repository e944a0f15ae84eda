//! Who is asked, as whom, in which namespace, and where the answer is printed: what every verb needs.

use std::cell::RefCell;
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use client::Client;
use client::https::{Endpoint, Https};
use client::kubeconfig::{Choice, Config, Kubeconfig};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::OnceCell;

use crate::Verb;
use crate::carrier::Carrier;
use crate::discovery::Discovery;

/// Where the daemon writes the administrator's kubeconfig.
const LOCAL_KUBECONFIG: &str = "/etc/kedge/kedge.yaml";

// Not a doc comment: those become the about text of the commands that take these flags.
// The flags that every user verb takes, before or after the verb.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub struct Global {
    /// Path to the kubeconfig file
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Name of the kubeconfig context to use
    #[arg(long)]
    context: Option<String>,
    /// Name of the kubeconfig cluster to use
    #[arg(long)]
    cluster: Option<String>,
    /// Name of the kubeconfig user to use
    #[arg(long)]
    user: Option<String>,
    /// Namespace of this request
    #[arg(long, short = 'n')]
    namespace: Option<String>,
    /// Address of the API server
    #[arg(long, short = 's', value_name = "URL")]
    server: Option<String>,
    /// Bearer token
    #[arg(long)]
    token: Option<String>,
    /// Do not check the server's certificate
    #[arg(long)]
    insecure_skip_tls_verify: bool,
    /// Name that the server's certificate must have
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
    /// File with the certificates of the server's authority
    #[arg(long, value_name = "FILE")]
    certificate_authority: Option<PathBuf>,
    /// File with a client certificate
    #[arg(long, value_name = "FILE")]
    client_certificate: Option<PathBuf>,
    /// File with the client certificate's key
    #[arg(long, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// Act as this user
    #[arg(long = "as", value_name = "USER")]
    act_as: Option<String>,
    /// Act as a member of this group; may be given more than once
    #[arg(long = "as-group", value_name = "GROUP")]
    act_as_group: Vec<String>,
    /// Act as the user with this uid
    #[arg(long = "as-uid", value_name = "UID")]
    act_as_uid: Option<String>,
    /// How long to wait for the server at most; 0: without limit
    #[arg(long, value_name = "DURATION", value_parser = crate::duration::parse)]
    request_timeout: Option<Duration>,
}

impl Global {
    /// Verbs with a `--user` of their own do not choose who connects.
    pub fn unless_shadowed(self, verb: &Verb) -> Self {
        match verb {
            Verb::Create(create) if create.names_users() => Self { user: None, ..self },
            _ => self,
        }
    }

    pub fn request_timeout(&self) -> Option<Duration> {
        self.request_timeout.filter(|d| !d.is_zero())
    }

    fn impersonation(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        anyhow::ensure!(
            self.act_as.is_some() || (self.act_as_group.is_empty() && self.act_as_uid.is_none()),
            "requesting uid, groups or user-extra for test-user without impersonating a user"
        );
        let user = self.act_as.iter().map(|v| ("impersonate-user", v));
        let uid = self.act_as_uid.iter().map(|v| ("impersonate-uid", v));
        let groups = self.act_as_group.iter().map(|v| ("impersonate-group", v));
        for (name, value) in user.chain(uid).chain(groups) {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value)?);
        }
        Ok(headers)
    }

    /// What stands after the verb wins over what stands before it.
    pub fn or(self, before: Self) -> Self {
        Self {
            kubeconfig: self.kubeconfig.or(before.kubeconfig),
            context: self.context.or(before.context),
            cluster: self.cluster.or(before.cluster),
            user: self.user.or(before.user),
            namespace: self.namespace.or(before.namespace),
            server: self.server.or(before.server),
            token: self.token.or(before.token),
            insecure_skip_tls_verify: self.insecure_skip_tls_verify || before.insecure_skip_tls_verify,
            tls_server_name: self.tls_server_name.or(before.tls_server_name),
            certificate_authority: self.certificate_authority.or(before.certificate_authority),
            client_certificate: self.client_certificate.or(before.client_certificate),
            client_key: self.client_key.or(before.client_key),
            act_as: self.act_as.or(before.act_as),
            act_as_group: if self.act_as_group.is_empty() { before.act_as_group } else { self.act_as_group },
            act_as_uid: self.act_as_uid.or(before.act_as_uid),
            request_timeout: self.request_timeout.or(before.request_timeout),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        if let Some(file) = &self.kubeconfig {
            return vec![file.clone()];
        }
        if let Some(list) = std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty()) {
            return std::env::split_paths(&list).filter(|p| p.exists()).collect();
        }
        let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".kube/config"));
        // Not `exists`: a file that may not be read must say so rather than be passed over.
        [Some(PathBuf::from(LOCAL_KUBECONFIG)), home]
            .into_iter()
            .flatten()
            .find(|p| std::fs::metadata(p).is_ok())
            .into_iter()
            .collect()
    }

    fn config(&self) -> Result<Config> {
        let files = self.files();
        let mut config = if files.is_empty() {
            let Some(server) = &self.server else {
                anyhow::bail!(
                    "no kubeconfig found: start a server here with `kedge server`, or name a file with --kubeconfig"
                );
            };
            Config { server: server.clone(), namespace: "default".into(), ..Config::default() }
        } else {
            let choice =
                Choice { context: self.context.clone(), cluster: self.cluster.clone(), user: self.user.clone() };
            Kubeconfig::read_all(files.iter().map(PathBuf::as_path))?.resolve(&choice)?
        };
        if let Some(server) = &self.server {
            config.server = server.trim_end_matches('/').to_owned();
        }
        if let Some(token) = &self.token {
            config.token = Some(token.clone());
        }
        config.insecure |= self.insecure_skip_tls_verify;
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("unable to read {}", path.display()));
        if let Some(file) = &self.certificate_authority {
            config.ca = Some(read(file)?);
        }
        match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => config.identity = Some((read(certificate)?, read(key)?)),
            (None, None) => {}
            _ => anyhow::bail!("--client-certificate and --client-key belong together"),
        }
        if let Some(name) = &self.tls_server_name {
            config.tls_server_name = Some(name.clone());
        }
        if let Some(namespace) = &self.namespace {
            config.namespace.clone_from(namespace);
        }
        Ok(config)
    }
}

type Sink = Rc<RefCell<dyn Write>>;

/// One run of one verb.
pub struct Session {
    pub client: Client,
    /// For upgrades, which dial for themselves; absent over a fake.
    pub endpoint: Option<Endpoint>,
    /// As whom upgrades ask.
    pub impersonation: HeaderMap,
    pub namespace: String,
    /// The namespace was given by flag, so that a manifest naming another is an error.
    pub namespace_given: bool,
    discovery: OnceCell<Discovery>,
    out: Sink,
    err: Sink,
}

impl Session {
    pub fn open(global: &Global) -> Result<Self> {
        let config = global.config()?;
        let endpoint = Endpoint::new(&config)?;
        let impersonation = global.impersonation()?;
        let carrier = Carrier::new(Arc::new(Https::with(endpoint.clone())), impersonation.clone());
        Ok(Self {
            client: Client::new(Arc::new(carrier)).with_user_agent(AGENT),
            endpoint: Some(endpoint),
            impersonation,
            namespace: config.namespace,
            namespace_given: global.namespace.is_some(),
            discovery: OnceCell::new(),
            out: Rc::new(RefCell::new(std::io::stdout())),
            err: Rc::new(RefCell::new(std::io::stderr())),
        })
    }

    /// Over a client that is given, printing into buffers.
    #[cfg(test)]
    pub fn test(client: Client, out: Rc<RefCell<Vec<u8>>>, err: Rc<RefCell<Vec<u8>>>) -> Self {
        Self {
            client,
            endpoint: None,
            impersonation: HeaderMap::new(),
            namespace: "default".into(),
            namespace_given: false,
            discovery: OnceCell::new_with(Some(Discovery::built_in())),
            out,
            err,
        }
    }

    /// What the server serves; asked once.
    pub async fn discovery(&self) -> Result<&Discovery> {
        self.discovery.get_or_try_init(|| Discovery::fetch(&self.client)).await
    }

    pub fn print(&self, text: &str) -> Result<()> {
        let mut out = self.out.borrow_mut();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write to standard output")
    }

    pub fn print_bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut out = self.out.borrow_mut();
        out.write_all(bytes).and_then(|()| out.flush()).context("write to standard output")
    }

    pub fn line(&self, text: impl AsRef<str>) -> Result<()> {
        self.print(&format!("{}\n", text.as_ref()))
    }

    /// A line for people, on standard error; that it cannot be written is no failure of the verb.
    pub fn note(&self, text: impl AsRef<str>) {
        let _ = writeln!(self.err.borrow_mut(), "{}", text.as_ref());
    }

    pub fn note_bytes(&self, bytes: &[u8]) {
        let mut err = self.err.borrow_mut();
        let _ = err.write_all(bytes).and_then(|()| err.flush());
    }
}

const AGENT: &str = concat!("kedge/", env!("CARGO_PKG_VERSION"));
