//! The terminal that a person sits at: whether there is one, its size, and raw mode.

use std::io::{IsTerminal as _, stdin};

use nix::sys::termios::{self, SetArg, Termios};

pub fn is_one() -> bool {
    stdin().is_terminal()
}

/// Columns and rows, if there is a terminal.
pub fn size() -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // JUSTIFICATION: neither std nor nix has a safe call for the size of a terminal.
    // SAFETY: the request writes one winsize, which lives until after the call.
    let result = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some((size.ws_col, size.ws_row))
}

/// While this lives, every key goes to the program that reads; dropping it gives the terminal back as it was.
pub struct Raw {
    before: Termios,
}

impl Raw {
    pub fn enter() -> nix::Result<Self> {
        let before = termios::tcgetattr(stdin())?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// Text without what would steer a terminal. Source: cli-runtime `printers/terminal.go`.
pub fn escape(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains(['\x1b', '\r']) { text.replace('\x1b', "^[").replace('\r', "\\r").into() } else { text.into() }
}
