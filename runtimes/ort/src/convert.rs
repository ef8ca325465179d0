//! Every call into the C API that the `ort` crate does not wrap safely; the only `unsafe` of this runtime.
//!
//! * Runs borrow: inputs are read where they are, outputs of known shape are written where the caller wants them.
//! * `Run` is called on a shared session only where no execution provider is registered. The C API documents it as safe
//!   from several threads; the binding's own `&mut self` guards execution providers, whose instances have sessions of
//!   their own.
//! * Strings go through as bytes: NUL and bytes that are no UTF-8 survive both ways.

#![expect(
    unsafe_code,
    reason = "the C API is called directly; each block proves alignment, length, lifetime and aliasing"
)]

mod assignment;
mod binding;
mod device;

use std::ffi::{CString, c_char, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use bytes::Bytes;
use crossfade_runtimes_core::{
    AlignedBuffer, BytesElements, Datatype, ModelSignature, Outputs, RuntimeError, Shape, TensorSpec,
    TensorView, push_element,
};
use ort::AsPointer as _;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::SessionBuilder;
use ort::session::{RunOptions, Session};
use ort::sys::{self, ONNXTensorElementDataType as Element, ONNXType, OrtStatusPtr};
use smallvec::SmallVec;

use crate::error;

pub(crate) use assignment::nodes_by_provider;
pub(crate) use device::{DeviceExecutable, DeviceOptions, Names};

/// The variable that the library looks at when it is opened.
pub(crate) const TELEMETRY_SWITCH: &str = "ORT_DISABLE_TELEMETRY";

/// A session and what each of its runs needs.
pub(crate) struct Executable {
    session: Session,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
    run_options: Option<RunOptions>,
    host: MemoryInfo<'static>,
    /// Last, so that it is dropped after the session.
    _give_back: GiveMemoryBack,
}

/// Which end of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// What goes in.
    Input,
    /// What comes out.
    Output,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Input => "input",
            Side::Output => "output",
        })
    }
}

impl Executable {
    /// Names are in the session's order, which is the signature's.
    pub(crate) fn new(
        session: Session,
        input_names: Vec<CString>,
        output_names: Vec<CString>,
        run_options: Option<RunOptions>,
    ) -> ort::Result<Self> {
        Ok(Self {
            session,
            input_names,
            output_names,
            run_options,
            host: memory(AllocationDevice::CPU, 0)?,
            _give_back: GiveMemoryBack,
        })
    }

