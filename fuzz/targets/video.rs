//! Feeds the law of the same name with what libFuzzer thinks of.
#![no_main]

#[path = "../laws/mod.rs"]
#[allow(dead_code, unused_imports)]
mod laws;
#[path = "../../tests/it/tiny.rs"]
#[allow(dead_code)]
mod tiny;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| laws::video(bytes));
