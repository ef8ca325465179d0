//! NVIDIA's driver, opened at run time: how many devices there are, and one instance's stream and memory on one of them.
//!
//! The only file that calls it. Nothing here computes: kernels are ONNX Runtime's.

#![expect(
    unsafe_code,
    reason = "the driver is a C library; each block proves the types of its functions, lifetimes and aliasing"
)]

mod functions;

use std::ffi::{CStr, c_int, c_void};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use functions::{DevicePointer, Functions};

/// The library that the driver's installation puts into the system's library path, and containers get from the host.
const LIBRARY: &str = "libcuda.so.1";

/// `CU_STREAM_NON_BLOCKING`: does not wait for the stream that all of a process share.
const NON_BLOCKING: u32 = 1;
/// `CU_MEMHOSTALLOC_PORTABLE`: page-locked for every context of the process.
const PORTABLE: u32 = 1;

/// Buffers are this or a multiple: the driver gives out no less.
const GRAIN: usize = 512;

/// The driver, once it was found to work.
pub(crate) struct Driver {
    functions: Functions,
    version: c_int,
    devices: u32,
}

static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();

impl Driver {
    /// Opens the driver, once in a process.
    ///
    /// Errors: what is missing, and what to do.
    pub(crate) fn open() -> Result<&'static Self, String> {
        let driver = DRIVER.get_or_init(|| Functions::open(LIBRARY).and_then(Self::new));
        driver.as_ref().map_err(Clone::clone)
    }

    fn new(functions: Functions) -> Result<Self, String> {
        let mut driver = Self {
            functions,
            version: 0,
            devices: 0,
        };
        driver.count().map_err(|error| {
            format!(
                "NVIDIA's driver does not start ({error}); see whether `nvidia-smi` lists the GPU, and whether the container may use it"
            )
        })?;
        match driver.devices {
            0 => Err("NVIDIA's driver shows no GPU; look at CUDA_VISIBLE_DEVICES".to_owned()),
            _ => Ok(driver),
        }
    }

    fn count(&mut self) -> Result<(), DriverError> {
        let (mut version, mut devices) = (0, 0);
        // SAFETY: both functions write one integer, to a place of ours; `cuInit` is the first call of all.
        unsafe {
            self.check("cuInit", (self.functions.init)(0))?;
            self.check(
                "cuDriverGetVersion",
                (self.functions.driver_version)(&mut version),
            )?;
            self.check("cuDeviceGetCount", (self.functions.device_count)(&mut devices))?;
        }
        self.version = version;
        self.devices = u32::try_from(devices).unwrap_or(0);
        Ok(())
    }

    /// How many devices the process may use.
    pub(crate) fn devices(&self) -> u32 {
        self.devices
    }

    /// The newest CUDA that the driver runs, such as `13.0`.
    pub(crate) fn cuda_version(&self) -> String {
        format!("{}.{}", self.version / 1000, self.version % 1000 / 10)
    }

    fn check(&self, call: &'static str, status: c_int) -> Result<(), DriverError> {
        if status == 0 {
            return Ok(());
        }
        let mut name = ptr::null();
        // SAFETY: writes a pointer to a string that is never freed, or none for a number it does not know.
        let name = unsafe {
            let named = (self.functions.error_name)(status, &mut name) == 0 && !name.is_null();
            named.then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        };
        Err(DriverError {
            call,
            status,
            name: name.unwrap_or_else(|| "unknown error".to_owned()),
        })
    }
}

/// A call of the driver that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DriverError {
    call: &'static str,
    status: c_int,
    name: String,
}

impl DriverError {
    /// Whether nothing can run on the device any more, at least in this process.
    ///
    /// Source: the errors of `CUresult` after which "the process must be terminated and relaunched", and those of a device
    /// that is gone.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(
            self.status,
            46 | 201 | 214 | 219 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 999
        )
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, status, name } = self;
        write!(f, "{call}: {name} ({status})")
    }
}

/// What the driver gives for an object of its own.
#[derive(Clone, Copy)]
struct Handle(*mut c_void);

// SAFETY: a handle is never dereferenced here, and the driver takes it on any thread.
unsafe impl Send for Handle {}
// SAFETY: as above; the driver locks its objects itself.
unsafe impl Sync for Handle {}

