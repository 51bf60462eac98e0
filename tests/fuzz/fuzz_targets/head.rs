//! See `tollgate::wire::fuzz::head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tollgate::wire::fuzz::head(input));
