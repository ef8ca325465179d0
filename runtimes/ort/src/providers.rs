//! Which execution providers a session is made with, and with which options; decided before anything is opened.
//!
//! Options come from two places: `optimization.execution_accelerators` of a configuration, and `parameters` whose names begin
//! with that of a provider (`cuda.`, `tensorrt.`, `openvino.`). As in Triton, accelerators of GPUs are for instances on GPUs,
//! and those of CPUs for instances on the CPU.

use std::collections::BTreeMap;

use crossfade_runtimes_core::{Accelerator, Device, ModelSource, RuntimeError};
use ort::ep::{self, ExecutionProvider as _};

use crate::error::unsupported;
use crate::parameters::wrong;

/// An execution provider that sessions may be made with, in the order in which nodes are offered to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    TensorRt,
    Cuda,
    OpenVino,
}

/// A provider and its options, by the names that ONNX Runtime has for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Provider {
    pub(crate) kind: Kind,
    pub(crate) options: BTreeMap<String, String>,
}

/// What a session is made with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In order; empty: the CPU's own kernels alone.
    pub(crate) providers: Vec<Provider>,
    /// Whether runs of the same shapes are recorded and played back.
    pub(crate) graphs: bool,
}

/// Parameters without a prefix, as Triton has them, which the CUDA provider takes.
const TRITONS: [&str; 3] = ["gpu_mem_limit", "arena_extend_strategy", "cudnn_conv_algo_search"];

/// What the CUDA provider is told where a configuration says nothing.
const CUDA_DEFAULTS: [(&str, &str); 3] = [
    // An arena that doubles takes memory from the other models of the device.
    ("arena_extend_strategy", "kSameAsRequested"),
    // The library's own search tries every algorithm for each new shape, so for each new batch size.
    ("cudnn_conv_algo_search", "HEURISTIC"),
    // FP32 means FP32: its short form has ten bits of mantissa.
    ("use_tf32", "0"),
];

/// Options that an instance sets itself.
const RESERVED: [&str; 3] = ["device_id", "user_compute_stream", "has_user_compute_stream"];

impl Kind {
    const ALL: [Kind; 3] = [Kind::TensorRt, Kind::Cuda, Kind::OpenVino];

    /// As configurations write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::TensorRt => "tensorrt",
            Kind::Cuda => "cuda",
            Kind::OpenVino => "openvino",
        }
    }

    /// As ONNX Runtime writes it.
    pub(crate) const fn long_name(self) -> &'static str {
        match self {
            Kind::TensorRt => "TensorrtExecutionProvider",
            Kind::Cuda => "CUDAExecutionProvider",
            Kind::OpenVino => "OpenVINOExecutionProvider",
        }
    }

    /// The package whose library has it.
    pub(crate) const fn package(self) -> &'static str {
        match self {
            Kind::TensorRt | Kind::Cuda => "onnxruntime-gpu",
            Kind::OpenVino => "onnxruntime-openvino",
        }
    }

    const fn on_gpu(self) -> bool {
        matches!(self, Kind::TensorRt | Kind::Cuda)
    }

    /// Whether the library was built with it.
    pub(crate) fn is_built(self) -> bool {
        let built = match self {
            Kind::TensorRt => ep::TensorRT::is_available(),
            Kind::Cuda => ep::CUDA::is_available(),
            Kind::OpenVino => ep::OpenVINO::is_available(),
        };
        built.unwrap_or(false)
    }
}

impl Provider {
    /// As the binding takes it; that it cannot be registered is an error.
    ///
    /// * `stream`: the stream that all of it computes on
    pub(crate) fn dispatch(&self, stream: Option<usize>) -> ep::ExecutionProviderDispatch {
        let mut options = self.options.clone();
        if let Some(stream) = stream {
            options.insert("has_user_compute_stream".to_owned(), "1".to_owned());
            options.insert("user_compute_stream".to_owned(), stream.to_string());
        }
        let dispatch = match self.kind {
            Kind::TensorRt => configured(ep::TensorRT::default(), &options).build(),
            Kind::Cuda => configured(ep::CUDA::default(), &options).build(),
            Kind::OpenVino => configured(ep::OpenVINO::default(), &options).build(),
        };
        dispatch.error_on_failure()
    }
}

fn configured<P: ep::ArbitrarilyConfigurableExecutionProvider>(
    provider: P,
    options: &BTreeMap<String, String>,
) -> P {
    options.iter().fold(provider, |provider, (key, value)| {
        provider.with_arbitrary_config(key, value)
    })
}

/// Whether a parameter is a provider's option.
pub(crate) fn is_option(key: &str) -> bool {
    TRITONS.contains(&key) || prefixed(key).is_some()
}

/// `cuda.use_tf32` → CUDA, `use_tf32`.
fn prefixed(key: &str) -> Option<(Kind, &str)> {
    let (prefix, option) = key.split_once('.')?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == prefix)?;
    Some((kind, option))
}

