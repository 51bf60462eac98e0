//! The data plane.

pub mod net;
