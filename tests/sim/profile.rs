//! What may go wrong in a run. Calm runs judge sharply, because nothing is excused; wild ones reach far.

use std::time::Duration;

use jiff::SignedDuration;

use crate::chance::Chance;
use crate::faults::Rates;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Requests fail, or their answers are lost.
    pub requests: bool,
    /// Watches are late and end; history is forgotten.
    pub watches: bool,
    /// Containers and pods end although they should not.
    pub crashes: bool,
    /// Nodes are drained, cut off, rebooted and lost.
    pub nodes: bool,
    /// Controllers and scheduler are restarted, properly or not.
    pub restarts: bool,
}

impl Profile {
    /// Every combination comes within 32 seeds that follow each other.
    pub fn of(seed: u64) -> Self {
        let is = |bit: u64| seed >> bit & 1 == 1;
        Self { requests: is(0), nodes: is(1), restarts: is(2), watches: is(3), crashes: is(4) }
    }

    /// How late anybody may hear of a change: a chain of two controllers, each of which may have to wait for its watch.
    pub fn lag(self) -> SignedDuration {
        match (self.watches || self.restarts, self.requests) {
            (true, _) => SignedDuration::from_secs(120),
            (false, true) => SignedDuration::from_secs(60),
            (false, false) => SignedDuration::from_secs(10),
        }
    }

    pub fn rates(self, chance: &mut Chance) -> Rates {
        let mut rates = Rates::default();
        if self.requests {
            rates.unreachable = chance.between(0, 30);
            rates.refused = chance.between(0, 60);
            rates.unanswered = chance.between(0, 30);
            (rates.delayed, rates.delay_max) = (chance.between(0, 50), Duration::from_secs(2));
        }
        if self.watches {
            rates.cut = chance.between(0, 30);
            (rates.delayed, rates.delay_max) = (chance.between(0, 100), Duration::from_secs(4));
        }
        rates
    }
}
