//! Values that are refused before anything is started, each in one line that names the key and says what it takes. Pure.
//!
//! What the command line's own types already refuse (numbers, addresses, ranges) is not repeated here.

use std::path::{Component, Path};

use types::names;

use super::{Common, ConfigError, Server};

/// Effects of a taint. Source: KEP-166, `core/v1` `TaintEffect`.
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

type Outcome = Result<(), ConfigError>;

fn refuse<T>(flag: &str, value: &str, takes: impl std::fmt::Display) -> Result<T, ConfigError> {
    Err(ConfigError::Invalid(format!("--{flag} {value:?}: {takes}")))
}

/// Passes when a check by the API's rules has nothing to say.
fn named(flag: &str, value: &str, errors: Vec<String>) -> Outcome {
    errors.into_iter().next().map_or(Ok(()), |error| refuse(flag, value, error))
}

/// The default storage class and its provisioner, as `--disable` calls them.
pub const LOCAL_PATH: &str = "local-path";

/// What the parts of a cluster cannot yet do is refused too, instead of being ignored.
pub fn server(s: &Server) -> Outcome {
    common(&s.common)?;
    let invalid = |text: String| Err(ConfigError::Invalid(text));
    for (flag, given) in [
        ("--server", s.common.server.is_some()),
        ("--cluster-init", s.cluster_init),
        ("--datastore-endpoint", s.datastore_endpoint.is_some()),
    ] {
        if given {
            return invalid(format!("{flag} is not served by this version: one server with its own store is"));
        }
    }
    if s.secrets_encryption && s.encryption_provider_config.is_some() {
        return invalid(
            "--secrets-encryption and --encryption-provider-config say the same; one of them is wanted".into(),
        );
    }
    if s.audit_log_path.is_some() && s.audit_policy_file.is_none() {
        return invalid("--audit-log-path needs --audit-policy-file, which says what is recorded".into());
    }
    if let Some(component) = s.disable.iter().find(|c| *c != LOCAL_PATH) {
        return refuse("disable", component, "the built-in component that can be left out is local-path");
    }
    for (flag, ranges) in [("--cluster-cidr", &s.cluster_cidr), ("--service-cidr", &s.service_cidr)] {
        let v4 = ranges.iter().filter(|r| r.addr().is_ipv4()).count();
        if ranges.is_empty() || v4 > 1 || ranges.len() - v4 > 1 {
            return invalid(format!("{flag} takes one range of each IP family"));
        }
    }
    for pods in &s.cluster_cidr {
        // two ranges share addresses only if one is within the other
        if let Some(services) =
            s.service_cidr.iter().find(|r| r.contains(&pods.network()) || pods.contains(&r.network()))
        {
            return refuse(
                "cluster-cidr",
                &pods.to_string(),
                format_args!("overlaps --service-cidr {services}; a range of its own is wanted"),
            );
        }
    }
    if let Some(dns) = s.cluster_dns
        && !s.service_cidr.iter().any(|r| r.contains(&dns))
    {
        return invalid(format!("--cluster-dns {dns} is not within --service-cidr"));
    }
    named("cluster-domain", &s.cluster_domain, names::dns1123_subdomain(&s.cluster_domain))?;
    s.tls_san.iter().try_for_each(|name| tls_san(name))
}

pub fn common(c: &Common) -> Outcome {
    if let Some(name) = &c.node_name {
        named("node-name", name, names::dns1123_subdomain(name))?;
    }
    folder("data-dir", &c.data_dir)?;
    folder("run-dir", &c.run_dir)?;
    cgroup_root(&c.cgroup_root)?;
    c.node_label.iter().try_for_each(|label| node_label(label))?;
    c.node_taint.iter().try_for_each(|taint| node_taint(taint))?;
    crate::log::filter(&c.log_level).map(|_| ()).or_else(|takes| refuse("log-level", &c.log_level, takes))
}

/// A folder that is Kedge's own: `kedge reset` removes it and all within.
pub fn folder(flag: &str, path: &Path) -> Outcome {
    let own = path.is_absolute() && path.components().skip(1).all(|c| matches!(c, Component::Normal(_)));
    if own && path.parent().is_some() {
        return Ok(());
    }
    refuse(flag, &path.to_string_lossy(), "an absolute path without \"..\" is wanted, and not the root folder")
}

/// A cgroup that is Kedge's own: `kedge reset` ends and removes all within.
pub fn cgroup_root(path: &str) -> Outcome {
    let part = |p: &str| !p.is_empty() && !p.starts_with('.') && !p.contains(char::is_control);
    if path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(part)) {
        return Ok(());
    }
    refuse("cgroup-root", path, "an absolute path below the root cgroup, such as /kedge, is wanted")
}

fn node_label(pair: &str) -> Outcome {
    let Some((key, value)) = pair.split_once('=') else { return refuse("node-label", pair, "KEY=VALUE is wanted") };
    named("node-label", pair, names::qualified_name(key))?;
    named("node-label", pair, names::label_value(value))
}

