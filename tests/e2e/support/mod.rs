//! What the tests stand on: the binary as a process, a client that hides nothing, the admin API,
//! the ledger and the metrics, all from outside.

pub mod acted;
pub mod admin;
pub mod bystander;
pub mod disk;
pub mod fleet;
pub mod forged;
pub mod held;
pub mod http;
pub mod instance;
pub mod ledger;
pub mod load;
pub mod metrics;
pub mod own_postgres;
pub mod poll;
pub mod postgres;
pub mod process;
pub mod reckoning;
pub mod recorder;
pub mod redis_server;
pub mod resolver;
pub mod road;
pub mod scripted;
pub mod shared_redis;
pub mod target;
pub mod tls_front;
