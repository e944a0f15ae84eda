//! One netlink socket: send a batch, collect its acknowledgements. Knows framing, not meaning.
//!
//! rtnetlink and nf_tables both work in the sender's context: when `send` returns, every answer is queued. So nothing here
//! waits for the network, and a receive timeout only guards against a kernel that breaks that rule.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, send,
            setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

use crate::Error;

/// Bytes of a netlink message header.
pub(crate) const HEADER: usize = 16;
/// Type of the message that carries an errno (0: acknowledgement).
pub(crate) const ERROR: u16 = 2;
/// Type of the message that ends a dump.
pub(crate) const DONE: u16 = 3;
/// Receive buffer in bytes. The kernel fills dumps up to 32 KiB per receive when the reader offers that much.
const RECEIVE: usize = 64 << 10;
/// Send buffer in bytes that is asked for: one nft transaction is one datagram; 5,000 services with 3 endpoints are 1 MiB.
const SEND: usize = 64 << 20;
/// Seconds until a missing answer is an error instead of a hang; answers are there when `send` returns.
const ANSWER_SECONDS: i64 = 10;

/// A netlink socket bound to the network namespace it was opened in.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One rtnetlink request of a batch.
#[derive(Debug)]
pub(crate) struct Request {
    /// The message.
    pub(crate) message: RouteNetlinkMessage,
    /// Flags besides REQUEST and ACK.
    pub(crate) flags: u16,
    /// An errno that is as good as success.
    pub(crate) tolerate: Option<Errno>,
    /// What it does, for errors.
    pub(crate) what: &'static str,
}

impl Socket {
    /// Opens a routing socket in the calling thread's namespace.
    pub(crate) fn route() -> Result<Self, Error> {
        Self::open(SockProtocol::NetlinkRoute, 0)
    }

    /// Opens a netfilter socket in the calling thread's namespace.
    pub(crate) fn netfilter() -> Result<Self, Error> {
        Self::open(SockProtocol::NetlinkNetFilter, 0)
    }

    /// Opens a netfilter socket that hears the multicast groups in the bit mask.
    pub(crate) fn netfilter_events(groups: u32) -> Result<Self, Error> {
        Self::open(SockProtocol::NetlinkNetFilter, groups)
    }

    /// Opens a routing socket that hears the multicast groups in the bit mask.
    pub(crate) fn route_events(groups: u32) -> Result<Self, Error> {
        Self::open(SockProtocol::NetlinkRoute, groups)
    }

