//! Service account tokens for projected volumes: asked for, kept while fresh, renewed in time.
//! Source: `pkg/kubelet/token/token_manager.go`.

use std::collections::HashMap;
use std::time::Duration;

use client::Client;
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::pod;
use crate::worker::state::Now;

/// A token is renewed at this age at the latest, whatever its lifetime.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Part of its lifetime after which it is renewed, in hundredths.
const RENEW_AT_PERCENT: u32 = 80;

/// A token that is good for a while.
#[derive(Debug, Clone)]
pub struct Issued {
    pub token: String,
    /// As the API says it.
    pub expires: String,
    /// When to come back for the next one.
    pub renew_at: Duration,
}

/// By audience and lifetime.
type ByKind = HashMap<(String, i64), Issued>;

/// When a token of this lifetime, issued at `now`, is to be renewed.
pub fn renew_at(now: Duration, lifetime: Duration) -> Duration {
    now + (lifetime * RENEW_AT_PERCENT / 100).min(AGE_MAX)
}

pub struct Tokens {
    client: Client,
    /// By pod uid.
    held: Mutex<HashMap<String, ByKind>>,
}

impl Tokens {
    pub fn new(client: Client) -> Tokens {
        Tokens { client, held: Mutex::default() }
    }

    /// A token that is good for a while, and when to come back for the next one.
    pub async fn get(
        &self,
        pod: &Pod,
        projection: &ServiceAccountTokenProjection,
        now: Now,
    ) -> Result<(String, Duration), String> {
        let audience = projection.audience.as_deref().unwrap_or_default();
        let issued = self.issue(pod, audience, projection.expiration_seconds.unwrap_or(3600), now).await?;
        Ok((issued.token, issued.renew_at))
    }

    /// A token for an audience; empty: the API server's own.
    ///
    /// # Errors
    /// The API server gives none.
    pub async fn issue(&self, pod: &Pod, audience: &str, seconds: i64, now: Now) -> Result<Issued, String> {
        let slot = (audience.to_owned(), seconds);
        if let Some(held) = self.held.lock().get(pod::uid(pod)).and_then(|t| t.get(&slot))
            && held.renew_at > now.mono
        {
            return Ok(held.clone());
        }
        let account = pod::spec(pod).service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", pod::namespace(pod));
        let request = json!({
            "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
            "spec": {
                "audiences": if audience.is_empty() { json!([]) } else { json!([audience]) },
                "expirationSeconds": seconds,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod::name(pod), "uid": pod::uid(pod)},
            }
        });
        let answer: Value = self
            .client
            .create_path(&path, &request, &client::WriteParams::default())
            .await
            .map_err(|e| format!("failed to fetch token: {e}"))?;
        let status = answer.get("status");
        let token = status.and_then(|s| s.get("token")).and_then(Value::as_str).unwrap_or_default().to_owned();
        if token.is_empty() {
            return Err("failed to fetch token: the answer holds none".into());
        }
        let expires = status.and_then(|s| s.get("expirationTimestamp")).and_then(Value::as_str);
        let lifetime = expires
            .and_then(|t| t.parse::<jiff::Timestamp>().ok())
            .and_then(|t| Duration::try_from(t.duration_since(now.wall)).ok())
            .filter(|d| !d.is_zero())
            .unwrap_or_else(|| Duration::from_secs(seconds.max(60) as u64));
        let renew_at = renew_at(now.mono, lifetime);
        let issued = Issued { token, expires: expires.unwrap_or_default().to_owned(), renew_at };
        self.held.lock().entry(pod::uid(pod).to_owned()).or_default().insert(slot, issued.clone());
        Ok(issued)
    }

    pub fn forget(&self, uid: &str) {
        self.held.lock().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_well_before_the_end() {
        let s = Duration::from_secs;
        assert_eq!(renew_at(s(100), s(3600)), s(100 + 2880));
        assert_eq!(renew_at(s(100), s(365 * 86_400)), s(100 + 86_400));
    }
}
