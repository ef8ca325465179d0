//! The framed messages of a gRPC stream.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| crossfade_server::fuzzing::grpc_frames(&Bytes::copy_from_slice(data)));
