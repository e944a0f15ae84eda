//! What every request carries and what every answer may say besides: impersonation, and the server's warnings.
//!
//! Source: RFC 7234 §5.5 (the header), client-go `rest/warnings.go` (each text once), KEP-1693.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use client::Body;
use client::Transport;
use client::TransportError;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http::header::WARNING;

pub struct Carrier {
    inner: Arc<dyn Transport>,
    headers: HeaderMap,
    /// Warnings that were told. Bounded by the few texts that a server has.
    told: Arc<Mutex<BTreeSet<String>>>,
}

impl Carrier {
    pub fn new(inner: Arc<dyn Transport>, headers: HeaderMap) -> Self {
        Self { inner, headers, told: Arc::default() }
    }
}

impl Transport for Carrier {
    fn call(
        &self,
        mut request: http::Request<Bytes>,
    ) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        request.headers_mut().extend(self.headers.clone());
        let (call, told) = (self.inner.call(request), Arc::clone(&self.told));
        Box::pin(async move {
            let answer = call.await?;
            for text in warnings(answer.headers()) {
                let is_new = told.lock().is_ok_and(|mut told| told.insert(text.clone()));
                if is_new {
                    eprintln!("Warning: {}", crate::terminal::escape(&text));
                }
            }
            Ok(answer)
        })
    }
}

/// The texts of `299 - "text"` headers.
fn warnings(headers: &HeaderMap) -> Vec<String> {
    let texts = headers.get_all(WARNING).iter().filter_map(|value| {
        let quoted = value.to_str().ok()?.strip_prefix("299 ")?.split_once('"')?.1;
        let mut text = String::new();
        let mut chars = quoted.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => return Some(text),
                '\\' => text.extend(chars.next()),
                c => text.push(c),
            }
        }
        None
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_unquoted() {
        let mut headers = HeaderMap::new();
        for value in [r#"299 - "a \"b\" \\""#, r#"199 - "no""#, r#"299 - "open"#, r#"299 - "two""#] {
            headers.append(WARNING, value.parse().unwrap());
        }
        assert_eq!(warnings(&headers), [r#"a "b" \"#, "two"]);
    }
}
