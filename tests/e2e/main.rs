//! End-to-end tests: the binary that ships, seen from outside only. Each test has an instance of
//! its own, but for those that only call: these share one, so that two cores suffice.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod account;
mod admin_document;
mod admin_port;
mod authority_in_redis;
mod command_line;
mod contract_errors;
mod control_stalls;
mod crash;
mod credentials;
mod dead_letters;
mod deletes;
mod disk_faults;
mod disk_full;
mod drain;
mod early_answers;
mod estimates;
mod faults;
mod framing;
mod headers;
mod hostile_flood;
mod hostile_framing;
mod hostile_input;
mod hostile_resets;
mod hostile_slow;
mod idle;
mod journal_damage;
mod keys;
mod kind_of_price;
mod known_keys;
mod leaving;
mod limits;
mod metering;
mod models;
mod openai;
mod parting;
mod passing;
mod prices;
mod rates;
mod refusals;
mod reload;
mod retention;
mod routes;
mod secrets;
mod serve;
mod shared;
mod slow_clients;
mod spellings;
mod stray_answers;
mod stream_ends;
mod streaming;
mod support;
mod timeouts;
mod upstream_ends;
