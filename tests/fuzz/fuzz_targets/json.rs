//! See `tollgate::wire::fuzz::json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tollgate::wire::fuzz::json(input));
