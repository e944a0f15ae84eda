//! How values are kept on disk, when that is not as they are served.

/// Turns values into what is kept on disk, and back. Called by the writer for each row that is written, and for each row when
/// the file is opened; memory holds values as they are served.
pub trait Seal: Send + Sync + std::fmt::Debug {
    /// The form for the disk; `None`: as it is.
    ///
    /// # Errors
    /// Why there is none: the row is not written, and the commit fails.
    fn seal(&self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, String>;

    /// The value of what is on disk.
    ///
    /// # Errors
    /// Why it cannot be read: the file is not opened.
    fn open(&self, key: &str, stored: &[u8]) -> Result<Opened, String>;
}

/// A value that was read from disk.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// `None`: it is what was stored.
    pub value: Option<Vec<u8>>,
    /// It would be kept in another form now, and is written again when the file is opened.
    pub stale: bool,
}
