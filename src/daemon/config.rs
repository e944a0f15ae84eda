//! The configuration of `kedge server` and `kedge agent`: flags, `KEDGE_…` variables and YAML keys are one table.
//!
//! Precedence: flag, then environment variable, then `config.yaml.d/*.yaml` in name order (last wins), then `config.yaml`,
//! then the default. A YAML key is the flag's long name; an unknown one is refused. Pure but for [`files::read`].

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Command, FromArgMatches, ValueEnum};
use ipnet::IpNet;

pub mod check;
mod files;

pub use files::Parsed;

/// Default ranges of pod addresses.
pub const CLUSTER_CIDRS: [&str; 2] = ["10.42.0.0/16", "fd42::/56"];
/// Default ranges of service addresses.
pub const SERVICE_CIDRS: [&str; 2] = ["10.43.0.0/16", "fd43::/112"];

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: cannot be read: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}: not valid YAML: {detail}")]
    Malformed { path: PathBuf, detail: String },
    #[error("{path}: unknown key {key:?}; the keys are the flags of `kedge {verb} --help` without the dashes")]
    UnknownKey { path: PathBuf, key: String, verb: &'static str },
    #[error("{path}: key {key:?}: {detail}")]
    BadValue { path: PathBuf, key: String, detail: String },
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Usage(#[from] clap::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Overlay {
    Vxlan,
    HostGw,
    Wireguard,
    None,
}

/// What both verbs share.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Configuration file; `config.yaml.d/*.yaml` beside it is read too
    #[arg(long, env = "KEDGE_CONFIG", value_name = "FILE", default_value = "/etc/kedge/config.yaml")]
    pub config: PathBuf,
    /// Where state that must survive a boot is kept
    #[arg(long, env = "KEDGE_DATA_DIR", value_name = "DIR", default_value = "/var/lib/kedge")]
    pub data_dir: PathBuf,
    /// Sockets, shims and namespace pins; nothing that must survive a boot
    #[arg(long, env = "KEDGE_RUN_DIR", value_name = "DIR", default_value = "/run/kedge")]
    pub run_dir: PathBuf,
    /// Join token
    #[arg(long, env = "KEDGE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// File that holds the join token
    #[arg(long, env = "KEDGE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// URL of a server to join
    #[arg(long, env = "KEDGE_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Name of this node; the host name by default
    #[arg(long, env = "KEDGE_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Addresses of this node, IPv4 and IPv6; found out by default
    #[arg(long, env = "KEDGE_NODE_IP", value_name = "IP,…", value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Labels set when the node registers
    #[arg(long, env = "KEDGE_NODE_LABEL", value_name = "KEY=VALUE,…", value_delimiter = ',')]
    pub node_label: Vec<String>,
    /// Taints set when the node registers
    #[arg(long, env = "KEDGE_NODE_TAINT", value_name = "KEY=VALUE:EFFECT,…", value_delimiter = ',')]
    pub node_taint: Vec<String>,
    /// Most pods that run on this node
    #[arg(long, env = "KEDGE_MAX_PODS", value_name = "N", default_value_t = 250)]
    pub max_pods: u32,
    /// The cgroup under which all pods live
    #[arg(long, env = "KEDGE_CGROUP_ROOT", value_name = "PATH", default_value = "/kedge")]
    pub cgroup_root: String,
    /// Port of the node's own HTTPS API (logs, exec)
    #[arg(long, env = "KEDGE_KUBELET_PORT", value_name = "PORT", default_value_t = 10250)]
    pub kubelet_port: u16,
    /// Level or filter of the log
    #[arg(long, env = "KEDGE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// Form of the log
    #[arg(long, env = "KEDGE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl Common {
    /// A variable that an environment file leaves empty (`KEDGE_NODE_LABEL=`) is an empty list, not a list of one empty text.
    fn forget_empty(&mut self) {
        for list in [&mut self.node_label, &mut self.node_taint] {
            list.retain(|text| !text.is_empty());
        }
    }
}

