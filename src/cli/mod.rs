//! Commands.

pub mod journal;
pub mod upstream;
