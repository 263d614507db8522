//! Agreement.
#![allow(dead_code)]
pub(crate) mod codec;
pub(crate) mod link;
pub(crate) mod log;
pub(crate) mod machine;
pub(crate) mod network;
pub mod replica;
pub(crate) mod server;
pub(crate) mod transfer;
pub(crate) mod types;
