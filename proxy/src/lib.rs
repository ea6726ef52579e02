//! The gateway: who connects, what they ask for, what of it is recorded, and how it reaches the target.

pub mod identity;
pub mod postgres;
pub mod state;
