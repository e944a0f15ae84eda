//! Connections, routing and content negotiation.
