//! The SQLite file: schema, loading, committing, copying. Blocking; used by the writer thread alone once it is open.
//!
//! A row is addressed by the revision that created its key. Memory knows that number for every key, so the file needs no
//! index at all: a new object is appended to the last page, a change rewrites its row. Nothing is ever read after loading.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use crate::map::Map;
use crate::memory::MemoryView;
use crate::{Entry, Error, FactsOf, Opened, Revision, Seal, stamp};

/// Marks the file as ours ("KEDG"), so that another program's database is not taken over.
const APPLICATION_ID: i64 = 0x4b45_4447;

/// The smallest page, hence the smallest file with anything in it. Source: SQLite, Database File Format, 1.2.
const SQLITE_PAGE_BYTES_MIN: u64 = 512;

/// What turns schema n into n + 1, from an empty file on. Only ever append; all that are missing run in one transaction.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE entry (
        created  INTEGER PRIMARY KEY,
        modified INTEGER NOT NULL,
        stamp_at INTEGER,
        key      TEXT NOT NULL,
        value    BLOB NOT NULL
    ) STRICT;
    CREATE TABLE meta (name TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO meta VALUES ('revision', 0);
"];

/// Copies what is in use to new pages, in memory rather than in a file outside of the store's folder, and empties the log.
/// Noted when the old pages are overwritten: until then it is done again. From then on `secure_delete` overwrites what is
/// freed.
const SWEEP: &str = "
    PRAGMA temp_store = MEMORY; VACUUM; PRAGMA temp_store = DEFAULT;
    PRAGMA wal_checkpoint(TRUNCATE);
    INSERT OR REPLACE INTO meta VALUES ('swept', 1);
    PRAGMA wal_checkpoint(TRUNCATE);
";

/// Rows to be written, by the revision that created them; `None`: the row goes.
pub(crate) type Rows = BTreeMap<Revision, Option<Entry>>;

pub(crate) struct StateFile {
    conn: Connection,
    path: PathBuf,
    seal: Option<Arc<dyn Seal>>,
}

/// What was found in the file.
pub(crate) struct Loaded {
    pub map: Map,
    /// No revision up to this one may be used again.
    pub revision: Revision,
    /// Rows that would be kept in another form now.
    pub stale: Rows,
}

/// A commit that did not happen.
#[derive(Debug)]
pub(crate) struct CommitFailed {
    pub reason: String,
    /// The disk may have it nevertheless (a failed fsync), so that its revisions must not be used for anything else.
    pub in_doubt: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot open {path}")]
struct CannotOpen<E: std::error::Error + 'static> {
    path: String,
    #[source]
    source: E,
}

fn cannot_open<E: std::error::Error + Send + Sync + 'static>(path: &Path, source: E) -> Error {
    Error::Io(Box::new(CannotOpen { path: path.display().to_string(), source }))
}

/// What an error of SQLite means for somebody who wants to open `path`.
fn open_error(path: &Path, error: rusqlite::Error) -> Error {
    let path_text = || path.display().to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::InUse { path: path_text() },
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            Error::Damaged { path: path_text(), detail: error.to_string() }
        }
        _ => cannot_open(path, error),
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // No mutex: a connection belongs to one thread at a time.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    // Nobody else may have the file open, so waiting for a lock is pointless; and with the lock held from the first access
    // the index of the WAL lives on our heap, not in a third file.
    conn.busy_timeout(std::time::Duration::ZERO)?;
    conn.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")?;
    Ok(conn)
}

fn pragma(conn: &Connection, name: &str) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, name, |row| row.get(0))
}

/// Brings the schema up to date in one transaction. A newer one is refused before anything is touched.
fn migrate(conn: &Connection, path: &Path, migrations: &[&str]) -> Result<(), Error> {
    let failed = |error| open_error(path, error);
    let known = migrations.len() as i64;
    let found = pragma(conn, "user_version").map_err(failed)?;
    let owner = pragma(conn, "application_id").map_err(failed)?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let foreign = if tables == 0 { found != 0 || owner != 0 } else { found <= 0 || owner != APPLICATION_ID };
    if foreign {
        let detail = "it is a SQLite database, but not one of kedge".to_owned();
        return Err(Error::Damaged { path: path.display().to_string(), detail });
    }
    if found > known {
        return Err(Error::NewerSchema { path: path.display().to_string(), found, known });
    }
    if found < known {
        let steps = migrations[found as usize..].concat();
        let sql = format!(
            "BEGIN IMMEDIATE; {steps} PRAGMA user_version = {known}; PRAGMA application_id = {APPLICATION_ID}; COMMIT;"
        );
        if let Err(error) = conn.execute_batch(&sql) {
            // The transaction ends with the connection; the file stays as it was.
            return Err(failed(error));
        }
    }
    Ok(())
}

