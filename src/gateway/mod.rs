//! The data plane: pinned executors, one per shard, that share nothing.
//!
//! Start reading at `path.rs`. It must never block, lock, or wait for another thread on the warm
//! path; and it never names `control` or `writer`.

mod admitted;
mod answer;
mod call;
mod connection;
mod core;
mod deadline;
mod downstream;
mod fault_log;
mod handshakes;
mod idle_memory;
mod local;
mod mailbox;
mod meter;
mod models;
mod park;
mod path;
mod presence;
mod registry;
mod relay;
mod resolve;
mod route;
mod run;
mod segments;
mod service_handles;
mod sync_state;
#[cfg(test)]
mod tests;
mod tickets;
mod timers;
mod upstream;
mod wanted;

pub(crate) use self::core::{Parts, ProcessState, permit_deadline};
pub(crate) use run::{REFUSING_MAX, ShardArgs, spawn};
