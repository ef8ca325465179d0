//! The library that tests run with, and files that are none.

use std::path::{Path, PathBuf};

use crossfade_runtimes_core::{Runtime as _, RuntimeError};
use crossfade_runtimes_ort::{OrtOptions, OrtRuntime};

/// The runtime under test.
pub(crate) fn open() -> OrtRuntime {
    try_open(&path()).expect("the library opens")
}

/// `CROSSFADE_ORT_LIBRARY`, which `cargo xtask test` sets, or where `cargo xtask onnxruntime` puts it.
fn path() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/onnxruntime/libonnxruntime.so.1");
    let path = std::env::var_os("CROSSFADE_ORT_LIBRARY").map_or(default, PathBuf::from);
    assert!(
        path.is_file(),
        "no ONNX Runtime at {}; run `cargo xtask onnxruntime` first, or `cargo xtask test`",
        path.display()
    );
    path
}

fn try_open(library: &Path) -> Result<OrtRuntime, RuntimeError> {
    OrtRuntime::open(&OrtOptions {
        library: library.to_path_buf(),
        intra_threads: 2,
        cuda_lib_dirs: Vec::new(),
    })
}

#[track_caller]
fn check_unavailable(library: &Path, told: &str) {
    match try_open(library) {
        Err(RuntimeError::Unavailable { runtime, reason }) => {
            assert_eq!(runtime, "ort");
            assert!(reason.contains(told), "{reason}");
            assert!(reason.contains(&*library.to_string_lossy()), "{reason}");
        }
        Err(other) => panic!("not unavailable: {other:?}"),
        Ok(_) => panic!("{} opened", library.display()),
    }
}

#[test]
fn the_library_tells_its_version_and_opens_twice() {
    let first = open();
    let version = first.version();
    assert!(version.starts_with("1."), "{version}");
    let second = open();
    assert_eq!(second.library(), first.library());
    assert_eq!(second.version(), version);
}

#[test]
fn files_that_are_no_library_make_the_runtime_unavailable_and_the_right_one_still_opens() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let whole = std::fs::read(path()).unwrap();

    check_unavailable(&folder.path().join("missing.so"), "cannot open");
    check_unavailable(
        &write("text.so", b"version https://example.invalid/spec/v1\n"),
        "cannot open",
    );
    check_unavailable(&write("empty.so", b""), "cannot open");
    check_unavailable(&write("cut.so", &whole[..whole.len() / 2]), "cut off");
    check_unavailable(&write("head.so", &whole[..4096]), "cut off");
    check_unavailable(folder.path(), "cannot open");

    let mut other = try_open(&path()).unwrap().version();
    other.truncate(2);
    assert_eq!(other, "1.");
    // One per process.
    check_unavailable_second(&write("copy.so", &whole));
}

#[track_caller]
fn check_unavailable_second(library: &Path) {
    let error = try_open(library).err().expect("a second library is refused");
    assert!(error.to_string().contains("one ONNX Runtime only"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_library_without_the_api_is_named_as_such() {
    // The C library is a library like any other, and always there.
    let Err(RuntimeError::Unavailable { reason, .. }) = try_open(Path::new("libc.so.6")) else {
        panic!("the C library is no ONNX Runtime");
    };
    assert!(reason.contains("OrtGetApiBase"), "{reason}");
}
