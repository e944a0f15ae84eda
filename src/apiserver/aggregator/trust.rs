//! What extension servers are told so that they believe this one: the ConfigMap `extension-apiserver-authentication`.
//!
//! What is there stays, but for certificates that have expired: another server of the same cluster may have its own.
//!
//! Source: `pkg/controlplane/controller/clusterauthenticationtrust`; kube-apiserver `--requestheader-*`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::FrontProxy;
use crate::auth::front_proxy;
use crate::follow::Upheld;
use crate::hooks::json::{get, text};
use crate::server::{ApiServer, Shared};
use crate::verbs::start;

/// After its end a certificate is told of for so long, for clocks that differ.
const SLACK_SECONDS: i64 = 5 * 60;

/// Where it is kept.
pub const STORE_KEY: &str = "core/configmaps/kube-system/extension-apiserver-authentication";

/// Told again when somebody has taken something out of it.
pub(crate) const UPHELD: Upheld = Upheld { right: uphold, matters: |_| true };

fn uphold(shared: &Arc<Shared>) -> BoxFuture<'_, ()> {
    Box::pin(async move {
        let Some(proxy) = &shared.config.front_proxy else { return };
        if let Err(status) = start::tell(&ApiServer::of(shared.clone()), proxy).await {
            tracing::warn!(why = status.message, "extension servers could not be told whom to believe");
        }
    })
}

/// The whole object, of what is there (null: nothing) and what must be.
pub fn config_map(there: &Value, proxy: &FrontProxy, now: Timestamp) -> Value {
    let data = get(there, "data");
    let list = |key: &str, own: &str| {
        let mut all: Vec<String> = serde_json::from_str(text(data, key)).unwrap_or_default();
        if !all.iter().any(|one| one == own) {
            all.push(own.to_owned());
        }
        json!(all).to_string()
    };
    let bundle = |key: &str, own: &str| certificates(&[text(data, key), own], now);
    json!({"apiVersion": "v1", "kind": "ConfigMap",
    "metadata": {"namespace": "kube-system", "name": "extension-apiserver-authentication"},
    "data": {
        "client-ca-file": bundle("client-ca-file", &proxy.client_ca_pem),
        "requestheader-client-ca-file": bundle("requestheader-client-ca-file", &proxy.ca_pem),
        "requestheader-allowed-names": list("requestheader-allowed-names", &proxy.name),
        "requestheader-username-headers": list("requestheader-username-headers", &written(front_proxy::USER)),
        "requestheader-uid-headers": list("requestheader-uid-headers", &written(front_proxy::UID)),
        "requestheader-group-headers": list("requestheader-group-headers", &written(front_proxy::GROUP)),
        "requestheader-extra-headers-prefix":
            list("requestheader-extra-headers-prefix", &written(front_proxy::EXTRA_PREFIX)),
    }})
}

/// A header as it is usually written: `X-Remote-User`.
fn written(header: &str) -> String {
    let part = |part: &str| part[..part.len().min(1)].to_ascii_uppercase() + part.get(1..).unwrap_or_default();
    header.split('-').map(part).collect::<Vec<_>>().join("-")
}

/// The certificates of the bundles, each once, without those that are over.
fn certificates(bundles: &[&str], now: Timestamp) -> String {
    let mut all: Vec<CertificateDer<'static>> = Vec::new();
    for certificate in bundles.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes())).flatten() {
        let ends = x509_parser::parse_x509_certificate(&certificate).map(|(_, c)| c.validity().not_after.timestamp());
        if ends.is_ok_and(|ends| ends + SLACK_SECONDS > now.as_second()) && !all.contains(&certificate) {
            all.push(certificate);
        }
    }
    let mut text = String::new();
    for certificate in all {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(&certificate);
        for line in encoded.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_said_stays() {
        let made = |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap().cert.pem();
        let (own, other) = (made("own"), made("other"));
        let proxy = FrontProxy {
            client_ca_pem: own.clone(),
            ca_pem: own.clone(),
            name: "front".into(),
            chain_pem: String::new(),
            key_pem: String::new(),
        };
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let first = config_map(&Value::Null, &proxy, now);
        assert_eq!(first["data"]["requestheader-username-headers"], r#"["X-Remote-User"]"#);
        assert_eq!(first["data"]["requestheader-extra-headers-prefix"], r#"["X-Remote-Extra-"]"#);
        assert_eq!(first["data"]["requestheader-allowed-names"], r#"["front"]"#);
        assert_eq!(first["data"]["client-ca-file"].as_str().unwrap().replace("\r\n", "\n"), own.replace("\r\n", "\n"));
        assert_eq!(config_map(&first, &proxy, now), first);
        let there = json!({"data": {"client-ca-file": other, "requestheader-allowed-names": r#"["back"]"#}});
        let both = config_map(&there, &proxy, now);
        assert_eq!(both["data"]["client-ca-file"].as_str().unwrap().matches("BEGIN").count(), 2);
        assert_eq!(both["data"]["requestheader-allowed-names"], r#"["back","front"]"#);
        let late: Timestamp = "9000-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(config_map(&there, &proxy, late)["data"]["client-ca-file"], "");
    }
}
