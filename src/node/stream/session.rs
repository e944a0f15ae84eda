//! The pump between a runtime session and a client's streams; the same for exec and attach, WebSocket and SPDY.

use bytes::Bytes;
use runtime::Session;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::{CHUNK, End, Incoming, Outgoing};

/// Runs until the process has ended and its output is passed on, or the client is gone (its process then finds its streams
/// closed). The last thing sent is the end.
pub async fn pump(mut session: Session, mut incoming: mpsc::Receiver<Incoming>, outgoing: mpsc::Sender<Outgoing>) {
    let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
    let (mut stdin, resizer) = (session.stdin.take(), session.resizer.clone());
    let input = async {
        while let Some(message) = incoming.recv().await {
            match message {
                Incoming::Stdin(bytes) => {
                    if let Some(pipe) = &mut stdin
                        && pipe.write_all(&bytes).await.is_err()
                    {
                        stdin = None;
                    }
                }
                Incoming::StdinEnd => stdin = None,
                Incoming::Resize(size) => {
                    if let Some(resizer) = &resizer {
                        let _ = resizer.resize(size).await;
                    }
                }
            }
        }
        drop(stdin.take());
        // Input alone never ends a session: the process may still have something to say.
        std::future::pending::<()>().await;
    };
    let output = async {
        let (a, b) = tokio::join!(copy(stdout, &outgoing, Outgoing::Stdout), copy(stderr, &outgoing, Outgoing::Stderr));
        if a && b {
            let end = match session.exit.await {
                Ok(code) => End::Exit(code),
                Err(e) => End::Error(e.to_string()),
            };
            let _ = outgoing.send(Outgoing::End(end)).await;
        }
    };
    tokio::select! {
        () = input => {}
        () = output => {}
        () = outgoing.closed() => {}
    }
}

/// True at the end of the stream, false when nobody listens any more.
async fn copy(stream: Option<runtime::Reader>, out: &mpsc::Sender<Outgoing>, wrap: fn(Bytes) -> Outgoing) -> bool {
    let Some(mut stream) = stream else { return true };
    let mut buffer = vec![0u8; CHUNK];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return true,
            Ok(n) => {
                if out.send(wrap(Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                    return false;
                }
            }
        }
    }
}
