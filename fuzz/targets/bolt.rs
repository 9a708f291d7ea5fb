#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| orlop_fuzz::bolt(input));
