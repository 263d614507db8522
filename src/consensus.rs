//! Agreement.
#![allow(dead_code)]
pub(crate) mod codec;
pub(crate) mod log;
pub(crate) mod machine;
pub mod replica;
pub(crate) mod types;
