//! `image`: the local image store, asked over the daemon's socket on this host.
//!
//! Source: `runtime::image::admin` for the paths and the JSON lines.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::{Args, Subcommand};
use client::api::Query;
use futures_util::TryStreamExt as _;
use http::{Method, Request, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio_util::io::ReaderStream;

use crate::failure::{self, usage};
use crate::manifest::text;
use crate::table::Table;
use crate::{output, yaml};

#[derive(Debug, Clone, Args)]
pub struct Image {
    /// Folder of the daemon's socket
    #[arg(long, default_value = "/run/kedge", env = "KEDGE_RUN_DIR", global = true)]
    run_dir: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// List images
    #[command(visible_alias = "list")]
    Ls {
        /// json, yaml or name
        #[arg(long, short = 'o', default_value = "", hide_default_value = true)]
        output: String,
    },
    /// Fetch an image from its registry
    Pull {
        /// Name of the image, with its tag or digest
        reference: String,
        /// User at the registry
        #[arg(long)]
        username: Option<String>,
        /// Password at the registry; KEDGE_REGISTRY_PASSWORD if not given
        #[arg(long, env = "KEDGE_REGISTRY_PASSWORD", hide_env_values = true)]
        password: Option<String>,
    },
    /// Take images from archives; - reads standard input
    Import {
        /// Archives as `docker save` or an OCI tool writes them
        #[arg(required = true)]
        archives: Vec<PathBuf>,
        /// Name for an image that has none
        #[arg(long)]
        name: Option<String>,
        /// Keep it although nothing uses it
        #[arg(long)]
        pin: bool,
    },
    /// Write images to an archive; - writes standard output
    Export {
        /// File to write; - is standard output
        archive: PathBuf,
        /// Images that go in
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove images
    Rm {
        /// Images that go
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Give an image another name
    Tag {
        /// The image, by a name or digest that it has
        image: String,
        /// The name that it gets
        name: String,
    },
    /// Remove what no container uses
    Prune,
}

pub async fn run(image: &Image) -> Result<()> {
    let mut daemon = Daemon::connect(image).await?;
    match &image.what {
        What::Ls { output } => {
            let answer = daemon.json(Method::GET, "/images", empty()).await?;
            print!("{}", listed(output, &answer)?);
            Ok(())
        }
        What::Pull { reference, username, password } => {
            let mut body = json!({"reference": reference});
            if let Some(username) = username {
                body["username"] = username.as_str().into();
            }
            if let Some(password) = password {
                body["password"] = password.as_str().into();
            }
            let answer = daemon.ask(Method::POST, "/images/pull", full(body.to_string())).await?;
            named("pulled", &follow(answer).await?);
            Ok(())
        }
        What::Import { archives, name, pin } => {
            if name.is_some() && archives.len() > 1 {
                return Err(usage("--name goes with one archive"));
            }
            let mut query = Query::default();
            query.text("name", name.as_deref().unwrap_or_default());
            if *pin {
                query.push("pin", "true");
            }
            let path = query.on("/images/import");
            // What is wrong with one archive keeps nobody from the others.
            let mut errors = Vec::new();
            for archive in archives {
                match import(image, &path, archive).await {
                    Ok(answer) => named(&format!("imported from {}", archive.display()), &answer),
                    Err(error) => errors.push(error),
                }
            }
            failure::all(errors)
        }
        What::Export { archive, names } => {
            let answer = daemon.ask(Method::GET, &with_names(names).on("/images/export"), empty()).await?;
            export(archive, answer).await
        }
        What::Rm { names } => {
            // One at a time: each is told of, and one that is in use keeps nobody from the others.
            let (mut errors, mut layers, mut freed) = (Vec::new(), 0, 0);
            for name in names {
                let path = with_names(std::slice::from_ref(name)).on("/images");
                match daemon.json(Method::DELETE, &path, empty()).await {
                    Ok(answer) => {
                        println!("{name}: removed");
                        layers += answer["layers"].as_u64().unwrap_or(0);
                        freed += answer["freedBytes"].as_u64().unwrap_or(0);
                    }
                    Err(error) => errors.push(error),
                }
            }
            if errors.len() < names.len() {
                println!("{} freed in {layers} layers", bytes(freed));
            }
            failure::all(errors)
        }
        What::Tag { image, name } => {
            let mut query = Query::default();
            query.push("image", image);
            query.push("name", name);
            daemon.json(Method::POST, &query.on("/images/tag"), empty()).await?;
            println!("{name}: tagged");
            Ok(())
        }
        What::Prune => {
            let answer = daemon.json(Method::POST, "/images/prune", empty()).await?;
            removed(&answer);
            Ok(())
        }
    }
}

/// Over a connection of its own: one that is refused half way is of no use afterwards.
async fn import(image: &Image, path: &str, archive: &Path) -> Result<Value> {
    let body = if archive.as_os_str() == "-" {
        stream(tokio::io::stdin())
    } else {
        let file = tokio::fs::File::open(archive).await;
        stream(file.with_context(|| format!("open {}", archive.display()))?)
    };
    let imported = async { follow(Daemon::connect(image).await?.ask(Method::POST, path, body).await?).await };
    imported.await.with_context(|| format!("import {}", archive.display()))
}

fn with_names(names: &[String]) -> Query {
    let mut query = Query::default();
    for name in names {
        query.push("name", name);
    }
    query
}

type Outgoing = BoxBody<Bytes, std::io::Error>;

fn full(text: impl Into<Bytes>) -> Outgoing {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}
fn empty() -> Outgoing {
    full(Bytes::new())
}
fn stream(read: impl tokio::io::AsyncRead + Send + Sync + 'static) -> Outgoing {
    http_body_util::BodyExt::boxed(StreamBody::new(ReaderStream::with_capacity(read, 256 * 1024).map_ok(Frame::data)))
}

/// One connection to the daemon.
struct Daemon {
    sender: hyper::client::conn::http1::SendRequest<Outgoing>,
}

impl Daemon {
    async fn connect(image: &Image) -> Result<Self> {
        let path = image.run_dir.join("kedge.sock");
        let socket = UnixStream::connect(&path).await.with_context(|| {
            format!(
                "no daemon answers at {}: start one with `kedge server`, or name its folder with --run-dir",
                path.display()
            )
        })?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    async fn ask(&mut self, method: Method, path: &str, body: Outgoing) -> Result<Incoming> {
        let request = Request::builder().method(method).uri(path).header("host", "localhost").body(body)?;
        let answer = self.sender.send_request(request).await.context("the daemon did not answer")?;
        let (head, body) = answer.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        Err(refusal(head.status, &body.collect().await?.to_bytes()))
    }

    async fn json(&mut self, method: Method, path: &str, body: Outgoing) -> Result<Value> {
        let bytes = self.ask(method, path, body).await?.collect().await?.to_bytes();
        serde_json::from_slice(&bytes).context("the daemon's answer could not be read")
    }
}

fn refusal(code: StatusCode, body: &[u8]) -> anyhow::Error {
    let told: Value = serde_json::from_slice(body).unwrap_or_default();
    match text(&told, "/error") {
        "" => anyhow::anyhow!("the daemon answered {code}: {}", String::from_utf8_lossy(body).trim()),
        why => anyhow::anyhow!("{why}"),
    }
}

/// Reads JSON lines to their end, showing what they say on the way.
async fn follow(mut body: Incoming) -> Result<Value> {
    let mut progress =
        Progress { terminal: std::io::stderr().is_terminal(), shown: String::new(), layers: BTreeMap::new() };
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("the daemon went away")?.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(at) = buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=at).collect();
            let value: Value = serde_json::from_slice(&line).context("the daemon's answer could not be read")?;
            if let Some(why) = value.get("error").and_then(Value::as_str) {
                progress.end();
                anyhow::bail!("{why}");
            }
            if value.get("images").is_some() {
                progress.end();
                return Ok(value);
            }
            progress.show(&value);
        }
    }
    progress.end();
    match serde_json::from_slice::<Value>(&buffer) {
        Ok(value) if value.get("images").is_some() => Ok(value),
        _ => anyhow::bail!("the daemon went away before the end"),
    }
}

/// What is known of the layers on their way: one line that is written over on a terminal; plain lines, a line for every tenth,
/// elsewhere.
struct Progress {
    terminal: bool,
    shown: String,
    /// Digest → bytes here, bytes in all.
    layers: BTreeMap<String, (u64, u64)>,
}

impl Progress {
    fn show(&mut self, value: &Value) {
        let line = self.line(value);
        if line == self.shown {
            return;
        }
        if self.terminal {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
        self.shown = line;
    }

    fn line(&mut self, value: &Value) -> String {
        let total = value["totalBytes"].as_u64().unwrap_or(0);
        let done = match text(value, "/status") {
            "exists" | "done" => total,
            _ => value["bytes"].as_u64().unwrap_or(0),
        };
        let layer = text(value, "/layer").to_owned();
        if !layer.is_empty() {
            self.layers.insert(layer, (done, total));
        }
        let (done, total) = self.layers.values().fold((0, 0), |(d, t), (done, total)| (d + done.min(total), t + total));
        let percent = (done * 100).checked_div(total).unwrap_or(0);
        if self.terminal {
            let filled = usize::try_from(percent * BAR / 100).unwrap_or(0);
            let rest = usize::try_from(BAR).unwrap_or(0) - filled;
            let bar = format!("{}{}", "=".repeat(filled), " ".repeat(rest));
            format!("[{bar}] {percent:>3}% {} of {}, {} layers", bytes(done), bytes(total), self.layers.len())
        } else {
            format!("{}%", percent / 10 * 10)
        }
    }

    fn end(&mut self) {
        if self.terminal && !self.shown.is_empty() {
            eprintln!();
        }
    }
}

/// Width of the bar in characters.
const BAR: u64 = 30;

/// Bytes as people read them, in powers of 1000 like a registry's pages.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 || unit == "GB" {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    String::new()
}

fn images(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["images"].as_array().into_iter().flatten()
}

fn names(image: &Value) -> Vec<&str> {
    match image {
        Value::String(name) => vec![name],
        image => match image.get("names").and_then(Value::as_array) {
            Some(names) => names.iter().filter_map(Value::as_str).collect(),
            None => vec![text(image, "/name")],
        },
    }
}

/// Tells of each name once: an archive may hold an image under each of its names.
fn named(what: &str, answer: &Value) {
    for name in images(answer).flat_map(names).collect::<BTreeSet<_>>() {
        println!("{name}: {what}");
    }
}

fn removed(answer: &Value) {
    named("removed", answer);
    let freed = answer["freedBytes"].as_u64().unwrap_or(0);
    println!("{} freed in {} layers", bytes(freed), answer["layers"].as_u64().unwrap_or(0));
}

fn listed(format: &str, answer: &Value) -> Result<String> {
    match format {
        "" => {}
        "json" => return Ok(output::to_json(answer)),
        "yaml" => return Ok(yaml::to_yaml(answer)),
        "name" => return Ok(images(answer).flat_map(names).map(|n| format!("{n}\n")).collect()),
        other => return Err(usage(format!("unknown output format {other:?}: json, yaml or name"))),
    }
    let mut rows = vec![vec!["IMAGE".to_owned(), "ID".to_owned(), "SIZE".to_owned()]];
    for image in images(answer) {
        let id = ["/id", "/digest", "/manifest"].into_iter().map(|p| text(image, p)).find(|t| !t.is_empty());
        let id = id.unwrap_or_default().trim_start_matches("sha256:").chars().take(13).collect::<String>();
        let size = ["sizeBytes", "size", "bytes"].iter().find_map(|k| image.get(*k).and_then(Value::as_u64));
        let names = names(image);
        for name in if names.is_empty() { vec!["<none>"] } else { names } {
            rows.push(vec![name.to_owned(), id.clone(), size.map(bytes).unwrap_or_default()]);
        }
    }
    Ok(Table::default().lay_out(&rows))
}

/// Writes beside the file that was asked for and renames: an archive cut short is never left under its name.
async fn export(archive: &Path, mut body: Incoming) -> Result<()> {
    if archive.as_os_str() == "-" {
        let mut out = tokio::io::stdout();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.context("the archive was cut short")?.into_data() {
                out.write_all(&data).await?;
            }
        }
        return Ok(out.flush().await?);
    }
    let mut partial = archive.as_os_str().to_owned();
    partial.push(".partial");
    let write = async {
        let mut file =
            tokio::fs::File::create(&partial).await.with_context(|| format!("create {}", archive.display()))?;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.context("the archive was cut short")?.into_data() {
                file.write_all(&data).await?;
            }
        }
        file.flush().await?;
        file.sync_all().await?;
        anyhow::Ok(tokio::fs::rename(&partial, archive).await?)
    };
    let result = write.await;
    if result.is_err() {
        let _ = tokio::fs::remove_file(&partial).await;
    }
    result?;
    println!("{}: exported", archive.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_all_layers() {
        let mut progress = Progress { terminal: false, shown: String::new(), layers: BTreeMap::new() };
        let mut line = |layer: &str, status: &str, bytes: u64| {
            progress.line(&json!({"layer": layer, "totalBytes": 100, "status": status, "bytes": bytes}))
        };
        assert_eq!(line("a", "downloading", 50), "50%");
        assert_eq!(line("b", "downloading", 10), "30%");
        assert_eq!(line("a", "done", 0), "50%");
        assert_eq!(line("b", "exists", 0), "100%");
    }

    #[test]
    fn images_are_listed() {
        let answer = json!({"images": [{"id": "sha256:0123456789abcdef", "names": ["docker.io/library/redis:8"],
            "digests": [], "sizeBytes": 1_500_000, "pinned": false}, {"id": "sha256:ff", "names": [], "sizeBytes": 10}]});
        assert_eq!(
            listed("", &answer).unwrap(),
            "IMAGE                       ID              SIZE\n\
             docker.io/library/redis:8   0123456789abc   1.5 MB\n\
             <none>                      ff              10 B\n"
        );
    }
}
