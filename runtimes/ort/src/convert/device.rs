//! One instance on a GPU: a session, a stream and memory of its own, and how a run goes there and back.
//!
//! * Inputs that the device reads are copied into page-locked memory, sent on the instance's stream, and read where they
//!   arrive; the session computes on the same stream. Outputs of known shape come back the same way; the library makes the
//!   others, in the host's memory.
//! * Buffers on both sides are kept from run to run. What is bound is bound anew for each run: that costs a microsecond per
//!   tensor, and nothing of an earlier run can be read by mistake.
//! * With CUDA graphs each combination of shapes has buffers of its own, which never move: a recorded graph names addresses.

mod graphs;
mod staging;

use std::ffi::CString;
use std::sync::Arc;

use crossfade_runtimes_core::{
    AlignedBuffer, Device, ModelSignature, Outputs, RuntimeError, Shape, TensorView,
};
use ort::memory::{AllocationDevice, MemoryInfo};
use ort::session::{RunOptions, Session};
use smallvec::SmallVec;

use super::binding::{Binding, arena_bytes, inputs_in};
use super::{
    GiveMemoryBack, aligned_copy, c_dims, in_place, input_value, memory, over, run_error, take_output,
};
use crate::driver::{DriverError, Lane};
use crate::error;
use crate::turns::{TURNS, Turn};
use graphs::{Graphs, State};
use staging::{Staged, Staging};

/// A session on a device and what its runs need; one owner at a time.
pub(crate) struct DeviceExecutable {
    /// First, so that it is dropped before the session.
    binding: Binding,
    session: Session,
    names: Names,
    /// For each input: whether the session reads it on the device.
    on_device: Vec<bool>,
    host: MemoryInfo<'static>,
    memory: MemoryInfo<'static>,
    staging: Staging,
    graphs: Option<Graphs>,
    device: Device,
    lane: Arc<Lane>,
    /// Last, so that it is dropped after the session.
    _give_back: GiveMemoryBack,
}

/// Names in the session's order, which is the signature's.
pub(crate) struct Names {
    pub(crate) inputs: Vec<CString>,
    pub(crate) outputs: Vec<CString>,
}

/// How runs on a device are made.
pub(crate) struct DeviceOptions<'a> {
    /// Which device.
    pub(crate) device: Device,
    /// Whether runs are recorded as CUDA graphs.
    pub(crate) graphs: bool,
    /// Makes the options of runs; CUDA graphs need some of their own.
    pub(crate) run_options: &'a dyn Fn() -> ort::Result<RunOptions>,
}

/// An output of a run, and its shape where that is known before.
type Place = (usize, Option<Shape>);

impl DeviceExecutable {
    /// `session` computes on `lane`'s stream, on device `options.device`.
    pub(crate) fn new(
        session: Session,
        names: Names,
        lane: Arc<Lane>,
        options: &DeviceOptions<'_>,
    ) -> ort::Result<Self> {
        let memory = match options.device {
            Device::Cpu => memory(AllocationDevice::CPU, 0)?,
            Device::Cuda(index) => memory(AllocationDevice::CUDA, i32::try_from(index).unwrap_or(i32::MAX))?,
        };
        let graphs = match options.graphs {
            true => Some(Graphs::new(options.run_options)?),
            false => None,
        };
        Ok(Self {
            // SAFETY: the fields of this are dropped in their order, the binding before the session.
            binding: unsafe { Binding::new(&session)? },
            on_device: inputs_in(&session, &names.inputs, &memory)?,
            staging: Staging::new((options.run_options)()?),
            host: super::memory(AllocationDevice::CPU, 0)?,
            session,
            names,
            memory,
            graphs,
            device: options.device,
            lane,
            _give_back: GiveMemoryBack,
        })
    }

    /// Bytes on the device that this holds: what the session's arena has taken, and buffers.
    pub(crate) fn device_bytes(&self) -> u64 {
        arena_bytes(&self.session, &self.memory).unwrap_or(0) + self.lane.held()
    }

