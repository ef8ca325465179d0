//! A Parquet file of labelled rows.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| crossfade_server::fuzzing::parquet(&Bytes::copy_from_slice(data)));