/// Opens for writing, creating an empty file that only its owner may read: it holds secrets.
fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

impl StateFile {
    /// Opens or creates the file, and loads it. Holds a lock against other processes until dropped.
    pub fn open(path: &Path, facts_of: &FactsOf, seal: Option<Arc<dyn Seal>>) -> Result<(StateFile, Loaded), Error> {
        Self::open_with(path, facts_of, seal, MIGRATIONS)
    }

    fn open_with(
        path: &Path,
        facts_of: &FactsOf,
        seal: Option<Arc<dyn Seal>>,
        migrations: &[&str],
    ) -> Result<(StateFile, Loaded), Error> {
        let len = create(path).and_then(|file| file.metadata()).map_err(|e| cannot_open(path, e))?.len();
        if (1..SQLITE_PAGE_BYTES_MIN).contains(&len) {
            // SQLite would take this for a new file too.
            let detail = format!("it has {len} bytes, which is too short for a database");
            return Err(Error::Damaged { path: path.display().to_string(), detail });
        }
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        if len == 0 && std::fs::metadata(&wal).is_ok_and(|wal| wal.len() > 0) {
            // SQLite would take the file for a new one and drop the log, which may be all that is left.
            let detail = "it is empty, but its write-ahead log is not".to_owned();
            return Err(Error::Damaged { path: path.display().to_string(), detail });
        }
        let conn = connect(path).map_err(|e| open_error(path, e))?;
        migrate(&conn, path, migrations)?;
        // FULL: the WAL is synced with each commit. A page cache of 1 MiB holds the pages that are being appended to and
        // the inner pages; more would be a second copy of what is in memory. A checkpoint every 1,000 pages (4 MB) is
        // SQLite's default: rarely enough that pages which change again and again are copied once, with a log that is
        // replayed in milliseconds.
        conn.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -1024; PRAGMA wal_autocheckpoint = 1000;",
        )
        .map_err(|e| open_error(path, e))?;
        if seal.is_some() {
            // What is replaced by its sealed form must not stay in free pages.
            conn.execute_batch("PRAGMA secure_delete = ON;").map_err(|e| open_error(path, e))?;
        }
        let file = StateFile { conn, path: path.to_owned(), seal };
        let loaded = file.load(facts_of)?;
        Ok((file, loaded))
    }

    fn damaged(&self, detail: String) -> Error {
        Error::Damaged { path: self.path.display().to_string(), detail }
    }

    /// Reads every row once. Together with SQLite's own checks of each page that is the integrity check.
    fn load(&self, facts_of: &FactsOf) -> Result<Loaded, Error> {
        let failed = |error| open_error(&self.path, error);
        let revision: i64 = self
            .conn
            .query_row("SELECT number FROM meta WHERE name = 'revision'", [], |row| row.get(0))
            .map_err(|error| match error {
                rusqlite::Error::QueryReturnedNoRows => self.damaged("its revision is missing".to_owned()),
                error => failed(error),
            })?;
        let revision = Revision(revision as u64);
        let mut entries: Vec<Entry> = Vec::new();
        let mut stale = Rows::new();
        let mut statement =
            self.conn.prepare("SELECT created, modified, stamp_at, key, value FROM entry").map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let row = Row::of(row).map_err(|error| self.damaged(format!("a row cannot be read: {error}")))?;
            let opened = self.unseal(&row)?;
            let Row { created, modified, stamp_at, key, .. } = row;
            let value = opened.value.as_deref().unwrap_or(row.value);
            if created > modified || modified > revision || !stamp::is_stamped(value, stamp_at, modified) {
                return Err(self.damaged(format!("the row of {key} contradicts itself")));
            }
            let entry = Entry::new(key, value, created, modified, stamp_at, &facts_of(key, value));
            if opened.stale {
                stale.insert(created, Some(entry.clone()));
            }
            entries.push(entry);
        }
        entries.sort_unstable_by(|a, b| a.key_bytes().cmp(b.key_bytes()));
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].key_bytes() == pair[1].key_bytes()) {
            return Err(self.damaged(format!("{} is there twice", pair[0].key())));
        }
        Ok(Loaded { map: Map::of_sorted(&entries), revision, stale })
    }

    /// What is in the row, and whether it would be kept in another form now.
    fn unseal(&self, row: &Row<'_>) -> Result<Opened, Error> {
        let Some(seal) = &self.seal else { return Ok(Opened { value: None, stale: false }) };
        let opened = seal.open(row.key, row.value);
        opened.map_err(|why| self.damaged(format!("the row of {} cannot be opened: {why}", row.key)))
    }

    /// Brings the file into the form in which it is kept now: writes `stale` rows again, and leaves nothing of their old form
    /// behind, nor of any value that was freed before there was a seal.
    pub fn settle(&mut self, stale: &Rows) -> Result<(), CommitFailed> {
        let failed = |path: &Path, error: rusqlite::Error| CommitFailed {
            reason: format!("{}: {error}", path.display()),
            in_doubt: false,
        };
        let swept = self.conn.query_row("SELECT count(*) FROM meta WHERE name = 'swept'", [], |row| row.get(0));
        let swept = swept.map(|rows: i64| rows > 0).map_err(|error| failed(&self.path, error))?;
        if !stale.is_empty() {
            tracing::info!(rows = stale.len(), "writing again what is kept in another form now");
            self.commit(&[stale], None)?;
        }
        let sql = match (self.seal.is_some(), swept) {
            (true, false) => SWEEP,
            // Also when nothing is stale: an end in between may have left sealed rows in the log, and their old form below.
            (true, true) => "PRAGMA wal_checkpoint(TRUNCATE);",
            // What is freed from now on is not overwritten any more.
            (false, true) => "DELETE FROM meta WHERE name = 'swept';",
            _ => return Ok(()),
        };
        self.conn.execute_batch(sql).map_err(|error| failed(&self.path, error))
    }

    /// Writes rows and, if given, the revision up to which numbers are taken, in one transaction; on disk when it returns.
    pub fn commit(&mut self, rows: &[&Rows], revision: Option<Revision>) -> Result<(), CommitFailed> {
        let written = self.write(rows, revision);
        if written.is_err() && !self.conn.is_autocommit() {
            // A rollback that fails leaves the transaction open; the next commit fails on BEGIN and tries it again.
            if let Err(error) = self.conn.execute_batch("ROLLBACK") {
                tracing::error!(path = %self.path.display(), %error, "a failed transaction could not be rolled back");
            }
        }
        written.map_err(|error| CommitFailed {
            in_doubt: error.sqlite_error_code() != Some(ErrorCode::DiskFull),
            reason: match error.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => format!("no space left on the disk that holds {}", self.path.display()),
                _ => format!("{}: {error}", self.path.display()),
            },
        })
    }

    fn write(&self, rows: &[&Rows], revision: Option<Revision>) -> rusqlite::Result<()> {
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut put = self.conn.prepare_cached(
            "REPLACE INTO entry (created, modified, stamp_at, key, value) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        let mut delete = self.conn.prepare_cached("DELETE FROM entry WHERE created = ?1")?;
        for (created, state) in rows.iter().copied().flatten() {
            let created = created.0 as i64;
            match state {
                Some(e) => {
                    let sealed = match &self.seal {
                        Some(seal) => seal.seal(e.key(), e.value()).map_err(cannot_seal)?,
                        None => None,
                    };
                    let value = sealed.as_deref().unwrap_or(e.value());
                    put.execute(params![created, e.modified().0 as i64, e.stamp_at(), e.key(), value])?
                }
                None => delete.execute([created])?,
            };
        }
        if let Some(revision) = revision {
            let mut set = self.conn.prepare_cached("UPDATE meta SET number = ?1 WHERE name = 'revision'")?;
            set.execute([revision.0 as i64])?;
        }
        self.conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}

/// A value that has no form for the disk fails its commit like a disk that does not take it.
fn cannot_seal(why: String) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(why.into())
}

