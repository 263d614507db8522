//! wip
pub mod admission;
pub mod facts;
pub mod key;
pub(crate) mod streams;
