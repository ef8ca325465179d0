//! The functions of the driver that are called, found by name.

use std::ffi::{c_char, c_int, c_uint, c_void};

use libloading::Library;

/// `CUdeviceptr`: 64 bits, as addresses are on every system that the driver is made for.
pub(super) type DevicePointer = usize;

/// `CUresult`.
type Status = c_int;

macro_rules! functions {
    ($($field:ident = $symbol:literal ($($argument:ty),* $(,)?);)*) => {
        /// Pointers to the functions; tests put others in their place.
        #[derive(Clone, Copy)]
        pub(super) struct Functions {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> Status,)*
        }

        impl Functions {
            /// # Safety
            /// `library` must be NVIDIA's driver.
            unsafe fn find(library: &Library) -> Result<Self, libloading::Error> {
                $(
                    // SAFETY: in NVIDIA's driver the function of this name has this type (cuda.h, the same in CUDA 11 to 13).
                    let $field = unsafe {
                        *library.get::<unsafe extern "C" fn($($argument),*) -> Status>($symbol)?
                    };
                )*
                Ok(Self { $($field,)* })
            }
        }
    };
}

functions! {
    init = "cuInit" (c_uint);
    driver_version = "cuDriverGetVersion" (*mut c_int);
    device_count = "cuDeviceGetCount" (*mut c_int);
    device = "cuDeviceGet" (*mut c_int, c_int);
    error_name = "cuGetErrorName" (Status, *mut *const c_char);
    context_retain = "cuDevicePrimaryCtxRetain" (*mut *mut c_void, c_int);
    context_release = "cuDevicePrimaryCtxRelease_v2" (c_int);
    set_current = "cuCtxSetCurrent" (*mut c_void);
    stream_create = "cuStreamCreate" (*mut *mut c_void, c_uint);
    stream_synchronize = "cuStreamSynchronize" (*mut c_void);
    stream_destroy = "cuStreamDestroy_v2" (*mut c_void);
    stream_end_capture = "cuStreamEndCapture" (*mut c_void, *mut *mut c_void);
    graph_destroy = "cuGraphDestroy" (*mut c_void);
    alloc = "cuMemAlloc_v2" (*mut DevicePointer, usize);
    free = "cuMemFree_v2" (DevicePointer);
    host_alloc = "cuMemHostAlloc" (*mut *mut c_void, usize, c_uint);
    host_free = "cuMemFreeHost" (*mut c_void);
    upload = "cuMemcpyHtoDAsync_v2" (DevicePointer, *const c_void, usize, *mut c_void);
    download = "cuMemcpyDtoHAsync_v2" (*mut c_void, DevicePointer, usize, *mut c_void);
}

impl Functions {
    /// Opens the driver and finds its functions; it stays open until the process ends.
    ///
    /// Errors: what is missing, and what to do.
    pub(super) fn open(name: &str) -> Result<Self, String> {
        // SAFETY: NVIDIA's driver is made to be opened by programs at run time; a file of its name that is something else
        // is the operator's doing.
        let library = unsafe { Library::new(name) }.map_err(|error| {
            format!(
                "NVIDIA's driver cannot be opened ({name}: {error}); install the driver, or give the container access to the GPU \
                 (docker run --gpus all)"
            )
        })?;
        // SAFETY: it is the library that has the driver's name.
        let functions = unsafe { Self::find(&library) }.map_err(|error| {
            format!("NVIDIA's driver is too old or no driver ({name}: {error}); install a newer one")
        })?;
        // What was found in it must not go away.
        std::mem::forget(library);
        Ok(functions)
    }
}
