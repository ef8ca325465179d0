//! How a session is made: its parameters, its execution providers, and what is said where one of them cannot be had.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossfade_runtimes_core::{Device, ModelSource, RuntimeError};
use ort::session::builder::SessionBuilder;
use ort::session::{RunOptions, Session};

use crate::convert::{self, nodes_by_provider};
use crate::driver::Lane;
use crate::error::{self, unsupported};
use crate::library::{Library, panic_message};
use crate::parameters::{SessionParameters, wrong};
use crate::providers::{self, Kind, Plan};
use crate::turns::TURNS;

/// Has a session say which provider runs which node.
const RECORD: &str = "session.record_ep_graph_assignment_info";

/// Parts of what is said where a device or its libraries are at fault, not the model.
const OF_DEVICES: [&str; 8] = [
    "CUDA failure",
    "CUBLAS failure",
    "CUDNN failure",
    "cudaError",
    "libonnxruntime_providers",
    "cannot open shared object file",
    "Failed to load shared library",
    "Failed to allocate memory",
];

/// All that the sessions of a model are made from.
pub(super) struct Recipe {
    library: Library,
    source: ModelSource,
    parameters: SessionParameters,
    file: PathBuf,
}

/// A session, and where it computes.
pub(super) struct Made {
    session: Session,
    plan: Plan,
    /// Of a session on a device.
    lane: Option<Arc<Lane>>,
    served_by: String,
}

impl Recipe {
    /// Reads the parameters and finds the file.
    ///
    /// Errors: `Parameter` for what is wrong for any of the source's devices, `Load` where there is no file.
    pub(super) fn read(library: &Library, source: &ModelSource) -> Result<Self, RuntimeError> {
        let parameters = SessionParameters::read(source)?;
        // Mistakes in options for GPUs are mistakes on a machine without one, too.
        for device in [Device::Cpu, Device::Cuda(0)] {
            let plan = providers::plan(source, device)?;
            let shrinks = parameters.arena_shrinkage.as_deref();
            if plan.graphs && shrinks.is_some_and(|devices| devices.contains("gpu:")) {
                let reason = "a recorded graph names memory of the arena that would be given back; leave one of both away";
                return Err(wrong(SHRINKAGE, reason.to_owned()));
            }
        }
        Ok(Self {
            library: library.clone(),
            file: source.model_file("model.onnx")?,
            source: source.clone(),
            parameters,
        })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Whether instances compute elsewhere than on the CPU.
    pub(super) fn on_device(&self) -> bool {
        self.source.devices.iter().any(|device| *device != Device::Cpu)
    }

    /// A session that computes on `device`.
    ///
    /// Errors: `Device` with what is missing there and what to do; `Load`, `Unsupported`, `Parameter`.
    pub(super) fn make(&self, device: Device) -> Result<Made, RuntimeError> {
        let plan = providers::plan(&self.source, device)?;
        let _turn = (device != Device::Cpu).then(|| TURNS.load());
        let lane = match device {
            Device::Cpu => None,
            Device::Cuda(index) => Some(self.lane(device, index)?),
        };
        self.check_built(&plan, device)?;
        let make = || self.session(&plan, device, lane.as_deref());
        // The binding panics on kinds of input and output that it does not know, such as opaque ones.
        let session = catch_unwind(AssertUnwindSafe(make)).map_err(|panic| {
            unsupported(format!(
                "an input or output of unknown kind ({})",
                panic_message(&*panic)
            ))
        })??;
        let served_by = served_by(&session, &plan, device)?;
        Ok(Made {
            session,
            plan,
            lane,
            served_by,
        })
    }

    fn lane(&self, device: Device, index: u32) -> Result<Arc<Lane>, RuntimeError> {
        let ready = self.library.cuda().ready();
        let ready = ready.map_err(|reason| error::device(device, reason))?;
        Lane::open(ready.driver, index).map_err(|failed| {
            let there = ready.driver.devices();
            error::device(device, format!("{failed}; the driver shows {there} devices"))
        })
    }

    fn check_built(&self, plan: &Plan, device: Device) -> Result<(), RuntimeError> {
        let missing = plan
            .providers
            .iter()
            .map(|provider| provider.kind)
            .find(|kind| !kind.is_built());
        match missing {
            None => Ok(()),
            Some(kind) => Err(error::device(
                device,
                format!(
                    "this ONNX Runtime was built without {}; use the library of the wheel {} (--ort-library, ort.library), or \
                     take `{}` out of the model's configuration",
                    kind.long_name(),
                    kind.package(),
                    kind.name()
                ),
            )),
        }
    }

    fn session(&self, plan: &Plan, device: Device, lane: Option<&Lane>) -> Result<Session, RuntimeError> {
        let file = &self.file;
        let mut builder = self.builder()?;
        if plan.providers.is_empty() {
            let made = builder.commit_from_file(file);
            return made.map_err(|error| error::load(&error, file));
        }
        // The stream lives longer than the session: whoever holds both drops the session first.
        let stream = lane.map(Lane::stream);
        let providers: Vec<_> = plan
            .providers
            .iter()
            .map(|provider| provider.dispatch(stream))
            .collect();
        let failed =
            |error: ort::Error<SessionBuilder>| self.not_with(plan, device, error::text(&error, file));
        let mut builder = builder
            .with_config_entry(RECORD, "1")
            .map_err(failed)?
            .with_execution_providers(providers)
            .map_err(failed)?;
        builder.commit_from_file(file).map_err(|error| {
            let reason = error::text(&error, file);
            match is_of_device(&reason) {
                true => self.not_with(plan, device, reason),
                false => error::load(&error, file),
            }
        })
    }

    /// A session could not be made with these providers.
    fn not_with(&self, plan: &Plan, device: Device, reason: String) -> RuntimeError {
        let names: Vec<_> = plan.providers.iter().map(|p| p.kind.long_name()).collect();
        let advice = match device {
            Device::Cpu => None,
            Device::Cuda(_) => self.library.cuda().ready().ok(),
        };
        let advice = advice.map_or_else(String::new, |ready| format!("; {}", ready.advice()));
        error::device(device, format!("{}: {reason}{advice}", names.join(", ")))
    }

    /// All of a session but its providers.
    fn builder(&self) -> Result<SessionBuilder, RuntimeError> {
        let (library, parameters, file) = (&self.library, &self.parameters, &self.file);
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
        Ok(builder)
    }

    /// The options of runs on the CPU, where a configuration asks for any.
    pub(super) fn run_options(&self) -> Result<Option<RunOptions>, RuntimeError> {
        if self.parameters.arena_shrinkage.is_none() {
            return Ok(None);
        }
        let options = self.new_run_options(Device::Cpu);
        let options = options.map_err(|error| wrong(SHRINKAGE, error.message().to_owned()))?;
        Ok(Some(options))
    }

    /// The options of runs on `device`.
    pub(super) fn new_run_options(&self, device: Device) -> ort::Result<RunOptions> {
        let mut options = RunOptions::new()?;
        let all = self.parameters.arena_shrinkage.as_deref().unwrap_or_default();
        let there = shrinkable(all, device);
        if !there.is_empty() {
            options.set(SHRINKAGE, there)?;
        }
        Ok(options)
    }
}

const SHRINKAGE: &str = "memory.enable_memory_arena_shrinkage";

/// Of a list such as `cpu:0;gpu:1`, what a session on `device` has arenas on; of any other the library would refuse every run.
fn shrinkable(all: &str, device: Device) -> String {
    let own = match device {
        Device::Cpu => None,
        Device::Cuda(index) => Some(format!("gpu:{index}")),
    };
    let there = all
        .split(';')
        .filter(|name| *name == "cpu:0" || own.as_deref() == Some(*name));
    there.collect::<Vec<_>>().join(";")
}

impl Made {
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Whether it computes on the CPU without any provider, so that instances may share it.
    pub(super) fn is_plain(&self) -> bool {
        self.lane.is_none() && self.plan.providers.is_empty()
    }

