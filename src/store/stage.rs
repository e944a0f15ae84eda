//! What a group of batches does to the state: preconditions, revisions, stamps, events. Pure: no disk, no clock.

use crate::map::Map;
use crate::memory::undo;
use crate::{Batch, Entry, Error, Event, Expect, Op, Revision, Write, Written};

/// A state under construction, not yet seen by anybody.
pub(crate) struct Stage {
    pub map: Map,
    /// The last revision that was assigned.
    pub revision: Revision,
    /// One for each write, in revision order.
    pub events: Vec<Event>,
}

impl Stage {
    /// `revision` may be later than the state of `map`: revisions whose writes failed on disk are not used again.
    pub fn new(map: Map, revision: Revision) -> Self {
        Stage { map, revision, events: Vec::new() }
    }

    /// Applies a batch on top of those before it, or leaves the stage as it was.
    pub fn apply(&mut self, batch: &Batch) -> Result<Vec<Written>, Error> {
        let mark = self.events.len();
        let revision = self.revision;
        let mut written = Vec::with_capacity(batch.len());
        for (index, write) in batch.iter().enumerate() {
            match self.write(write) {
                Ok(entry) => written.push(entry),
                Err(current) => {
                    for event in self.events.drain(mark..).rev() {
                        undo(&mut self.map, &event);
                    }
                    self.revision = revision;
                    return Err(Error::Precondition { index, key: write.key.clone(), current });
                }
            }
        }
        Ok(written)
    }

    /// The error is the revision that the key is at.
    fn write(&mut self, write: &Write) -> Result<Written, Option<Revision>> {
        let previous = self.map.get(&write.key).cloned();
        let current = previous.as_ref().map(Entry::modified);
        let holds = match write.expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::Present => current.is_some(),
            Expect::At(revision) => current == Some(revision),
        };
        if !holds {
            return Err(current);
        }
        let revision = Revision(self.revision.0 + 1);
        let entry = match (&write.op, previous) {
            (Op::Put(value), previous) => {
                let created = previous.as_ref().map_or(revision, Entry::created);
                // Checked when the batch came in.
                let stamp_at = value.stamp_at.map(|at| at as u32);
                let entry = Entry::written(&write.key, &value.bytes, created, revision, stamp_at, &value.facts);
                self.map.insert(entry.clone());
                self.events.push(Event::Put { entry: entry.clone(), previous });
                entry
            }
            (Op::Delete, Some(previous)) => {
                let entry = previous.at(revision);
                self.map.remove(&write.key);
                self.events.push(Event::Delete { entry: entry.clone(), previous });
                entry
            }
            (Op::Delete, None) => return Err(None),
        };
        self.revision = revision;
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Class, Facts, Value};

    fn put(key: &str, expect: Expect) -> Write {
        let value = Value { bytes: Bytes::from_static(b"<>"), stamp_at: Some(1), facts: Facts::default() };
        Write { key: key.into(), expect, class: Class::Durable, op: Op::Put(value) }
    }

    fn delete(key: &str, expect: Expect) -> Write {
        Write { key: key.into(), expect, class: Class::Durable, op: Op::Delete }
    }

    /// A stage with `a` at 1 and `b` at 2.
    fn stage() -> Stage {
        let mut stage = Stage::new(Map::default(), Revision(0));
        stage.apply(&vec![put("a", Expect::Any), put("b", Expect::Absent)]).unwrap();
        stage
    }

    fn shown(stage: &Stage) -> String {
        let entry = |e: &Entry| format!("{}={}@{}", e.key(), String::from_utf8_lossy(e.value()), e.created());
        stage.map.values().map(entry).collect::<Vec<_>>().join(" ")
    }

    /// (what, batch, index and current revision of the failure, state after)
    #[test]
    fn preconditions() {
        const SAME: &str = "a=<1>@1 b=<2>@2";
        type Row = (&'static str, Batch, Option<(usize, Option<u64>)>, &'static str);
        let rows: Vec<Row> = vec![
            ("empty", vec![], None, SAME),
            ("any on present", vec![put("a", Expect::Any)], None, "a=<3>@1 b=<2>@2"),
            ("any on absent", vec![put("c", Expect::Any)], None, "a=<1>@1 b=<2>@2 c=<3>@3"),
            ("absent on present", vec![put("a", Expect::Absent)], Some((0, Some(1))), SAME),
            ("present on absent", vec![put("c", Expect::Present)], Some((0, None)), SAME),
            ("at the right one", vec![put("b", Expect::At(Revision(2)))], None, "a=<1>@1 b=<3>@2"),
            ("at an old one", vec![put("b", Expect::At(Revision(1)))], Some((0, Some(2))), SAME),
            ("at on absent", vec![put("c", Expect::At(Revision(1)))], Some((0, None)), SAME),
            ("delete", vec![delete("a", Expect::Any)], None, "b=<2>@2"),
            ("delete at an old one", vec![delete("b", Expect::At(Revision(1)))], Some((0, Some(2))), SAME),
            ("delete nothing", vec![delete("c", Expect::Any)], Some((0, None)), SAME),
            ("delete what must be absent", vec![delete("c", Expect::Absent)], Some((0, None)), SAME),
            (
                "sees its own writes",
                vec![delete("a", Expect::Any), put("a", Expect::Absent), put("a", Expect::At(Revision(4)))],
                None,
                "a=<5>@4 b=<2>@2",
            ),
            (
                "is taken back whole",
                vec![put("c", Expect::Any), put("a", Expect::Any), delete("b", Expect::Any), put("b", Expect::Present)],
                Some((3, None)),
                SAME,
            ),
        ];
        for (what, batch, failure, after) in rows {
            let mut stage = stage();
            let result = stage.apply(&batch);
            match (result, failure) {
                (Ok(written), None) => {
                    assert_eq!(written.len(), batch.len(), "{what}");
                    assert_eq!(stage.revision.0 as usize, 2 + batch.len(), "{what}");
                }
                (Err(Error::Precondition { index, current, .. }), Some(expected)) => {
                    assert_eq!((index, current.map(|r| r.0)), expected, "{what}");
                    assert_eq!(stage.revision, Revision(2), "{what}");
                    assert_eq!(stage.events.len(), 2, "{what}");
                }
                (result, _) => panic!("{what}: {result:?}"),
            }
            assert_eq!(shown(&stage), after, "{what}");
        }
    }

    #[test]
    fn a_tombstone_is_the_last_state_at_the_revision_of_the_deletion() {
        let mut stage = stage();
        let written = stage.apply(&vec![delete("b", Expect::Any)]).unwrap();
        assert_eq!(
            (written[0].value(), written[0].created(), written[0].modified()),
            (&b"<3>"[..], Revision(2), Revision(3))
        );
        let Some(Event::Delete { entry, previous }) = stage.events.last() else { panic!("not a deletion") };
        assert!(entry.is(&written[0]));
        assert_eq!(previous.value(), b"<2>");
    }
}
