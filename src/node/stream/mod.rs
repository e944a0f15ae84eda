//! Streams between a container and a client of the API: what flows, and the two protocols that carry it.
//!
//! What lives here: WebSocket channels, SPDY/3.1 frames and connections, and the pump between them and a runtime session. What
//! never will: who may do it ([`crate::http`] decides) and which container it is.

pub mod session;
pub mod spdy;
pub mod websocket;

use bytes::Bytes;
use runtime::TerminalSize;

/// From the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    Stdin(Bytes),
    StdinEnd,
    Resize(TerminalSize),
}

/// To the client.
#[derive(Debug, Clone, PartialEq)]
pub enum Outgoing {
    Stdout(Bytes),
    Stderr(Bytes),
    /// How it ended; nothing follows.
    End(End),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Error(String),
}

/// Frames that may wait for a slow side; each is at most [`CHUNK`].
pub const QUEUE: usize = 16;
/// Read from a container at once.
pub const CHUNK: usize = 32 * 1024;

/// Which streams a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
    /// The end of the input ends the session; the process goes on and may be joined again.
    pub leaves: bool,
}

impl End {
    /// The Status that protocols of version 4 and later end with. Source: `apimachinery/pkg/util/remotecommand/constants.go`,
    /// `k8s.io/kubelet/pkg/cri/streaming/remotecommand/exec.go`.
    pub fn status(&self) -> String {
        match self {
            End::Exit(0) => r#"{"metadata":{},"status":"Success"}"#.to_owned(),
            End::Exit(code) => serde_json::json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            })
            .to_string(),
            End::Error(why) => serde_json::json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {why}"),
                "details": {"causes": [{"message": why}]},
            })
            .to_string(),
        }
    }

    /// What earlier versions end with; nothing on success.
    pub fn text(&self) -> Option<String> {
        match self {
            End::Exit(0) => None,
            End::Exit(code) => Some(format!("command terminated with non-zero exit code: exit status {code}")),
            End::Error(why) => Some(why.clone()),
        }
    }
}

/// `{"Width":w,"Height":h}`. Source: remotecommand `TerminalSize`.
pub fn terminal_size(text: &[u8]) -> Option<TerminalSize> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let side = |name: &str| value.get(name).and_then(serde_json::Value::as_u64).and_then(|n| u16::try_from(n).ok());
    Some(TerminalSize { columns: side("Width")?, rows: side("Height")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings() {
        assert_eq!(End::Exit(0).status(), r#"{"metadata":{},"status":"Success"}"#);
        let status: serde_json::Value = serde_json::from_str(&End::Exit(3).status()).unwrap();
        assert_eq!(status["details"]["causes"][0], serde_json::json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(terminal_size(br#"{"Width":80,"Height":24}"#), Some(TerminalSize { columns: 80, rows: 24 }));
        assert_eq!(terminal_size(b"{}"), None);
    }
}