    /// Whether runs are recorded as CUDA graphs.
    pub(super) fn graphs(&self) -> bool {
        self.plan.graphs
    }

    /// What of the model runs where.
    pub(super) fn served_by(&self) -> String {
        self.served_by.clone()
    }

    /// The way to the device, for whoever gets the session as well and drops it first.
    pub(super) fn take_lane(&mut self) -> Option<Arc<Lane>> {
        self.lane.take()
    }

    pub(super) fn into_session(self) -> Session {
        self.session
    }
}

/// Whether a device or its libraries are at fault, by what the library says.
fn is_of_device(reason: &str) -> bool {
    OF_DEVICES.iter().any(|part| reason.contains(part))
}

/// What of the model really runs where, such as `CUDA: 11 of 12 nodes`.
///
/// Errors: `Unsupported` where a provider was asked for and none runs anything.
fn served_by(session: &Session, plan: &Plan, device: Device) -> Result<String, RuntimeError> {
    let names = |separator: &str| {
        let kinds = plan.providers.iter().map(|provider| provider.kind.name());
        kinds.collect::<Vec<_>>().join(separator)
    };
    if plan.providers.is_empty() {
        return Ok("cpu".to_owned());
    }
    let nodes = match nodes_by_provider(session) {
        Ok(nodes) if !nodes.is_empty() => nodes,
        // Not counted: what was registered is all that can be said.
        _ => return Ok(names(", ")),
    };
    let all: usize = nodes.values().sum();
    let of = |kind: Kind| nodes.get(kind.long_name()).copied().unwrap_or(0);
    let kinds = || plan.providers.iter().map(|provider| provider.kind);
    if kinds().map(of).sum::<usize>() == 0 {
        return Err(unsupported(format!(
            "none of its {all} nodes runs with {} on {device}; serve it on the CPU (device = \"cpu\", KIND_CPU)",
            names(" or ")
        )));
    }
    let parts = kinds().filter(|kind| of(*kind) > 0);
    let parts: Vec<_> = parts
        .map(|kind| format!("{}: {} of {all} nodes", kind.name(), of(kind)))
        .collect();
    Ok(parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arenas_are_given_back_where_a_session_has_them() {
        let all = "cpu:0;gpu:0;gpu:1";
        assert_eq!(shrinkable(all, Device::Cpu), "cpu:0");
        assert_eq!(shrinkable(all, Device::Cuda(1)), "cpu:0;gpu:1");
        assert_eq!(shrinkable("gpu:0", Device::Cuda(2)), "");
    }

    #[test]
    fn what_a_device_is_at_fault_for_is_told_from_what_a_model_is() {
        for (reason, of_device) in [
            (
                "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=0",
                true,
            ),
            (
                "Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared \
                 object file: No such file or directory",
                true,
            ),
            (
                "Load model from model.onnx failed:Protobuf parsing failed.",
                false,
            ),
            ("Fatal error: Foo is not a registered function/op", false),
        ] {
            assert_eq!(is_of_device(reason), of_device, "{reason}");
        }
    }
}
