//! What was applied from the folder, in a file beside it: only that is ever deleted. The label on the objects says it to people,
//! and whoever takes it off keeps the object; but anybody may write labels, so that putting one on does nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::Id;

/// Objects with the name of the file that each came from.
pub type Made = BTreeMap<Id, String>;

pub struct Record {
    path: PathBuf,
    made: Made,
}

#[derive(Serialize, Deserialize)]
struct Line {
    file: String,
    #[serde(flatten)]
    id: Id,
}

impl Record {
    /// Reads the record of a folder. One that cannot be read is as good as none: what it held stays in the cluster.
    pub fn of(folder: &Path) -> Self {
        let path = folder.with_extension("json");
        let read = cluster::files::read(&path).map_err(anyhow::Error::from);
        let lines = read.and_then(|text| Ok(serde_json::from_str::<Vec<Line>>(text.as_deref().unwrap_or("[]"))?));
        let lines = lines.unwrap_or_else(|error| {
            let (path, error) = (path.display(), format!("{error:#}"));
            tracing::error!(%path, error, "what was applied from manifests is forgotten: it stays when its file goes");
            Vec::new()
        });
        Self { path, made: lines.into_iter().map(|line| (line.id, line.file)).collect() }
    }

    pub fn made(&self) -> &Made {
        &self.made
    }

    /// Replaces it; what was so already is not written.
    ///
    /// # Errors
    /// It cannot be written, and is as before.
    pub fn replace(&mut self, made: Made) -> Result<(), cluster::Error> {
        if made == self.made {
            return Ok(());
        }
        let lines: Vec<Line> = made.iter().map(|(id, file)| Line { file: file.clone(), id: id.clone() }).collect();
        cluster::files::write(&self.path, &serde_json::to_vec(&lines).unwrap_or_default())?;
        self.made = made;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_known_to_the_next_process() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("manifests");
        let id = |name: &str| Id {
            group: "apps".into(),
            plural: "deployments".into(),
            namespace: "d".into(),
            name: name.into(),
        };
        let made = Made::from([(id("a"), "x.yaml".to_owned()), (id("b"), "y.yaml".to_owned())]);
        let mut record = Record::of(&folder);
        assert!(record.made().is_empty());
        record.replace(made.clone()).unwrap();
        assert_eq!(*Record::of(&folder).made(), made);
        std::fs::write(place.path().join("manifests.json"), "{").unwrap();
        assert!(Record::of(&folder).made().is_empty());
    }
}
