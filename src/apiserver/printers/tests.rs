//! Goldens of printed rows.
