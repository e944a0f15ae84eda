//! What `kedge image …` asks of the daemon, over HTTP on its local socket. The daemon mounts [`handle`]; who may connect is the
//! socket's mode, nothing is checked here.
//!
//! | request | answer |
//! |---|---|
//! | `GET /images` | `{"images": […]}` |
//! | `POST /images/pull` with `{"reference", "username"?, "password"?}` | JSON lines: [`Progress`], then the end |
//! | `POST /images/import?name=…&pin=true` with an archive | JSON lines: the end |
//! | `GET /images/export?name=…&name=…` | an OCI layout, `application/x-tar`; cut short if it fails on the way |
//! | `POST /images/tag?image=…&name=…` | `{}` |
//! | `DELETE /images?name=…` | `{"images": […], "layers": n, "freedBytes": n}` |
//! | `POST /images/prune` | the same |
//!
//! The end is `{"images": […]}` or `{"error": "…"}`; so is every refusal, with a status of 400, 404, 409 or 500.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use http::{Method, Request, Response, StatusCode};
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use super::digest::Digest;
use super::error::{Error, Result};
use super::model::Platform;
use super::pull::{Images, blocking};
use super::registry::Credentials;
use super::store::{Image, Pruned};

/// Bytes of a pull request's body.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Pieces between a connection and the thread that reads or writes an archive.
const PIECES_MAX: usize = 16;

/// Bytes of an exported archive per piece.
const PIECE_BYTES: usize = 64 << 10;

pub type AnswerBody = BoxBody<Bytes, io::Error>;

/// An image as the lines and lists have it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageInfo {
    pub id: Digest,
    pub names: Vec<String>,
    pub digests: Vec<String>,
    pub size_bytes: u64,
    pub pinned: bool,
    pub containers: usize,
    pub platform: Platform,
}

impl From<&Image> for ImageInfo {
    fn from(image: &Image) -> ImageInfo {
        ImageInfo {
            id: image.id.clone(),
            names: image.names.clone(),
            digests: image.digests.clone(),
            size_bytes: image.size_bytes,
            pinned: image.pinned,
            containers: image.containers,
            platform: image.config.platform.clone(),
        }
    }
}

#[derive(Deserialize)]
struct PullRequest {
    reference: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Answers one request whose path starts with `/images`. A client that goes away cancels its pull or import.
pub async fn handle<B>(images: &Images, request: Request<B>) -> Response<AnswerBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    let query = query(request.uri().query().unwrap_or_default());
    let get = |key: &str| query.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let names: Vec<String> = query.iter().filter(|(name, _)| name == "name").map(|(_, value)| value.clone()).collect();
    let store = images.store().clone();
    let path = request.uri().path().trim_end_matches('/').to_owned();
    let answer = match (request.method(), path.as_str()) {
        (&Method::GET, "/images") => Ok(json(StatusCode::OK, &ended(&store.list()))),
        (&Method::POST, "/images/pull") => pull(images, request).await,
        (&Method::POST, "/images/import") => {
            Ok(import(images, request.into_body(), get("name"), get("pin").as_deref() == Some("true")))
        }
        (&Method::GET, "/images/export") => export(images, names),
        (&Method::POST, "/images/tag") => {
            let (image, name) = (get("image").unwrap_or_default(), get("name").unwrap_or_default());
            blocking(move || store.tag(&image, &name)).await.map(|()| json(StatusCode::OK, &json!({})))
        }
        (&Method::POST, "/images/prune") => {
            blocking(move || store.prune()).await.map(|pruned| json(StatusCode::OK, &json!(pruned)))
        }
        (&Method::DELETE, "/images") => blocking(move || {
            let mut all = Pruned::default();
            for name in names {
                let pruned = store.remove(&name)?;
                all.images.extend(pruned.images);
                all.layers += pruned.layers;
                all.freed_bytes += pruned.freed_bytes;
            }
            Ok(all)
        })
        .await
        .map(|pruned| json(StatusCode::OK, &json!(pruned))),
        _ => return json(StatusCode::NOT_FOUND, &json!({"error": "no such request"})),
    };
    answer.unwrap_or_else(|error| refusal(&error))
}

