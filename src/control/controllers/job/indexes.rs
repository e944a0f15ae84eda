//! Sets of completion indexes, as intervals: `1,3-5,7`.
//!
//! Source: kubernetes `pkg/controller/job/indexed_job_utils.go` (orderedIntervals), KEP-2214.

use std::collections::BTreeSet;
use std::fmt;

/// In order, disjoint, and with a gap between each two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Those below `completions` that the text names. What cannot be read is left out.
    pub fn parse(text: &str, completions: i32) -> Self {
        let interval = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (i32, i32) = (first.parse().ok()?, last.parse().ok()?);
            (first >= 0 && first < completions).then(|| (first, last.min(completions - 1)))
        };
        let mut all: Vec<_> = text.split(',').filter_map(interval).filter(|(first, last)| first <= last).collect();
        all.sort_unstable();
        Self::of(all.into_iter())
    }

    /// Of intervals that are in order of their beginnings.
    fn of(intervals: impl Iterator<Item = (i32, i32)>) -> Self {
        let mut all: Vec<(i32, i32)> = Vec::new();
        for (first, last) in intervals {
            match all.last_mut() {
                Some(known) if first <= known.1.saturating_add(1) => known.1 = known.1.max(last),
                _ => all.push((first, last)),
            }
        }
        Self(all)
    }

    pub fn merge(&self, other: &Self) -> Self {
        let mut all: Vec<_> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        Self::of(all.into_iter())
    }

    pub fn with(&self, more: &BTreeSet<i32>) -> Self {
        self.merge(&Self::of(more.iter().map(|i| (*i, *i))))
    }

    pub fn total(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many both have.
    pub fn common(&self, other: &Self) -> i32 {
        let (mut a, mut b, mut common) = (0, 0, 0);
        while let (Some(one), Some(two)) = (self.0.get(a), other.0.get(b)) {
            common += (one.1.min(two.1) - one.0.max(two.0) + 1).max(0);
            if one.1 <= two.1 {
                a += 1;
            }
            if two.1 <= one.1 {
                b += 1;
            }
        }
        common
    }

    /// The first `count` of those below `completions` that are missing here.
    pub fn missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let mut found = Vec::new();
        let mut next = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            let left = count - found.len();
            found.extend((next..first.min(completions)).take(left));
            next = next.max(last.saturating_add(1));
        }
        found
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts() {
        for (text, completions, shown) in [
            ("", 5, ""),
            ("0", 5, "0"),
            ("0,1", 5, "0,1"),
            ("0-1,2,4", 5, "0-2,4"),
            ("1,3-5,7", 10, "1,3-5,7"),
            ("1,3-9", 6, "1,3-5"),
            ("7,9", 6, ""),
            ("x,2,3-y,5-4", 6, "2"),
        ] {
            assert_eq!(Indexes::parse(text, completions).to_string(), shown, "{text}");
        }
    }

    proptest! {
        #[test]
        fn they_are_sets(
            a in proptest::collection::btree_set(0..40, 0..20), b in proptest::collection::btree_set(0..40, 0..20),
            count in 0usize..10, completions in 0..45,
        ) {
            let (one, two) = (Indexes::default().with(&a), Indexes::default().with(&b));
            let both: BTreeSet<i32> = a.union(&b).copied().collect();
            let merged = one.merge(&two);
            prop_assert_eq!(&merged, &Indexes::default().with(&both));
            prop_assert_eq!(usize::try_from(merged.total()).unwrap(), both.len());
            prop_assert_eq!(usize::try_from(one.common(&two)).unwrap(), a.intersection(&b).count());
            prop_assert!((-1..45).all(|i| one.has(i) == a.contains(&i)));
            prop_assert_eq!(&Indexes::parse(&one.to_string(), 40), &one);
            let missing: Vec<i32> = (0..completions).filter(|i| !a.contains(i)).take(count).collect();
            prop_assert_eq!(one.missing(count, completions), missing);
        }
    }
}
