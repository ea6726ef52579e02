//! The gateway before real PostgreSQL servers, with real clients.

mod clients;
mod endings;
mod large;
mod recording;
mod sessions;
