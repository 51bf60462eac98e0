//! Tollgate: a gateway that authenticates, limits, relays, meters and bills calls to LLM services.

#![warn(unreachable_pub)]

pub mod channels;
pub mod cli;
pub mod clock;
pub mod config;
mod control;
pub mod data_dir;
mod descriptors;
mod gateway;
pub mod journal;
mod metrics;
mod model_server;
mod net;
pub mod run;
pub mod store;
pub mod wire;
mod writer;
