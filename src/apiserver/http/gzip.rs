//! Compression of large answers.
//!
//! Source: apiserver `pkg/endpoints/handlers/responsewriters/writers.go` (`defaultGzipThresholdBytes`, level 1).

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::body::{Body, BoxError};

/// Smaller answers cost more to compress than to send.
const THRESHOLD_BYTES: u64 = 128 * 1024;

/// Compresses the body when the client takes gzip and the answer is large; watches and unknown lengths pass.
pub fn compress(request_headers: &HeaderMap, response: Response<Body>) -> Response<Body> {
    let large = response.body().size_hint().exact().is_some_and(|n| n > THRESHOLD_BYTES);
    let takes = request_headers
        .get(ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|e| e.trim().split(';').next() == Some("gzip")));
    if !large || !takes || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    let state = Some((body, GzEncoder::new(Vec::new(), Compression::fast())));
    let pieces = futures_util::stream::unfold(state, |state| async move {
        let (mut body, mut encoder) = state?;
        loop {
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && let Err(error) = encoder.write_all(&data)
                    {
                        return Some((Err(error.into()), None));
                    }
                    let out = std::mem::take(encoder.get_mut());
                    if !out.is_empty() {
                        return Some((Ok::<_, BoxError>(Bytes::from(out)), Some((body, encoder))));
                    }
                }
                Some(Err(error)) => return Some((Err(error), None)),
                None => return Some((encoder.finish().map(Bytes::from).map_err(Into::into), None)),
            }
        }
    });
    Response::from_parts(parts, Body::pieces(pieces))
}