    /// Whether nothing runs on the device any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.lane.synchronize().is_err_and(|error| error.is_lost())
    }

    /// Runs the session once. Returns whether buffers grew.
    ///
    /// Cost: one copy of each input and output on the host, besides those to the device and back.
    pub(crate) fn run(
        &mut self,
        signature: &ModelSignature,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut Outputs,
    ) -> Result<bool, RuntimeError> {
        let asked = &*outputs;
        let places: SmallVec<[Place; 4]> = (0..signature.outputs.len())
            .filter(|&k| asked.wanted(k))
            .map(|k| (k, in_place(&signature.outputs[k], k, asked)))
            .collect();
        if let Some(missing) = inputs.iter().position(Option::is_none) {
            return Err(RuntimeError::InvalidInput {
                reason: format!(
                    "input `{}` is missing",
                    self.names.inputs[missing].to_string_lossy()
                ),
            });
        }
        if places.is_empty() {
            return Ok(false);
        }
        let before = self.lane.held();
        // What goes to the device is copied anyway.
        let read_here = |(view, on_device): (&Option<TensorView<'_>>, &bool)| match on_device {
            true => None,
            false => aligned_copy(view.as_ref()),
        };
        let aligned: SmallVec<[Option<AlignedBuffer>; 4]> =
            inputs.iter().zip(&self.on_device).map(read_here).collect();
        let given: SmallVec<[(TensorView<'_>, &[u8]); 4]> = inputs
            .iter()
            .zip(&aligned)
            .filter_map(|(view, copy)| {
                let view = (*view)?;
                Some((view, copy.as_ref().map_or(view.data, AlignedBuffer::as_slice)))
            })
            .collect();
        let (number, turn) = self.turn(signature, &given, &places);
        let mut ran = self.settled(signature, number, &given, &places, outputs);
        if let (Some(graphs), Some(number), Turn::Alone { .. }) = (&mut self.graphs, number, &turn) {
            let recorded = match &ran {
                Ok(()) => State::Recorded,
                Err(_) => State::Unrecordable,
            };
            graphs.set_state(number, recorded);
            match &ran {
                // The input is at fault, or nothing can run any more.
                Err(RuntimeError::InvalidInput { .. } | RuntimeError::DeviceLost { .. }) => {
                    graphs.set_state(number, State::New);
                }
                Err(error) => {
                    tracing::warn!(device = %self.device, %error, "runs of these shapes cannot be recorded as a CUDA graph");
                    ran = self.settled(signature, None, &given, &places, outputs);
                    if let Err(RuntimeError::Run { .. }) = ran {
                        // What recording left behind as this thread's last error (`cudaGetLastError`) was taken for this run's, and is
                        // cleared by that.
                        ran = self.settled(signature, None, &given, &places, outputs);
                    }
                }
                Ok(()) => {}
            }
        }
        ran.map(|()| self.lane.held() != before)
    }

    /// One way there and back; whatever happened, nothing is in flight and nothing is bound when this returns.
    fn settled(
        &mut self,
        signature: &ModelSignature,
        number: Option<usize>,
        inputs: &[(TensorView<'_>, &[u8])],
        places: &[Place],
        outputs: &mut Outputs,
    ) -> Result<(), RuntimeError> {
        let ran = self.there_and_back(signature, number, inputs, places, outputs);
        self.binding.clear();
        if ran.is_err() && number.is_some() {
            self.lane.end_recording();
        }
        match (ran, self.lane.synchronize()) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(error @ RuntimeError::DeviceLost { .. }), _) => Err(error),
            (Err(error), Ok(())) => Err(error),
            (Ok(()), Err(failed)) => Err(self.failed(&failed)),
            (Err(error), Err(failed)) if failed.is_lost() => Err(self.lost(format!("{error}; {failed}"))),
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// The graph that this run plays back or records, if any, and the turn to do so.
    fn turn(
        &mut self,
        signature: &ModelSignature,
        inputs: &[(TensorView<'_>, &[u8])],
        places: &[Place],
    ) -> (Option<usize>, Turn<'static>) {
        let number = self.graphs.as_mut().and_then(|graphs| {
            let number = graphs.number(graphs::key(inputs, &self.on_device, places, signature)?)?;
            Some((number, graphs.state(number)))
        });
        let (number, turn) = match number {
            Some((number, State::Recorded)) => (Some(number), None),
            // Where it is not its turn, the run is not recorded; one that comes later is.
            Some((number, State::New)) => match TURNS.record() {
                Some(turn) => (Some(number), Some(turn)),
                None => (None, None),
            },
            Some((_, State::Unrecordable)) | None => (None, None),
        };
        (number, turn.unwrap_or_else(|| TURNS.run()))
    }

    fn there_and_back(
        &mut self,
        signature: &ModelSignature,
        number: Option<usize>,
        inputs: &[(TensorView<'_>, &[u8])],
        places: &[Place],
        outputs: &mut Outputs,
    ) -> Result<(), RuntimeError> {
        self.lane.enter().map_err(|error| self.failed(&error))?;
        self.bind(signature, number, inputs, places)?;
        let staging = staging(&mut self.staging, &mut self.graphs, number);
        // SAFETY: the binding was made with this session, which only `&mut self` runs.
        let ran = unsafe { self.binding.run(&self.session, &staging.options) };
        let wanted: SmallVec<[usize; 4]> = places.iter().map(|(k, _)| *k).collect();
        ran.map_err(|error| match error::library_missing(&error) {
            Some(reason) => error::device(self.device, reason),
            None => run_error(signature, &wanted, outputs, &error),
        })?;
        self.fetch(signature, number, places, outputs)
    }

    /// Sends inputs to the device and binds all that the run reads and writes.
    fn bind(
        &mut self,
        signature: &ModelSignature,
        number: Option<usize>,
        inputs: &[(TensorView<'_>, &[u8])],
        places: &[Place],
    ) -> Result<(), RuntimeError> {
        let read = |error: ort::Error| error::run(&error);
        let device = self.device;
        let staging = staging(&mut self.staging, &mut self.graphs, number);
        for (k, (view, data)) in inputs.iter().enumerate() {
            let name = &self.names.inputs[k];
            if !self.on_device[k] || view.datatype.width().is_none() {
                let value = input_value(&self.host, view, data).map_err(read)?;
                // SAFETY: `data` is borrowed by `run`, which clears the binding.
                unsafe { self.binding.input(name, &value) }.map_err(read)?;
                continue;
            }
            let staged = staging.input(k, &self.lane, data.len());
            let Staged { host, device: there } = staged.map_err(|error| failed(device, &error))?;
            host.as_mut_slice()[..data.len()].copy_from_slice(data);
            let dims = c_dims(view.shape).map_err(read)?;
            // SAFETY: `run` waits for the stream before it returns, and neither buffer is touched before; they live in `self`,
            // and the binding is cleared by then. The library checks that `data.len()` covers the shape, and the device's
            // memory is aligned for every datatype.
            unsafe {
                self.lane
                    .upload(host, there, data.len())
                    .map_err(|error| failed(device, &error))?;
                let value =
                    over(&self.memory, there.as_ptr(), data.len(), view.datatype, &dims).map_err(read)?;
                self.binding.input(name, &value).map_err(read)?;
            }
        }
        for (k, shape) in places {
            let name = &self.names.outputs[*k];
            let Some((len, shape)) = shape.as_ref().and_then(|shape| sized(signature, *k, shape)) else {
                self.binding.output_in(name, &self.host).map_err(read)?;
                continue;
            };
            let staged = staging.output(*k, &self.lane, len);
            let Staged { device: there, .. } = staged.map_err(|error| failed(device, &error))?;
            let dims = c_dims(shape).map_err(read)?;
            let datatype = signature.outputs[*k].datatype;
            // SAFETY: the buffer lives in `self`, each output has one of its own, and the binding is cleared before `run` returns.
            unsafe {
                let value = over(&self.memory, there.as_ptr(), len, datatype, &dims).map_err(read)?;
                self.binding.output(name, &value).map_err(read)?;
            }
        }
        Ok(())
    }

    /// Brings the outputs back from the device, or takes them from where the library made them.
    fn fetch(
        &mut self,
        signature: &ModelSignature,
        number: Option<usize>,
        places: &[Place],
        outputs: &mut Outputs,
    ) -> Result<(), RuntimeError> {
        let device = self.device;
        let placed = |(k, shape): &Place| {
            let (len, shape) = sized(signature, *k, shape.as_ref()?)?;
            Some((*k, len, shape.clone()))
        };
        let on_device: SmallVec<[(usize, usize, Shape); 4]> = places.iter().filter_map(placed).collect();
        let staging = staging(&mut self.staging, &mut self.graphs, number);
        for (k, len, _) in &on_device {
            let staged = staging.output(*k, &self.lane, *len);
            let Staged { host, device: there } = staged.map_err(|error| failed(device, &error))?;
            // SAFETY: the stream is waited for below, before anyone reads, and by `run` where an error comes first.
            unsafe { self.lane.download(there, host, *len) }.map_err(|error| failed(device, &error))?;
        }
        self.lane.synchronize().map_err(|error| failed(device, &error))?;
        for (k, len, shape) in on_device.iter().cloned() {
            let staged = staging.output(k, &self.lane, len);
            let Staged { host, .. } = staged.map_err(|error| failed(device, &error))?;
            let buffer = outputs.buffer(k, signature.outputs[k].datatype, shape);
            buffer.copy_from_slice(&host.as_slice()[..len]);
        }
        if on_device.len() == places.len() {
            return Ok(());
        }
        let values = self.binding.outputs().map_err(|error| error::run(&error))?;
        for ((k, _), value) in places.iter().zip(&values) {
            if on_device.iter().any(|(placed, ..)| placed == k) {
                continue;
            }
            let value = value.as_ref().ok_or_else(|| RuntimeError::Run {
                reason: format!("output `{}` was not computed", signature.outputs[*k].name),
            })?;
            take_output(value, &signature.outputs[*k], *k, outputs)?;
        }
        Ok(())
    }

    fn failed(&self, error: &DriverError) -> RuntimeError {
        failed(self.device, error)
    }

    fn lost(&self, reason: String) -> RuntimeError {
        RuntimeError::DeviceLost {
            device: self.device.to_string(),
            reason,
        }
    }
}

/// The buffers of the CUDA graph of this number, or those of runs that are not recorded.
fn staging<'a>(
    plain: &'a mut Staging,
    graphs: &'a mut Option<Graphs>,
    number: Option<usize>,
) -> &'a mut Staging {
    match graphs {
        None => plain,
        Some(graphs) => match number {
            Some(number) => graphs.staging(number),
            None => graphs.unrecorded(),
        },
    }
}

/// Bytes of an output of this shape, where they can be counted.
fn sized<'a>(signature: &ModelSignature, output: usize, shape: &'a Shape) -> Option<(usize, &'a Shape)> {
    let width = signature.outputs[output].datatype.width()?;
    Some((shape.element_count()?.checked_mul(width)?, shape))
}

/// A call of the driver that failed under a run.
fn failed(device: Device, error: &DriverError) -> RuntimeError {
    if error.is_lost() {
        return RuntimeError::DeviceLost {
            device: device.to_string(),
            reason: error.to_string(),
        };
    }
    RuntimeError::Run {
        reason: format!("{device}: {error}"),
    }
}

#[cfg(test)]
mod tests;