    /// Runs the session once; may be called from several threads.
    ///
    /// Cost: no copy of inputs that are aligned to their element's size; no copy of outputs whose shape the
    /// caller knows, one copy of the others. BYTES are copied both ways.
    pub(crate) fn run(
        &self,
        signature: &ModelSignature,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut Outputs,
    ) -> Result<(), RuntimeError> {
        let aligned: SmallVec<[Option<AlignedBuffer>; 4]> =
            inputs.iter().map(|view| aligned_copy(view.as_ref())).collect();
        let mut feed_names: SmallVec<[*const c_char; 4]> = SmallVec::new();
        let mut feeds: SmallVec<[Value<'_>; 4]> = SmallVec::new();
        for ((view, copy), name) in inputs.iter().zip(&aligned).zip(&self.input_names) {
            // Kernels of some versions read an absent input through a null pointer, so it never gets there.
            let Some(view) = view else {
                return Err(RuntimeError::InvalidInput {
                    reason: format!("input `{}` is missing", name.to_string_lossy()),
                });
            };
            let data = copy.as_ref().map_or(view.data, AlignedBuffer::as_slice);
            feed_names.push(name.as_ptr());
            feeds.push(input_value(&self.host, view, data).map_err(|error| error::run(&error))?);
        }

        let wanted: SmallVec<[usize; 4]> = (0..signature.outputs.len())
            .filter(|&k| outputs.wanted(k))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let fetch_names: SmallVec<[*const c_char; 4]> =
            wanted.iter().map(|&k| self.output_names[k].as_ptr()).collect();
        let mut fetches: SmallVec<[Option<Value<'_>>; 4]> = SmallVec::new();
        for &k in &wanted {
            fetches.push(self.output_value(&signature.outputs[k], k, outputs)?);
        }

        let status = self.call(&feed_names, &feeds, &fetch_names, &mut fetches);
        status.map_err(|error| run_error(signature, &wanted, outputs, &error))?;
        drop(feeds);

        for (&k, value) in wanted.iter().zip(&fetches) {
            if in_place(&signature.outputs[k], k, outputs).is_some() {
                continue;
            }
            let value = value.as_ref().ok_or_else(|| RuntimeError::Run {
                reason: format!("output `{}` was not computed", signature.outputs[k].name),
            })?;
            take_output(value, &signature.outputs[k], k, outputs)?;
        }
        Ok(())
    }

    /// Calls `Run`; afterwards each fetch holds its value, whoever allocated it.
    fn call(
        &self,
        feed_names: &[*const c_char],
        feeds: &[Value<'_>],
        fetch_names: &[*const c_char],
        fetches: &mut [Option<Value<'_>>],
    ) -> ort::Result<()> {
        let feed_values: SmallVec<[*const sys::OrtValue; 4]> =
            feeds.iter().map(Value::as_const_ptr).collect();
        let mut fetch_values: SmallVec<[*mut sys::OrtValue; 4]> = fetches
            .iter()
            .map(|value| value.as_ref().map_or(ptr::null_mut(), Value::as_ptr))
            .collect();
        let options = self
            .run_options
            .as_ref()
            .map_or(ptr::null(), |options| options.ptr());
        // SAFETY: the session, the options and every value live through the call, as do the NUL-terminated
        // names, which `self` owns. Array lengths are those of the arrays. `Run` may be called from several
        // threads on one session and does not change it behind `*mut`. Inputs are read only; memory behind
        // pre-allocated outputs is aliased by nothing else (see `output_value`).
        let status = unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                options,
                feed_names.as_ptr(),
                feed_values.as_ptr(),
                feed_values.len(),
                fetch_names.as_ptr(),
                fetch_names.len(),
                fetch_values.as_mut_ptr(),
            )
        };
        for (value, raw) in fetches.iter_mut().zip(fetch_values) {
            if value.is_none() {
                // A value that `Run` made is ours from here on, also when the run failed.
                *value = Value::from_raw(raw);
            }
        }
        check(status)
    }

    /// A value over the caller's buffer for output `index`, where its shape is known; `None` else.
    fn output_value<'a>(
        &self,
        spec: &TensorSpec,
        index: usize,
        outputs: &mut Outputs,
    ) -> Result<Option<Value<'a>>, RuntimeError> {
        let Some(shape) = in_place(spec, index, outputs) else {
            return Ok(None);
        };
        let dims = c_dims(&shape).map_err(|error| error::run(&error))?;
        let buffer = outputs.buffer(index, spec.datatype, shape);
        let (data, len) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: the bytes are on the heap, owned by slot `index` of `outputs`, which `run` neither touches
        // nor moves until the value is gone; each slot has a buffer of its own, so no two values overlap.
        let value = unsafe { over(&self.host, data, len, spec.datatype, &dims) };
        value.map(Some).map_err(|error| error::run(&error))
    }
}

/// An input over `data`, which lies in the host's memory, or, for BYTES, of copied strings.
fn input_value<'a>(host: &MemoryInfo<'_>, view: &TensorView<'_>, data: &'a [u8]) -> ort::Result<Value<'a>> {
    let dims = c_dims(view.shape)?;
    match view.datatype.width() {
        Some(_) => {
            let (start, len) = (data.as_ptr().cast_mut(), data.len());
            // SAFETY: `data` is borrowed for 'a, which outlives the value; inputs are never written.
            unsafe { over(host, start, len, view.datatype, &dims) }
        }
        None => string_value(data, &dims),
    }
}

/// Memory of a device, as the library names it.
fn memory(device: AllocationDevice<'_>, index: i32) -> ort::Result<MemoryInfo<'static>> {
    MemoryInfo::new(device, index, AllocatorType::Device, MemoryType::Default)
}

/// A tensor over memory of the caller.
///
/// # Safety
/// `data` must be valid for `len` bytes of `memory` while the value lives: for reads if it is used as an input, for
/// reads and writes, unaliased, if it is used as an output. `data` is aligned for `datatype`.
unsafe fn over<'a>(
    memory: &MemoryInfo<'_>,
    data: *mut u8,
    len: usize,
    datatype: Datatype,
    dims: &[i64],
) -> ort::Result<Value<'a>> {
    let mut value = ptr::null_mut();
    // SAFETY: memory info and dims live through the call, which copies both; the library checks that `len`
    // covers the shape. The caller vouches for `data`, which is not null even if `len` is 0.
    let status = unsafe {
        (ort::api().CreateTensorWithDataAsOrtValue)(
            memory.ptr(),
            data.cast::<c_void>(),
            len,
            dims.as_ptr(),
            dims.len(),
            element(datatype),
            &mut value,
        )
    };
    made(status, value)
}

