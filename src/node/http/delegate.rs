//! Callers other than the API server, as a collector of metrics is: who they are and what they may is asked of the API server.
//!
//! Nothing is remembered: a look at a node's figures every few seconds costs the API server two reads of memory, and what was
//! taken from somebody is gone at once.
//!
//! Source: `pkg/kubelet/server/auth.go` (`GetRequestAttributes`), `pkg/kubelet/server/server.go` (`InstallAuthFilter`).

use client::Client;
use client::api::WriteParams;
use http::Method;
use serde_json::{Value, json};

use super::authority::Caller;

const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS_REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// Questions that wait for the API server at once: anybody on the network can have one asked. As many again wait their turn.
pub const QUESTIONS_MAX: usize = 16;

/// The token of an `Authorization: Bearer` header.
pub fn token(headers: &http::HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

/// Whose token it is; `None` when it is nobody's.
///
/// # Errors
/// When the API server does not answer.
pub async fn identify(client: &Client, token: &str) -> client::Result<Option<Caller>> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let answer: Value = client.create_path(TOKEN_REVIEWS, &review, &WriteParams::default()).await?;
    let (status, user) = (&answer["status"], &answer["status"]["user"]);
    let known = status["authenticated"] == true;
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    Ok(known.then(|| Caller {
        name: user["username"].as_str().unwrap_or_default().to_owned(),
        uid: user["uid"].as_str().unwrap_or_default().to_owned(),
        groups: texts(&user["groups"]),
        extra: user["extra"].as_object().into_iter().flatten().map(|(key, list)| (key.clone(), texts(list))).collect(),
    }))
}

/// Whether the caller may do that with one of those subresources of the node.
///
/// # Errors
/// When the API server does not answer.
pub async fn may(
    client: &Client,
    caller: &Caller,
    node: &str,
    verb: &str,
    subresources: &[&str],
) -> client::Result<bool> {
    for subresource in subresources {
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": caller.name, "uid": caller.uid, "groups": caller.groups, "extra": caller.extra,
            "resourceAttributes": {"verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": node},
        }});
        let answer: Value = client.create_path(ACCESS_REVIEWS, &review, &WriteParams::default()).await?;
        if answer["status"]["allowed"] == true {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a method does, in the API's words; nothing for one that it has no word for.
pub fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// The subresources of a node any of which opens the path, the narrow ones first.
pub fn subresources(path: &str) -> &'static [&'static str] {
    match path.trim_start_matches('/').split('/').next().unwrap_or_default() {
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "statusz" => &["statusz"],
        "flagz" => &["configz"],
        _ => &["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use futures_util::future::BoxFuture;
    use http::{HeaderMap, Request, Response};
    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn tokens() {
        for (value, expected) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer ", None),
            ("Bearer", None),
            ("", None),
        ] {
            let headers: HeaderMap = [(http::header::AUTHORIZATION, value.parse().unwrap())].into_iter().collect();
            assert_eq!(token(&headers), expected, "{value:?}");
        }
        assert_eq!(token(&HeaderMap::new()), None);
    }

    #[test]
    fn paths_and_methods() {
        for (path, expected) in [
            ("/metrics", &["metrics"] as &[_]),
            ("/metrics/resource", &["metrics"]),
            ("/metricsextra", &["proxy"]),
            ("/stats/summary", &["stats"]),
            ("/pods", &["pods", "proxy"]),
            ("/healthz", &["healthz", "proxy"]),
            ("/exec/ns/pod/c", &["proxy"]),
            ("/containerLogs/ns/pod/c", &["proxy"]),
            ("/", &["proxy"]),
        ] {
            assert_eq!(subresources(path), expected, "{path}");
        }
        assert_eq!((verb(&Method::GET), verb(&Method::POST), verb(&Method::HEAD)), ("get", "create", ""));
    }

    /// Answers as an API server that knows one token, and lets its owner do one thing.
    #[derive(Default)]
    struct Scripted(Mutex<Vec<Value>>);

    impl client::Transport for Scripted {
        fn call(
            &self,
            request: Request<Bytes>,
        ) -> BoxFuture<'static, Result<Response<client::Body>, client::TransportError>> {
            let asked: Value = serde_json::from_slice(request.body()).unwrap();
            let status = match asked["kind"].as_str() {
                Some("TokenReview") if asked["spec"]["token"] == "good" => {
                    json!({"authenticated": true, "user": {"username": "u", "uid": "1", "groups": ["g"], "extra": {"k": ["v"]}}})
                }
                Some("TokenReview") => json!({"authenticated": false, "user": {}}),
                _ => json!({"allowed": asked["spec"]["resourceAttributes"]["subresource"] == "proxy"}),
            };
            self.0.lock().push(asked);
            let body = client::full_body(json!({"status": status}).to_string());
            Box::pin(async move { Ok(Response::builder().status(201).body(body).unwrap()) })
        }
    }

    #[tokio::test]
    async fn the_api_server_is_asked() {
        let api = Arc::new(Scripted::default());
        let client = Client::new(api.clone());
        assert_eq!(identify(&client, "bad").await.unwrap(), None);
        let caller = identify(&client, "good").await.unwrap().unwrap();
        assert_eq!((caller.name.as_str(), caller.groups.as_slice()), ("u", &["g".to_owned()] as &[_]));
        api.0.lock().clear();
        assert!(!may(&client, &caller, "n1", "get", &["metrics"]).await.unwrap());
        assert!(may(&client, &caller, "n1", "get", &["pods", "proxy"]).await.unwrap());
        let asked = std::mem::take(&mut *api.0.lock());
        let spec = json!({"user": "u", "uid": "1", "groups": ["g"], "extra": {"k": ["v"]}, "resourceAttributes":
            {"verb": "get", "version": "v1", "resource": "nodes", "subresource": "metrics", "name": "n1"}});
        assert_eq!((asked.len(), &asked[0]["spec"]), (3, &spec));
    }
}
