//! JSON request bodies.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| crossfade_server::fuzzing::http_json(&Bytes::copy_from_slice(data)));
