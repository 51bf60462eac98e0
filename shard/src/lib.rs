//! The pure state of one core of Tollgate, and of the authority that cores lease from.
//!
//! Time comes in as an argument; there is no clock, socket, thread, lock or randomness here, so
//! that every history can be replayed from a seed.

pub mod authority;
pub mod bucket;
pub mod catalog;
pub mod lease;
pub mod limits;
pub mod message;
pub mod pool;
pub mod quota;
pub mod record;
pub mod units;

#[cfg(test)]
mod simulation;
