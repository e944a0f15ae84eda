//! One message is one packet of JSON on a `SOCK_SEQPACKET` socket, with up to three descriptors beside it. Packets arrive
//! whole or not at all, so that neither side keeps half a frame.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::protocol::MESSAGE_BYTES_MAX;

/// stdin, stdout, stderr.
const FDS_MAX: usize = 3;

/// Sends without blocking. Errors: `WouldBlock`, `InvalidInput` when too large, whatever the socket says.
pub fn send(socket: BorrowedFd<'_>, message: &impl Serialize, fds: &[OwnedFd]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too large"));
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let control = if raw.is_empty() { Vec::new() } else { vec![ControlMessage::ScmRights(&raw)] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], &control, flags, None)?;
    Ok(())
}

/// Receives without blocking; `None` at end of file. `buffer` holds `MESSAGE_BYTES_MAX` and is the caller's to reuse.
pub fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    buffer.resize(MESSAGE_BYTES_MAX, 0);
    let mut space = nix::cmsg_space!([RawFd; FDS_MAX]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let (length, fds) = {
        let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
        let mut fds = Vec::new();
        for control in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                fds.extend(raw.into_iter().map(|fd| {
                    // JUSTIFICATION: descriptors arrive as bare numbers.
                    // SAFETY: the kernel has just made them for this process; nobody else knows them.
                    unsafe { OwnedFd::from_raw_fd(fd) }
                }));
            }
        }
        (received.bytes, fds)
    };
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..length])?, fds)))
}

/// A connected pair, for helper processes.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Waits until the socket can be read.
pub fn wait_readable(socket: &OwnedFd) -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    loop {
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_whole() {
        let (a, b) = pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        send(a.as_fd(), &vec!["x".repeat(100_000)], &[writer.into()]).unwrap();
        send(a.as_fd(), &vec!["second"], &[]).unwrap();
        let mut buffer = Vec::new();
        let (first, fds) = receive::<Vec<String>>(b.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!((first[0].len(), fds.len()), (100_000, 1));
        drop(fds);
        assert_eq!(std::io::read_to_string(reader).unwrap(), "", "the last writer is gone");
        let (second, fds) = receive::<Vec<String>>(b.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!((second[0].as_str(), fds.len()), ("second", 0));
        assert_eq!(receive::<()>(b.as_fd(), &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let error = send(a.as_fd(), &"y".repeat(MESSAGE_BYTES_MAX), &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        drop(a);
        assert!(receive::<()>(b.as_fd(), &mut buffer).unwrap().is_none());
    }
}
