//! Requests of texts, as OpenAI's and text-embeddings-inference's clients send them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| crossfade_server::fuzzing::text_json(data));
