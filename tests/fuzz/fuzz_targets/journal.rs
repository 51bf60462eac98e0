//! See `tollgate::journal::fuzz::scan`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tollgate::journal::fuzz::scan(input));
