//! The seats of every level, and who waits for one. Pure: what is done here is told by what is returned.
//!
//! The queues of a level take turns: each has a count of the requests it has been given, one that was empty begins where the
//! least served of the others stands, and the least served goes next. A flow is dealt a hand of queues by its hash and joins
//! the shortest, so that one that floods fills only some of them.
//!
//! Source: apiserver `pkg/util/flowcontrol/fairqueuing/queueset/queueset.go`, `pkg/util/shufflesharding/dealer.go`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::rules::{Level, Queuing};

/// What became of a request at the door.
pub enum Entry<T> {
    Seated,
    /// It waits under this number until it is told.
    Queued(u64, oneshot::Receiver<T>),
    /// Its queue has no room.
    Full,
    /// There is no seat and the level has no queues, or there is no such level any more.
    Refused,
}

/// Those who have a seat now, each with its level.
pub type Woken<T> = Vec<(Arc<str>, oneshot::Sender<T>)>;

/// `T` is what those who waited are handed.
pub struct Seats<T> {
    levels: BTreeMap<Arc<str>, State<T>>,
    total: u32,
    tickets: u64,
}

struct State<T> {
    /// What its shares make.
    nominal: u32,
    /// What it never lends.
    kept: u32,
    /// What it has at most.
    most: u32,
    used: u32,
    queuing: Option<Queuing>,
    queues: Vec<Queue<T>>,
    waiting: usize,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self { nominal: 0, kept: 0, most: 0, used: 0, queuing: None, queues: Vec::new(), waiting: 0 }
    }
}

struct Queue<T> {
    waiting: VecDeque<(u64, oneshot::Sender<T>)>,
    served: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), served: 0 }
    }
}

impl<T> Seats<T> {
    pub fn new(total: u32, levels: &BTreeMap<Arc<str>, Level>) -> Self {
        let mut seats = Self { levels: BTreeMap::new(), total, tickets: 0 };
        seats.configure(total, levels);
        seats
    }

    /// Takes over new limits. Who is seated stays so; who waits at a level that is gone is told so.
    pub fn configure(&mut self, total: u32, levels: &BTreeMap<Arc<str>, Level>) -> Woken<T> {
        let mut old = std::mem::take(&mut self.levels);
        self.total = total;
        let shares: u64 = levels.values().map(|l| u64::from(l.shares)).sum::<u64>().max(1);
        for (name, level) in levels.iter().filter(|(_, l)| !l.exempt) {
            let mut state = old.remove(name).unwrap_or_default();
            let nominal = (u64::from(total) * u64::from(level.shares)).div_ceil(shares) as u32;
            let percent = |of: u32, percent: u32| (u64::from(of) * u64::from(percent)).div_ceil(100) as u32;
            state.nominal = nominal;
            state.kept = nominal.saturating_sub(percent(nominal, level.lendable_percent));
            state.most = level.borrowing_percent.map_or(total, |p| nominal.saturating_add(percent(nominal, p)));
            state.queuing = level.queuing;
            state.spread();
            self.levels.insert(name.clone(), state);
        }
        // Levels that are gone and still have somebody seated count until they are free; nobody new is let in.
        for (name, state) in old {
            if state.used > 0 {
                self.levels.insert(name, State { used: state.used, ..State::default() });
            }
        }
        self.fill()
    }

    /// The seats of each level by its shares.
    pub fn nominal(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.levels.iter().map(|(name, state)| (name, state.nominal))
    }

    pub fn enter(&mut self, level: &Arc<str>, flow: u64) -> Entry<T> {
        let free = self.is_free(level);
        let Some(state) = self.levels.get_mut(level) else { return Entry::Refused };
        if free && state.waiting == 0 {
            state.used += 1;
            return Entry::Seated;
        }
        let Some(queuing) = state.queuing.filter(|_| !state.queues.is_empty()) else { return Entry::Refused };
        let hand = deal(flow, state.queues.len(), queuing.hand);
        let Some(chosen) = hand.into_iter().min_by_key(|i| state.queues[*i].waiting.len()) else {
            return Entry::Refused;
        };
        if state.queues[chosen].waiting.len() >= queuing.length {
            return Entry::Full;
        }
        if state.queues[chosen].waiting.is_empty() {
            let least = state.queues.iter().filter(|q| !q.waiting.is_empty()).map(|q| q.served).min();
            let queue = &mut state.queues[chosen];
            queue.served = queue.served.max(least.unwrap_or(queue.served));
        }
        self.tickets += 1;
        let (sender, receiver) = oneshot::channel();
        state.queues[chosen].waiting.push_back((self.tickets, sender));
        state.waiting += 1;
        Entry::Queued(self.tickets, receiver)
    }

