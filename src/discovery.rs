//! (being written)
pub mod interfaces;
pub mod socket;
pub mod swim;
pub mod tap;
mod targets;
pub mod v1;
pub mod wire;
