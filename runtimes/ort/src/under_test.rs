//! The library that unit tests run with.

use std::path::{Path, PathBuf};

use crate::OrtOptions;
use crate::library::Library;

/// `CROSSFADE_ORT_LIBRARY`, which `cargo xtask test` sets, or where `cargo xtask onnxruntime` puts it.
pub(crate) fn library() -> Library {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/onnxruntime/libonnxruntime.so.1");
    let path = std::env::var_os("CROSSFADE_ORT_LIBRARY").map_or(default, PathBuf::from);
    let opened = Library::open(&OrtOptions {
        library: path,
        intra_threads: 2,
        cuda_lib_dirs: Vec::new(),
    });
    opened.expect("cargo xtask onnxruntime puts it there")
}