    fn open(protocol: SockProtocol, groups: u32) -> Result<Self, Error> {
        let failed = |errno: Errno| Error::Netlink { what: "open netlink socket".into(), source: errno.into() };
        let flags = if groups == 0 { SockFlag::SOCK_CLOEXEC } else { SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(failed)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS)).map_err(failed)?;
        if protocol == SockProtocol::NetlinkNetFilter && setsockopt(&fd, sockopt::SndBufForce, &SEND).is_err() {
            // Not in a user namespace: there the ordinary limit applies and only very large tables are refused.
            let _ = setsockopt(&fd, sockopt::SndBuf, &SEND);
        }
        Ok(Self { fd, sequence: 0, buffer: Vec::new() })
    }

    /// The port id that the kernel gave this socket: it marks events caused by it.
    pub(crate) fn port(&self) -> Result<u32, Error> {
        let address: NetlinkAddr = getsockname(self.fd.as_raw_fd())
            .map_err(|errno| Error::Netlink { what: "read netlink port".into(), source: errno.into() })?;
        Ok(address.pid())
    }

    /// A sequence number that was not used before; `count` following ones are reserved as well.
    pub(crate) fn reserve(&mut self, count: u32) -> u32 {
        if self.sequence.checked_add(count).is_none() {
            self.sequence = 0;
        }
        let first = self.sequence + 1;
        self.sequence += count;
        first
    }

    /// Sends one datagram, dropping answers that an earlier, failed exchange may have left.
    pub(crate) fn send(&mut self, what: &str, bytes: &[u8]) -> Result<(), Error> {
        self.buffer.resize(RECEIVE, 0);
        while recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
        send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())
            .map(drop)
            .map_err(|errno| Error::Netlink { what: what.to_owned(), source: errno.into() })
    }

    /// Receives one datagram and hands its messages (header included) to `each` until that says to stop.
    pub(crate) fn receive(
        &mut self,
        what: &str,
        mut each: impl FnMut(&Header, &[u8]) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        self.buffer.resize(RECEIVE, 0);
        let length = loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => break length,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::Netlink { what: what.to_owned(), source: errno.into() }),
            }
        };
        let mut rest = self.buffer.get(..length).unwrap_or_default();
        while let Some((header, message, tail)) = split(rest) {
            if each(&header, message)? {
                return Ok(true);
            }
            rest = tail;
        }
        Ok(false)
    }

    /// Sends all requests in one datagram and waits for all acknowledgements. rtnetlink works through the whole batch even
    /// when one fails; the first failure that is not tolerated is returned.
    pub(crate) fn batch(&mut self, object: &str, requests: &[Request]) -> Result<(), Error> {
        if requests.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(requests.len()).map_err(|_| Error::Protocol { what: object.to_owned() })?;
        let first = self.reserve(count);
        let mut bytes = Vec::with_capacity(requests.len() * 128);
        for (request, sequence) in requests.iter().zip(first..) {
            append(&mut bytes, request.message.clone(), NLM_F_ACK | request.flags, sequence);
        }
        self.send(object, &bytes)?;
        let (mut open, mut failure) = (count, None);
        while open > 0 {
            self.receive(object, |header, message| {
                let Some(request) = header.sequence.checked_sub(first).and_then(|i| requests.get(i as usize)) else {
                    return Ok(false);
                };
                if let Some(errno) = header.errno(message) {
                    open -= 1;
                    if errno != 0 && request.tolerate.map(|t| t as i32) != Some(errno) && failure.is_none() {
                        failure = Some(Error::Netlink {
                            what: format!("{} of {object}", request.what),
                            source: io::Error::from_raw_os_error(errno),
                        });
                    }
                }
                Ok(open == 0)
            })?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Asks for a dump and returns the decoded messages.
    pub(crate) fn dump(&mut self, what: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let sequence = self.reserve(1);
        let mut bytes = Vec::new();
        append(&mut bytes, message, NLM_F_DUMP, sequence);
        self.send(what, &bytes)?;
        let mut all = Vec::new();
        loop {
            let done = self.receive(what, |header, message| {
                if header.sequence != sequence {
                    return Ok(false);
                }
                match header.errno(message) {
                    Some(0) => return Ok(true),
                    Some(errno) => {
                        return Err(Error::Netlink {
                            what: what.to_owned(),
                            source: io::Error::from_raw_os_error(errno),
                        });
                    }
                    None if header.kind == DONE => return Ok(true),
                    None => {}
                }
                // A link of a kind that the decoder does not know is nobody of ours: leave it out.
                if let Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(inner), .. }) =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)
                {
                    all.push(inner);
                }
                Ok(false)
            })?;
            if done {
                return Ok(all);
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

fn append(bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    if let Some(room) = bytes.get_mut(start..) {
        message.serialize(room);
    }
}

/// The fixed part of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    pub(crate) port: u32,
}

impl Header {
    /// The errno an error message carries; an acknowledgement is 0. A bare number, because the kernel also uses codes that
    /// user space has no name for (ENOTSUPP).
    pub(crate) fn errno(&self, message: &[u8]) -> Option<i32> {
        if self.kind != ERROR {
            return None;
        }
        let raw =
            message.get(HEADER..HEADER + 4).and_then(|b| b.try_into().ok()).map_or(-libc::EPROTO, i32::from_ne_bytes);
        Some(raw.wrapping_neg())
    }
}

/// The first message of a buffer, with header, and what follows it.
pub(crate) fn split(buffer: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let word = |at: usize| buffer.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let half = |at: usize| buffer.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let length = word(0)? as usize;
    let header = Header { kind: half(4)?, sequence: word(8)?, port: word(12)? };
    let message = buffer.get(..length).filter(|m| m.len() >= HEADER)?;
    Some((header, message, buffer.get(length.next_multiple_of(4)..).unwrap_or_default()))
}
