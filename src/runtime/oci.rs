//! From [`crate::spec`] to the OCI runtime spec. Pure: facts of the host come in as values.