    /// Somebody has got up.
    pub fn leave(&mut self, level: &Arc<str>) -> Woken<T> {
        if let Some(state) = self.levels.get_mut(level) {
            state.used = state.used.saturating_sub(1);
        }
        self.fill()
    }

    /// Somebody waits no longer.
    pub fn forget(&mut self, level: &Arc<str>, ticket: u64) {
        let Some(state) = self.levels.get_mut(level) else { return };
        for queue in &mut state.queues {
            if let Some(at) = queue.waiting.iter().position(|(t, _)| *t == ticket) {
                queue.waiting.remove(at);
                state.waiting -= 1;
                return;
            }
        }
    }

    /// Seats that are taken.
    #[cfg(test)]
    pub fn used(&self, level: &str) -> u32 {
        self.levels.get(level).map_or(0, |s| s.used)
    }

    /// Whether the level may have one more seat: what the others use or keep for themselves is not there.
    fn is_free(&self, level: &Arc<str>) -> bool {
        let Some(state) = self.levels.get(level) else { return false };
        let others =
            self.levels.iter().filter(|(name, _)| *name != level).map(|(_, s)| s.used.max(s.kept)).sum::<u32>();
        // Shares are rounded up, so that the least of them is one seat even when all are kept.
        state.used < state.most && (state.used < state.kept || state.used + others < self.total)
    }

    /// Seats as many of the waiting as there is room for.
    fn fill(&mut self) -> Woken<T> {
        let mut woken = Woken::<T>::new();
        let waiting: Vec<Arc<str>> =
            self.levels.iter().filter(|(_, s)| s.waiting > 0).map(|(n, _)| n.clone()).collect();
        for name in waiting {
            while self.is_free(&name) {
                let Some(state) = self.levels.get_mut(&name) else { break };
                let Some(waiter) = state.next() else { break };
                state.used += 1;
                woken.push((name.clone(), waiter));
            }
        }
        woken
    }
}

impl<T> State<T> {
    /// The first of the least served queue.
    fn next(&mut self) -> Option<oneshot::Sender<T>> {
        let queue = self.queues.iter_mut().filter(|q| !q.waiting.is_empty()).min_by_key(|q| q.served)?;
        queue.served += 1;
        self.waiting -= 1;
        queue.waiting.pop_front().map(|(_, waiter)| waiter)
    }

    /// As many queues as are configured; who waits in one that is gone joins another.
    fn spread(&mut self) {
        let wanted = self.queuing.map_or(0, |q| q.queues);
        let gone = if self.queues.len() > wanted { self.queues.split_off(wanted) } else { Vec::new() };
        self.queues.resize_with(wanted, Queue::default);
        for (i, queue) in gone.into_iter().enumerate() {
            match self.queues.get_mut(i % wanted.max(1)) {
                Some(other) => other.waiting.extend(queue.waiting),
                // Dropped: they are told that there is no such place any more.
                None => self.waiting -= queue.waiting.len(),
            }
        }
    }
}

