//! The default system call filter, as a table.
