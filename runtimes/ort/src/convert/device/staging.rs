//! The buffers of an instance on both sides, kept from run to run.

use std::sync::Arc;

use ort::session::RunOptions;

use crate::driver::{DeviceBuffer, DriverError, HostBuffer, Lane};

/// One tensor's memory on both sides.
pub(super) struct Staged {
    /// Page-locked, on the host.
    pub(super) host: HostBuffer,
    /// On the device.
    pub(super) device: DeviceBuffer,
}

/// The memory of all tensors of a run, and the options of that run.
pub(super) struct Staging {
    pub(super) options: RunOptions,
    inputs: Vec<Option<Staged>>,
    outputs: Vec<Option<Staged>>,
}

impl Staging {
    /// No memory yet; runs have these options.
    pub(super) fn new(options: RunOptions) -> Self {
        Self {
            options,
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Room for `len` bytes of input `index`; moves only where there was less.
    pub(super) fn input(
        &mut self,
        index: usize,
        lane: &Arc<Lane>,
        len: usize,
    ) -> Result<&mut Staged, DriverError> {
        room(&mut self.inputs, index, lane, len)
    }

    /// Room for `len` bytes of output `index`, likewise.
    pub(super) fn output(
        &mut self,
        index: usize,
        lane: &Arc<Lane>,
        len: usize,
    ) -> Result<&mut Staged, DriverError> {
        room(&mut self.outputs, index, lane, len)
    }
}

fn room<'a>(
    all: &'a mut Vec<Option<Staged>>,
    index: usize,
    lane: &Arc<Lane>,
    len: usize,
) -> Result<&'a mut Staged, DriverError> {
    if all.len() <= index {
        all.resize_with(index + 1, || None);
    }
    let slot = &mut all[index];
    let small = slot
        .as_ref()
        .is_none_or(|staged| staged.host.capacity().min(staged.device.capacity()) < len);
    if small {
        // The old one goes first: the device may have no room for both.
        *slot = None;
    }
    match slot {
        Some(staged) => Ok(staged),
        None => Ok(slot.insert(Staged {
            host: HostBuffer::new(lane, len)?,
            device: DeviceBuffer::new(lane, len)?,
        })),
    }
}
