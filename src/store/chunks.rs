//! A queue in chunks: it grows without copying what is in it, and gives memory back while it shrinks.
//!
//! Histories of ten thousands of events are kept for minutes; in one piece of memory they would be copied to one of twice the
//! size each time they outgrow it, and stay as large as they once were.

use std::collections::VecDeque;

/// Items of a chunk. What is not used of the first and the last one is lost.
const CHUNK: usize = 64;

pub(crate) struct Chunks<T> {
    /// None is empty. All but the first and the last are full.
    chunks: VecDeque<VecDeque<T>>,
}

impl<T> Chunks<T> {
    pub fn new() -> Self {
        Self { chunks: VecDeque::new() }
    }

    pub fn len(&self) -> usize {
        match (self.chunks.front(), self.chunks.back()) {
            (Some(first), Some(last)) if self.chunks.len() > 1 => {
                first.len() + (self.chunks.len() - 2) * CHUNK + last.len()
            }
            (Some(only), _) => only.len(),
            (None, _) => 0,
        }
    }

    pub fn front(&self) -> Option<&T> {
        self.chunks.front()?.front()
    }

    pub fn back(&self) -> Option<&T> {
        self.chunks.back()?.back()
    }

    pub fn push_back(&mut self, item: T) {
        match self.chunks.back_mut() {
            Some(last) if last.len() < CHUNK => last.push_back(item),
            others => {
                // The first one grows as it is needed: most queues are short.
                let mut chunk = if others.is_some() { VecDeque::with_capacity(CHUNK) } else { VecDeque::new() };
                chunk.push_back(item);
                self.chunks.push_back(chunk);
            }
        }
    }

    pub fn pop_front(&mut self) -> Option<T> {
        let first = self.chunks.front_mut()?;
        let item = first.pop_front();
        if first.is_empty() {
            self.chunks.pop_front();
        }
        item
    }

    pub fn get(&self, at: usize) -> Option<&T> {
        let first = self.chunks.front()?;
        match at.checked_sub(first.len()) {
            None => first.get(at),
            Some(beyond) => self.chunks.get(1 + beyond / CHUNK)?.get(beyond % CHUNK),
        }
    }

    /// The items from `start` on, as many as there are.
    pub fn from(&self, start: usize) -> impl Iterator<Item = &T> {
        (start..).map_while(|at| self.get(at))
    }

    /// How many items `before` is true of, which must come before those of which it is not.
    pub fn partition_point(&self, mut before: impl FnMut(&T) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.get(middle).is_some_and(&mut before) { low = middle + 1 } else { high = middle }
        }
        low
    }
}

impl<T> FromIterator<T> for Chunks<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut chunks = Self::new();
        items.into_iter().for_each(|item| chunks.push_back(item));
        chunks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_queue(steps in proptest::collection::vec((any::<bool>(), 1usize..200), 0..20), at in 0usize..1_000) {
            let (mut chunks, mut model, mut next) = (Chunks::new(), VecDeque::new(), 0);
            for (push, count) in steps {
                for _ in 0..count {
                    if push {
                        chunks.push_back(next);
                        model.push_back(next);
                        next += 1;
                    } else {
                        prop_assert_eq!(chunks.pop_front(), model.pop_front());
                    }
                }
                prop_assert_eq!((chunks.len(), chunks.front(), chunks.back()), (model.len(), model.front(), model.back()));
                prop_assert_eq!(chunks.get(at), model.get(at));
                prop_assert!(chunks.from(at).eq(model.iter().skip(at)));
                prop_assert_eq!(chunks.partition_point(|n| *n < at), model.partition_point(|n| *n < at));
                prop_assert!(chunks.chunks.iter().all(|chunk| !chunk.is_empty()));
                prop_assert!(model.iter().copied().collect::<Chunks<_>>().from(0).eq(&model));
            }
        }
    }
}
