//! NVML, the library of NVIDIA's driver that `nvidia-smi` shows: opened at run time, where it is.

#![expect(
    unsafe_code,
    reason = "a C library is called; each block proves the types of its functions and the lifetime of what they write to"
)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::ptr;

use libloading::Library;

use super::GpuSample;

/// Part of the driver's installation, as `libcuda.so.1` is.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// `NVML_DEVICE_UUID_V2_BUFFER_SIZE`.
const UUID_BYTES: usize = 96;

/// `nvmlReturn_t`; 0 is success.
type Status = c_int;

/// `nvmlUtilization_t`, in percent.
#[derive(Default)]
#[repr(C)]
struct Utilization {
    gpu: c_uint,
    _memory: c_uint,
}

/// `nvmlMemory_t`, in bytes.
#[derive(Default)]
#[repr(C)]
struct Memory {
    total: c_ulonglong,
    _free: c_ulonglong,
    used: c_ulonglong,
}

macro_rules! functions {
    ($($field:ident = $symbol:literal ($($argument:ty),* $(,)?);)*) => {
        /// Pointers to the functions; tests put others in their place.
        #[derive(Clone, Copy)]
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) -> Status,)*
        }

        impl Functions {
            /// # Safety
            /// `library` must be NVML.
            unsafe fn find(library: &Library) -> Result<Self, libloading::Error> {
                $(
                    // SAFETY: in NVML the function of this name has this type (nvml.h; what ends in _v2 has not changed since).
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
    init = "nvmlInit_v2" ();
    shutdown = "nvmlShutdown" ();
    count = "nvmlDeviceGetCount_v2" (*mut c_uint);
    device = "nvmlDeviceGetHandleByIndex_v2" (c_uint, *mut *mut c_void);
    uuid = "nvmlDeviceGetUUID" (*mut c_void, *mut c_char, c_uint);
    utilization = "nvmlDeviceGetUtilizationRates" (*mut c_void, *mut Utilization);
    memory = "nvmlDeviceGetMemoryInfo" (*mut c_void, *mut Memory);
    power = "nvmlDeviceGetPowerUsage" (*mut c_void, *mut c_uint);
    power_limit = "nvmlDeviceGetEnforcedPowerLimit" (*mut c_void, *mut c_uint);
    energy = "nvmlDeviceGetTotalEnergyConsumption" (*mut c_void, *mut c_ulonglong);
}

/// NVML, started, and the GPUs that it shows.
pub(super) struct Nvml {
    functions: Functions,
    gpus: Vec<Gpu>,
}

struct Gpu {
    handle: Handle,
    uuid: String,
    /// Millijoules when the server began to look.
    energy_before: Option<u64>,
}

/// What NVML gives for a GPU; it is the same until NVML is shut down.
#[derive(Clone, Copy)]
struct Handle(*mut c_void);

// SAFETY: a handle is never dereferenced here, and NVML takes it on any thread.
unsafe impl Send for Handle {}

impl Nvml {
    /// Opens and starts NVML.
    ///
    /// Errors: there is none, it does not start, or it shows no GPU.
    pub(super) fn open() -> Result<Self, String> {
        // SAFETY: NVML is made to be opened by programs at run time; a file of its name that is something else is the
        // operator's doing.
        let library = unsafe { Library::new(LIBRARY) }.map_err(|error| format!("{LIBRARY}: {error}"))?;
        // SAFETY: it is the library that has NVML's name.
        let functions =
            unsafe { Functions::find(&library) }.map_err(|error| format!("{LIBRARY}: {error}"))?;
        // What was found in it must not go away.
        std::mem::forget(library);
        Self::new(functions)
    }

    fn new(functions: Functions) -> Result<Self, String> {
        // SAFETY: NVML counts how often it is started; `drop` shuts it down as often.
        let status = unsafe { (functions.init)() };
        if status != 0 {
            return Err(format!("{LIBRARY} does not start: error {status}"));
        }
        let mut nvml = Self {
            functions,
            gpus: Vec::new(),
        };
        let mut count = 0;
        // SAFETY: writes one number, to a place of ours.
        if unsafe { (functions.count)(&mut count) } == 0 {
            nvml.gpus = (0..count).filter_map(|index| nvml.gpu(index)).collect();
        }
        match nvml.gpus.is_empty() {
            true => Err(format!("{LIBRARY} shows no GPU")),
            false => Ok(nvml),
        }
    }

    fn gpu(&self, index: c_uint) -> Option<Gpu> {
        let mut handle = ptr::null_mut();
        let mut uuid: [c_char; UUID_BYTES] = [0; UUID_BYTES];
        let room = c_uint::try_from(UUID_BYTES).ok()?;
        // SAFETY: writes one handle, and a text with its end into `room` bytes, to places of ours.
        let uuid = unsafe {
            let found = (self.functions.device)(index, &mut handle) == 0
                && (self.functions.uuid)(handle, uuid.as_mut_ptr(), room) == 0;
            found.then(|| CStr::from_ptr(uuid.as_ptr()).to_string_lossy().into_owned())?
        };
        let handle = Handle(handle);
        Some(Gpu {
            handle,
            uuid,
            energy_before: self.ask(self.functions.energy, handle),
        })
    }

    /// What all GPUs do now. Asks the driver, which may take long.
    pub(super) fn samples(&self) -> Vec<GpuSample> {
        self.gpus.iter().map(|gpu| self.sample(gpu)).collect()
    }

    fn sample(&self, gpu: &Gpu) -> GpuSample {
        let functions = &self.functions;
        let watts = |milliwatts: c_uint| f64::from(milliwatts) / 1e3;
        let utilization = self.ask::<Utilization>(functions.utilization, gpu.handle);
        let memory = self.ask::<Memory>(functions.memory, gpu.handle);
        let energy = self.ask::<u64>(functions.energy, gpu.handle);
        let taken = energy.zip(gpu.energy_before);
        GpuSample {
            uuid: gpu.uuid.clone(),
            utilization: utilization.map(|share| f64::from(share.gpu) / 100.0),
            memory: memory.map(|memory| (memory.total, memory.used)),
            power_watts: self.ask(functions.power, gpu.handle).map(watts),
            power_limit_watts: self.ask(functions.power_limit, gpu.handle).map(watts),
            energy_joules: taken.map(|(now, before)| now.saturating_sub(before) as f64 / 1e3),
        }
    }

    /// One value of a GPU; `None` where it does not tell it.
    fn ask<T: Default>(
        &self,
        function: unsafe extern "C" fn(*mut c_void, *mut T) -> Status,
        gpu: Handle,
    ) -> Option<T> {
        let mut value = T::default();
        // SAFETY: NVML is started, the handle is one of its own, and it writes one `T`, to a place of ours.
        let status = unsafe { function(gpu.0, &mut value) };
        (status == 0).then_some(value)
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: it was started once for this, and no handle is used any more.
        let _status = unsafe { (self.functions.shutdown)() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn done() -> Status {
        0
    }

    unsafe extern "C" fn broken() -> Status {
        999
    }

    unsafe extern "C" fn two(count: *mut c_uint) -> Status {
        // SAFETY: the caller gives a place for a number.
        unsafe { *count = 2 };
        0
    }

    unsafe extern "C" fn none(count: *mut c_uint) -> Status {
        // SAFETY: the caller gives a place for a number.
        unsafe { *count = 0 };
        0
    }

    /// Only the first of two GPUs is there.
    unsafe extern "C" fn device(index: c_uint, handle: *mut *mut c_void) -> Status {
        // SAFETY: the caller gives a place for a pointer.
        unsafe { *handle = ptr::without_provenance_mut(8) };
        if index == 0 { 0 } else { 15 }
    }

    unsafe extern "C" fn uuid(_: *mut c_void, text: *mut c_char, room: c_uint) -> Status {
        let name = c"GPU-1";
        assert!(room as usize > name.count_bytes());
        // SAFETY: the caller gives room for the text and its end.
        unsafe { ptr::copy_nonoverlapping(name.as_ptr(), text, name.count_bytes() + 1) };
        0
    }

    unsafe extern "C" fn utilization(_: *mut c_void, share: *mut Utilization) -> Status {
        // SAFETY: the caller gives a place for it.
        unsafe { *share = Utilization { gpu: 50, _memory: 1 } };
        0
    }

    unsafe extern "C" fn memory(_: *mut c_void, memory: *mut Memory) -> Status {
        let all = Memory {
            total: 80,
            _free: 60,
            used: 20,
        };
        // SAFETY: the caller gives a place for it.
        unsafe { *memory = all };
        0
    }

    unsafe extern "C" fn power(_: *mut c_void, milliwatts: *mut c_uint) -> Status {
        // SAFETY: the caller gives a place for a number.
        unsafe { *milliwatts = 70_500 };
        0
    }

    /// As on GPUs that do not count it: NVML_ERROR_NOT_SUPPORTED.
    unsafe extern "C" fn unsupported(_: *mut c_void, _: *mut c_ulonglong) -> Status {
        3
    }

    const FUNCTIONS: Functions = Functions {
        init: done,
        shutdown: done,
        count: two,
        device,
        uuid,
        utilization,
        memory,
        power,
        power_limit: power,
        energy: unsupported,
    };

    #[test]
    fn a_gpu_tells_what_it_can_in_the_units_of_the_series() {
        let nvml = Nvml::new(FUNCTIONS).unwrap();
        let expected = GpuSample {
            uuid: "GPU-1".to_owned(),
            utilization: Some(0.5),
            memory: Some((80, 20)),
            power_watts: Some(70.5),
            power_limit_watts: Some(70.5),
            energy_joules: None,
        };
        assert_eq!(nvml.samples(), [expected]);
    }

    #[test]
    fn without_a_gpu_or_a_driver_there_is_nothing_to_look_at() {
        let error = |functions| Nvml::new(functions).err().unwrap();
        let broken = Functions {
            init: broken,
            ..FUNCTIONS
        };
        assert!(error(broken).contains("error 999"));
        let without = Functions {
            count: none,
            ..FUNCTIONS
        };
        assert!(error(without).contains("no GPU"));
    }
}
