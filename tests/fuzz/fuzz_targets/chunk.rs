//! See `tollgate::wire::fuzz::chunk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tollgate::wire::fuzz::chunk(input));
