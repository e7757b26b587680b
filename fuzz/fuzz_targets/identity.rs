#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailring_fuzz::identity(input));