/// The context that all of a process share on a device, held as long as this.
struct Context {
    driver: &'static Driver,
    device: c_int,
    handle: Handle,
}

impl Context {
    fn open(driver: &'static Driver, index: u32) -> Result<Self, DriverError> {
        // A number that is none of a device's is refused by the driver.
        let index = c_int::try_from(index).unwrap_or(c_int::MAX);
        let (mut device, mut handle) = (0, ptr::null_mut());
        // SAFETY: both functions write one value, to a place of ours.
        unsafe {
            driver.check("cuDeviceGet", (driver.functions.device)(&mut device, index))?;
            driver.check(
                "cuDevicePrimaryCtxRetain",
                (driver.functions.context_retain)(&mut handle, device),
            )?;
        }
        Ok(Self {
            driver,
            device,
            handle: Handle(handle),
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was retained once when this was made, and is released once.
        let _released = unsafe { (self.driver.functions.context_release)(self.device) };
    }
}

/// One instance's way to a device: a stream of its own, and the memory it takes.
pub(crate) struct Lane {
    stream: Handle,
    held: AtomicU64,
    /// Last, so that it outlives the stream.
    context: Context,
}

impl Lane {
    /// A stream on device `index`.
    pub(crate) fn open(driver: &'static Driver, index: u32) -> Result<Arc<Self>, DriverError> {
        let context = Context::open(driver, index)?;
        enter(&context)?;
        let mut stream = ptr::null_mut();
        // SAFETY: writes one handle, to a place of ours; the device's context is that of this thread.
        driver.check("cuStreamCreate", unsafe {
            (driver.functions.stream_create)(&mut stream, NON_BLOCKING)
        })?;
        Ok(Arc::new(Self {
            stream: Handle(stream),
            held: AtomicU64::new(0),
            context,
        }))
    }

    /// Has what this thread calls go to the device; to be called before anything else on a thread.
    pub(crate) fn enter(&self) -> Result<(), DriverError> {
        enter(&self.context)
    }

    /// The stream, as the CUDA execution provider takes it: the number of its address.
    pub(crate) fn stream(&self) -> usize {
        self.stream.0.expose_provenance()
    }

    /// Ends a recording of the stream that was begun and not ended, and throws it away.
    pub(crate) fn end_recording(&self) {
        let functions = &self.context.driver.functions;
        let mut graph = ptr::null_mut();
        // SAFETY: the stream lives as long as this; the call writes one handle, to a place of ours, or none. A graph that was made is
        // ours and ended once.
        unsafe {
            // Of a stream that is not recorded it says so, and of a broken recording that it is broken.
            let _ended = (functions.stream_end_capture)(self.stream.0, &mut graph);
            if !graph.is_null() {
                let _destroyed = (functions.graph_destroy)(graph);
            }
        }
    }

    /// Bytes on the device that buffers of this lane hold.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// Waits until all that was sent on the stream has happened.
    pub(crate) fn synchronize(&self) -> Result<(), DriverError> {
        self.enter()?;
        let driver = self.context.driver;
        // SAFETY: the stream lives as long as this.
        driver.check("cuStreamSynchronize", unsafe {
            (driver.functions.stream_synchronize)(self.stream.0)
        })
    }

    /// Sends the first `len` bytes of `from` to the start of `to`, some time before the next
    /// [`synchronize`](Self::synchronize) returns.
    ///
    /// # Safety
    /// Until then neither buffer may be written, and neither dropped. Both hold `len` bytes or more.
    pub(crate) unsafe fn upload(
        &self,
        from: &HostBuffer,
        to: &DeviceBuffer,
        len: usize,
    ) -> Result<(), DriverError> {
        if len == 0 {
            return Ok(());
        }
        debug_assert!(len <= from.capacity && len <= to.capacity);
        let driver = self.context.driver;
        // SAFETY: both buffers are of this device's context and hold `len` bytes; the caller keeps them as they are.
        driver.check("cuMemcpyHtoDAsync", unsafe {
            (driver.functions.upload)(
                to.address,
                from.data.as_ptr().cast_const().cast(),
                len,
                self.stream.0,
            )
        })
    }

    /// Sends the first `len` bytes of `from` to the start of `to`, likewise.
    ///
    /// # Safety
    /// As for [`upload`](Self::upload); `to` may not be read before, either.
    pub(crate) unsafe fn download(
        &self,
        from: &DeviceBuffer,
        to: &mut HostBuffer,
        len: usize,
    ) -> Result<(), DriverError> {
        if len == 0 {
            return Ok(());
        }
        debug_assert!(len <= from.capacity && len <= to.capacity);
        let driver = self.context.driver;
        // SAFETY: both buffers are of this device's context and hold `len` bytes; the caller keeps them as they are.
        driver.check("cuMemcpyDtoHAsync", unsafe {
            (driver.functions.download)(to.data.as_ptr().cast(), from.address, len, self.stream.0)
        })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let functions = &self.context.driver.functions;
        if enter(&self.context).is_ok() {
            // SAFETY: nobody has the stream any more; what is still on it is finished by the driver.
            let _destroyed = unsafe { (functions.stream_destroy)(self.stream.0) };
        }
    }
}

fn enter(context: &Context) -> Result<(), DriverError> {
    let driver = context.driver;
    // SAFETY: the context is retained as long as this borrow lasts, and longer.
    driver.check("cuCtxSetCurrent", unsafe {
        (driver.functions.set_current)(context.handle.0)
    })
}

/// Page-locked memory of the host, which the device reads and writes without the processor's help.
pub(crate) struct HostBuffer {
    lane: Arc<Lane>,
    data: NonNull<u8>,
    capacity: usize,
}

// SAFETY: the memory is owned by this alone, like a `Box`.
unsafe impl Send for HostBuffer {}

impl HostBuffer {
    /// Room for `len` bytes, zeroed.
    pub(crate) fn new(lane: &Arc<Lane>, len: usize) -> Result<Self, DriverError> {
        lane.enter()?;
        let capacity = rounded(len);
        let driver = lane.context.driver;
        let mut data = ptr::null_mut();
        // SAFETY: writes one pointer, to a place of ours.
        driver.check("cuMemHostAlloc", unsafe {
            (driver.functions.host_alloc)(&mut data, capacity, PORTABLE)
        })?;
        let data = NonNull::new(data.cast::<u8>()).ok_or_else(|| nothing("cuMemHostAlloc"))?;
        // SAFETY: `capacity` bytes were just given to us, and nobody else has them.
        unsafe { data.as_ptr().write_bytes(0, capacity) };
        Ok(Self {
            lane: lane.clone(),
            data,
            capacity,
        })
    }

    /// Bytes of room.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `capacity` initialised bytes of ours; who lets the device write them promises not to read meanwhile.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.capacity) }
    }

    /// The bytes, writable.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.capacity) }
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        if self.lane.enter().is_ok() {
            // SAFETY: it came from `cuMemHostAlloc` and is freed once.
            let _freed = unsafe { (self.lane.context.driver.functions.host_free)(self.data.as_ptr().cast()) };
        }
    }
}

