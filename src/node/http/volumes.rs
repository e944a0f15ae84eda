//! Folders of local-path volumes, by `PUT` and `DELETE /volumes/NAME`: Kedge's own addition to what a node answers. The cluster's
//! provisioner asks by way of the API server's node proxy.

use std::io;

use http::{Method, Response, StatusCode};

use super::{Body, Server, json, text};
use crate::volume::local_path;

impl Server {
    /// Answers `{"path": …}` when the folder is there, or nothing when it is gone. Both may be asked for again.
    pub(super) async fn volumes(&self, method: &Method, name: String) -> Response<Body> {
        let root = self.host.config.volumes_dir.clone();
        let done = match method.as_str() {
            "PUT" => tokio::task::spawn_blocking(move || local_path::make(&root, &name).map(Some)).await,
            "DELETE" => tokio::task::spawn_blocking(move || local_path::remove(&root, &name).map(|()| None)).await,
            _ => return text(StatusCode::METHOD_NOT_ALLOWED, "PUT or DELETE is wanted"),
        };
        match done.map_err(io::Error::other).and_then(|result| result) {
            Ok(Some(path)) => json(&serde_json::json!({"path": path})),
            Ok(None) => json(&serde_json::json!({})),
            Err(error) => {
                let status = match error.kind() {
                    io::ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
                    io::ErrorKind::ResourceBusy => StatusCode::CONFLICT,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                };
                text(status, error.to_string())
            }
        }
    }
}
