//! See `tollgate::wire::fuzz::sse`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tollgate::wire::fuzz::sse(input));
