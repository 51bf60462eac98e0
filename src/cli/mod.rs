//! To be written.

pub mod upstream;
