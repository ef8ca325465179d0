//! The body of a call that begins a release, or agrees to one.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| crossfade_server::fuzzing::admin_json(data));
