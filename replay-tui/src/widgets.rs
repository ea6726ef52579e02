//! What screens are put together from.

pub mod details;
pub mod timeline;
