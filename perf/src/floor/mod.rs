//! Floors: the least that a program can do for a call on this kernel, measured in the same run.
//! They understand nothing but where a message ends.

pub mod answer;
pub mod framing;
pub mod monoio_relay;
pub mod relay;
pub mod ring;

pub use answer::BODY;

/// Room for one message, where no other is asked for.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1_024;
