//! Who asks, and may they: authentication (client certificates, ServiceAccount tokens, impersonation) and authorization
//! (RBAC, the node authorizer). What never lives here: a change of an object.

pub mod identity;
