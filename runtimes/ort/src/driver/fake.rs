//! A driver without a device: its memory is the host's, its copies are made at once.
//!
//! With it, and a session on the CPU, the whole path of an instance on a GPU runs on a machine without one.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::{Mutex, PoisonError};

use super::functions::{DevicePointer, Functions};
use super::{Driver, DriverError, Lane};

/// Sizes of what was given out and not given back, by address.
static GIVEN: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// What calls of this thread that wait for the device answer, in place of success.
    static FAILURE: Cell<c_int> = const { Cell::new(0) };
}

/// A driver with one device.
pub(crate) fn driver() -> &'static Driver {
    let driver = Driver::new(FUNCTIONS).expect("it has a device");
    Box::leak(Box::new(driver))
}

/// A stream of the fake device.
pub(crate) fn lane() -> std::sync::Arc<Lane> {
    Lane::open(driver(), 0).expect("device 0 is there")
}

/// From here on the device fails on this thread with `status`; 0: it is well again.
pub(crate) fn fail(status: c_int) {
    FAILURE.set(status);
}

/// An error of the driver's with `status`.
pub(super) fn error(status: c_int) -> DriverError {
    DriverError {
        call: "cuInit",
        status,
        name: String::new(),
    }
}

const FUNCTIONS: Functions = Functions {
    init,
    driver_version,
    device_count,
    device,
    error_name,
    context_retain,
    context_release,
    set_current,
    stream_create,
    stream_synchronize,
    stream_destroy: set_current,
    stream_end_capture,
    graph_destroy: set_current,
    alloc,
    free,
    host_alloc,
    host_free,
    upload,
    download,
};

fn take(len: usize) -> usize {
    let layout = Layout::from_size_align(len, 512).expect("a small buffer");
    // SAFETY: the driver's buffers are never of size 0.
    let address = unsafe { alloc_zeroed(layout) }.expose_provenance();
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    given.insert(address, len);
    address
}

fn give_back(address: usize) {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let len = given.remove(&address).expect("what is freed was given out");
    let layout = Layout::from_size_align(len, 512).expect("a small buffer");
    // SAFETY: it came from `take` with this layout, and was given back once.
    unsafe { dealloc(std::ptr::with_exposed_provenance_mut(address), layout) };
}

unsafe extern "C" fn init(_: c_uint) -> c_int {
    0
}

unsafe extern "C" fn driver_version(version: *mut c_int) -> c_int {
    // SAFETY: the caller gives a place for an integer.
    unsafe { *version = 13_000 };
    0
}

unsafe extern "C" fn device_count(count: *mut c_int) -> c_int {
    // SAFETY: the caller gives a place for an integer.
    unsafe { *count = 1 };
    0
}

unsafe extern "C" fn device(device: *mut c_int, index: c_int) -> c_int {
    // SAFETY: the caller gives a place for an integer.
    unsafe { *device = index };
    // CUDA_ERROR_INVALID_DEVICE
    if index == 0 { 0 } else { 101 }
}

unsafe extern "C" fn error_name(_: c_int, name: *mut *const c_char) -> c_int {
    // SAFETY: the caller gives a place for a pointer; the string is never freed.
    unsafe { *name = c"CUDA_ERROR_OF_A_TEST".as_ptr() };
    0
}

unsafe extern "C" fn context_retain(context: *mut *mut c_void, _: c_int) -> c_int {
    // SAFETY: the caller gives a place for a pointer.
    unsafe { *context = std::ptr::null_mut() };
    0
}

unsafe extern "C" fn context_release(_: c_int) -> c_int {
    0
}

unsafe extern "C" fn set_current(_: *mut c_void) -> c_int {
    0
}

unsafe extern "C" fn stream_create(stream: *mut *mut c_void, _: c_uint) -> c_int {
    // SAFETY: the caller gives a place for a pointer.
    unsafe { *stream = std::ptr::null_mut() };
    0
}

unsafe extern "C" fn stream_end_capture(_: *mut c_void, _: *mut *mut c_void) -> c_int {
    // CUDA_ERROR_ILLEGAL_STATE: nothing is recorded here.
    401
}

unsafe extern "C" fn stream_synchronize(_: *mut c_void) -> c_int {
    FAILURE.get()
}

unsafe extern "C" fn alloc(address: *mut DevicePointer, len: usize) -> c_int {
    // SAFETY: the caller gives a place for an address.
    unsafe { *address = take(len) };
    0
}

unsafe extern "C" fn free(address: DevicePointer) -> c_int {
    give_back(address);
    0
}

unsafe extern "C" fn host_alloc(data: *mut *mut c_void, len: usize, _: c_uint) -> c_int {
    // SAFETY: the caller gives a place for a pointer.
    unsafe { *data = std::ptr::with_exposed_provenance_mut(take(len)) };
    0
}

unsafe extern "C" fn host_free(data: *mut c_void) -> c_int {
    give_back(data.expose_provenance());
    0
}

unsafe extern "C" fn upload(to: DevicePointer, from: *const c_void, len: usize, _: *mut c_void) -> c_int {
    let to = std::ptr::with_exposed_provenance_mut::<u8>(to);
    // SAFETY: the caller's buffers hold `len` bytes each and do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), to, len) };
    0
}

unsafe extern "C" fn download(to: *mut c_void, from: DevicePointer, len: usize, _: *mut c_void) -> c_int {
    let from = std::ptr::with_exposed_provenance::<u8>(from);
    // SAFETY: the caller's buffers hold `len` bytes each and do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(from, to.cast::<u8>(), len) };
    0
}
