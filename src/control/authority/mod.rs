//! The authority in Redis.

mod script;

#[cfg(test)]
mod differential_tests;
#[cfg(test)]
#[path = "../../../tests/e2e/support/redis_server.rs"]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod redis_server;
