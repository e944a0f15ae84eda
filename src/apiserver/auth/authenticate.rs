//! From a request and its connection to an identity.
//!
//! Source: apiserver `pkg/endpoints/filters/{authentication,impersonation}.go`.

use std::sync::Arc;

use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use store::View;
use types::status::{Reason, Status};

use super::Authorizer;
use super::attributes::{Attributes, Target};
use super::identity::{
    GROUP_AUTHENTICATED, GROUP_SERVICE_ACCOUNTS, GROUP_UNAUTHENTICATED, Identity, SERVICE_ACCOUNT_PREFIX,
    USER_ANONYMOUS,
};
use super::issuer::Issuers;
use super::jwt::Parts;
use super::settings::{Anonymous, Settings};
use super::token::{Accepted, Tokens};
use super::{bootstrap_token, front_proxy};
use crate::http::fetch::Https;
use crate::server::{Certificate, Peer};

/// Browsers cannot set headers on a WebSocket: the token comes as a subprotocol.
const WEBSOCKET_TOKEN_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Everything that says who somebody is.
pub struct Authenticator {
    pub tokens: Tokens,
    anonymous: Anonymous,
    issuers: Issuers,
}

/// Who sends a request, and what the audit log is told of how that is known.
pub struct Sender {
    pub identity: Arc<Identity>,
    /// Seconds since the token should have been replaced, of one whose life was extended.
    pub stale_seconds: Option<i64>,
}

impl From<Arc<Identity>> for Sender {
    fn from(identity: Arc<Identity>) -> Self {
        Self { identity, stale_seconds: None }
    }
}

impl Authenticator {
    pub fn new(tokens: Tokens, settings: Settings) -> Self {
        let fetch = settings.fetch.unwrap_or_else(|| Arc::new(Https));
        Self { tokens, anonymous: settings.anonymous, issuers: Issuers::new(settings.issuers, fetch) }
    }

    /// Who sends the request. Without any credentials: nobody in particular, where such are served.
    ///
    /// # Errors
    /// 401 for credentials that were given and are wrong, and for none where some are needed.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        path: &str,
        peer: &Peer,
        now: Timestamp,
        view: &dyn View,
    ) -> Result<Sender, Status> {
        let certificate = match peer {
            Peer::Local(identity) => return Ok(identity.clone().into()),
            Peer::Remote { certificate, .. } => certificate,
        };
        let mut wrong = false;
        match certificate {
            Certificate::Client(identity) => return Ok(identity.clone().into()),
            Certificate::FrontProxy => match front_proxy::identity(headers) {
                Some(identity) => return Ok(Arc::new(identity).into()),
                None => wrong = true,
            },
            Certificate::Unknown => wrong = true,
            Certificate::Absent => {}
        }
        if let Some(token) = bearer(headers) {
            match self.token(&token, &[], now, view).await {
                Ok(accepted) => {
                    let stale_seconds = accepted.stale_seconds;
                    return Ok(Sender { identity: Arc::new(accepted.identity), stale_seconds });
                }
                Err(why) => {
                    tracing::debug!(why, "refused a bearer token");
                    wrong = true;
                }
            }
        }
        if wrong || !self.anonymous.served(path) {
            return Err(Status::unauthorized());
        }
        Ok(Arc::new(Identity::anonymous()).into())
    }

    /// Whom a token stands for, whoever issued it, and the audiences that it is good for out of `audiences` (empty: this
    /// server's).
    ///
    /// # Errors
    /// Why the token is not accepted; for the log and TokenReviews.
    pub async fn token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
        view: &dyn View,
    ) -> Result<Accepted, String> {
        let identity = if let Some((id, secret)) = bootstrap_token::parse(token) {
            bootstrap_token::check(id, secret, now, view)?
        } else {
            let parts = Parts::parse(token)?;
            if self.tokens.claims(&parts) {
                return self.tokens.check(token, audiences, now, view);
            }
            self.issuers.check(&parts, now).await.ok_or("unexpected issuer")??
        };
        // These tokens know no audience of a cluster: they are for its API server.
        let own = self.tokens.api_audiences();
        let good: Vec<String> = match audiences {
            [] => own.to_vec(),
            wanted => wanted.iter().filter(|a| own.contains(a)).cloned().collect(),
        };
        if good.is_empty() {
            return Err(format!("unable to select the audiences for {own:?} given {audiences:?}"));
        }
        Ok(Accepted { identity, audiences: good, stale_seconds: None })
    }
}

