//! (being written)
pub mod swim;
pub mod v1;
pub mod wire;