/// Hands the C heap's free pages back to the system when it is dropped.
///
/// The library allocates from the C heap, whatever allocator this program uses, and the heap keeps what is freed:
/// after loading, running and unloading a model of 48 MiB, 113–145 MiB stayed resident, and 31–47 MiB with
/// this; turning the session's own arena off made no difference to either, so it stays on.
///
/// Cost: a walk over the heap, some milliseconds; only where a model is loaded or unloaded.
pub(crate) struct GiveMemoryBack;

impl Drop for GiveMemoryBack {
    fn drop(&mut self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: takes no pointer, locks the heap itself, and moves nothing that is in use.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

/// Keeps the library from sending usage data to its maker and from keeping a database of it in the user's cache, as its
/// builds do from the moment they are opened, whatever the environment is told by the C API afterwards.
///
/// They read a variable of the process for that, which cannot be set safely while other threads may read variables:
/// `false`, and nothing is set then. One that is set already is the operator's choice and stays.
pub(crate) fn opt_out_of_telemetry() -> bool {
    if std::env::var_os(TELEMETRY_SWITCH).is_some() {
        return true;
    }
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if alone {
        #[expect(clippy::disallowed_methods, reason = "the library has no other switch")]
        // SAFETY: this is the process's only thread, so nobody reads or writes the environment meanwhile.
        unsafe {
            std::env::set_var(TELEMETRY_SWITCH, "1");
        }
    }
    alone
}

/// Tells a session builder to give scratch memory back after each run instead of keeping it.
pub(crate) fn disable_memory_arena(builder: &mut SessionBuilder) -> ort::Result<()> {
    // SAFETY: the options belong to the builder, which is borrowed mutably.
    check(unsafe { (ort::api().DisableCpuMemArena)(builder.ptr_mut()) })
}

/// Whether input or output `index`, which the binding calls a tensor, is dense and has a shape: the binding
/// shows sparse tensors like dense ones and a missing shape like that of a scalar.
pub(crate) fn is_dense_with_rank(session: &Session, side: Side, index: usize) -> ort::Result<bool> {
    let api = ort::api();
    let mut info = ptr::null_mut();
    // SAFETY: the session lives through the call; an index out of range is an error, not undefined.
    check(unsafe {
        match side {
            Side::Input => (api.SessionGetInputTypeInfo)(session.ptr(), index, &mut info),
            Side::Output => (api.SessionGetOutputTypeInfo)(session.ptr(), index, &mut info),
        }
    })?;
    let mut kind = ONNXType::ONNX_TYPE_UNKNOWN;
    let mut tensor = ptr::null();
    // SAFETY: `info` was made above and is released once, below; `tensor` points into it and is used before.
    unsafe {
        let status = check((api.GetOnnxTypeFromTypeInfo)(info, &mut kind))
            .and_then(|()| check((api.CastTypeInfoToTensorInfo)(info, &mut tensor)));
        let dense = kind == ONNXType::ONNX_TYPE_TENSOR;
        let ranked = status.is_ok() && !tensor.is_null() && (api.TensorTypeAndShape_HasShape)(tensor);
        (api.ReleaseTypeInfo)(info);
        status.map(|()| dense && ranked)
    }
}

/// A value of the library, released when dropped; `'a` is the memory it stands on, if that is the caller's.
struct Value<'a> {
    raw: NonNull<sys::OrtValue>,
    memory: PhantomData<&'a [u8]>,
}

impl Value<'_> {
    fn from_raw(raw: *mut sys::OrtValue) -> Option<Self> {
        NonNull::new(raw).map(|raw| Self {
            raw,
            memory: PhantomData,
        })
    }

    fn as_ptr(&self) -> *mut sys::OrtValue {
        self.raw.as_ptr()
    }

    fn as_const_ptr(&self) -> *const sys::OrtValue {
        self.raw.as_ptr()
    }
}

