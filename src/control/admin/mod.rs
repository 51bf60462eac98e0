//! The admin API.
pub(crate) mod body;
pub(crate) mod error;
