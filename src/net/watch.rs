//! Notices what somebody else does to our table and links: `nft flush ruleset`, which Debian's nftables service runs whenever it
//! restarts, a rule taken out by hand, `ip link del kedge0`. Only tells the worker, which looks at the facts and mends them.

use std::time::Duration;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{RouteNetlinkMessage, link::LinkAttribute};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::{
    BRIDGE, Error, PREFIX, TABLE,
    netlink::{HEADER, Header, Socket},
    nft::attribute,
    worker::Command,
};

/// `NFNLGRP_NFTABLES` as the bit that bind takes.
const NFT_GROUP: u32 = 1 << (7 - 1);
/// `RTNLGRP_LINK` as the bit that bind takes.
const LINK_GROUP: u32 = 1;
/// `NFNL_SUBSYS_NFTABLES` as the high byte of a message's type.
const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`, the family of our table.
const INET: u8 = 1;
/// Bytes of `struct nfgenmsg`.
const GENERIC: usize = 4;
/// The first wait between two repairs: who changes things twice in a second is a program, not a hand.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest wait: two programs that both want the table change it once a minute, not in a loop.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Repairs that fail one after the other until the next event is waited for: about five minutes.
const TRIES: u32 = 10;

/// What is watched.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Watched {
    /// The nft table; changes of this port are ours.
    Table { own: u32 },
    /// Bridge and pod links.
    Links,
}

/// What the worker found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Whole,
    Mended,
    Failed,
}

/// Says when the next repair may be. The first is at once; those that follow closely wait twice as long each time.
#[derive(Debug, Default)]
struct Pace {
    next: Option<Instant>,
    pause: Duration,
}

impl Pace {
    fn due(&self, now: Instant) -> Instant {
        self.next.unwrap_or(now)
    }

    fn repaired(&mut self, now: Instant) {
        let quiet = self.next.is_none_or(|next| now >= next + PAUSE_MAX);
        self.pause = if quiet { PAUSE_MIN } else { (self.pause * 2).min(PAUSE_MAX) };
        self.next = Some(now + self.pause);
    }
}

/// Listens until the queue is gone or the handle is aborted. Must be called inside a tokio runtime, on a thread in the right
/// namespace.
pub(crate) fn start(queue: mpsc::WeakSender<Command>, watched: Watched) -> Result<JoinHandle<()>, Error> {
    let socket = match watched {
        Watched::Table { .. } => Socket::netfilter_events(NFT_GROUP)?,
        Watched::Links => Socket::route_events(LINK_GROUP)?,
    };
    // JUSTIFICATION: tokio has no other way to wait for a netlink socket.
    // SAFETY: `Socket` owns its descriptor, never replaces it and always returns that one.
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
        .map_err(|error| Error::Netlink { what: "watch netlink events".into(), source: error.into() })?;
    Ok(tokio::spawn(watch(socket, queue, watched)))
}

async fn watch(mut socket: AsyncFd<Socket>, queue: mpsc::WeakSender<Command>, watched: Watched) {
    let mut pace = Pace::default();
    loop {
        let Ok(mut ready) = socket.readable_mut().await else { return };
        let mut heard = drain(ready.get_inner_mut(), watched);
        ready.clear_ready();
        let mut tries = 0;
        while let Some(what) = heard.take() {
            sleep_until(pace.due(Instant::now())).await;
            // What came meanwhile is mended along.
            let _ = drain(socket.get_mut(), watched);
            let (reply, answer) = oneshot::channel();
            let command = match watched {
                Watched::Table { .. } => Command::TableChanged(what.clone(), reply),
                Watched::Links => Command::LinksChanged(what.clone(), reply),
            };
            let Some(queue) = queue.upgrade() else { return };
            if queue.send(command).await.is_err() {
                return;
            }
            drop(queue);
            let Ok(outcome) = answer.await else { return };
            if outcome != Outcome::Whole {
                pace.repaired(Instant::now());
            }
            tries += 1;
            if outcome == Outcome::Failed && tries < TRIES {
                heard = Some(what);
            }
        }
    }
}

/// Reads all that is there; the first thing that concerns us, as words for the log.
fn drain(socket: &mut Socket, watched: Watched) -> Option<String> {
    let mut first = None;
    loop {
        let heard = socket.receive("netlink events", |header, message| {
            if first.is_none() {
                first = match watched {
                    Watched::Table { own } => table_change(header, message, own),
                    Watched::Links => link_change(message),
                };
            }
            Ok(false)
        });
        match heard {
            Ok(_) => {}
            Err(Error::Netlink { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => return first,
            // Events were lost (ENOBUFS): ours may be among them, and looking costs milliseconds.
            Err(_) => return first.or_else(|| Some("events were lost".into())),
        }
    }
}

/// A change of our table by a port that is not ours. Every message about a table's part has the table's name as attribute 1.
fn table_change(header: &Header, message: &[u8], own: u32) -> Option<String> {
    let body = message.get(HEADER + GENERIC..)?;
    let name = attribute(body, 1).map(|n| n.strip_suffix(&[0]).unwrap_or(n));
    let ours = message.get(HEADER) == Some(&INET) && name == Some(TABLE.as_bytes());
    if header.kind >> 8 != SUBSYSTEM || header.port == own || !ours {
        return None;
    }
    let what = match header.kind & 0xff {
        0 => "table changed",
        2 => "table deleted",
        3 => "chain added",
        5 => "chain deleted",
        6 => "rule added",
        8 => "rule deleted",
        9 => "set added",
        11 => "set deleted",
        12 => "element added",
        14 => "element deleted",
        18..=24 => "object changed",
        _ => return None,
    };
    Some(format!("{what} by netlink port {}", header.port))
}

/// The end of a link of ours. Links that we ended ourselves come here too: the worker knows them.
fn link_change(message: &[u8]) -> Option<String> {
    let NetlinkPayload::InnerMessage(inner) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok()?.payload
    else {
        return None;
    };
    let RouteNetlinkMessage::DelLink(link) = inner else { return None };
    let name = link.attributes.into_iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })?;
    (name == BRIDGE || name.starts_with(PREFIX)).then(|| format!("link {name} deleted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: u8, table: &str) -> (Header, Vec<u8>) {
        let header = Header { kind: SUBSYSTEM << 8 | kind, sequence: 0, port: 7 };
        let length = u16::try_from(4 + table.len() + 1).unwrap();
        let mut bytes = vec![0; HEADER];
        bytes.extend([family, 0, 0, 0]);
        bytes.extend([length.to_ne_bytes(), 1u16.to_ne_bytes()].concat());
        bytes.extend([table.as_bytes(), &[0]].concat());
        (header, bytes)
    }

    #[test]
    fn only_foreign_changes_of_our_table_count() {
        let heard = |kind, family, table, own| {
            let (header, bytes) = message(kind, family, table);
            table_change(&header, &bytes, own)
        };
        assert_eq!(heard(8, INET, TABLE, 1).unwrap(), "rule deleted by netlink port 7");
        assert_eq!(heard(14, INET, TABLE, 1).unwrap(), "element deleted by netlink port 7");
        assert_eq!(heard(8, INET, TABLE, 7), None, "our own");
        assert_eq!(heard(8, 2, TABLE, 1), None, "another family's table of that name");
        assert_eq!(heard(8, INET, "filter", 1), None, "somebody else's table");
        assert_eq!(heard(15, INET, TABLE, 1), None, "a new generation says nothing of its own");
    }

    #[test]
    fn two_writers_do_not_fight_in_a_loop() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        assert_eq!(pace.due(start), start, "the first repair is at once");
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..8 {
            now = pace.due(now);
            pace.repaired(now);
            waits.push((pace.due(now) - now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        now = pace.due(now) + PAUSE_MAX;
        pace.repaired(now);
        assert_eq!(pace.due(now) - now, PAUSE_MIN, "after a quiet minute all is forgotten");
    }
}