impl Drop for Value<'_> {
    fn drop(&mut self) {
        // SAFETY: `raw` came from the library, is owned here alone, and is released once.
        unsafe { (ort::api().ReleaseValue)(self.raw.as_ptr()) }
    }
}

/// A copy of a fixed-width tensor whose bytes are not aligned for its elements.
fn aligned_copy(view: Option<&TensorView<'_>>) -> Option<AlignedBuffer> {
    let view = view?;
    let width = view.datatype.width()?;
    (view.data.as_ptr().addr() % width != 0).then(|| AlignedBuffer::from(view.data))
}

/// The shape of output `index`, if the session can write it where the caller wants it. A shape that the model
/// itself rules out is never foretold to the library, which may copy constants without looking.
fn in_place(spec: &TensorSpec, index: usize, outputs: &Outputs) -> Option<Shape> {
    spec.datatype.width()?;
    outputs
        .expected(index)
        .filter(|shape| spec.shape.accepts(shape))
        .cloned()
}

/// A tensor of strings, copied from wire form.
fn string_value<'a>(data: &[u8], dims: &[i64]) -> ort::Result<Value<'a>> {
    let api = ort::api();
    let (mut allocator, mut raw) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: the default allocator lives as long as the library; `dims` lives through the call.
    let value = unsafe {
        check((api.GetAllocatorWithDefaultOptions)(&mut allocator))?;
        let status = (api.CreateTensorAsOrtValue)(
            allocator,
            dims.as_ptr(),
            dims.len(),
            Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
            &mut raw,
        );
        made(status, raw)?
    };
    for (index, element) in BytesElements::new(data).enumerate() {
        let element = element.map_err(|error| ort::Error::new(error.to_string()))?;
        let mut buffer = ptr::null_mut();
        // SAFETY: the value is a tensor of strings and ours; an index out of range is an error. The buffer
        // holds `element.len()` bytes, belongs to the value, and cannot overlap `element`.
        unsafe {
            check((api.GetResizedStringTensorElementBuffer)(
                value.as_ptr(),
                index,
                element.len(),
                &mut buffer,
            ))?;
            if !element.is_empty() {
                ptr::copy_nonoverlapping(element.as_ptr(), buffer.cast::<u8>(), element.len());
            }
        }
    }
    Ok(value)
}

/// Copies an output that the library allocated.
fn take_output(
    value: &Value<'_>,
    spec: &TensorSpec,
    index: usize,
    outputs: &mut Outputs,
) -> Result<(), RuntimeError> {
    let read = |error: ort::Error| error::run(&error);
    let (datatype, shape) = type_and_shape(value).map_err(read)?;
    let mismatch = |got: String| RuntimeError::Output {
        name: spec.name.clone(),
        expected_datatype: spec.datatype,
        expected_shape: spec.shape.clone(),
        got,
    };
    if datatype != element(spec.datatype) {
        return Err(mismatch(format!("elements of kind {datatype:?}")));
    }
    let count = shape
        .element_count()
        .ok_or_else(|| mismatch(format!("shape {shape}, which has too many elements")))?;
    let Some(width) = spec.datatype.width() else {
        let data = take_strings(value, count).map_err(read)?;
        outputs.put(index, Datatype::Bytes, shape, Bytes::from(data));
        return Ok(());
    };
    let len = count
        .checked_mul(width)
        .ok_or_else(|| mismatch(format!("shape {shape}, which has too many elements")))?;
    let buffer = outputs.buffer(index, spec.datatype, shape);
    if len > 0 {
        let mut data = ptr::null_mut();
        // SAFETY: the value is a dense tensor on the host with `len` bytes, alive through the copy; `buffer`
        // has exactly `len` bytes of its own.
        unsafe {
            check((ort::api().GetTensorMutableData)(value.as_ptr(), &mut data)).map_err(read)?;
            ptr::copy_nonoverlapping(data.cast::<u8>().cast_const(), buffer.as_mut_ptr(), len);
        }
    }
    Ok(())
}

