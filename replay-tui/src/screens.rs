//! The screens: one file each, drawing from the state and nothing else.

pub mod findings;
pub mod footer;
pub mod overlays;
pub mod session;
pub mod sessions;
