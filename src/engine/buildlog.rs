//! What the output of a build says: its lines, the phases it went through, the first error.
//!
//! ```text
//!   bytes ─► Lines ─► pieces ─┬─► PhaseScan ─► where each phase begins
//!                             └─► ErrorScan ─► the line that tells best why it failed
//! ```
//!
//! Everything is a stream with bounded memory: a line of a gigabyte is handed out in pieces. What a program prints is its own claim;
//! nothing decided here depends on it, it is only shown. Never done here: reading files, colours.

mod errors;
mod lines;
mod phases;

pub use self::errors::{ErrorKind, ErrorScan, FirstError};
pub use self::lines::{Lines, Piece};
pub use self::phases::{PhaseScan, PhaseStart};
