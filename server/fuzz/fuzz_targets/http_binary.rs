//! Bodies with the binary extension; the first two bytes are the length of the JSON part.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| crossfade_server::fuzzing::http_binary(&Bytes::copy_from_slice(data)));