/// Takes the token out of what a browser offers as subprotocols of a WebSocket: nobody behind the server is to have it.
pub fn forget_token(headers: &mut HeaderMap) {
    let lines: Vec<String> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .map(|line| {
            let kept = line.split(',').map(str::trim).filter(|p| !p.starts_with(WEBSOCKET_TOKEN_PREFIX));
            kept.collect::<Vec<_>>().join(", ")
        })
        .collect();
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    for line in lines.iter().filter(|line| !line.is_empty()) {
        if let Ok(value) = HeaderValue::from_str(line) {
            headers.append(SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(header) = headers.get(AUTHORIZATION) {
        // Another scheme is no credential that is known here; an undecodable one is a wrong one.
        let Ok(text) = header.to_str() else { return Some(String::new()) };
        let (scheme, token) = text.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned()).filter(|t| !t.is_empty());
    }
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|line| line.to_str().ok());
    let mut protocols = lines.flat_map(|line| line.split(','));
    let encoded = protocols.find_map(|p| p.trim().strip_prefix(WEBSOCKET_TOKEN_PREFIX))?;
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).unwrap_or_default();
    Some(String::from_utf8(bytes).unwrap_or_default())
}

/// The identity that the request asks to act as, when its sender may.
///
/// # Errors
/// 403 for the first part of the identity that the sender may not take, 400 or 500 for headers that make no sense.
pub fn impersonate(
    headers: &HeaderMap,
    sender: &Arc<Identity>,
    authorizer: &Authorizer,
    view: &dyn View,
) -> Result<Arc<Identity>, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(sender.clone());
    }
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let user = text("impersonate-user");
    let groups: Vec<String> =
        headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect();
    let uid = text("impersonate-uid");
    let mut wanted = Identity { user, uid, groups, ..Identity::default() };
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
            wanted.extra.entry(percent_decoded(key)).or_default().push(value.to_owned());
        }
    }
    if wanted.user.is_empty() {
        return Err(Status::new(
            Reason::InternalError,
            format!(
                "requested [{{UID  {}  authentication.k8s.io/v1  }}] without impersonating a user name",
                wanted.uid
            ),
        ));
    }
    let may = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let target = Target::Resource { group, version: "v1", resource, subresource, namespace, name, fields: None };
        let attributes = Attributes { identity: sender, verb: "impersonate", target };
        authorizer.authorize(&attributes, view).map_err(|why| attributes.forbidden(&why))
    };
    let account = wanted.user.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => {
            may("", "serviceaccounts", "", namespace, name)?;
            if wanted.groups.is_empty() {
                wanted.groups = vec![GROUP_SERVICE_ACCOUNTS.into(), format!("{GROUP_SERVICE_ACCOUNTS}:{namespace}")];
            }
        }
        None => may("", "users", "", "", &wanted.user)?,
    }
    for group in headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok()) {
        may("", "groups", "", "", group)?;
    }
    if !wanted.uid.is_empty() {
        may("authentication.k8s.io", "uids", "", "", &wanted.uid)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            may("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    let standing = if wanted.user == USER_ANONYMOUS { GROUP_UNAUTHENTICATED } else { GROUP_AUTHENTICATED };
    if !wanted.in_group(GROUP_UNAUTHENTICATED) && !wanted.in_group(standing) {
        wanted.groups.push(standing.into());
    }
    Ok(Arc::new(wanted))
}

fn percent_decoded(text: &str) -> String {
    types::percent::percent_decode(text, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_behind_the_server_sees_a_browsers_token() {
        for (offered, expected) in [
            (&["v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj"][..], &["v4.channel.k8s.io"][..]),
            (&["base64url.bearer.authorization.k8s.io.YWJj"], &[]),
            (&["base64url.bearer.authorization.k8s.io.YWJj,a", "b, c"], &["a", "b, c"]),
            (&[], &[]),
        ] {
            let mut headers = HeaderMap::new();
            for line in offered {
                headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(line));
            }
            forget_token(&mut headers);
            let left: Vec<_> = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().map(|v| v.to_str().unwrap()).collect();
            assert_eq!(left, expected);
        }
    }
}