/// Memory of the device.
pub(crate) struct DeviceBuffer {
    lane: Arc<Lane>,
    address: DevicePointer,
    capacity: usize,
}

impl DeviceBuffer {
    /// Room for `len` bytes, with whatever was there.
    pub(crate) fn new(lane: &Arc<Lane>, len: usize) -> Result<Self, DriverError> {
        lane.enter()?;
        let capacity = rounded(len);
        let driver = lane.context.driver;
        let mut address = 0;
        // SAFETY: writes one address, to a place of ours.
        driver.check("cuMemAlloc", unsafe {
            (driver.functions.alloc)(&mut address, capacity)
        })?;
        lane.held.fetch_add(capacity as u64, Relaxed);
        Ok(Self {
            lane: lane.clone(),
            address,
            capacity,
        })
    }

    /// Bytes of room.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Where it lies, for the execution provider; nothing of the host may read or write there.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        ptr::with_exposed_provenance_mut(self.address)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.lane.held.fetch_sub(self.capacity as u64, Relaxed);
        if self.lane.enter().is_ok() {
            // SAFETY: it came from `cuMemAlloc` and is freed once.
            let _freed = unsafe { (self.lane.context.driver.functions.free)(self.address) };
        }
    }
}

fn rounded(len: usize) -> usize {
    len.max(1).next_multiple_of(GRAIN)
}

fn nothing(call: &'static str) -> DriverError {
    DriverError {
        call,
        status: 0,
        name: "no memory was given".to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod fake;

#[cfg(test)]
mod tests;