/// The strings of a tensor in wire form.
fn take_strings(value: &Value<'_>, count: usize) -> ort::Result<Vec<u8>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let api = ort::api();
    let mut len = 0;
    let mut offsets = vec![0usize; count];
    // SAFETY: the value is a tensor of `count` strings; the buffer holds the length the library just gave, and
    // is never null.
    let content = unsafe {
        check((api.GetStringTensorDataLength)(value.as_const_ptr(), &mut len))?;
        let mut content = vec![0u8; len.max(1)];
        check((api.GetStringTensorContent)(
            value.as_const_ptr(),
            content.as_mut_ptr().cast::<c_void>(),
            len,
            offsets.as_mut_ptr(),
            offsets.len(),
        ))?;
        content.truncate(len);
        content
    };
    let mut wire = Vec::with_capacity(len + 4 * count);
    for (k, &start) in offsets.iter().enumerate() {
        let end = offsets.get(k + 1).copied().unwrap_or(len);
        push_element(&mut wire, &content[start..end]);
    }
    Ok(wire)
}

fn type_and_shape(value: &Value<'_>) -> ort::Result<(Element, Shape)> {
    let mut datatype = Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    let (mut dims, mut rank) = (ptr::null(), 0);
    // SAFETY: the value is alive, and `dims` points into it. `dims` may be null for a scalar, so no slice is
    // made of it then. The datatype is one that `load` accepted, since the library checks its outputs.
    let dims = unsafe {
        check((ort::api().GetTensorElementTypeAndShapeDataReference)(
            value.as_const_ptr(),
            &mut datatype,
            &mut dims,
            &mut rank,
        ))?;
        match rank {
            0 => &[],
            rank => std::slice::from_raw_parts(dims, rank),
        }
    };
    let shape = dims
        .iter()
        .map(|&dim| usize::try_from(dim).ok())
        .collect::<Option<Shape>>();
    let shape = shape.ok_or_else(|| ort::Error::new("a computed shape has a negative dimension"))?;
    Ok((datatype, shape))
}

/// A failed run. Where an output has another shape than the caller foretold, that is said, not what the library
/// says about its own buffers.
fn run_error(
    signature: &ModelSignature,
    wanted: &[usize],
    outputs: &Outputs,
    error: &ort::Error,
) -> RuntimeError {
    // Two wordings, by version; both give the foretold shape first, then the computed one.
    const MARKS: [&str; 2] = ["shape verification failed", "pre-allocated"];
    let message = error.message();
    if !MARKS.iter().any(|mark| message.contains(mark)) {
        return error::run(error);
    }
    let mut shapes = message
        .split('{')
        .skip(1)
        .filter_map(|text| text.split_once('}'))
        .map(|(dims, _)| format!("[{dims}]"));
    let (Some(foretold), Some(computed)) = (shapes.next(), shapes.next()) else {
        return error::run(error);
    };
    let named = |k: usize| message.contains(&format!("output '{}'", signature.outputs[k].name));
    let matches = |k: usize| {
        in_place(&signature.outputs[k], k, outputs).is_some_and(|shape| shape.to_string() == foretold)
    };
    let output = wanted
        .iter()
        .find(|&&k| matches(k) && named(k))
        .or_else(|| wanted.iter().find(|&&k| matches(k)));
    match output {
        Some(&k) => RuntimeError::Output {
            name: signature.outputs[k].name.clone(),
            expected_datatype: signature.outputs[k].datatype,
            expected_shape: signature.outputs[k].shape.clone(),
            got: format!("shape {computed} where this request calls for {foretold}"),
        },
        None => error::run(error),
    }
}

fn c_dims(shape: &[usize]) -> ort::Result<SmallVec<[i64; 8]>> {
    shape
        .iter()
        .map(|&dim| {
            i64::try_from(dim)
                .map_err(|_| ort::Error::new("a dimension is larger than the library can count"))
        })
        .collect()
}

fn check(status: OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: every status passed here comes fresh from a call of the API, and is given up to the error.
    unsafe { ort::Error::result_from_status(status) }
}

fn made<'a>(status: OrtStatusPtr, raw: *mut sys::OrtValue) -> ort::Result<Value<'a>> {
    check(status)?;
    Value::from_raw(raw).ok_or_else(|| ort::Error::new("the library made no value"))
}

fn element(datatype: Datatype) -> Element {
    match datatype {
        Datatype::Bool => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        Datatype::Uint8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        Datatype::Uint16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        Datatype::Uint32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        Datatype::Uint64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        Datatype::Int8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        Datatype::Int16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        Datatype::Int32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        Datatype::Int64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        Datatype::Fp16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        Datatype::Fp32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        Datatype::Fp64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        Datatype::Bytes => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
        Datatype::Bf16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
    }
}