fn node_taint(text: &str) -> Outcome {
    let Some((head, _)) = text.rsplit_once(':').filter(|(_, effect)| EFFECTS.contains(effect)) else {
        let takes =
            format_args!("KEY=VALUE:EFFECT or KEY:EFFECT is wanted, with one of {}", EFFECTS.join(", ")).to_string();
        return refuse("node-taint", text, takes);
    };
    let (key, value) = head.split_once('=').unwrap_or((head, ""));
    named("node-taint", text, names::qualified_name(key))?;
    named("node-taint", text, names::label_value(value))
}

/// A name may begin with a wildcard, as in certificates. Source: RFC 6125 section 6.4.3.
fn tls_san(name: &str) -> Outcome {
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    let plain = name.strip_prefix("*.").unwrap_or(name).to_ascii_lowercase();
    match names::dns1123_subdomain(&plain).is_empty() {
        true => Ok(()),
        false => refuse("tls-san", name, "a DNS name or an IP address is wanted"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{args, server};

    /// Key, value, and how the line ends: the same from a file, a flag and the environment.
    const REFUSED: &[(&str, &str, &str)] = &[
        (
            "log-level",
            "loud",
            "off, error, warn, info, debug or trace is wanted, or a filter such as info,apiserver=debug",
        ),
        ("log-level", "info,apiserver=loud", "a filter such as info,apiserver=debug"),
        ("log-level", "", "a filter such as info,apiserver=debug"),
        ("disable", "nosuch", "the built-in component that can be left out is local-path"),
        ("node-label", "bad label=x", "regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"),
        ("node-label", "a=b c", "regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"),
        ("node-label", "a", "KEY=VALUE is wanted"),
        ("node-taint", "foo", "with one of NoSchedule, PreferNoSchedule, NoExecute"),
        ("node-taint", "foo=bar:Never", "with one of NoSchedule, PreferNoSchedule, NoExecute"),
        ("node-taint", "a b:NoSchedule", "regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"),
        ("node-taint", ":NoSchedule", "name part must be non-empty"),
        ("tls-san", "bad host", "a DNS name or an IP address is wanted"),
        ("tls-san", "*", "a DNS name or an IP address is wanted"),
        ("cluster-domain", "a b", "([-a-z0-9]*[a-z0-9])?)*')"),
        ("cgroup-root", "../..", "an absolute path below the root cgroup, such as /kedge, is wanted"),
        ("cgroup-root", "/kedge/../..", "such as /kedge, is wanted"),
        ("cgroup-root", "/", "such as /kedge, is wanted"),
        ("cgroup-root", "kedge", "such as /kedge, is wanted"),
        ("cluster-cidr", "10.43.0.0/16", "overlaps --service-cidr 10.43.0.0/16; a range of its own is wanted"),
        ("cluster-cidr", "10.0.0.0/8", "overlaps --service-cidr 10.43.0.0/16; a range of its own is wanted"),
        ("cluster-cidr", "fd43::/120", "overlaps --service-cidr fd43::/112; a range of its own is wanted"),
        ("data-dir", "data", "an absolute path without \"..\" is wanted, and not the root folder"),
        ("data-dir", "/", "and not the root folder"),
        ("run-dir", "/run/../", "and not the root folder"),
    ];

    #[test]
    fn each_refusal_names_the_key_and_what_it_takes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        let path = file.to_str().unwrap().to_owned();
        for (key, value, end) in REFUSED {
            std::fs::write(&file, serde_json::json!({ *key: value }).to_string()).unwrap();
            let named = vec!["server".into(), "--config".into(), path.clone()];
            for (given, blamed) in
                [(args(&[&format!("--{key}={value}")]), format!("--{key}")), (named, format!("{path}: key {key:?}:"))]
            {
                let error = server(&given).unwrap_err().to_string();
                assert!(error.starts_with(&format!("{blamed} {value:?}: ")), "{given:?}: {error}");
                assert!(error.ends_with(end) && error.lines().count() == 1, "{given:?}: {error}");
            }
        }
    }

    /// The environment is the same table as the flags: each value that is checked here can come from there too.
    #[test]
    fn each_key_has_its_variable() {
        let command = super::super::server_command();
        for (key, ..) in REFUSED {
            let arg = command.get_arguments().find(|a| a.get_long() == Some(key)).unwrap();
            let variable = format!("KEDGE_{}", key.replace('-', "_").to_uppercase());
            assert_eq!(arg.get_env().and_then(|e| e.to_str()), Some(variable.as_str()));
        }
    }

    #[test]
    fn what_is_right_passes() {
        for flag in [
            "--log-level=WARN",
            "--log-level=info,apiserver=debug,store=off",
            "--log-level=info,[request{verb=get}]=trace",
            "--node-label=a=,example.com/role=edge",
            "--node-taint=a=b:NoSchedule,c:NoExecute,example.com/d=:PreferNoSchedule",
            "--tls-san=kedge.example.com,*.Example.com,10.0.0.1,fd00::1",
            "--cluster-domain=edge.example",
            "--cgroup-root=/a.slice/kedge",
            "--cluster-cidr=10.44.0.0/16,fd44::/56",
            "--data-dir=/srv/kedge data/",
            // an empty variable in an environment file
            "--node-label=",
            "--node-taint=",
            "--tls-san=",
            "--disable=",
        ] {
            server(&args(&[flag])).unwrap_or_else(|error| panic!("{flag}: {error}"));
        }
    }
}
