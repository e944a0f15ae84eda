//! A real registry (Debian's docker-registry) on the loopback interface, and things between it and us that misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub struct Registry {
    child: Child,
    pub host: String,
    pub dir: tempfile::TempDir,
}

#[derive(Default)]
pub struct Setup {
    pub user: Option<(&'static str, &'static str)>,
    pub tls: bool,
}

impl Registry {
    pub fn start(setup: Setup) -> Registry {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        // Free now; the registry cannot choose one itself.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            root.join("data").display()
        );
        if setup.tls {
            run(Command::new("openssl").current_dir(root).args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-keyout",
                "key.pem",
                "-out",
                "cert.pem",
                "-days",
                "2",
                "-subj",
                "/CN=test",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-addext",
                "basicConstraints=critical,CA:FALSE",
            ]));
            config.push_str(&format!("  tls:\n    certificate: {0}/cert.pem\n    key: {0}/key.pem\n", root.display()));
        }
        if let Some((user, password)) = setup.user {
            run(Command::new("htpasswd").current_dir(root).args(["-Bbc", "users", user, password]));
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}/users\n", root.display()));
        }
        std::fs::write(root.join("config.yml"), config).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(root.join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let started = lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening on"));
        assert!(started, "docker-registry did not start");
        // Its log is read to the end, or it would block.
        std::thread::spawn(move || lines.for_each(drop));
        Registry { child, host, dir }
    }

    /// Pushes an OCI archive under a name; more of skopeo's arguments.
    pub fn push(&self, archive: &[u8], name: &str, more: &[&str]) {
        let file = self.dir.path().join("push.tar");
        std::fs::write(&file, archive).unwrap();
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--dest-tls-verify=false"])
            .args(more)
            .arg(format!("oci-archive:{}", file.display()))
            .arg(format!("docker://{}/{name}", self.host)));
    }

    /// The file of a blob in the registry's storage.
    pub fn blob(&self, digest: &crate::image::Digest) -> PathBuf {
        let hex = digest.hex();
        self.dir.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn run(command: &mut Command) {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Forwards connections, but cuts each after so many bytes of answers.
pub struct Cutter {
    pub host: String,
    pub forwarded: Arc<AtomicUsize>,
}

pub fn cutter(to: &str, bytes_max: usize) -> Cutter {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (to, forwarded) = (to.to_owned(), Arc::new(AtomicUsize::new(0)));
    let count = forwarded.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let mut server = TcpStream::connect(&to).unwrap();
            let (mut requests, mut up) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut requests, &mut up));
            let (mut answers, count) = (client, count.clone());
            std::thread::spawn(move || {
                let mut left = bytes_max;
                let mut buffer = [0; 16 << 10];
                while left > 0 {
                    let most = left.min(buffer.len());
                    let Ok(read @ 1..) = server.read(&mut buffer[..most]) else { break };
                    if answers.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                    left -= read;
                    count.fetch_add(read, Ordering::Relaxed);
                }
                let _ = answers.shutdown(std::net::Shutdown::Both);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    Cutter { host, forwarded }
}

/// A registry in front of files that wants a bearer token of `user:password`, and sends blobs from another path by redirect.
pub fn token_registry(members: Vec<(String, Vec<u8>)>, manifest: Vec<u8>) -> String {
    use base64::Engine as _;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let own = host.clone();
    let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("user:password"));
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut head = String::new();
            for line in BufReader::new(client.try_clone().unwrap()).lines().map_while(Result::ok) {
                if line.is_empty() {
                    break;
                }
                head.push_str(&line);
                head.push('\n');
            }
            let path = head.split(' ').nth(1).unwrap_or_default();
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let header = |name: &str| {
                head.lines().find_map(|l| l.to_lowercase().starts_with(name).then(|| l[name.len()..].trim().to_owned()))
            };
            let authorization = header("authorization:").unwrap_or_default();
            let (status, more, body): (&str, String, Vec<u8>) = if path.starts_with("/token") {
                match authorization == basic && query.contains("scope=repository%3Atest%2Fa%3Apull") {
                    true => ("200 OK", String::new(), br#"{"token":"secret"}"#.to_vec()),
                    false => ("401 Unauthorized", String::new(), Vec::new()),
                }
            } else if path.starts_with("/elsewhere") {
                let file = members.iter().find(|(name, _)| path.ends_with(name.rsplit('/').next().unwrap()));
                ("200 OK", String::new(), file.unwrap().1.clone())
            } else if authorization != "Bearer secret" {
                let ask = format!(
                    "WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"test\",scope=\"repository:test/a:pull\"\r\n"
                );
                ("401 Unauthorized", ask, Vec::new())
            } else if let Some((_, digest)) = path.split_once("/blobs/sha256:") {
                ("307 Temporary Redirect", format!("Location: /elsewhere/{digest}\r\n"), Vec::new())
            } else if head.starts_with("HEAD") {
                ("405 Method Not Allowed", String::new(), Vec::new())
            } else {
                ("200 OK", String::new(), manifest.clone())
            };
            let answer =
                format!("HTTP/1.1 {status}\r\n{more}Connection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = client.write_all(answer.as_bytes()).and_then(|()| client.write_all(&body));
        }
    });
    host
}
