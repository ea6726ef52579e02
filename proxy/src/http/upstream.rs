//! The target side of egress: which addresses may be reached, and how.
//!
//! Invariant: the address that was checked is the one that is connected; nothing resolves a name twice.

pub mod address;
pub mod dial;