/// A row as it is on disk.
struct Row<'a> {
    created: Revision,
    modified: Revision,
    stamp_at: Option<u32>,
    key: &'a str,
    value: &'a [u8],
}

impl<'a> Row<'a> {
    fn of(row: &'a rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let revision = |column| row.get(column).map(|number: i64| Revision(number as u64));
        Ok(Self {
            created: revision(0)?,
            modified: revision(1)?,
            stamp_at: row.get(2)?,
            key: row.get_ref(3)?.as_str()?,
            value: row.get_ref(4)?.as_blob()?,
        })
    }
}

/// Writes `view` to a database of its own at `to`. Needs neither the writer nor the file it writes to, holds up nobody, and
/// comes out without free pages. The file is complete or absent.
pub(crate) fn write_copy(view: &MemoryView, to: &Path, seal: Option<Arc<dyn Seal>>) -> Result<(), Error> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = write_partial(view, &partial, seal).and_then(|()| {
        std::fs::rename(&partial, to).map_err(|e| cannot_open(to, e))?;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| cannot_open(folder, e))
    });
    if written.is_err() {
        // Best effort: the error that matters is the first one.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

fn write_partial(view: &MemoryView, partial: &Path, seal: Option<Arc<dyn Seal>>) -> Result<(), Error> {
    if let Err(error) = std::fs::remove_file(partial)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(cannot_open(partial, error));
    }
    let file = create(partial).map_err(|e| cannot_open(partial, e))?;
    let failed = |error| match open_error(partial, error) {
        Error::Io(source) => Error::Io(source),
        other => other,
    };
    let conn = connect(partial).map_err(failed)?;
    // No journal: a copy that is not finished is thrown away. It is synced as a whole at the end.
    conn.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1024;")
        .map_err(failed)?;
    migrate(&conn, partial, MIGRATIONS)?;
    let copy = StateFile { conn, path: partial.to_owned(), seal };
    let rows: Rows = view.map.values().map(|entry| (entry.created(), Some(entry.clone()))).collect();
    copy.write(&[&rows], Some(view.revision)).map_err(failed)?;
    copy.conn.close().map_err(|(_, error)| failed(error))?;
    file.sync_all().map_err(|e| cannot_open(partial, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts_of() -> FactsOf {
        Arc::new(|_, _| crate::Facts::default())
    }

    #[test]
    fn a_migration_happens_once_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let broken = [MIGRATIONS[0], "CREATE TABLE second (x); INSERT INTO missing VALUES (1);"];
        let second = [MIGRATIONS[0], "CREATE TABLE second (x); UPDATE meta SET number = number + 1;"];
        let version = |file: &StateFile| pragma(&file.conn, "user_version").unwrap();

        let (file, loaded) = StateFile::open(&path, &facts_of(), None).unwrap();
        assert_eq!((version(&file), loaded.revision), (1, Revision(0)));
        drop(file);
        // One that fails leaves the file as it was.
        assert!(StateFile::open_with(&path, &facts_of(), None, &broken).is_err());
        for _ in 0..2 {
            let (file, loaded) = StateFile::open_with(&path, &facts_of(), None, &second).unwrap();
            assert_eq!((version(&file), loaded.revision), (2, Revision(1)));
        }
        assert!(matches!(
            StateFile::open(&path, &facts_of(), None),
            Err(Error::NewerSchema { found: 2, known: 1, .. })
        ));
    }

    #[test]
    fn rows_that_contradict_each_other_are_found() {
        let rows: &[(&str, &str)] = &[
            ("(1, 1, NULL, 'k', x'00'), (2, 2, NULL, 'k', x'00')", "k is there twice"),
            ("(1, 9, NULL, 'k', x'00')", "the row of k contradicts itself"),
            ("(3, 2, NULL, 'k', x'00')", "the row of k contradicts itself"),
            ("(1, 2, 0, 'k', x'33')", "the row of k contradicts itself"),
            ("(1, 2, -1, 'k', x'33')", "a row cannot be read: Integer -1 out of range at index 2"),
        ];
        for (values, expected) in rows {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state.db");
            let (file, _) = StateFile::open(&path, &facts_of(), None).unwrap();
            let sql = format!("UPDATE meta SET number = 5; INSERT INTO entry VALUES {values}");
            file.conn.execute_batch(&sql).unwrap();
            drop(file);
            match StateFile::open(&path, &facts_of(), None) {
                Err(Error::Damaged { detail, .. }) => assert_eq!(detail, *expected),
                Err(error) => panic!("{values}: {error}"),
                Ok(_) => panic!("{values}: opened"),
            }
        }
    }

    /// Turns every letter around. What begins with `*` is in this form.
    #[derive(Debug)]
    struct Backwards;
    impl Seal for Backwards {
        fn seal(&self, _: &str, value: &[u8]) -> Result<Option<Vec<u8>>, String> {
            Ok(Some(std::iter::once(b'*').chain(value.iter().rev().copied()).collect()))
        }
        fn open(&self, _: &str, stored: &[u8]) -> Result<crate::Opened, String> {
            let turned = stored.strip_prefix(b"*").map(|rest| rest.iter().rev().copied().collect());
            Ok(crate::Opened { stale: turned.is_none(), value: turned })
        }
    }

    /// Whether the value that the tests seal can be read in any file of the folder.
    fn is_readable(folder: &Path) -> bool {
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap_or_default();
        ["state.db", "state.db-wal"].iter().any(|name| read(name).windows(6).any(|w| w == b"served"))
    }

    fn with_seal(path: &Path) -> (StateFile, Loaded) {
        StateFile::open(path, &facts_of(), Some(Arc::new(Backwards))).unwrap()
    }

    /// Wherever the sweep is interrupted: what it has noted is true.
    #[test]
    fn a_sweep_is_noted_when_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let (file, _) = StateFile::open(&path, &facts_of(), None).unwrap();
        let sql = "UPDATE meta SET number = 5; INSERT INTO entry VALUES (1, 1, NULL, 'k', CAST('served' AS BLOB))";
        file.conn.execute_batch(sql).unwrap();
        drop(file);
        let (mut file, loaded) = with_seal(&path);
        file.commit(&[&loaded.stale], None).unwrap();
        assert!(is_readable(folder.path()));
        let noted = "SELECT count(*) FROM meta WHERE name = 'swept'";
        let noted = |file: &StateFile| file.conn.query_row(noted, [], |row| row.get::<_, i64>(0)).unwrap() > 0;
        for statement in SWEEP.split_inclusive(';') {
            file.conn.execute_batch(statement).unwrap();
            assert!(!noted(&file) || !is_readable(folder.path()), "{statement}");
        }
        assert!(noted(&file));
    }

    /// An end between the commit of rows in their new form and the checkpoint after it.
    #[test]
    fn what_an_interrupted_start_left_readable_goes_with_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let (mut file, loaded) = with_seal(&path);
        file.settle(&loaded.stale).unwrap();
        let sql = "UPDATE meta SET number = 5; INSERT INTO entry VALUES (1, 1, NULL, 'k', CAST('served' AS BLOB))";
        file.conn.execute_batch(sql).unwrap();
        drop(file);
        let (mut file, loaded) = with_seal(&path);
        file.commit(&[&loaded.stale], None).unwrap();
        // What a machine that lost its power would find.
        let after = tempfile::tempdir().unwrap();
        for name in ["state.db", "state.db-wal"] {
            std::fs::copy(folder.path().join(name), after.path().join(name)).unwrap();
        }
        assert!(is_readable(after.path()));
        let (mut file, loaded) = with_seal(&after.path().join("state.db"));
        assert!(loaded.stale.is_empty());
        file.settle(&loaded.stale).unwrap();
        assert!(!is_readable(after.path()));
    }

    #[test]
    fn sealed_values_are_in_the_file_in_their_own_form_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let (file, _) = StateFile::open(&path, &facts_of(), None).unwrap();
        let sql = "UPDATE meta SET number = 5; INSERT INTO entry VALUES (1, 1, NULL, 'k', CAST('served' AS BLOB))";
        file.conn.execute_batch(sql).unwrap();
        // Values that were long gone when the seal came: in a page of their own, and in one that is still in use.
        let sql =
            "INSERT INTO entry SELECT 2, 2, NULL, 'l', CAST(replace(hex(zeroblob(9000)), '00', 'served') AS BLOB);
            INSERT INTO entry VALUES (3, 3, NULL, 'm', CAST('served' AS BLOB)); DELETE FROM entry WHERE created > 1;";
        file.conn.execute_batch(sql).unwrap();
        drop(file);
        let seal = || Some(Arc::new(Backwards) as Arc<dyn Seal>);
        let (mut file, loaded) = StateFile::open(&path, &facts_of(), seal()).unwrap();
        let served = |loaded: &Loaded| loaded.map.get("k").map(|entry| entry.value().to_vec());
        assert_eq!(served(&loaded).as_deref(), Some(&b"served"[..]));
        assert_eq!(loaded.stale.len(), 1, "from before there was a seal");
        file.settle(&loaded.stale).unwrap();
        assert!(!is_readable(folder.path()));
        drop(file);
        let (file, loaded) = StateFile::open(&path, &facts_of(), seal()).unwrap();
        assert_eq!((served(&loaded).as_deref(), loaded.stale.len()), (Some(&b"served"[..]), 0));
        let view = MemoryView { revision: loaded.revision, map: loaded.map };
        let copy = folder.path().join("copy.db");
        write_copy(&view, &copy, seal()).unwrap();
        drop(file);
        assert_eq!(StateFile::open(&copy, &facts_of(), seal()).unwrap().1.stale.len(), 0);
    }
}
