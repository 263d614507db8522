//! (being written)
pub mod facts;
pub mod inventory;
pub mod packages;
