//! The thread `control`.
pub(crate) mod admin;
pub(crate) mod book;
pub(crate) mod failures;
pub(crate) mod leases;
pub(crate) mod months;
pub(crate) mod post;
pub(crate) mod price_json;
pub(crate) mod secret;
pub(crate) mod store;
pub(crate) mod time_text;
pub(crate) mod tokenizer;
pub(crate) mod upstream_url;
pub(crate) mod verifier;
