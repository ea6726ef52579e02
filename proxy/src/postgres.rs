//! The PostgreSQL wire: from a client's first byte to the target and back.

pub mod inspect;
