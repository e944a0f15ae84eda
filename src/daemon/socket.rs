//! The local socket: what `kedge image …` asks of this host's daemon. Root's alone by its mode; nothing else guards it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use runtime::image;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::lock::Mine;

/// Name of the socket in the run folder.
pub const NAME: &str = "kedge.sock";
/// Commands at a time; people type them.
const CONNECTIONS_MAX: usize = 32;

/// Listens on `<run-dir>/kedge.sock` until `stop`.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(run_dir: &Path, images: image::Images, stop: CancellationToken) -> Result<Mine> {
    let path = run_dir.join(NAME);
    let _ = std::fs::remove_file(&path); // left by a daemon that was killed
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let made = Mine::of(path);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::spawn(async move {
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
            let stream = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "the local socket cannot accept");
                        tokio::task::yield_now().await;
                        continue;
                    }
                },
            };
            let images = images.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(images.clone(), request));
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                if let Err(error) = served.await {
                    tracing::debug!(%error, "a local connection ended");
                }
                drop(permit);
            });
        }
    });
    Ok(made)
}

type Answer = http::Response<BoxBody<bytes::Bytes, std::io::Error>>;

async fn answer(images: image::Images, request: http::Request<Incoming>) -> Result<Answer, std::convert::Infallible> {
    if request.uri().path().starts_with("/images") {
        return Ok(image::admin::handle(&images, request).await);
    }
    let body = http_body_util::Full::from("{\"error\":\"no such path\"}").map_err(|never| match never {}).boxed();
    let mut response = http::Response::new(body);
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    Ok(response)
}
