//! The nftables table: what is in force, and the way to the next.
//!
//! `wire` writes bytes, `elements` decides, `ruleset` is the fixed part, `dump` reads back; here they meet the socket.

mod dump;
mod elements;
mod ruleset;
mod wire;

use std::collections::BTreeSet;

pub(crate) use dump::attribute;
use elements::{Difference, Elements, Ranges, SharedChain};
use wire::{Batch, Value};

use crate::{Config, Error, ServiceTable, TABLE, netlink::Socket};

/// Kedge's table in the kernel of one network namespace.
#[derive(Debug)]
pub(crate) struct Table {
    socket: Socket,
    config: Config,
    ranges: Ranges,
    known: Known,
}

/// What this process knows of the kernel's content.
#[derive(Debug)]
enum Known {
    /// Nothing that could be built upon: the next load replaces the table in one transaction.
    Nothing,
    /// An earlier process of this version left these; services not told yet.
    Adopted { elements: Elements, chains: BTreeSet<String> },
    /// We loaded this.
    Loaded { table: ServiceTable, chains: BTreeSet<String> },
}

impl Table {
    /// Opens the table: adopts what a process of the same version and configuration left, else loads an empty one unless some
    /// other version's serves, which then stays until the first [`Table::load`].
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let ranges = Ranges { pods: config.pod_cidrs.clone(), services: config.service_cidrs.clone() };
        let mut table = Self { socket: Socket::netfilter()?, config: config.clone(), ranges, known: Known::Nothing };
        match table.examine()? {
            Some(known) => table.known = known,
            None => table.load(&ServiceTable::default())?,
        }
        Ok(table)
    }

    /// What the kernel has: `None` if there is no table.
    fn examine(&mut self) -> Result<Option<Known>, Error> {
        let chains = dump::chains(&mut self.socket)?;
        if chains.is_empty() {
            return Ok(None);
        }
        let version = ruleset::base(&mut Batch::new(), &self.config);
        if !chains.contains(&version) {
            return Ok(Some(Known::Nothing));
        }
        Ok(Some(Known::Adopted { elements: dump::elements(&mut self.socket)?, chains }))
    }

    /// The port id of our socket, to tell our own changes from foreign ones.
    pub(crate) fn port(&self) -> Result<u32, Error> {
        self.socket.port()
    }

    /// Forgets what is known, after somebody else changed or deleted the table.
    pub(crate) fn distrust(&mut self) {
        self.known = Known::Nothing;
    }

    /// Makes the kernel's table this one, in one transaction.
    pub(crate) fn load(&mut self, new: &ServiceTable) -> Result<(), Error> {
        let mut batch = Batch::new();
        let mut gone = BTreeSet::new();
        let mut chains = match &self.known {
            Known::Nothing => {
                // "add, delete, add" replaces a table whether it was there or not.
                batch.table(TABLE);
                batch.del_table(TABLE);
                let version = ruleset::base(&mut batch, &self.config);
                let (add, shared) = elements::compile(new, &self.ranges);
                let mut chains = BTreeSet::from([version]);
                write(&mut batch, Difference { remove: Elements::new(), add, chains: shared }, &mut chains);
                ruleset::ranges(&mut batch, &self.config, &new.ranges);
                chains
            }
            Known::Adopted { elements, chains } => {
                // What sticky clients of an earlier process remember is checked against nothing: they start over.
                for family in elements::Family::BOTH {
                    batch.flush(TABLE, &ruleset::clients(family));
                }
                let mut chains = chains.clone();
                let (after, shared) = elements::compile(new, &self.ranges);
                let (remove, add) = elements::subtract(elements.clone(), after);
                write(&mut batch, Difference { remove, add, chains: shared }, &mut chains);
                ruleset::ranges(&mut batch, &self.config, &new.ranges);
                chains
            }
            Known::Loaded { table, chains } => {
                gone = elements::unstuck(table, new);
                let mut chains = chains.clone();
                write(&mut batch, elements::difference(table, new, &self.ranges), &mut chains);
                if table.ranges != new.ranges {
                    ruleset::ranges(&mut batch, &self.config, &new.ranges);
                }
                chains
            }
        };
        if !batch.is_empty()
            && let Err(error) = commit(&mut self.socket, batch)
        {
            // Either the kernel refused our change or somebody else changed the table: start over next time.
            self.known = Known::Nothing;
            return Err(error);
        }
        self.known = Known::Loaded { table: new.clone(), chains: std::mem::take(&mut chains) };
        if gone.is_empty() { Ok(()) } else { self.unstick(&gone) }
    }
}

