//! Floors: the least that a program can do for a call on this kernel, measured in the same run.
//! They understand nothing but where a message ends.

pub mod answer;
mod framing;
pub mod monoio_relay;
pub mod relay;
mod ring;

pub use answer::BODY;

/// Room for one message; none here is longer.
const MESSAGE_BYTES_MAX: usize = 8 * 1_024;
