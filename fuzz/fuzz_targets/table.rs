#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paceline_model::fuzz::table(bytes));
