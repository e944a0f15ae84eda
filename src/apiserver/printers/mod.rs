//! Server-side tables.
