//! The gateway before real PostgreSQL servers, with real clients.

mod clients;
mod recording;
mod sessions;
