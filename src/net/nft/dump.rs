//! Reads Kedge's table back from the kernel: chain names and the elements that user space filled.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    elements::{Elements, Family, Kind},
    wire::{Batch, SUBSYSTEM, Value, kind},
};
use crate::{
    Error, TABLE,
    netlink::{DONE, HEADER, Socket},
};

/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;
/// Bytes of `struct nfgenmsg`.
const GENERIC: usize = 4;

/// Names of the table's chains; empty if there is no table.
pub(super) fn chains(socket: &mut Socket) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    dump(
        socket,
        "list nft chains",
        kind::GET_CHAIN,
        kind::NEW_CHAIN,
        |_| {},
        |body| {
            if attribute(body, 1).and_then(text) == Some(TABLE) {
                names.extend(attribute(body, 3).and_then(text).map(str::to_owned));
            }
        },
    )?;
    Ok(names)
}

/// The elements of all sets that user space fills.
pub(super) fn elements(socket: &mut Socket) -> Result<Elements, Error> {
    let mut all = Elements::new();
    for family in Family::BOTH {
        for set in Kind::ALL {
            let map = map(socket, &set.name(family))?;
            if !map.is_empty() {
                all.insert((set, family), map);
            }
        }
    }
    Ok(all)
}

/// The elements of one set.
pub(super) fn map(socket: &mut Socket, set: &str) -> Result<BTreeMap<Vec<u8>, Value>, Error> {
    let mut map = BTreeMap::new();
    let names = |m: &mut Batch| {
        m.text(1, TABLE).text(2, set);
    };
    dump(socket, "list nft elements", kind::GET_ELEMENT, kind::NEW_ELEMENT, names, |body| {
        let elements = attribute(body, 3).into_iter().flat_map(attributes);
        map.extend(elements.filter_map(|(_, element)| decode(element)));
    })?;
    Ok(map)
}

fn decode(element: &[u8]) -> Option<(Vec<u8>, Value)> {
    let key = attribute(attribute(element, 1)?, 1)?.to_vec();
    let value = match attribute(element, 2) {
        None => Value::Nothing,
        Some(data) => match (attribute(data, 1), attribute(data, 2)) {
            (Some(bytes), _) => Value::Bytes(bytes.to_vec()),
            (None, Some(verdict)) => Value::Goto(text(attribute(verdict, 2)?)?.to_owned()),
            (None, None) => return None,
        },
    };
    Some((key, value))
}

fn dump(
    socket: &mut Socket,
    what: &str,
    ask: u16,
    answer: u16,
    request: impl FnOnce(&mut Batch),
    mut each: impl FnMut(&[u8]),
) -> Result<(), Error> {
    let sequence = socket.reserve(1);
    socket.send(what, &Batch::request(ask, DUMP, sequence, request))?;
    loop {
        let done = socket.receive(what, |header, message| {
            if header.sequence != sequence {
                return Ok(false);
            }
            if let Some(errno) = header.errno(message) {
                return if errno == 0 {
                    Ok(true)
                } else {
                    Err(Error::Netlink { what: what.to_owned(), source: std::io::Error::from_raw_os_error(errno) })
                };
            }
            if header.kind == SUBSYSTEM | answer {
                each(message.get(HEADER + GENERIC..).unwrap_or_default());
            }
            Ok(header.kind == DONE)
        })?;
        if done {
            return Ok(());
        }
    }
}

/// The attributes of a buffer, type flags removed; stops at what is no attribute.
pub(crate) fn attributes(mut buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let half = |at: usize| buffer.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
        let (length, kind) = (usize::from(half(0)?), half(2)?);
        let value = buffer.get(4..length)?;
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & 0x3fff, value))
    })
}

/// The first attribute of a type.
pub(crate) fn attribute(buffer: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(buffer).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}
