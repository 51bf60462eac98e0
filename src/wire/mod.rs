//! Bytes ↔ values: HTTP/1.1 heads and chunks, JSON, SSE, usage, error bodies, the text of keys.
//!
//! Everything here is a pure function over the caller's buffer, and meets whatever a stranger
//! sends: it must never panic, loop, or take more than linear time. It knows no socket, no clock
//! and nothing of what is built on it.

pub mod answer_form;
pub mod call;
pub mod chunked;
pub mod error;
pub mod fuzz;
mod head;
mod image;
pub mod json;
mod json_string;
pub mod key_text;
pub mod pass;
pub mod percent;
pub mod prompt;
pub mod request;
pub mod response;
pub mod span;
pub mod sse;
#[cfg(test)]
mod tests;
mod text;
pub mod time_text;
pub mod usage;
pub mod write;
