//! Notices when somebody else deletes Kedge's table, as `nft flush ruleset` does whenever Debian's nftables service restarts.

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    task::JoinHandle,
};

use crate::{
    Error, TABLE,
    netlink::{HEADER, Socket},
    nft::attribute,
    worker::Command,
};

/// `NFNLGRP_NFTABLES` as the bit that bind takes.
const GROUP: u32 = 1 << (7 - 1);
/// `NFT_MSG_DELTABLE` of the nf_tables subsystem.
const DELETED: u16 = 10 << 8 | 2;
/// Bytes of `struct nfgenmsg`.
const GENERIC: usize = 4;

/// Listens until the queue is gone or the handle is aborted. `own` is the port whose changes are ours. Must be called
/// inside a tokio runtime, on a thread in the right namespace.
pub(crate) fn start(queue: mpsc::WeakSender<Command>, own: u32) -> Result<JoinHandle<()>, Error> {
    let socket = Socket::netfilter_events(GROUP)?;
    // JUSTIFICATION: tokio has no other way to wait for a netlink socket.
    // SAFETY: `Socket` owns its descriptor, never replaces it and always returns that one.
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
        .map_err(|error| Error::Netlink { what: "watch nft events".into(), source: error.into() })?;
    Ok(tokio::spawn(watch(socket, queue, own)))
}

async fn watch(mut socket: AsyncFd<Socket>, queue: mpsc::WeakSender<Command>, own: u32) {
    loop {
        let Ok(mut ready) = socket.readable_mut().await else { return };
        let mut lost = false;
        loop {
            let heard = ready.get_inner_mut().receive("nft events", |header, message| {
                let body = message.get(HEADER + GENERIC..).unwrap_or_default();
                let name = attribute(body, 1).map(|n| n.strip_suffix(&[0]).unwrap_or(n));
                lost |= header.kind == DELETED && header.port != own && name == Some(TABLE.as_bytes());
                Ok(false)
            });
            match heard {
                Ok(_) => {}
                Err(Error::Netlink { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => break,
                // Events were lost (ENOBUFS): our table may be among them, and loading it again costs milliseconds.
                Err(_) => {
                    lost = true;
                    break;
                }
            }
        }
        ready.clear_ready();
        if lost {
            let Some(queue) = queue.upgrade() else { return };
            if queue.send(Command::TableLost).await.is_err() {
                return;
            }
        }
    }
}
