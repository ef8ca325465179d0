//! What a run reads and writes, bound to the names of a session's inputs and outputs.

use std::ffi::{CStr, CString};
use std::ptr::{self, NonNull};

use ort::AsPointer as _;
use ort::memory::MemoryInfo;
use ort::session::{RunOptions, Session};
use ort::sys;

use super::{Value, check};

/// A binding of the C API's. It does not own what is bound, and is dropped before its session.
pub(super) struct Binding {
    raw: NonNull<sys::OrtIoBinding>,
}

// SAFETY: a binding belongs to no thread; `&mut self` keeps two from using it at once.
unsafe impl Send for Binding {}

impl Binding {
    /// An empty binding.
    ///
    /// # Safety
    /// It must be dropped before `session`.
    pub(super) unsafe fn new(session: &Session) -> ort::Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the session lives through the call, which does not change it behind `*mut`.
        check(unsafe { (ort::api().CreateIoBinding)(session.ptr().cast_mut(), &mut raw) })?;
        NonNull::new(raw)
            .map(|raw| Self { raw })
            .ok_or_else(|| ort::Error::new("the library made no binding"))
    }

    /// Has the next run read `value` as the input `name`.
    ///
    /// # Safety
    /// The memory behind `value` must stay as it is until [`clear`](Self::clear).
    pub(super) unsafe fn input(&mut self, name: &CStr, value: &Value<'_>) -> ort::Result<()> {
        // SAFETY: the binding, the name and the value live through the call, which keeps a reference to the value.
        check(unsafe { (ort::api().BindInput)(self.raw.as_ptr(), name.as_ptr(), value.as_const_ptr()) })
    }

    /// Has the next run write the output `name` into `value`.
    ///
    /// # Safety
    /// The memory behind `value` must live, unaliased, until [`clear`](Self::clear).
    pub(super) unsafe fn output(&mut self, name: &CStr, value: &Value<'_>) -> ort::Result<()> {
        // SAFETY: as for `input`.
        check(unsafe { (ort::api().BindOutput)(self.raw.as_ptr(), name.as_ptr(), value.as_const_ptr()) })
    }

    /// Has the next run make the output `name` itself, in `memory`.
    pub(super) fn output_in(&mut self, name: &CStr, memory: &MemoryInfo<'_>) -> ort::Result<()> {
        // SAFETY: the binding, the name and the memory info live through the call, which copies what it keeps.
        check(unsafe { (ort::api().BindOutputToDevice)(self.raw.as_ptr(), name.as_ptr(), memory.ptr()) })
    }

    /// Runs the session once, on what is bound.
    ///
    /// # Safety
    /// `session` must be the one that this was made with, and run nowhere else meanwhile.
    pub(super) unsafe fn run(&mut self, session: &Session, options: &RunOptions) -> ort::Result<()> {
        // SAFETY: session, options and binding live through the call; what is bound does by the promises above.
        check(unsafe {
            (ort::api().RunWithBinding)(session.ptr().cast_mut(), options.ptr(), self.raw.as_ptr())
        })
    }

    /// The outputs of the last run, in the order in which they were bound.
    pub(super) fn outputs(&self) -> ort::Result<Vec<Option<Value<'static>>>> {
        let api = ort::api();
        let (mut allocator, mut values, mut count) = (ptr::null_mut(), ptr::null_mut(), 0);
        // SAFETY: the default allocator lives as long as the library. The array is `count` pointers long, comes from that
        // allocator and goes back to it; each value in it is a reference of ours from here on.
        unsafe {
            check((api.GetAllocatorWithDefaultOptions)(&mut allocator))?;
            check((api.GetBoundOutputValues)(
                self.raw.as_ptr(),
                allocator,
                &mut values,
                &mut count,
            ))?;
            if values.is_null() {
                return Ok(Vec::new());
            }
            let owned = std::slice::from_raw_parts(values, count)
                .iter()
                .map(|&value| Value::from_raw(value))
                .collect();
            check((api.AllocatorFree)(allocator, values.cast()))?;
            Ok(owned)
        }
    }

    /// Lets go of all that is bound.
    pub(super) fn clear(&mut self) {
        // SAFETY: the binding is ours.
        unsafe {
            (ort::api().ClearBoundInputs)(self.raw.as_ptr());
            (ort::api().ClearBoundOutputs)(self.raw.as_ptr());
        }
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: `raw` came from the library, is owned here alone, and is released once, before its session.
        unsafe { (ort::api().ReleaseIoBinding)(self.raw.as_ptr()) }
    }
}

/// For each input of the session, whether it is read in memory of the same kind as `memory`.
pub(super) fn inputs_in(
    session: &Session,
    names: &[CString],
    memory: &MemoryInfo<'_>,
) -> ort::Result<Vec<bool>> {
    let mut wanted = vec![ptr::null(); names.len()];
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let api = ort::api();
    // SAFETY: the session lives through the call, which fills the array of as many inputs as the session has.
    check(unsafe { (api.SessionGetMemoryInfoForInputs)(session.ptr(), wanted.as_mut_ptr(), wanted.len()) })?;
    let kind = |info: *const sys::OrtMemoryInfo| {
        let mut device = sys::OrtMemoryInfoDeviceType::OrtMemoryInfoDeviceType_CPU;
        // SAFETY: `info` is not null and lives as long as the session, or as `memory`.
        let reach = unsafe {
            (api.MemoryInfoGetDeviceType)(info, &mut device);
            (api.MemoryInfoGetDeviceMemType)(info)
        };
        (device, reach)
    };
    let own = kind(memory.ptr());
    let same = wanted.iter().map(|&info| !info.is_null() && kind(info) == own);
    Ok(same.collect())
}

/// Bytes that the session's arena has taken from `memory`, where it counts them.
pub(super) fn arena_bytes(session: &Session, memory: &MemoryInfo<'_>) -> Option<u64> {
    let api = ort::api();
    let (mut allocator, mut counts) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: session and memory info live through the calls. The allocator and its counts are ours and released once; the
    // text lies in the counts and is read before.
    unsafe {
        check((api.CreateAllocator)(session.ptr(), memory.ptr(), &mut allocator)).ok()?;
        let counted = check((api.AllocatorGetStats)(allocator, &mut counts)).is_ok() && !counts.is_null();
        let bytes = counted.then(|| {
            let text = (api.GetKeyValue)(counts, c"TotalAllocated".as_ptr());
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().parse().ok())
        });
        if counted {
            (api.ReleaseKeyValuePairs)(counts);
        }
        (api.ReleaseAllocator)(allocator);
        bytes.flatten().flatten()
    }
}
