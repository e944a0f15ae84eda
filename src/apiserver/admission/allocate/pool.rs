//! Numbers of a range and who holds them. Addresses and ports are both numbers here.

use std::collections::HashMap;

use super::Owner;

/// A range of numbers with a lower band that people choose from and an upper one for dynamic choice.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub first: u128,
    pub last: u128,
    /// Size of the lower band.
    band: u128,
}

impl Range {
    /// Source: KEP-3070: a sixteenth of the range, at least 16 and at most 256.
    pub fn addresses(first: u128, last: u128) -> Self {
        let size = last - first + 1;
        let band = if size <= 16 { 0 } else { (size / 16).clamp(16, 256) };
        Self { first, last, band }
    }

    /// Source: KEP-3668: a thirty-second of the range, at least 16 and at most 128.
    pub fn ports(first: u128, last: u128) -> Self {
        let size = last - first + 1;
        let band = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
        Self { first, last, band }
    }

    pub fn contains(&self, n: u128) -> bool {
        (self.first..=self.last).contains(&n)
    }
}

#[derive(Debug, Default)]
pub struct Pool {
    held: HashMap<u128, Owner>,
}

impl Pool {
    /// Takes the number if nobody holds it.
    pub fn take(&mut self, n: u128, owner: &Owner) -> bool {
        if self.held.contains_key(&n) {
            return false;
        }
        self.held.insert(n, owner.clone());
        true
    }

    /// Records what is stored; the first to claim a number has it.
    pub fn hold(&mut self, n: u128, owner: &Owner) {
        self.held.entry(n).or_insert_with(|| owner.clone());
    }

    /// Who holds the number.
    pub fn owner(&self, n: u128) -> Option<&Owner> {
        self.held.get(&n)
    }

    /// Every number that is held, and by whom.
    pub fn all(&self) -> impl Iterator<Item = (u128, &Owner)> {
        self.held.iter().map(|(n, owner)| (*n, owner))
    }

    /// Frees the number if this owner holds it.
    pub fn free(&mut self, n: u128, owner: &Owner) {
        if self.held.get(&n) == Some(owner) {
            self.held.remove(&n);
        }
    }

    /// Takes a free number, from the upper band first. Begins at a random place, so that an address that was just freed
    /// is not handed out again at once. `free` knows of those that others hold.
    pub fn take_any(&mut self, range: &Range, owner: &Owner, free: impl Fn(u128) -> bool) -> Option<u128> {
        let dynamic = range.first + range.band;
        let n = self
            .free_between(dynamic, range.last, &free)
            .or_else(|| (range.band > 0).then(|| self.free_between(range.first, dynamic - 1, &free)).flatten())?;
        self.held.insert(n, owner.clone());
        Some(n)
    }

    fn free_between(&self, first: u128, last: u128, free: &impl Fn(u128) -> bool) -> Option<u128> {
        let size = last.checked_sub(first)? + 1;
        let mut bytes = [0; 16];
        types::random::fill(&mut bytes);
        let start = u128::from_le_bytes(bytes) % size;
        // no more steps than there are numbers that are held here or elsewhere, plus one
        (0..size).map(|i| first + (start + i) % size).find(|n| !self.held.contains_key(n) && free(*n))
    }
}
