#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::change::target(None, data));
