//! A key, a public key or a signature.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| crossfade_server::fuzzing::keys(data));
