//! Tollgate: a gateway that authenticates, limits, relays, meters and bills calls to LLM services.

pub mod channels;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod data_dir;
mod descriptors;
pub mod gateway;
pub mod journal;
pub mod metrics;
pub mod model_server;
pub mod net;
pub mod run;
pub mod store;
pub mod wire;
pub mod writer;
