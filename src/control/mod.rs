//! The thread `control`.
pub(crate) mod admin;
pub(crate) mod price_json;
pub(crate) mod store;
pub(crate) mod time_text;
pub(crate) mod tokenizer;
pub(crate) mod upstream_url;
