//! The thread `control`: answers the shards' questions (tokens, keys, months, counts), keeps the
//! catalog, serves the admin API and the metrics page. One thread with a current-thread runtime;
//! SQLite, Argon2, name lookups and tokenizing run on other threads, so that no shard waits for
//! them behind another's tokens.
//!
//! It knows nothing of the gateway and of the writer: they meet in `channels` and in the store.

mod account;
mod admin;
mod admin_state;
mod admin_token;
mod authority;
mod catalog;
mod credentials;
mod directory;
mod failures;
mod follow;
mod leases;
mod ledger_reads;
mod names;
mod open_error;
mod replica;
mod run;
mod secret;
mod shard_senders;
mod snapshots;
mod start;
mod tokenizer;
mod upstream_url;
mod vault;
mod verifier;

pub(crate) use admin_token::load as admin_token;
pub(crate) use credentials::{Rotated, rotate as rotate_credentials};
pub(crate) use open_error::OpenError;
pub(crate) use start::{ControlArgs, ControlHandle, Opened, open, open_from_snapshot, spawn};