/// What a session for instances on `device` is made with.
///
/// Errors: `Unsupported` for an accelerator that there is not, `Parameter` for a wrong option.
pub(crate) fn plan(source: &ModelSource, device: Device) -> Result<Plan, RuntimeError> {
    let mut asked: BTreeMap<Kind, BTreeMap<String, String>> = BTreeMap::new();
    for accelerator in &source.accelerators {
        let kind = kind_of(accelerator)?;
        let options = asked.entry(kind).or_default();
        for (key, value) in &accelerator.parameters {
            add(options, kind, key, key, value)?;
        }
    }
    for (key, value) in &source.parameters {
        if let Some((kind, option)) = prefixed(key) {
            add(asked.entry(kind).or_default(), kind, key, option, value)?;
        } else if TRITONS.contains(&key.as_str()) {
            add(asked.entry(Kind::Cuda).or_default(), Kind::Cuda, key, key, value)?;
        }
    }
    let on_gpu = device != Device::Cpu;
    asked.retain(|kind, _| kind.on_gpu() == on_gpu);
    if let Device::Cuda(index) = device {
        let cuda = asked.entry(Kind::Cuda).or_default();
        for (key, value) in CUDA_DEFAULTS {
            cuda.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
        for options in asked.values_mut() {
            options.insert("device_id".to_owned(), index.to_string());
        }
    }
    let graphs = graphs(&asked)?;
    let providers = asked
        .into_iter()
        .map(|(kind, options)| Provider { kind, options });
    Ok(Plan {
        providers: providers.collect(),
        graphs,
    })
}

fn kind_of(accelerator: &Accelerator) -> Result<Kind, RuntimeError> {
    let Accelerator { name, gpu, .. } = accelerator;
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| kind.name() == name && kind.on_gpu() == *gpu);
    kind.ok_or_else(|| {
        let list = if *gpu { "gpu" } else { "cpu" };
        unsupported(format!(
            "accelerator `{name}` of {list}_execution_accelerator; there are `cuda` and `tensorrt` for GPUs, and `openvino` \
             for the CPU"
        ))
    })
}

/// Whether the CUDA provider is asked to record graphs, and may.
fn graphs(asked: &BTreeMap<Kind, BTreeMap<String, String>>) -> Result<bool, RuntimeError> {
    const KEY: &str = "enable_cuda_graph";
    let cuda = asked.get(&Kind::Cuda);
    match cuda.and_then(|options| options.get(KEY)).map(String::as_str) {
        None | Some("0") => Ok(false),
        Some("1") if asked.contains_key(&Kind::TensorRt) => Err(wrong(
            KEY,
            "graphs are recorded with the CUDA provider alone, not with TensorRT".to_owned(),
        )),
        Some("1") => Ok(true),
        Some(other) => Err(wrong(KEY, format!("`{other}` is not 0 or 1"))),
    }
}

/// Adds an option under the name that ONNX Runtime has for it; `key` is what the configuration calls it.
fn add(
    options: &mut BTreeMap<String, String>,
    kind: Kind,
    key: &str,
    option: &str,
    value: &str,
) -> Result<(), RuntimeError> {
    let value = value.trim();
    if RESERVED.contains(&option) {
        let reason = "the server sets it; devices are given by instance_group.gpus or [instances] device";
        return Err(wrong(key, reason.to_owned()));
    }
    if option.is_empty() || option.contains('\0') || value.contains('\0') {
        return Err(wrong(key, "an option has a name, and no zero byte".to_owned()));
    }
    let (option, value) = match kind {
        Kind::Cuda => (option, cuda_value(key, option, value)?),
        Kind::TensorRt => tensorrt(key, option, value)?,
        Kind::OpenVino => (option, value),
    };
    options.insert(option.to_owned(), value.to_owned());
    Ok(())
}

/// Triton's numbers for what ONNX Runtime has names for.
fn cuda_value<'a>(key: &str, option: &str, value: &'a str) -> Result<&'a str, RuntimeError> {
    let names: &[&'static str] = match option {
        "cudnn_conv_algo_search" => &["EXHAUSTIVE", "HEURISTIC", "DEFAULT"],
        "arena_extend_strategy" => &["kNextPowerOfTwo", "kSameAsRequested"],
        "gpu_mem_limit" if !value.parse::<u64>().is_ok_and(|bytes| bytes > 0) => {
            return Err(wrong(key, format!("`{value}` is no number of bytes above 0")));
        }
        _ => return Ok(value),
    };
    let numbered = value.parse::<usize>().ok().and_then(|number| names.get(number));
    match numbered.or_else(|| names.iter().find(|name| **name == value)) {
        Some(name) => Ok(name),
        None => Err(wrong(
            key,
            format!("`{value}` is none of {} (or 0, 1, …)", names.join(", ")),
        )),
    }
}

/// Triton's names for what ONNX Runtime's TensorRT provider has its own for.
fn tensorrt<'a>(key: &str, option: &'a str, value: &'a str) -> Result<(&'a str, &'a str), RuntimeError> {
    Ok(match option {
        "precision_mode" => match value {
            "FP16" => ("trt_fp16_enable", "1"),
            "INT8" => ("trt_int8_enable", "1"),
            "FP32" => ("trt_fp16_enable", "0"),
            _ => return Err(wrong(key, format!("`{value}` is none of FP32, FP16 and INT8"))),
        },
        "max_workspace_size_bytes" => ("trt_max_workspace_size", value),
        "int8_calibration_table_name" => ("trt_int8_calibration_table_name", value),
        "int8_use_native_calibration_table" => ("trt_int8_use_native_calibration_table", value),
        // It plays back whatever it recorded first, on the buffers of that run, whatever comes in.
        "trt_cuda_graph_enable" if !matches!(value, "0" | "false" | "False") => {
            let reason = "its graphs take no account of shapes and buffers; leave it off";
            return Err(wrong(key, reason.to_owned()));
        }
        _ if option.starts_with("trt_") => (option, value),
        _ => {
            let reason = "unknown to TensorRT; there are precision_mode, max_workspace_size_bytes and what begins with trt_";
            return Err(wrong(key, reason.to_owned()));
        }
    })
}

#[cfg(test)]
mod tests;
