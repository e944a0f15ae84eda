//! Texts of single cells.
