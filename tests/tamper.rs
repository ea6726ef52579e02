//! What the verifier says when somebody has written to the lake.
//!
//! A real pen records sessions into a real spool; from there the records are laid down as a lake by the lake
//! crate's own writer, so that every altered lake is made of valid Parquet files and well-formed commits. Two
//! attackers: L edits and recomputes nothing; R rewrites storage at will, recomputes every hash, digest and
//! commit, and signs commits with a key of its own, but has no key of the producer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod command;
mod content;
mod disk;
mod events;
mod files;
mod fixture;
mod flips;
mod foreign;
mod given_up;
mod lawful;
mod ledger;
mod recorded;
mod rewritten;
