//! A model as one session, shared by its instances.

use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use crossfade_runtimes_core::{
    Datatype, Device, Dim, Instance, InstanceOptions, Model, ModelSignature, ModelSource, Outputs,
    RuntimeError, ShapeSpec, TensorSpec, TensorView,
};
use ort::session::{RunOptions, Session};
use ort::value::{Outlet, TensorElementType, ValueType};

use crate::convert::{self, Executable, GiveMemoryBack, Side};
use crate::error::{self, unsupported};
use crate::library::{Library, panic_message};
use crate::parameters::{SessionParameters, wrong};

/// Weights and signature; holds the one session.
pub(crate) struct OrtModel {
    shared: Arc<Shared>,
    file_bytes: u64,
}

struct Shared {
    signature: ModelSignature,
    executable: Executable,
}

impl OrtModel {
    /// Makes a session of `source`.
    pub(crate) fn load(library: &Library, source: &ModelSource) -> Result<Self, RuntimeError> {
        let parameters = SessionParameters::read(source)?;
        // Reading a model takes several times its size for a moment.
        let _give_back = GiveMemoryBack;
        let file = source.model_file("model.onnx")?;
        // The binding panics on kinds of input and output that it does not know, such as opaque ones.
        let session = catch_unwind(AssertUnwindSafe(|| make_session(library, &parameters, &file))).map_err(
            |panic| {
                unsupported(format!(
                    "an input or output of unknown kind ({})",
                    panic_message(&*panic)
                ))
            },
        )??;
        let signature = ModelSignature {
            inputs: read_side(&session, Side::Input)?,
            outputs: read_side(&session, Side::Output)?,
            batched: false,
            ..ModelSignature::default()
        };
        let run_options = run_options(&parameters)?;
        let executable = Executable::new(
            session,
            c_names(&signature.inputs),
            c_names(&signature.outputs),
            run_options,
        )
        .map_err(|error| error::load(&error, &file))?;
        Ok(Self {
            shared: Arc::new(Shared {
                signature,
                executable,
            }),
            file_bytes: source.bytes_on_disk(),
        })
    }
}

impl Model for OrtModel {
    fn signature(&self) -> &ModelSignature {
        &self.shared.signature
    }

    fn instantiate(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        match options.device {
            Device::Cpu => Ok(Box::new(OrtInstance {
                shared: Arc::clone(&self.shared),
            })),
            Device::Cuda(index) => Err(unsupported(format!(
                "CUDA device {index}: this build of crossfade runs ONNX Runtime on the CPU"
            ))),
        }
    }

    /// The model's files: ONNX Runtime does not say what it holds, and weights are nearly all of it.
    fn memory_bytes(&self) -> u64 {
        self.file_bytes
    }
}

/// Shares the model's session: several threads may run one session at the same time.
struct OrtInstance {
    shared: Arc<Shared>,
}

impl Instance for OrtInstance {
    fn run(&mut self, inputs: &[Option<TensorView<'_>>], outputs: &mut Outputs) -> Result<(), RuntimeError> {
        self.shared
            .executable
            .run(&self.shared.signature, inputs, outputs)
    }
}

fn make_session(
    library: &Library,
    parameters: &SessionParameters,
    file: &Path,
) -> Result<Session, RuntimeError> {
    let failed = |error: ort::Error<_>| error::load(&error, file);
    let mut builder = Session::builder(library.environment())
        .map_err(|error| error::load(&error, file))?
        .with_optimization_level(parameters.graph)
        .map_err(failed)?
        .with_parallel_execution(parameters.parallel)
        .map_err(failed)?;
    if parameters.intra_threads.is_some() || parameters.inter_threads.is_some() {
        // Threads of its own wait without spinning, as those of the shared pool do.
        builder = builder
            .with_independent_thread_pool()
            .map_err(failed)?
            .with_intra_threads(parameters.intra_threads.unwrap_or(library.threads()))
            .map_err(failed)?
            .with_inter_threads(parameters.inter_threads.unwrap_or(1))
            .map_err(failed)?
            .with_intra_op_spinning(false)
            .map_err(failed)?
            .with_inter_op_spinning(false)
            .map_err(failed)?;
    }
    if let Some(pattern) = parameters.memory_pattern {
        builder = builder.with_memory_pattern(pattern).map_err(failed)?;
    }
    if !parameters.memory_arena {
        convert::disable_memory_arena(&mut builder).map_err(|error| error::load(&error, file))?;
    }
    for (key, value) in &parameters.entries {
        builder = builder
            .with_config_entry(key, value)
            .map_err(|error| wrong(key, error.message().to_owned()))?;
    }
    builder
        .commit_from_file(file)
        .map_err(|error| error::load(&error, file))
}

fn run_options(parameters: &SessionParameters) -> Result<Option<RunOptions>, RuntimeError> {
    const KEY: &str = "memory.enable_memory_arena_shrinkage";
    let Some(devices) = &parameters.arena_shrinkage else {
        return Ok(None);
    };
    let failed = |error: ort::Error| wrong(KEY, error.message().to_owned());
    let mut options = RunOptions::new().map_err(failed)?;
    options.set(KEY, devices).map_err(failed)?;
    Ok(Some(options))
}

fn read_side(session: &Session, side: Side) -> Result<Vec<TensorSpec>, RuntimeError> {
    let outlets = match side {
        Side::Input => session.inputs(),
        Side::Output => session.outputs(),
    };
    outlets
        .iter()
        .enumerate()
        .map(|(index, outlet)| {
            let spec = read_outlet(outlet, side)?;
            if convert::is_dense_with_rank(session, side, index).map_err(|error| error::load(&error, Path::new("")))? {
                Ok(spec)
            } else {
                Err(unsupported(format!(
                    "{side} `{}` is sparse or has no shape in the model file; write one there, with a name for each \
                     variable dimension",
                    outlet.name()
                )))
            }
        })
        .collect()
}

fn read_outlet(outlet: &Outlet, side: Side) -> Result<TensorSpec, RuntimeError> {
    let name = outlet.name();
    let kind = match outlet.dtype() {
        ValueType::Tensor {
            ty,
            shape,
            dimension_symbols,
        } => match datatype(*ty) {
            Some(datatype) => {
                let dims = shape.iter().zip(dimension_symbols.iter());
                let shape: ShapeSpec = dims.map(|(&size, symbol)| dim(size, symbol)).collect();
                return Ok(TensorSpec::new(name, datatype, shape));
            }
            None => format!("a tensor of {ty}"),
        },
        ValueType::Sequence(element) => format!("a sequence ({element})"),
        ValueType::Map { key, value } => format!("a map from {key} to {value}"),
        ValueType::Optional(inner) => format!("an optional value ({inner})"),
    };
    Err(unsupported(format!(
        "{side} `{name}` is {kind}; served are tensors of the fourteen datatypes of the protocol"
    )))
}

fn dim(size: i64, symbol: &str) -> Dim {
    match usize::try_from(size) {
        Ok(size) => Dim::Fixed(size),
        Err(_) if symbol.is_empty() => Dim::Any,
        Err(_) => Dim::Named(Arc::from(symbol)),
    }
}

fn datatype(ty: TensorElementType) -> Option<Datatype> {
    Some(match ty {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::String => Datatype::Bytes,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        _ => return None,
    })
}

fn c_names(specs: &[TensorSpec]) -> Vec<CString> {
    specs
        .iter()
        .map(|spec| CString::new(spec.name.as_bytes()).expect("the name came from a C string"))
        .collect()
}
