//! See `tollgate::wire::fuzz::usage`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tollgate::wire::fuzz::usage(input));