/// `kedge server`: API, store, controllers, scheduler and, unless disabled, the node agent
#[derive(Debug, Clone, Args)]
pub struct Server {
    #[command(flatten)]
    pub common: Common,
    /// Address to listen on; all addresses by default
    #[arg(long, env = "KEDGE_BIND_ADDRESS", value_name = "IP", default_value = "::")]
    pub bind_address: IpAddr,
    /// Port of the API
    #[arg(long, env = "KEDGE_HTTPS_LISTEN_PORT", value_name = "PORT", default_value_t = 6443)]
    pub https_listen_port: u16,
    /// Address by which nodes and pods reach this server
    #[arg(long, env = "KEDGE_ADVERTISE_ADDRESS", value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// More names and addresses for the serving certificate
    #[arg(long, env = "KEDGE_TLS_SAN", value_name = "NAME,…", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Where the administrator's kubeconfig is written
    #[arg(long, env = "KEDGE_WRITE_KUBECONFIG", value_name = "FILE", default_value = "/etc/kedge/kedge.yaml")]
    pub write_kubeconfig: PathBuf,
    /// Mode of that file, octal
    #[arg(long, env = "KEDGE_WRITE_KUBECONFIG_MODE", value_name = "MODE", default_value = "600", value_parser = octal)]
    pub write_kubeconfig_mode: u32,
    /// Ranges of pod addresses
    #[arg(long, env = "KEDGE_CLUSTER_CIDR", value_name = "CIDR,…", value_delimiter = ',', default_values = CLUSTER_CIDRS)]
    pub cluster_cidr: Vec<IpNet>,
    /// Ranges of service addresses
    #[arg(long, env = "KEDGE_SERVICE_CIDR", value_name = "CIDR,…", value_delimiter = ',', default_values = SERVICE_CIDRS)]
    pub service_cidr: Vec<IpNet>,
    /// Address of the cluster's DNS; the tenth of the first service range by default
    #[arg(long, env = "KEDGE_CLUSTER_DNS", value_name = "IP")]
    pub cluster_dns: Option<IpAddr>,
    /// Domain of the cluster
    #[arg(long, env = "KEDGE_CLUSTER_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Ports for Services of type NodePort
    #[arg(long, env = "KEDGE_SERVICE_NODE_PORT_RANGE", value_name = "FROM-TO", default_value = "30000-32767", value_parser = port_range)]
    pub service_node_port_range: (u16, u16),
    /// How pods of different nodes reach each other
    #[arg(long, env = "KEDGE_OVERLAY", value_enum, default_value_t = Overlay::Vxlan)]
    pub overlay: Overlay,
    /// Built-in components to leave out
    #[arg(long, env = "KEDGE_DISABLE", value_name = "COMPONENT,…", value_delimiter = ',')]
    pub disable: Vec<String>,
    /// Run no pods on this host
    #[arg(long, env = "KEDGE_DISABLE_AGENT")]
    pub disable_agent: bool,
    /// Begin a cluster of several servers
    #[arg(long, env = "KEDGE_CLUSTER_INIT")]
    pub cluster_init: bool,
    /// External store
    #[arg(long, env = "KEDGE_DATASTORE_ENDPOINT", value_name = "URL")]
    pub datastore_endpoint: Option<String>,
    /// AuthenticationConfiguration file: foreign token issuers, anonymous requests
    #[arg(long, env = "KEDGE_AUTHENTICATION_CONFIG", value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    /// KubeSchedulerConfiguration file: profiles, their plugins, weights and arguments
    #[arg(long, env = "KEDGE_SCHEDULER_CONFIG", value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    /// Encrypt Secrets in the store, with a key made at the first start
    #[arg(long, env = "KEDGE_SECRETS_ENCRYPTION")]
    pub secrets_encryption: bool,
    /// EncryptionConfiguration file: what is encrypted in the store, and with which keys
    #[arg(long, env = "KEDGE_ENCRYPTION_PROVIDER_CONFIG", value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Policy of the audit log; without it there is none
    #[arg(long, env = "KEDGE_AUDIT_POLICY_FILE", value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// The audit log; - is the standard output. audit/audit.log under the data folder by default
    #[arg(long, env = "KEDGE_AUDIT_LOG_PATH", value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// Days that old audit logs are kept; 0: for ever
    #[arg(long, env = "KEDGE_AUDIT_LOG_MAXAGE", value_name = "DAYS", default_value_t = 0)]
    pub audit_log_maxage: u32,
    /// Old audit logs that are kept; 0: all
    #[arg(long, env = "KEDGE_AUDIT_LOG_MAXBACKUP", value_name = "N", default_value_t = 10)]
    pub audit_log_maxbackup: usize,
    /// Size in MiB at which an audit log is put aside; 0: never
    #[arg(long, env = "KEDGE_AUDIT_LOG_MAXSIZE", value_name = "MIB", default_value_t = 100)]
    pub audit_log_maxsize: u64,
}

/// `kedge agent`: the node half only, joined to a server
#[derive(Debug, Clone, Args)]
pub struct Agent {
    #[command(flatten)]
    pub common: Common,
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).map_err(|_| "an octal mode such as 600 is wanted".to_owned())
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let parse = || {
        let (from, to) = text.split_once('-')?;
        let (from, to): (u16, u16) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        (from > 0 && from <= to).then_some((from, to))
    };
    parse().ok_or_else(|| "a range such as 30000-32767 is wanted".to_owned())
}

/// The `server` subcommand, for the program's help and parsing.
pub fn server_command() -> Command {
    let about = "Run the control plane and, unless disabled, the node agent on this host";
    Server::augment_args(Command::new("server").bin_name("kedge server").about(about))
}

/// The `agent` subcommand.
pub fn agent_command() -> Command {
    Agent::augment_args(Command::new("agent").bin_name("kedge agent").about("Join this host to a cluster as a node"))
}