fn ended(images: &[Image]) -> serde_json::Value {
    json!({"images": images.iter().map(ImageInfo::from).collect::<Vec<_>>()})
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<AnswerBody> {
    let mut response = Response::new(Full::from(value.to_string()).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn refusal(error: &Error) -> Response<AnswerBody> {
    let status = match error.cause() {
        Error::InvalidReference { .. } | Error::Malformed { .. } | Error::CutShort(_) => StatusCode::BAD_REQUEST,
        Error::Missing(_) | Error::NotFound(_) => StatusCode::NOT_FOUND,
        Error::InUse { .. } | Error::Pinned { .. } => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    json(status, &json!({"error": error.chain()}))
}

fn streamed(content_type: &'static str) -> (Sender<Bytes, io::Error>, Response<AnswerBody>) {
    let (sender, body) = Channel::new(PIECES_MAX);
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    (sender, response)
}

/// Sends one line; false when nobody is there to read it.
async fn line(sender: &mut Sender<Bytes, io::Error>, value: &serde_json::Value) -> bool {
    sender.send_data(Bytes::from(format!("{value}\n"))).await.is_ok()
}

async fn pull<B>(images: &Images, request: Request<B>) -> Result<Response<AnswerBody>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    let body = http_body_util::Limited::new(request.into_body().map_err(|error| error.to_string()), REQUEST_BYTES_MAX);
    let body = body.collect().await.map_err(|error| Error::malformed("request", error))?.to_bytes();
    let asked: PullRequest = serde_json::from_slice(&body).map_err(|error| Error::malformed("request", error))?;
    let reference = super::Reference::parse(&asked.reference)?;
    let credentials = match asked.username.is_empty() {
        true => Vec::new(),
        false => vec![Credentials {
            registry: reference.host,
            username: asked.username,
            password: asked.password,
            token: String::new(),
        }],
    };
    let mut pull = images.pull(&asked.reference, &credentials);
    let (mut sender, response) = streamed("application/jsonlines");
    tokio::spawn(async move {
        while let Some(progress) = pull.progress().await {
            // The client went away; dropping the pull cancels it unless a pod wants it too.
            if !line(&mut sender, &json!(progress)).await {
                return;
            }
        }
        let end = match pull.finish().await {
            Ok(image) => ended(&[image]),
            Err(error) => json!({"error": error.chain()}),
        };
        line(&mut sender, &end).await;
    });
    Ok(response)
}

fn import<B>(images: &Images, mut body: B, name: Option<String>, pin: bool) -> Response<AnswerBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    let (mut sender, response) = streamed("application/jsonlines");
    let store = images.store().clone();
    let (pieces, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES_MAX);
    tokio::spawn(async move {
        let feed = async move {
            while let Some(frame) = body.frame().await {
                let piece = match frame {
                    Ok(frame) => frame.into_data().map_err(|_| io::ErrorKind::InvalidData.into()),
                    Err(error) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error.to_string())),
                };
                // The importer stopped reading and says why.
                if pieces.send(piece).await.is_err() {
                    return;
                }
            }
        };
        let reader = BodyReader { receiver, piece: Bytes::new() };
        let importing = blocking(move || super::import(&store, reader, name.as_deref(), pin));
        let ((), imported) = tokio::join!(feed, importing);
        let end = match imported {
            Ok(imported) => ended(&imported.images),
            Err(error) => json!({"error": error.chain()}),
        };
        line(&mut sender, &end).await;
    });
    response
}

fn export(images: &Images, names: Vec<String>) -> Result<Response<AnswerBody>> {
    let store = images.store().clone();
    if names.is_empty() {
        return Err(Error::malformed("request", "name which images to export"));
    }
    for name in &names {
        store.resolve(name)?.ok_or_else(|| Error::Missing(name.clone()))?;
    }
    let (mut sender, response) = streamed("application/x-tar");
    let (pieces, mut receiver) = mpsc::channel::<Bytes>(PIECES_MAX);
    tokio::spawn(async move {
        let exporting = blocking(move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            super::export(&store, &names, io::BufWriter::with_capacity(PIECE_BYTES, PieceWriter(pieces)))
        });
        let sending = async {
            while let Some(piece) = receiver.recv().await {
                if sender.send_data(piece).await.is_err() {
                    receiver.close();
                    return;
                }
            }
        };
        let (exported, ()) = tokio::join!(exporting, sending);
        if let Err(error) = exported {
            tracing::warn!(error = %error.chain(), "export of images failed");
            // Without the end mark of its chunks, the client sees that it is cut.
            sender.abort(io::Error::other(error.chain()));
        }
    });
    Ok(response)
}

struct BodyReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let read = buffer.len().min(self.piece.len());
        self.piece.split_to(read).copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}

struct PieceWriter(mpsc::Sender<Bytes>);

impl Write for PieceWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(Bytes::copy_from_slice(buffer)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Names and values of a query string, unescaped.
fn query(text: &str) -> Vec<(String, String)> {
    let unescape = |text: &str| {
        let mut out = Vec::with_capacity(text.len());
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
            match byte {
                b'+' => out.push(b' '),
                b'%' => {
                    if let (Some(high), Some(low)) = (hex(bytes.next()), hex(bytes.next())) {
                        // Two hex digits are a byte.
                        out.push((high * 16 + low) as u8);
                    }
                }
                other => out.push(other),
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (unescape(k), unescape(v))).collect()
}
