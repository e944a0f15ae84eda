//! The pump between a runtime session and a client's streams; the same for exec and attach, WebSocket and SPDY.

use bytes::Bytes;
use runtime::Session;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::{CHUNK, End, Incoming, Outgoing};

/// Runs until the process has ended and its output is passed on, or the client is gone (its process then finds its streams
/// closed). The last thing sent is the end. `leaves`: the client is content with having said all that it had to say, which
/// ends the session and not the process.
pub async fn pump(
    mut session: Session,
    mut incoming: mpsc::Receiver<Incoming>,
    outgoing: mpsc::Sender<Outgoing>,
    leaves: bool,
) {
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
                Incoming::StdinEnd if leaves => {
                    drop(stdin.take());
                    let _ = outgoing.send(Outgoing::End(End::Exit(0))).await;
                    return;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Says hello to a process and is done; the process ends with 7 once its output is closed, which is done when the client does
    /// not leave. Returns what the process is told, and the end.
    async fn joined(leaves: bool) -> (Vec<u8>, Option<Outgoing>) {
        let (told, input) = std::io::pipe().unwrap();
        let (output, says) = std::io::pipe().unwrap();
        let session = Session {
            stdin: Some(runtime::Writer::new(input.into()).unwrap()),
            stdout: Some(runtime::Reader::new(output.into()).unwrap()),
            stderr: None,
            resizer: None,
            exit: Box::pin(async { Ok(7) }),
            killer: Arc::new(|_| Box::pin(async { Ok(()) })),
        };
        let (to_session, incoming) = mpsc::channel(4);
        let (outgoing, mut from_session) = mpsc::channel(4);
        let pumping = tokio::spawn(pump(session, incoming, outgoing, leaves));
        to_session.send(Incoming::Stdin(Bytes::from_static(b"hello"))).await.unwrap();
        to_session.send(Incoming::StdinEnd).await.unwrap();
        let mut heard = Vec::new();
        runtime::Reader::new(told.into()).unwrap().read_to_end(&mut heard).await.unwrap();
        let says = leaves.then_some(says);
        let end = from_session.recv().await;
        pumping.await.unwrap();
        drop(says);
        (heard, end)
    }

    #[tokio::test]
    async fn the_end_of_the_input_ends_the_session_of_who_leaves() {
        for (leaves, code) in [(true, 0), (false, 7)] {
            let (heard, end) = joined(leaves).await;
            assert_eq!(
                (heard.as_slice(), end),
                (b"hello".as_slice(), Some(Outgoing::End(End::Exit(code)))),
                "{leaves}"
            );
        }
    }
}
