//! HTTP egress.
pub mod codec;
pub mod hosts;
pub mod inspect;
pub mod upstream;
