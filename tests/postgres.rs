//! The gateway before real PostgreSQL servers, with real clients.

mod sessions;