/// Parses `args` (the program's name of the verb first) together with the environment and the configuration files.
///
/// # Errors
/// [`ConfigError`], each naming the file and key or the flag.
pub fn server(args: &[String]) -> Result<Server, ConfigError> {
    let parsed = files::with_defaults(server_command(), "server", args)?.parse(args)?;
    let mut server = Server::from_arg_matches(&parsed.matches)?;
    server.common.forget_empty();
    for list in [&mut server.tls_san, &mut server.disable] {
        list.retain(|text| !text.is_empty());
    }
    check::server(&server).map_err(|error| parsed.blame(error))?;
    Ok(server)
}

/// The matches of a verb that shares some values with the daemon, from `args`, the environment and the daemon's configuration
/// files: what the daemon was told about its folders holds for their removal too.
///
/// # Errors
/// As [`server`].
pub fn shared(command: Command, args: &[String]) -> Result<Parsed, ConfigError> {
    files::with_shared_defaults(command, args)?.parse(args)
}

/// As [`server`], for the agent.
///
/// # Errors
/// [`ConfigError`], each naming the file and key or the flag.
pub fn agent(args: &[String]) -> Result<Agent, ConfigError> {
    let parsed = files::with_defaults(agent_command(), "agent", args)?.parse(args)?;
    let mut agent = Agent::from_arg_matches(&parsed.matches)?;
    agent.common.forget_empty();
    check::common(&agent.common).map_err(|error| parsed.blame(error))?;
    Ok(agent)
}

/// A command line that reads an empty file.
#[cfg(test)]
fn args(extra: &[&str]) -> Vec<String> {
    ["server", "--config", "/dev/null"].iter().chain(extra).map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_contracts() {
        let s = server(&args(&[])).unwrap();
        assert_eq!(s.https_listen_port, 6443);
        assert_eq!(s.common.data_dir, PathBuf::from("/var/lib/kedge"));
        assert_eq!(s.write_kubeconfig_mode, 0o600);
        assert_eq!(s.service_node_port_range, (30000, 32767));
        assert_eq!(s.cluster_cidr.len(), 2);
    }

    #[test]
    fn files_give_defaults_that_flags_override() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, "max-pods: 7\nlog-level: debug\nnode-label: [a=b, c=d]\ndisable-agent: true\n").unwrap();
        std::fs::create_dir(dir.path().join("config.yaml.d")).unwrap();
        std::fs::write(dir.path().join("config.yaml.d/10.yaml"), "max-pods: 8\n").unwrap();
        let file = file.to_str().unwrap().to_owned();
        let s = server(&["server".into(), "--config".into(), file.clone()]).unwrap();
        assert_eq!((s.common.max_pods, s.common.log_level.as_str(), s.disable_agent), (8, "debug", true));
        assert_eq!(s.common.node_label, ["a=b", "c=d"]);
        let s = server(&["server".into(), "--config".into(), file, "--max-pods=9".into()]).unwrap();
        assert_eq!(s.common.max_pods, 9);
    }

    #[test]
    fn bad_input_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        let path = file.to_str().unwrap().to_owned();
        for (text, part) in [
            ("max-pdos: 7\n", "unknown key \"max-pdos\""),
            ("max-pods: -1\n", "key \"max-pods\": \"-1\": "),
            ("max-pods: seven\n", "key \"max-pods\": \"seven\": invalid digit"),
            ("overlay: nosuch\n", "key \"overlay\": \"nosuch\": one of vxlan, host-gw, wireguard, none"),
            ("service-cidr: [10.0.0.0/8, x]\n", "key \"service-cidr\": \"x\": "),
            ("node-name: A_b\n", "key \"node-name\": \"A_b\": "),
            ("max-pods: {a: b}\n", "key \"max-pods\""),
            ("a: [\n", "not valid YAML"),
            ("- a\n", "not valid YAML"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = server(&["server".into(), "--config".into(), path.clone()]).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
            assert!(error.starts_with(&path) && error.lines().count() == 1, "{text:?}: {error}");
        }
        std::fs::remove_file(&file).unwrap();
        let error = server(&["server".into(), "--config".into(), path.clone()]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{path}: cannot be read: ")), "{error}");
        for (flags, part) in [
            (vec!["--nope"], "Usage: kedge server "),
            (vec!["--cluster-init"], "--cluster-init is not served"),
            (vec!["--cluster-cidr=10.0.0.0/16,10.1.0.0/16"], "one range of each IP family"),
            (vec!["--service-node-port-range=5"], "30000-32767"),
            (vec!["--node-name=A_b"], "RFC 1123"),
            (vec!["--cluster-dns=1.2.3.4"], "not within"),
        ] {
            let error = server(&args(&flags)).unwrap_err().to_string();
            assert!(error.contains(part), "{flags:?}: {error}");
        }
    }
}