/// A hand of different queues for a flow, always the same for the same hash.
fn deal(mut hash: u64, queues: usize, hand: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..queues).collect();
    let mut dealt = Vec::with_capacity(hand.min(queues));
    for _ in 0..hand.min(queues) {
        let cards = left.len() as u64;
        dealt.push(left.swap_remove((hash % cards) as usize));
        hash /= cards;
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(shares: u32, lendable_percent: u32, queuing: Option<Queuing>) -> Level {
        Level { uid: "".into(), exempt: false, shares, lendable_percent, borrowing_percent: None, queuing }
    }

    fn seats(levels: &[(&str, Level)]) -> Seats<()> {
        Seats::new(10, &levels.iter().map(|(n, l)| ((*n).into(), l.clone())).collect())
    }

    const QUEUES: Option<Queuing> = Some(Queuing { queues: 8, hand: 2, length: 4 });

    fn seated(seats: &mut Seats<()>, level: &str, count: usize) -> usize {
        (0..count).filter(|_| matches!(seats.enter(&level.into(), 0), Entry::Seated)).count()
    }

    #[test]
    fn what_is_not_used_is_lent_but_for_what_is_kept() {
        // Six and four seats; of its six the first keeps three.
        let mut seats = seats(&[("a", level(60, 50, QUEUES)), ("b", level(40, 0, None))]);
        assert_eq!(seated(&mut seats, "b", 20), 7);
        assert_eq!(seated(&mut seats, "a", 20), 3);
        assert!(matches!(seats.enter(&"b".into(), 0), Entry::Refused));
        // What was lent comes back as it is freed.
        let woken = seats.leave(&"b".into());
        assert_eq!(woken.len(), 1);
        assert_eq!((&*woken[0].0, seats.used("a"), seats.used("b")), ("a", 4, 6));
    }

    #[test]
    fn a_flood_does_not_starve_the_others() {
        let mut seats = seats(&[("a", level(1, 0, QUEUES))]);
        assert_eq!(seated(&mut seats, "a", 10), 10);
        let queue = |seats: &mut Seats<()>, flow| match seats.enter(&"a".into(), flow) {
            Entry::Queued(_, receiver) => Some(receiver),
            _ => None,
        };
        // One flow fills its hand of queues and is refused; others still have room.
        let flood: Vec<_> = (0..20).filter_map(|_| queue(&mut seats, 3)).collect();
        assert_eq!(flood.len(), 8);
        let other = (0..100).find(|flow| deal(*flow, 8, 2).iter().all(|q| !deal(3, 8, 2).contains(q))).unwrap();
        let mut single = queue(&mut seats, other).unwrap();
        // Within a turn of each queue the other is served.
        for _ in 0..3 {
            for (_, waiter) in seats.leave(&"a".into()) {
                let _ = waiter.send(());
            }
        }
        assert!(single.try_recv().is_ok());
        assert!(matches!(seats.enter(&"gone".into(), 0), Entry::Refused));
    }

    #[test]
    fn places_in_the_queue_are_given_up_and_moved() {
        let mut seats = seats(&[("a", level(1, 0, QUEUES))]);
        seated(&mut seats, "a", 10);
        let mut tickets = Vec::new();
        for flow in 0..6 {
            if let Entry::Queued(ticket, receiver) = seats.enter(&"a".into(), flow) {
                tickets.push((ticket, receiver));
            }
        }
        seats.forget(&"a".into(), tickets[0].0);
        assert_eq!(seats.levels["a"].waiting, 5);
        let fewer = level(1, 0, Some(Queuing { queues: 1, hand: 1, length: 4 }));
        assert!(seats.configure(10, &[("a".into(), fewer)].into()).is_empty());
        assert_eq!(seats.levels["a"].queues[0].waiting.len(), 5);
        // More seats than before seat those who wait; a level that is gone lets nobody in.
        assert_eq!(seats.configure(12, &[("a".into(), level(1, 0, QUEUES))].into()).len(), 2);
        seats.configure(12, &BTreeMap::new());
        assert!(tickets.pop().unwrap().1.try_recv().is_err());
        assert!(matches!(seats.enter(&"a".into(), 0), Entry::Refused));
        assert_eq!(seats.used("a"), 12);
    }

    #[test]
    fn hands_hold_different_queues() {
        for hash in [0, 1, 77, u64::MAX] {
            let mut hand = deal(hash, 16, 6);
            assert_eq!(hand, deal(hash, 16, 6));
            hand.sort_unstable();
            hand.dedup();
            assert_eq!(hand.len(), 6);
        }
        assert_eq!(deal(5, 2, 6).len(), 2);
    }
}
