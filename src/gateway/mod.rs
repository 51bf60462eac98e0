//! The data plane: pinned executors, one per shard, that share nothing.
//!
//! Start reading at `path.rs`. It must never block, lock, or wait for another thread on the warm
//! path; and it never names `control` or `writer`.

mod admitted;
mod answer;
mod call;
mod connection;
pub mod core;
mod downstream;
mod fault_log;
mod local;
mod meter;
mod models;
mod park;
mod path;
mod relay;
mod resolve;
mod route;
mod run;
mod segments;
#[cfg(test)]
mod tests;
mod timers;
mod upstream;
mod wanted;
mod watch;

pub use run::{REFUSING_MAX, ShardArgs, spawn};
