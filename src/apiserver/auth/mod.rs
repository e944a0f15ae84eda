//! Who is asking, and may they? Authentication and RBAC.