impl Table {
    /// Takes clients out of the sticky maps whose endpoint is gone. After the commit, so that no packet can put one back.
    fn unstick(&mut self, gone: &BTreeSet<(Vec<u8>, Vec<u8>)>) -> Result<(), Error> {
        for family in elements::Family::BOTH {
            let set = ruleset::clients(family);
            let address = if family == elements::Family::V4 { 4 } else { 16 };
            for (client, value) in dump::map(&mut self.socket, &set)? {
                let Value::Bytes(endpoint) = value else { continue };
                let Some(destination) = client.get(address..) else { continue };
                if gone.contains(&(destination.to_vec(), endpoint)) {
                    // One transaction each: a client whose time is up in between must not keep the others.
                    let mut batch = Batch::new();
                    batch.del_elements(TABLE, &set, &[&client]);
                    match commit(&mut self.socket, batch) {
                        Err(Error::Netlink { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                        other => other?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds to what is in force, before the services were told: an adopted table keeps what it has. Another version's table
    /// is left alone; its successor comes with the first [`Table::load`].
    pub(crate) fn extend(&mut self, more: &ServiceTable) -> Result<(), Error> {
        let (elements, chains) = match &self.known {
            Known::Nothing => return Ok(()),
            Known::Loaded { .. } => return self.load(more),
            Known::Adopted { elements, chains } => (elements, chains),
        };
        let (after, shared) = elements::compile(more, &self.ranges);
        let (mut remove, add) = elements::subtract(elements.clone(), after);
        remove.retain(|set, map| {
            map.retain(|key, _| add.get(set).is_some_and(|new| new.contains_key(key)));
            !map.is_empty()
        });
        let (mut elements, mut chains) = (elements.clone(), chains.clone());
        for (set, map) in &add {
            elements.entry(*set).or_default().extend(map.clone());
        }
        let mut batch = Batch::new();
        write(&mut batch, Difference { remove, add, chains: shared }, &mut chains);
        if !batch.is_empty()
            && let Err(error) = commit(&mut self.socket, batch)
        {
            self.known = Known::Nothing;
            return Err(error);
        }
        self.known = Known::Adopted { elements, chains };
        Ok(())
    }
}

/// Deletes the table if it is there.
pub(crate) fn remove() -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.table(TABLE);
    batch.del_table(TABLE);
    commit(&mut Socket::netfilter()?, batch)
}

/// Writes a difference in the order the kernel needs: chains before verdicts that name them, removals before additions of
/// the same key. Chains that nobody uses any more stay until the next full load: there is one per number of endpoints.
fn write(batch: &mut Batch, difference: Difference, chains: &mut BTreeSet<String>) {
    let Difference { remove, add, chains: shared } = difference;
    for chain in shared.iter().filter(|c: &&SharedChain| !chains.contains(&c.name())) {
        ruleset::shared(batch, chain);
    }
    chains.extend(shared.iter().map(SharedChain::name));
    for ((kind, family), map) in &remove {
        let keys: Vec<&[u8]> = map.keys().map(Vec::as_slice).collect();
        batch.del_elements(TABLE, &kind.name(*family), &keys);
    }
    for ((kind, family), map) in &add {
        let all: Vec<(&[u8], &Value)> = map.iter().map(|(key, value)| (key.as_slice(), value)).collect();
        batch.add_elements(TABLE, &kind.name(*family), &all);
    }
}

/// Sends one transaction and waits for its end.
fn commit(socket: &mut Socket, batch: Batch) -> Result<(), Error> {
    const WHAT: &str = "commit nft table kedge";
    let first = socket.reserve(batch.count());
    let (bytes, last) = batch.finish(first);
    socket.send(WHAT, &bytes)?;
    loop {
        let done = socket.receive(WHAT, |header, message| match header.errno(message) {
            Some(0) => Ok(header.sequence == last),
            Some(errno) => Err(Error::Netlink {
                what: format!("{WHAT}, message {}", header.sequence.wrapping_sub(first)),
                source: std::io::Error::from_raw_os_error(errno),
            }),
            None => Ok(false),
        })?;
        if done {
            return Ok(());
        }
    }
}
